"""Turn a checkpoint into .safetensors, or a .safetensors file into a plain torch checkpoint.

    python scripts/convert_checkpoint.py exp/.../last.ckpt ckpt/open/video_train.safetensors --half
    python scripts/convert_checkpoint.py ckpt/open/video_train.safetensors somewhere/last.ckpt

Any weight file will do: of the tokenizer, a stage, a backbone, the field of view. Tensors and what our files
say of themselves (trajectory statistics, body, connection tables) are kept; optimiser state, configurations
and the body-model buffers of released checkpoints (licensed data) are not.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from moro.errors import ExitOnMoroError, MoroError
from moro.io.atomic import atomic_path
from moro.io.weights import METADATA_KEY, load_tensors, own_tensors, save_tensors


def main() -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--half", action="store_true", help="store float16 (.safetensors only)")
    parser.add_argument("--only", default="", metavar="PREFIX", help="tensors whose names begin so")
    arguments = parser.parse_args()
    with ExitOnMoroError():
        convert(arguments.source, arguments.target, arguments.half, arguments.only)


def convert(source: Path, target: Path, half: bool = False, only: str = "") -> None:
    """Raises MoroError for an unreadable source, a target of unknown kind, or if no name is like `only`."""
    if target.suffix not in (".safetensors", ".ckpt", ".pth", ".pt"):
        raise MoroError(f"{target} must end in .safetensors, .ckpt, .pth or .pt.")
    if half and target.suffix != ".safetensors":
        raise MoroError(f"--half is for .safetensors, not for {target}.")
    tensors, metadata = load_tensors(source)
    tensors = {k: v for k, v in own_tensors(tensors, str(source)).items() if k.startswith(only)}
    if not tensors:
        raise MoroError(f"{source} has no tensor whose name begins with '{only}'.")
    if target.suffix == ".safetensors":
        save_tensors(target, tensors, metadata, half)
    else:
        with atomic_path(target) as temporary:
            torch.save({"state_dict": tensors, METADATA_KEY: metadata}, temporary)
    print(f"{len(tensors)} tensors, {target.stat().st_size / 1e6:.1f} MB -> {target}")


if __name__ == "__main__":
    main()
