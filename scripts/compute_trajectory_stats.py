"""Compute the trajectory statistics from the training motions and write them (spec: models 3.7).

    python scripts/compute_trajectory_stats.py                    # AMASS → model.trajectory_stats
    python scripts/compute_trajectory_stats.py preset=open model.trajectory_stats=stats.pkl

The subsets of AMASS that are used are logged; a warning names those that are absent.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.mask_transformer.data.module import MotionDataModule
from moro.config import compose_config
from moro.errors import MoroError, run_script


def main() -> None:
    cfg = compose_config("config", ["option=motion_pretrain", *sys.argv[1:]])
    if cfg.model.trajectory_stats is None:
        raise MoroError("name the file to write: model.trajectory_stats=<file>.pkl")
    stats = MotionDataModule(cfg).trajectory_stats()
    stats.save(cfg.model.trajectory_stats)
    print(f"mean {stats.mean.tolist()}\nstd {stats.std.tolist()}\n-> {cfg.model.trajectory_stats}")


if __name__ == "__main__":
    run_script(main)
