"""Average the weights of two checkpoints of the same network.

    python scripts/average_weights.py start.safetensors trained.safetensors out.safetensors --share 0.35

A network between the start of a short training on few clips and its end keeps more of what it knew.
Tensors that are no floating-point numbers are taken from the first.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from moro.errors import ExitOnMoroError, MoroError
from moro.io.weights import load_tensors, save_tensors


def main() -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("target", type=Path, help="a .safetensors file (float16)")
    parser.add_argument("--share", type=float, default=0.5, help="of the second")
    arguments = parser.parse_args()
    with ExitOnMoroError():
        average(arguments.first, arguments.second, arguments.target, arguments.share)


def average(first: Path, second: Path, target: Path, share: float) -> None:
    """Raises MoroError if the two have other tensors, or the share is none."""
    if not 0 <= share <= 1:
        raise MoroError(f"--share={share} must lie between 0 and 1.")
    (ours, metadata), (theirs, _) = load_tensors(first), load_tensors(second)
    shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise MoroError(f"{first} and {second} are no checkpoints of the same network.")
    for name, tensor in ours.items():
        if tensor.is_floating_point():
            ours[name] = tensor.float().lerp(theirs[name].float(), share)
    save_tensors(target, ours, metadata, half=True)
    print(f"{len(ours)} tensors -> {target}")


if __name__ == "__main__":
    main()
