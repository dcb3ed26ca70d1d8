"""Terms of least squares over time, as lower bands of their normal equations (scipy.linalg.solveh_banded)."""

import numpy as np
from numpy.typing import NDArray

ACCELERATION_BANDS = 3  # a frame meets the two before it


def squared_accelerations(frames: int) -> NDArray:
    """Sum of squared second differences x[f] - 2 x[f+1] + x[f+2] of one coordinate: bands (3, frames)."""
    bands = np.zeros((ACCELERATION_BANDS, frames))
    for offset, products in enumerate(((1.0, 4.0, 1.0), (-2.0, -2.0), (1.0,))):
        for first, value in enumerate(products):
            bands[offset, first : max(first, frames - 2 + first)] += value
    return bands


def add_squared_steps(
    diagonal: NDArray, below: NDArray, right: NDArray, trust: NDArray, push: NDArray
) -> None:
    """Add the sum of trust[f] |x[f+1] - x[f] + step[f]|² in place.

    diagonal, below  (F,) bands of the matrix;  right: (F, C) of the right-hand side
    trust            (F-1,);  push: (F-1, C), trust times step
    """
    diagonal[1:] += trust
    diagonal[:-1] += trust
    below[:-1] -= trust
    right[1:] -= push
    right[:-1] += push
