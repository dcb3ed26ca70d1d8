"""Make the motion cache of the open training data before stages that start side by side ask for it.

    python scripts/open/cache_motion.py [preset=open tag=... model.vqvae.model_path=... key=value ...]

With dataset.cache_tokens=false without token ids, for which there must be a tokenizer.
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
        cfg, _ = resolve_paths(compose_config("config", ["option=backbone_pretrain", *sys.argv[1:]]))
        build_dataset(cfg, "train")


if __name__ == "__main__":
    main()
