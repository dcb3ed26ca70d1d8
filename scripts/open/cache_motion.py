"""Make the motion caches of the open training data before stages that start side by side ask for them: one
for stages 1 and 2, one for all others.

    python scripts/open/cache_motion.py [preset=open tag=... model.vqvae.model_path=... key=value ...]
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.mask_transformer.build import resolve_paths
from models.mask_transformer.data.module import build_dataset
from moro.config import compose_config
from moro.errors import ExitOnMoroError


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    with ExitOnMoroError():
        for stage in ("pose_pretrain", "image_pretrain"):  # they differ in dataset.cache_mixed
            cfg, _ = resolve_paths(compose_config("config", [f"option={stage}", *sys.argv[1:]]))
            build_dataset(cfg, "train")


if __name__ == "__main__":
    main()
