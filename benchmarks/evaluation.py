"""The measures of the evaluation beside loops over frames (tests/evaluation/twin.py)."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Options, Row, Run, Target
from moro.evaluation.measures import errors_against_truth
from tests.evaluation.twin import plain_errors

JOINTS, VERTICES = 22, 6890  # of SMPL
FOOT_POINTS = (3216, 3387, 6617, 6787)  # four vertices; which ones does not matter here


def rows(options: Options) -> list[Row]:
    frames = 50 if options.quick else 5000
    return [
        Row(
            f"evaluation.errors-{frames}", "evaluation of a sequence", f"{frames} frames of SMPL",
            partial(errors, frames), Target(speedup=10), tolerance=1e-3,
        )
    ]  # fmt: skip


def errors(frames: int, variant: str) -> Run:
    """A body that walks about, recovered with 3 cm of noise; a third of the joints hidden."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    path = noise(frames, 1, 3).mul(0.01).cumsum(0)
    true_joints, true_vertices = path + 0.3 * noise(JOINTS, 3), path + 0.3 * noise(VERTICES, 3)
    joints = true_joints + 0.03 * noise(frames, JOINTS, 3)
    vertices = true_vertices + 0.03 * noise(frames, 1, 3)
    visible = torch.rand(frames, JOINTS, generator=generator) < 0.7
    measure = plain_errors if variant == "plain" else errors_against_truth
    return lambda: measure(joints, true_joints, vertices, true_vertices, FOOT_POINTS, visible)
