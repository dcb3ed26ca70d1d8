"""ViT weights out of a checkpoint laid out like that of HMR 2.0, plain or in its archive."""

import tarfile
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from models.backbones.vit import VisionTransformer
from moro.errors import MoroError
from moro.io.weights import load_strict, load_tensors
from scripts.extract_vit_backbone import extract, main
from tests.release.keys import placeholders, released


def small_vit() -> VisionTransformer:
    return VisionTransformer((32, 32), dim=8, depth=2, num_heads=2)


def checkpoint(path: Path, vit: VisionTransformer) -> Path:
    others = {"smpl_head.decpose.weight": torch.zeros(144, 8), "smpl.betas": torch.zeros(1, 10)}
    tensors = {f"backbone.{name}": value for name, value in vit.state_dict().items()}
    hyper = OmegaConf.create({"cfg": {"MODEL": {"BACKBONE": {"TYPE": "vit"}}}})
    torch.save({"state_dict": others | tensors, "hyper_parameters": hyper, "epoch": 35}, path)
    return path


def archive(path: Path, names: list[str], source: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            tar.add(source, name)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_backbone_is_taken_out(tmp_path: Path, packed: bool) -> None:
    vit = small_vit()
    source = checkpoint(tmp_path / "epoch=35-step=1000000.ckpt", vit)
    if packed:
        names = ["logs/0/checkpoints/epoch=35-step=1000000.ckpt", "data/smpl_mean_params.npz"]
        source = archive(tmp_path / "hmr2_data.tar.gz", names, source)
    target = tmp_path / "ckpt" / "backbones" / "vit.pth"
    extract(source, target, vit)
    found = torch.load(target, weights_only=True)
    assert isinstance(found, dict) and all(torch.equal(found[k], v) for k, v in vit.state_dict().items())
    other = small_vit()
    load_strict(other, load_tensors(target)[0], "x")
    assert [path.name for path in target.parent.iterdir()] == ["vit.pth"]  # nothing else is left there


def test_unfit_sources_are_refused(tmp_path: Path) -> None:
    vit, target = small_vit(), tmp_path / "vit.pth"
    source = checkpoint(tmp_path / "a.ckpt", vit)
    with pytest.raises(MoroError, match=r"does not fit this VisionTransformer: .*misshapen .*pos_embed"):
        extract(source, target, VisionTransformer((64, 32), dim=8, depth=2, num_heads=2))
    with pytest.raises(MoroError, match="found one.ckpt, two.ckpt"):
        extract(archive(tmp_path / "two.tar.gz", ["one.ckpt", "two.ckpt"], source), target, vit)
    broken = archive(tmp_path / "broken.tar.gz", ["one.ckpt"], source)
    broken.write_bytes(broken.read_bytes()[:-2000])
    with pytest.raises(MoroError, match="cannot unpack"):
        extract(broken, target, vit)
    torch.save({"state_dict": {"head.weight": torch.zeros(1)}}, source)
    with pytest.raises(MoroError, match=r"has no tensors backbone\.\*"):
        extract(source, target, vit)
    with pytest.raises(MoroError, match="does not exist"):
        extract(tmp_path / "none.ckpt", target, vit)
    assert not target.exists()


def test_at_full_size(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, target = tmp_path / "hmr2.ckpt", tmp_path / "vit_pose_hmr2.pth"
    torch.save({"state_dict": placeholders(released("vit"), "backbone.")}, source)
    main([str(source), str(target)])
    assert {k: tuple(v.shape) for k, v in load_tensors(target)[0].items()} == released("vit")
    assert "389 tensors" in capsys.readouterr().out
