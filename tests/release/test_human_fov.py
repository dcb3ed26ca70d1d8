"""HumanFOV: what goes in, the layout of HRNet, what comes out (spec: data 9.3 and check 13)."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.backbones import human_fov
from models.backbones.human_fov import HRNet, HumanFOV, estimate_focal_length, prepare_image
from moro.errors import MoroError
from moro.geometry.image import IMAGE_MEAN, IMAGE_STD


def pixels(prepared: Tensor) -> np.ndarray:
    """(256, 256, 3) grey levels again."""
    return np.rint(255 * (prepared.movedim(0, -1).numpy() * IMAGE_STD + IMAGE_MEAN)).astype(int)


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [((1080, 1920), (56, 200), (0, 256)), ((400, 100), (0, 256), (96, 160)), ((49, 49), (0, 256), (0, 256)),
     ((103, 200), (62, 193), (0, 256))],
)  # fmt: skip
def test_the_longer_side_is_256_and_the_rest_white(
    size: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    canvas = pixels(prepare_image(np.full((*size, 3), (10, 120, 230), np.uint8)))
    assert (canvas[slice(*rows), slice(*columns)] == (10, 120, 230)).all()
    canvas[slice(*rows), slice(*columns)] = 255
    assert (canvas == 255).all()


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 700), width=st.integers(1, 700))
def test_any_size_fills_one_direction(height: int, width: int) -> None:
    dark = (pixels(prepare_image(np.zeros((height, width, 3), np.uint8))) == 0).all(-1)
    shorter = max(1, 256 * min(height, width) // max(height, width))
    assert sorted((dark.any(0).sum(), dark.any(1).sum())) == [shorter, 256]


def test_averaging_over_the_area() -> None:
    """Single-pixel stripes turn grey, whatever their phase; bilinear sampling would keep them."""
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 254
    assert (pixels(prepare_image(stripes)) == 127).all()


class Angles(nn.Module):
    """Stands in for the network: gives the angles it was made with, one after the other."""

    def __init__(self, *angles: float) -> None:
        super().__init__()
        self.angles: Iterator[float] = iter(angles)

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape == (1, 3, 256, 256)
        return torch.tensor([next(self.angles)], dtype=torch.float64)


def test_angle_to_focal_length() -> None:
    image = np.zeros((72, 128, 3), np.uint8)
    angles = [2 * math.atan(1080 / (2 * focal)) for focal in (900.0, 1000.0, 5000.0)]
    assert estimate_focal_length(Angles(*angles), [image] * 3, 1080) == pytest.approx(1000.0)
    assert estimate_focal_length(Angles(angles[0], -0.1, 4.0), [image] * 3, 1080) == pytest.approx(900.0)
    with pytest.raises(MoroError, match="no field of view .* in 2 frames; give demo.focal_length"):
        estimate_focal_length(Angles(0.0, math.nan), [image] * 2, 1080)


def test_the_second_output_of_a_head_without_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.rand(2, 720, 8, 8)

    class Features(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return features

    monkeypatch.setattr(human_fov, "HRNet", Features)
    network = HumanFOV().eval()
    x = features.mean((2, 3)) @ network.fc1.weight.T + network.fc1.bias
    expected = (x @ network.fc3.weight.T + network.fc3.bias)[:, 1]
    torch.testing.assert_close(network(torch.zeros(2, 3, 256, 256)), expected)
    assert (x < 0).any()  # an activation would have made a difference


def test_fusion_of_branches_is_a_sum_at_the_receiving_resolution() -> None:
    """With identity weights each branch receives what the others hold, enlarged by repetition or strided."""
    torch.manual_seed(0)
    module = human_fov.HighResolutionModule((48, 96)).eval()
    module.branches = nn.ModuleList([nn.Identity(), nn.Identity()])
    fine, coarse = torch.rand(1, 48, 8, 8), torch.rand(1, 96, 4, 4)
    up, down = module.fuse_layers[0][1], module.fuse_layers[1][0]
    with torch.no_grad():
        a, b = module([fine, coarse])
        from_coarse = nn.functional.conv2d(coarse, up[0].weight) / math.sqrt(1 + 1e-5)
        from_fine = nn.functional.conv2d(fine, down[0][0].weight, stride=2, padding=1) / math.sqrt(1 + 1e-5)
    repeated = from_coarse.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(a, (fine + repeated).relu())
    torch.testing.assert_close(b, (coarse + from_fine).relu())


def test_hrnet_joins_four_branches_at_8x8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(human_fov, "CHANNELS", (4, 8, 16, 32))  # a twelfth of the width
    network = HRNet().eval()
    with torch.no_grad():
        output = network(torch.rand(2, 3, 256, 256))
    assert output.shape == (2, 60, 8, 8)
    assert not network.training and (output >= 0).all()
