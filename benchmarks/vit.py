"""The image backbone: ViT-H in float32 and bfloat16, and features once per frame over overlapping windows."""

from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import default_collate

from benchmarks.harness import Options, Row, Run, Target
from models.backbones import build_backbone
from models.backbones.base import Backbone
from models.mask_transformer.build import build_system, resolve_paths
from models.mask_transformer.data.module import collate
from models.mask_transformer.data.windows import windows_of
from models.mask_transformer.system import MoRoSystem
from models.recovery.condition import PersonCondition
from models.recovery.windows import DemoDataset, FrameTokens
from moro.config import compose_config
from moro.geometry.trajectory import TrajectoryStats
from tests.mask_transformer.twin import vision_transformer

FRAMES = 4
LENGTH, CLIP, OVERLAP = 22, 10, 4  # of the windows; the demo's 500 and 120 would take an hour
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, ARM
SMALL = {"type": "vit", "out_HW": [2, 2], "out_C": 32, "depth": 2, "num_heads": 2}
HUGE = {"type": "vit", "out_HW": [16, 12], "out_C": 1280, "depth": 32, "num_heads": 16}


def rows(options: Options) -> list[Row]:
    quick = options.quick
    skip = None if quick or has_bf16() else "this processor has no bfloat16 instructions"
    frames = len([f for start, stop in windows_of(LENGTH, CLIP, OVERLAP) for f in range(start, stop)])
    return [
        Row(
            "vit.fp32", "ViT-H, float32, fused attention", f"{FRAMES} frames", partial(float32, quick),
            units=FRAMES,
        ),
        Row(
            "vit.bf16", "ViT-H, bfloat16 beside float32", f"{FRAMES} frames", partial(bfloat16, quick),
            Target(speedup=1.8), units=FRAMES, tolerance=0.2, skip=skip,
        ),
        Row(
            "vit.windows", "recovery in overlapping windows, ViT once per frame",
            f"{LENGTH} frames, windows of {CLIP} sharing {OVERLAP}", partial(windows, quick),
            Target(speedup=0.9 * frames / LENGTH), units=LENGTH,
        ),
    ]  # fmt: skip


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware; without, it is slower than float32."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    return any(flag in text.split() for flag in BF16_FLAGS)


@cache
def backbone(quick: bool) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(SMALL if quick else HUGE).eval()


def crops(quick: bool, frames: int) -> Tensor:
    """(F, 3, H, H) as after normalisation."""
    side = 16 * (SMALL if quick else HUGE)["out_HW"][0]
    return torch.randn(frames, 3, side, side, generator=torch.Generator().manual_seed(1))


def float32(quick: bool, variant: str) -> Run:
    network, images = backbone(quick), crops(quick, FRAMES)

    @torch.inference_mode()
    def run() -> dict[str, Tensor]:
        if variant == "plain":
            return {"tokens": vision_transformer(network.model, images)}
        return {"tokens": network({"crop_imgs": images[None]})[0]}

    return run


def bfloat16(quick: bool, variant: str) -> Run:
    network, images = backbone(quick), crops(quick, FRAMES)[None]

    @torch.inference_mode()
    def tokens(low: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            return network({"crop_imgs": images}).float()

    note = {}
    if variant == "ours":
        exact = tokens(low=False)
        error = (tokens(low=True) - exact).abs().mean() / exact.abs().mean()
        note = {"accuracy": f"the tokens differ by {100 * error:.2f} % on average"}

    def run() -> dict[str, Tensor | str]:
        return {"tokens": tokens(low=variant == "ours"), **note}

    return run


# --------------------------------------------------------------------------------------------------- windows


def windows(quick: bool, variant: str) -> Run:
    """Ours: what demo and test do. Plain: every window's features anew, and nothing else."""
    images = crops(quick, LENGTH)
    system = recovery_system(quick)
    person = PersonCondition(
        "id0", torch.full((LENGTH, 2), 300.0), torch.full((LENGTH,), 2.0), torch.ones(LENGTH).bool().numpy(),
        torch.zeros(LENGTH, 33, 4), (images * 40 + 120).clamp(0, 255).byte().movedim(1, -1).numpy(),
    )  # fmt: skip
    K = torch.tensor([[1000.0, 0, 300], [0, 1000, 300], [0, 0, 1]])
    data = DemoDataset([person], K, CLIP, OVERLAP)

    @torch.inference_mode()
    def run() -> dict[str, Tensor]:
        if variant == "plain":
            for window in data.windows:
                system.backbone(default_collate([data.images(0, slice(window.start, window.stop))]))
            return {}
        tokens = FrameTokens(system.backbone, data, torch.device("cpu"))
        for index, window in enumerate(data.windows):
            system.recover({**collate([data[index]]), "cond": tokens.of(window)}, window.kept)
        return {}

    return run


@cache
def recovery_system(quick: bool) -> MoRoSystem:
    """The open preset's small transformer behind a ViT, so that the ViT is all that counts."""
    sizes = SMALL if quick else HUGE
    overrides = [f"model.backbone.{key}={value}" for key, value in sizes.items()]
    overrides += ["model.backbone.weights=null", "model.dst_former.aligned=false"]
    cfg = compose_config("demo", ["preset=open", *overrides])
    torch.manual_seed(0)
    system = build_system(resolve_paths(cfg)[0], initialise=False).eval()
    system.set_trajectory_stats(TrajectoryStats(torch.zeros(9), torch.ones(9)))
    return system
