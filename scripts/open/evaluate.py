"""Errors of the open model on held-out motion with virtual cameras, against two baselines.

    python scripts/open/evaluate.py [--split test] [--limit N] [--output FILE.json] [key=value ...]

Methods: MoRo (the video model on whole sequences), its single-frame stage, the same with hidden joints
interpolated in time (told the true visibility), and the mean pose placed where the single-frame stage says.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.mask_transformer.build import build_system, choose_checkpoint, load_weights, resolve_paths
from models.mask_transformer.data.open_motion import OpenMotionDataset
from models.mask_transformer.system import MoRoSystem
from models.recovery.heldout import clip_method, evaluate, frame_method, interpolated, mean_joints, mean_pose
from moro.body.loading import load_body_model
from moro.config import ExitOnMoroError, compose_config
from moro.io.atomic import atomic_path

WHOLE_SEQUENCE = 100_000  # frames; longer than any motion, so that an item is a sequence


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--limit", type=int, help="only the first N sequences")
    parser.add_argument("--output", type=Path, help="write the table as json")
    parser.add_argument("overrides", nargs="*", help="configuration, e.g. tag=mine")
    arguments = parser.parse_args()
    with ExitOnMoroError():
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    video = load("video_train", arguments.overrides)
    frame = load("video_pretrain", arguments.overrides)
    cfg = video.cfg
    body = load_body_model(cfg.dataset.bm_path, cfg.dataset.model_type)
    root = cfg.dataset.dataset_root or cfg.dataset.roots.open
    dataset = OpenMotionDataset(root, arguments.split, body, clip_len=WHOLE_SEQUENCE, camera=True)
    single = frame_method(frame)
    mean = mean_joints(frame, (dataset[i]["mesh"] for i in range(0, len(dataset), 8)))
    methods = {
        "MoRo": clip_method(video),
        "single frame": single,
        "single frame, gaps interpolated": interpolated(single),
        "mean pose": mean_pose(single, mean),
    }
    table = evaluate(dataset, methods, arguments.limit)
    print_table(table)
    if arguments.output:
        with atomic_path(arguments.output) as temporary:
            temporary.write_text(json.dumps(table, indent=1) + "\n")


def load(stage: str, overrides: list[str]) -> MoRoSystem:
    """A trained stage: shipped (tag=release, the default here) or of the tag given."""
    chosen = [f"option=[inference,{stage}]", "preset=open", "tag=release", *overrides]
    cfg, paths = resolve_paths(compose_config("config", chosen))
    system = build_system(cfg, initialise=False)
    load_weights(system, choose_checkpoint(cfg, paths))
    return system.eval()


def print_table(table: dict[str, dict[str, float]]) -> None:
    measures = list(next(iter(table.values())))
    width = max(len(name) for name in measures)
    print(" " * width, *(f"{name:>32}" for name in table))
    for measure in measures:
        print(f"{measure:<{width}}", *(f"{row[measure]:32.2f}" for row in table.values()))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
