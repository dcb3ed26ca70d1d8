"""ViT-H weights out of the 4DHumans / HMR 2.0 checkpoint, for model.backbone.weights (spec: models 2).

    python scripts/extract_vit_backbone.py hmr2_data.tar.gz
    python scripts/extract_vit_backbone.py "epoch=35-step=1000000.ckpt" ckpt/backbones/vit_pose_hmr2.pth

The source is the archive as it is distributed, or the checkpoint in it. Every tensor of the backbone must be
there and have its shape. The output is a plain dictionary of tensors, as the original's download.
"""

import argparse
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.backbones.vit import VisionTransformer
from moro.errors import ExitOnMoroError, MoroError
from moro.io.atomic import atomic_path
from moro.io.weights import below, check_fit, load_tensors

PREFIX = "backbone."


def main(argv: list[str] | None = None) -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("source", type=Path, help="archive (.tar, .tar.gz) or checkpoint")
    parser.add_argument("target", type=Path, nargs="?", default=Path("ckpt/backbones/vit_pose_hmr2.pth"))
    arguments = parser.parse_args(argv)
    with ExitOnMoroError():
        with torch.device("meta"):
            vit = VisionTransformer()
        extract(arguments.source, arguments.target, vit)


def extract(source: Path, target: Path, vit: nn.Module) -> None:
    """Write the tensors `backbone.*` of a checkpoint, or of the only one in an archive, without the prefix.

    vit  the network they must fit
    Raises MoroError for an unreadable source, no or several checkpoints in it, or tensors that do not fit.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not (source.is_file() and tarfile.is_tarfile(source)):
        write_backbone(source, target, vit)
        return
    with tempfile.TemporaryDirectory(prefix=".hmr2-", dir=target.parent) as folder:
        checkpoint = Path(folder) / "hmr2.ckpt"
        unpack_checkpoint(source, checkpoint)
        write_backbone(checkpoint, target, vit)


def unpack_checkpoint(archive: Path, target: Path) -> None:
    """The one .ckpt of a tar archive, written to `target` whatever its path in there."""
    try:
        with tarfile.open(archive) as tar:
            members = [member for member in tar if member.isreg() and member.name.endswith(".ckpt")]
            if len(members) != 1:
                names = ", ".join(member.name for member in members) or "none"
                raise MoroError(f"{archive} should hold one checkpoint (.ckpt), found {names}; unpack it.")
            with tar.extractfile(members[0]) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise MoroError(f"cannot unpack {archive} ({error}); download it again.") from error


def write_backbone(checkpoint: Path, target: Path, vit: nn.Module) -> None:
    tensors, _ = load_tensors(checkpoint)
    found = below(tensors, PREFIX)
    if not found:
        raise MoroError(f"{checkpoint} has no tensors {PREFIX}*; give the checkpoint of HMR 2.0.")
    check_fit(vit, found, str(checkpoint))
    with atomic_path(target) as temporary:
        torch.save(found, temporary)
    print(f"{len(found)} tensors, {target.stat().st_size / 1e6:.0f} MB -> {target}")


if __name__ == "__main__":
    main()
