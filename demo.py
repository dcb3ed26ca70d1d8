"""Recover the motion of the people in a video or image folder taken by a static camera.

    python demo.py preset=open demo.video_path=/path/to/video.mp4 [demo.name=…] [demo.focal_length=…]
"""

import logging
import sys

from omegaconf import DictConfig

from models.recovery.pipeline import recover_video
from moro.config import hydra_main

logger = logging.getLogger(__name__)


@hydra_main(config_path="configs", config_name="demo")
def main(cfg: DictConfig) -> None:
    folder = recover_video(cfg)
    logger.info("results: %s", folder)
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".mp4", ".npz", ".glb", ".pkl"):
            logger.info("  %s (%.1f MB)", file.relative_to(folder), file.stat().st_size / 1e6)


if __name__ == "__main__":
    sys.exit(main())
