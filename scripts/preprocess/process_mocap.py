"""Open training data: captured and generated motion on the open body (docs/data_open.md).

    python -m scripts.preprocess.process_mocap --source <folder>   # without --source: generated only

Reads motion capture npz files (`--source`: 22 SMPL-order joints and rotations; `--amass`: AMASS layout),
generates motions (`--generated N`, needs no source), and writes below `--output`

    motion/{pose_data_fps_30,smpl_data_fps_30}/<subset>/<subject>/<clip>.npy   (spec: data 4.1)
    motion/index.json                clips with split, family, frames, licence
    tokenizer/{train,val,test}.npz   (spec: data 3.1)
    splits.json                      names of the clips of each split
"""

import argparse
import logging
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from moro.body.loading import load_body_model
from moro.errors import MoroError, run_script
from moro.io.atomic import atomic_path, write_json
from moro.synth.dataset_files import (
    SourceClip,
    generated_source,
    read_amass_folder,
    read_mocap_folder,
    split_of,
    tokenizer_arrays,
    write_motion,
)

logger = logging.getLogger("process_mocap")


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    body = load_body_model(args.bm_path, args.model_type)
    clips: list[SourceClip] = []
    if args.source:
        clips += read_mocap_folder(args.source, body, exclude=args.exclude)
    if args.amass:
        clips += read_amass_folder(args.amass, body)
    clips += generated_source(args.generated, args.seed, body)
    if not clips:
        raise MoroError(
            "No motion to write: name a folder with --source or --amass, or ask for --generated N."
        )

    splits = {
        split: [c.name for c in clips if split_of(c.trial) == split] for split in ("train", "val", "test")
    }
    empty = [split for split, names in splits.items() if not names]
    if empty:
        raise MoroError(
            f"{len(clips)} motions leave the split {' and '.join(empty)} empty; ask for more, "
            "e.g. --generated 40."
        )
    index = [write_motion(args.output / "motion", clip, body) for clip in clips if not clip.pose_only]
    write_json(args.output / "motion" / "index.json", {"clips": index})
    write_json(args.output / "splits.json", splits)
    rng = np.random.default_rng(args.seed)
    for split in splits:
        members = [clip for clip in clips if split_of(clip.trial) == split]
        arrays = tokenizer_arrays(members, body, rng, mixes=args.mixes, mirror=split == "train")
        with atomic_path(args.output / "tokenizer" / f"{split}.npz") as path:
            np.savez_compressed(path, **arrays)
        minutes = sum(len(clip.local_pose) for clip in members) / 30 / 60
        logger.info("%s: %d clips, %.1f min, %d poses", split, len(members), minutes, len(arrays["betas"]))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, help="folder of motion capture .npz (+ .json) files")
    parser.add_argument(
        "--amass", type=Path, help="folder <subset>/<subject>/*.npz in AMASS layout (SMPL family)"
    )
    parser.add_argument("--output", type=Path, default=Path("datasets/open"))
    parser.add_argument("--bm_path", type=Path, default=Path("body_models"))
    parser.add_argument("--model_type", default="open")
    parser.add_argument(
        "--exclude", nargs="*", default=[], help="drop files or clips whose name holds this text"
    )
    parser.add_argument("--generated", type=int, default=170, help="number of generated motions")
    parser.add_argument(
        "--mixes", type=float, default=0.5, help="share of extra poses: arms of one, legs of another"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
