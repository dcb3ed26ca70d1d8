"""Moving points seen by several calibrated cameras: where they are in space.

Detections of people are wrong in ways that are not noise: a limb guessed behind the body, left taken for
right. So every step is robust: a view that contradicts the others loses its say (Geman-McClure). In order:
`settle_sides`, `align_views`, `triangulate`, `refine_motion`. Everything in float64 and undistorted pixels.
"""

from collections.abc import Sequence
from itertools import combinations, product
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDS = 8  # of reweighting
SWAP_PRICE = 0.05  # of exchanged sides in one view, in squared scales: without reason, nothing is exchanged
SHIFT_SPREAD = (
    20.0  # pixels; what all shifts have in common is a shift of the world, so something must hold them
)
NEAREST = 0.1  # metres; a point nearer to a camera is taken for one behind it


class Triangulation(NamedTuple):
    """points (T, N, 3) world metres, NaN where fewer than two views have a say; residual (C, T, N) pixels;
    trust (C, T, N) weight that is left to each view, 0..its given weight."""

    points: Tensor
    residual: Tensor
    trust: Tensor


def reproject(points: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (C, T, N, 2) and depth (C, T, N) in each camera of points (T, N, 3); projection (C, 3, 4)."""
    image = torch.einsum("cij,tnj->ctni", projection[..., :3], points) + projection[:, None, None, :, 3]
    depth = image[..., 2]
    safe = torch.where(depth.abs() < NEAREST, torch.full_like(depth, NEAREST), depth)
    return image[..., :2] / safe[..., None], depth


def triangulate(pixels: Tensor, weight: Tensor, projection: Tensor, scale: float = 12.0) -> Triangulation:
    """Each point by itself: the best of all pairs of views, then reweighted least squares over all views.

    pixels      (C, T, N, 2)  undistorted; any value where the weight is 0
    weight      (C, T, N)     0 where a view has nothing to say, at most 1
    projection  (C, 3, 4)     world to homogeneous pixels
    scale       residual in pixels at which a view has lost three quarters of its say
    """
    pixels, weight, projection = (value.double() for value in (pixels, weight, projection))
    known = (weight > 0).sum(0) >= 2  # (T, N)
    best = cost = None
    for pair in combinations(range(len(pixels)), 2):
        pick = list(pair)
        both = (weight[pick] > 0).all(0)
        points = _solve(pixels[pick], torch.ones_like(weight[pick]), projection[pick], None)
        points = _solve(pixels[pick], torch.ones_like(weight[pick]), projection[pick], points)
        price = robust_cost(_residual(points, pixels, projection), weight, scale).sum(0)
        price = torch.where(both, price, torch.inf)
        if best is None:
            best, cost = points, price
        best = torch.where((price < cost)[..., None], points, best)
        cost = torch.minimum(price, cost)
    for _ in range(ROUNDS):
        trust = weight * _say(_residual(best, pixels, projection), scale)
        best = _solve(pixels, trust, projection, best)
    residual = _residual(best, pixels, projection)
    points = torch.where(known[..., None], best, torch.nan)
    return Triangulation(points, residual, weight * _say(residual, scale))


def settle_sides(
    pixels: Tensor,
    weight: Tensor,
    projection: Tensor,
    mirror: Sequence[int],
    groups: Sequence[Sequence[int]],
    scale: float = 24.0,
) -> Tensor:
    """Which views took left for right: all combinations are tried, frame by frame, the cheapest is taken.

    mirror   the counterpart of each point
    groups   points that are exchanged together, e.g. arms, hips, legs
    returns  (C, T, N) bool, True where a view's point is to be replaced by its counterpart
    """
    views, frames, count = weight.shape
    mirror = list(mirror)
    best, swapped = torch.full((frames, len(groups)), torch.inf).double(), torch.zeros_like(weight).bool()
    for choice in product((False, True), repeat=views):
        if 2 * sum(choice) > views:
            continue  # most views are right
        turned = torch.tensor(choice)[:, None, None]
        xy = torch.where(turned[..., None], pixels[:, :, mirror], pixels)
        say = torch.where(turned, weight[:, :, mirror], weight)
        cost = robust_cost(triangulate(xy, say, projection, scale).residual, say, scale).sum(0)  # (T, N)
        for number, group in enumerate(groups):
            price = cost[:, list(group)].mean(-1) + SWAP_PRICE * scale**2 * sum(choice)
            better = price < best[:, number]
            best[:, number] = torch.where(better, price, best[:, number])
            for point in group:
                swapped[:, :, point] = torch.where(better, turned[..., 0], swapped[:, :, point])
    return swapped


def align_views(
    pixels: Tensor, weight: Tensor, projection: Tensor, scale: float = 12.0, rounds: int = 12
) -> Tensor:
    """How far each view's image is shifted against its calibration, by all points of all frames.

    Bundle adjustment with two unknowns per camera (Gauss-Newton, points eliminated): video files may be cut
    or padded by some pixels, and cameras turned a little after calibration; either moves the whole image.
    returns  (C, 2) pixels, to be subtracted from `pixels`; the arguments are those of `triangulate`
    """
    pixels, weight, projection = (value.double() for value in (pixels, weight, projection))
    views = len(pixels)
    shift = torch.zeros(views, 2).double()
    for number in range(rounds):
        wide = scale * max(1.0, 4.0 - number / 2)  # from far to near, so that nobody is left out at first
        found = triangulate(pixels - shift[:, None, None], weight, projection, wide)
        known = found.points.isfinite().all(-1)  # (T, N)
        points = found.points[known][None]  # (1, M, 3)
        image, depth = reproject(points, projection)
        off = (pixels - shift[:, None, None])[:, known] - image[:, 0]  # (C, M, 2)
        trust = found.trust[:, known]  # (C, M)
        slope = projection[:, None, :2, :3] - image[:, 0, :, :, None] * projection[:, None, 2:, :3]
        slope = slope / depth[:, 0, :, None, None]  # (C, M, 2, 3): pixels per metre
        inner = torch.einsum("cm,cmri,cmrj->mij", trust, slope, slope) + 1e-9 * torch.eye(3)
        cross = trust[..., None, None] * slope  # (C, M, 2, 3)
        solved = torch.linalg.solve(inner, cross.permute(1, 3, 0, 2).flatten(2))  # (M, 3, 2C)
        coupling = torch.einsum("cmri,mik->crk", cross, solved).flatten(0, 1)  # (2C, 2C)
        outer = torch.diag(trust.sum(1).repeat_interleave(2)) - coupling
        right = (trust[..., None] * off).sum(1).flatten()  # (C, 2) -> (2C,); the points are at their optimum
        hold = trust.sum() / views * 1e-3 / SHIFT_SPREAD**2 * scale**2
        step = torch.linalg.solve(outer + hold * torch.eye(2 * views), right - hold * shift.flatten())
        shift = shift + step.reshape(views, 2)  # (2C,) -> (C, 2)
    return shift


def refine_motion(
    points: Tensor,
    pixels: Tensor,
    weight: Tensor,
    projection: Tensor,
    bones: list[tuple[int, int]],
    fps: float,
    *,
    scale: float = 12.0,
    acceleration: float = 10.0,
    bone_spread: float = 0.01,
    rounds: int = 2,
) -> Tensor:
    """The motion that explains the views best and moves as a body does: smooth, with bones of one length.

    points        (T, N, 3)  finite start, e.g. from `triangulate` with its gaps filled
    pixels, weight, projection, scale   as in `triangulate`; detections are taken to be good to scale / 2
    bones         pairs of points at a constant distance, which is estimated
    acceleration  standard deviation, m/s²; with 7 mm of noise at 60 fps, 10 is a low-pass filter of 6 Hz
    bone_spread   standard deviation of a bone's length, metres
    returns       (T, N, 3)  the minimum found by L-BFGS; bone lengths are renewed in each of the rounds
    """
    pixels, weight, projection = (value.double() for value in (pixels, weight, projection))
    points = points.double()
    first, second = (torch.tensor([bone[end] for bone in bones]) for end in (0, 1))
    for _ in range(rounds):
        lengths = (points[:, first] - points[:, second]).norm(dim=-1).median(0).values  # (bones,)
        motion = points.clone().requires_grad_()
        optimiser = torch.optim.LBFGS(
            [motion],
            max_iter=80,
            tolerance_change=1e-5,  # metres
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def loss(motion: Tensor = motion, lengths: Tensor = lengths) -> Tensor:
            views = robust_cost(_residual(motion, pixels, projection), weight, scale).sum() / (scale / 2) ** 2
            smooth = (motion.diff(n=2, dim=0) * fps**2 / acceleration).square().sum()
            rigid = ((motion[:, first] - motion[:, second]).norm(dim=-1) - lengths) / bone_spread
            return (views + smooth + rigid.square().sum()) / 2

        def step(optimiser: torch.optim.Optimizer = optimiser, loss=loss) -> Tensor:
            optimiser.zero_grad()
            value = loss()
            value.backward()
            return value

        with torch.enable_grad():
            optimiser.step(step)
        points = motion.detach()
    return points


def robust_cost(residual: Tensor, weight: Tensor, scale: float) -> Tensor:
    """Geman-McClure: the squared residual where it is small, never more than scale²; times the weight."""
    return weight * residual.square() / (1 + (residual / scale).square())


def _say(residual: Tensor, scale: float) -> Tensor:
    """What is left of the weight of a view at this residual: 1 at 0, 1/4 at the scale."""
    return (1 + (residual / scale).square()) ** -2


def _residual(points: Tensor, pixels: Tensor, projection: Tensor) -> Tensor:
    """(C, T, N) pixels; very large behind a camera."""
    image, depth = reproject(points, projection)
    off = ((image - pixels).square().sum(-1) + 1e-12).sqrt()  # the root has no slope at 0
    return torch.where(depth > NEAREST, off, torch.full_like(off, 1e6))


def _solve(pixels: Tensor, weight: Tensor, projection: Tensor, points: Tensor | None) -> Tensor:
    """(T, N, 3) weighted linear least squares; with earlier points, errors count in pixels, not in metres."""
    rows = (
        pixels[..., None] * projection[:, None, None, 2:] - projection[:, None, None, :2]
    )  # (C, T, N, 2, 4)
    if points is not None:
        weight = weight / reproject(points, projection)[1].clamp(min=NEAREST).square()
    A, b = rows[..., :3], -rows[..., 3:]
    normal = torch.einsum("ctn,ctnri,ctnrj->tnij", weight, A, A)
    right = torch.einsum("ctn,ctnri,ctnrj->tnij", weight, A, b)  # (T, N, 3, 1)
    ridge = 1e-12 * normal.diagonal(dim1=-2, dim2=-1).sum(-1) + 1e-12
    return torch.linalg.solve(normal + ridge[..., None, None] * torch.eye(3).to(normal), right)[..., 0]
