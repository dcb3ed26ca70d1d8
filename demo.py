"""Recover the motion of the people in videos or image folders taken by a static camera.

    python demo.py preset=open demo.video_path=/path/to/video.mp4 [demo.name=…] [demo.focal_length=…]
    python demo.py preset=open demo.video_path=/path/to/folder_of_videos
    python demo.py preset=open demo.video_path=/path/to/list_of_videos.txt
"""

import logging
import sys
from pathlib import Path

from omegaconf import DictConfig

from models.recovery.pipeline import recover_video, recover_videos, summarise, videos_of
from models.recovery.steps import result_files
from moro.config import hydra_main
from moro.errors import MoroError

logger = logging.getLogger(__name__)


@hydra_main(config_path="configs", config_name="demo")
def main(cfg: DictConfig) -> None:
    if cfg.demo.video_path is None:
        raise MoroError("demo.video_path is not set; give a video, a folder of images or of videos, or a "
                        ".txt list, e.g. demo.video_path=/path/to/video.mp4")
    videos = videos_of(Path(str(cfg.demo.video_path)))
    if videos is not None:
        summarise(recover_videos(cfg, videos))
        return
    folder = recover_video(cfg).folder
    logger.info("results: %s", folder)
    for file in result_files(folder):
        logger.info("  %s (%.1f MB)", file.relative_to(folder), file.stat().st_size / 1e6)


if __name__ == "__main__":
    sys.exit(main())
