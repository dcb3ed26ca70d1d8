"""The measures equal their plain twin."""

import torch

from moro.evaluation.measures import errors_against_truth
from tests.evaluation.test_measures import FEET, F, J, walk
from tests.evaluation.twin import plain_errors


def test_measures_equal_loops_over_frames() -> None:
    joints, vertices = walk(0)
    noise = 0.05 * torch.randn(F, J, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    visible = torch.rand(F, 22, generator=torch.Generator().manual_seed(1)) < 0.6
    slow = vertices * 0.01 + noise[:, :1] * 0.01  # some feet stand
    arguments = (joints + noise, joints, slow + 0.001, slow, FEET, visible)
    fast, plain = errors_against_truth(*arguments), plain_errors(*arguments)
    assert fast.keys() == plain.keys()
    for name, value in plain.items():
        assert value.numel(), name
        torch.testing.assert_close(fast[name], value, rtol=1e-9, atol=1e-9, msg=name)
