"""Vertical field of view from one image: HRNet-W48 and a small head, weights of CameraHMR (spec: data 9.3).

Module names follow the released checkpoint `ckpt/cam_model_cleaned.ckpt`, so its `state_dict` loads strictly.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from moro.errors import MoroError
from moro.geometry.image import normalise_image
from moro.io.weights import load_strict, load_tensors

CHANNELS = (48, 96, 192, 384)
INPUT_SIZE = 256


def conv_bn(
    channels_in: int, channels_out: int, kernel: int, stride: int = 1, relu: bool = True
) -> nn.Sequential:
    layers = [
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a residual; the output has four times `channels`."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        channels_out = 4 * channels
        self.conv1, self.bn1 = nn.Conv2d(channels_in, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = (
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.conv3, self.bn3 = nn.Conv2d(channels, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
        self.downsample = (
            conv_bn(channels_in, channels_out, 1, relu=False) if channels_in != channels_out else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = (
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.conv2, self.bn2 = (
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + x).relu()


class HighResolutionModule(nn.Module):
    """Parallel branches of falling resolution, then every branch receives the sum over all branches."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c) for _ in range(4))) for c in channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fuse_path(channels, source, target) for source in range(len(channels)))
            for target in range(len(channels))
        )

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        branches = [run(x) for run, x in zip(self.branches, branches)]
        return [sum(path(x) for path, x in zip(paths, branches)).relu() for paths in self.fuse_layers]


def _fuse_path(channels: tuple[int, ...], source: int, target: int) -> nn.Module:
    """The way from branch `source` to the resolution and width of branch `target`."""
    if source == target:
        return nn.Identity()
    if source > target:
        up = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
        return nn.Sequential(*conv_bn(channels[source], channels[target], 1, relu=False), up)
    steps = target - source
    widths = [channels[source]] * steps + [channels[target]]
    return nn.Sequential(
        *(conv_bn(widths[k], widths[k + 1], 3, stride=2, relu=k < steps - 1) for k in range(steps))
    )


def _transition(channels_in: tuple[int, ...], channels_out: tuple[int, ...]) -> nn.ModuleList:
    """From one stage's branches to the next one's: changed widths, a new branch of half the size."""
    paths: list[nn.Module] = []
    for branch, width in enumerate(channels_out):
        if branch >= len(channels_in):
            paths.append(nn.Sequential(conv_bn(channels_in[-1], width, 3, stride=2)))
        elif channels_in[branch] != width:
            paths.append(conv_bn(channels_in[branch], width, 3))
        else:
            paths.append(nn.Identity())
    return nn.ModuleList(paths)


class HRNet(nn.Module):
    """HRNet-W48 whose four branches are brought to 8x8 and concatenated:
    (B, 3, 256, 256) → (B, 720, 8, 8).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64)
        self.conv2, self.bn2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(*(Bottleneck(64 if i == 0 else 256, 64) for i in range(4)))
        self.transition1 = _transition((256,), CHANNELS[:2])
        self.stage2 = nn.ModuleList(HighResolutionModule(CHANNELS[:2]) for _ in range(1))
        self.transition2 = _transition(CHANNELS[:2], CHANNELS[:3])
        self.stage3 = nn.ModuleList(HighResolutionModule(CHANNELS[:3]) for _ in range(4))
        self.transition3 = _transition(CHANNELS[:3], CHANNELS)
        self.stage4 = nn.ModuleList(HighResolutionModule(CHANNELS) for _ in range(3))
        self.final_layer = nn.Conv2d(CHANNELS[0], 24, 1)  # in the checkpoint; its output is used by nobody
        self.downsample_stage_1 = _halvings(3, CHANNELS[0])
        self.downsample_stage_2 = _halvings(2, CHANNELS[1])
        self.downsample_stage_3 = _halvings(1, CHANNELS[2])

    def forward(self, image: Tensor) -> Tensor:
        x = self.bn1(self.conv1(image)).relu()
        x = self.layer1(self.bn2(self.conv2(x)).relu())
        branches = [x]
        stages = (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        )
        for transition, stage in stages:
            # The new branch grows out of the one with the lowest resolution so far.
            branches = [path(branches[min(i, len(branches) - 1)]) for i, path in enumerate(transition)]
            for module in stage:
                branches = module(branches)
        halved = (self.downsample_stage_1, self.downsample_stage_2, self.downsample_stage_3)
        return torch.cat([path(b) for path, b in zip(halved, branches)] + [branches[3]], dim=1)


def _halvings(steps: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*(layer for _ in range(steps) for layer in conv_bn(channels, channels, 3, stride=2)))


class HumanFOV(nn.Module):
    """Image → two numbers, the second of which is the vertical field of view in radians (spec: data 9.3)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = HRNet()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Linear(sum(CHANNELS), 1024)
        self.fc2 = nn.Linear(1024, 1024)  # in the checkpoint; the forward pass goes from fc1 straight to fc3
        self.fc3 = nn.Linear(1024, 2)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, 3, 256, 256) as made by `prepare_image` → (B,) vertical field of view, radians."""
        return self.fc3(self.fc1(self.avgpool(self.backbone(image)).flatten(1)))[:, 1]


def load_human_fov(path: str | Path) -> HumanFOV:
    """Read `cam_model_cleaned.ckpt`. Raises MoroError if the file is missing or its keys do not fit."""
    tensors, _ = load_tensors(path)
    network = HumanFOV()
    load_strict(network, tensors, str(path))
    return network.eval()


def prepare_image(image: np.ndarray) -> Tensor:
    """image (H, W, 3) uint8 RGB → (3, 256, 256): longer side 256, centred on white, ImageNet-normalised."""
    height, width = image.shape[:2]
    shorter = max(1, INPUT_SIZE * min(height, width) // max(height, width))
    size = (INPUT_SIZE, shorter) if width > height else (shorter, INPUT_SIZE)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    canvas = np.full((INPUT_SIZE, INPUT_SIZE, 3), 255, np.uint8)
    left, top = (INPUT_SIZE - size[0]) // 2, (INPUT_SIZE - size[1]) // 2
    canvas[top : top + size[1], left : left + size[0]] = small
    return normalise_image(torch.from_numpy(canvas))


@torch.no_grad()
def estimate_focal_length(network: nn.Module, images: Iterable[np.ndarray], height: int) -> float:
    """Median over the images of `height / (2 tan(vfov / 2))`, in pixels.

    network  HumanFOV in eval mode
    images   RGB uint8 frames of one video; a few spread over it are enough, the camera being static.
    height   of the frames
    Raises MoroError if no image gives an angle that a camera can have.
    """
    angles = np.array([float(network(prepare_image(image)[None])[0]) for image in images])
    possible = angles[(angles > 0) & (angles < math.pi)]
    if not len(possible):
        raise MoroError(
            f"HumanFOV finds no field of view between 0 and 180 degrees in {len(angles)} frames; give "
            "demo.focal_length=<px>"
        )
    return float(np.median(height / (2 * np.tan(possible / 2))))
