"""Frames in which the detector took a person's front for the back, and so left for right.

Single-frame detectors do so for some frames in a row, and everything that believes them turns the person
round. Nobody turns by half a circle from one frame to the next, and back a little later: of all ways to
exchange the sides in some frames, the one with the least sudden turning is taken. Frames in between, in
which the reading changes over, fit neither and may be left out of the chain at a price.
"""

import numpy as np
from numpy.typing import NDArray

from moro.body.skeleton import LANDMARK_NAMES, MIRROR_LANDMARKS

LEFT, RIGHT = (
    [LANDMARK_NAMES.index(f"{side}_{part}") for part in ("shoulder", "hip")] for side in ("left", "right")
)
# Costs; going on as before is free, and the most that a turn from one frame to the next can cost is 1.
FAST = np.radians(60)  # a turn that costs half of it
CHANGE = 0.3  # of exchanging from here on, or no longer; the ends of a track count as not exchanged
EXCHANGED = 0.005  # of each exchanged frame: in doubt the detector is right
LEFT_OUT = 0.2  # of each frame that is not in the chain
REACH = 4  # frames to the next in the chain, at most


def exchanged_frames(world: NDArray, seen: NDArray) -> NDArray:
    """(L,) bool: frames in which left and right landmarks are to be exchanged; false where unseen.

    world  (L, 33, 3) metres, x right, y down, z away;  seen (L,) bool
    """
    exchanged = np.zeros(len(seen), bool)
    frames = np.flatnonzero(seen)
    if len(frames):
        exchanged[frames] = _cheapest(headings(world[frames]), frames)
    return exchanged


def headings(world: NDArray) -> NDArray:
    """(L,) radians about the vertical: where shoulders and hips point, from right to left."""
    across = (world[:, LEFT] - world[:, RIGHT]).sum(1)  # (L, 3)
    return np.arctan2(across[:, 2], across[:, 0])


def put_right(landmarks: NDArray, exchanged: NDArray) -> NDArray:
    """Landmarks (L, 33, C) with left and right exchanged in those frames (L,)."""
    return np.where(exchanged[:, None, None], landmarks[:, list(MIRROR_LANDMARKS)], landmarks)


def _cheapest(heading: NDArray, frames: NDArray) -> NDArray:
    """(n,) bool of the n seen frames: dynamic programming over (frame, exchanged or not)."""
    count = len(heading)
    cost = np.empty((count, 2))
    origin = np.zeros((count, 2, 2), int)  # the frame before in the chain, -1: none; and whether exchanged
    for now in range(count):
        lags = np.arange(1, min(REACH, now) + 1)
        unseen = frames[now] - frames[now - lags] - lags  # frames in between that nobody read
        steps = _steps(heading[now] - heading[now - lags]) / (1 + unseen)[:, None, None]  # (m, 2, 2)
        ways = cost[now - lags][:, :, None] + steps + (LEFT_OUT * (lags - 1))[:, None, None]
        for state in (0, 1):
            first = LEFT_OUT * now + CHANGE * state if now < REACH else np.inf
            cost[now, state], origin[now, state] = first, (-1, 0)
            if len(lags) and ways[..., state].min() < first:
                lag, before = np.unravel_index(ways[..., state].argmin(), (len(lags), 2))
                cost[now, state], origin[now, state] = ways[lag, before, state], (now - lags[lag], before)
            cost[now, state] += EXCHANGED * state
    last = np.arange(max(0, count - REACH), count)
    ends = cost[last] + [0, CHANGE] + LEFT_OUT * (count - 1 - last)[:, None]  # (m, 2)
    end, state = np.unravel_index(ends.argmin(), ends.shape)
    return _traced(heading, origin, last[end], state)


def _steps(turns: NDArray) -> NDArray:
    """(m, 2, 2) costs of turns (m,) read, from a frame exchanged or not to one exchanged or not."""
    costs = np.empty((len(turns), 2, 2))
    for change in (0, 1):
        turn = np.angle(np.exp(1j * (turns + np.pi * change)))  # -pi..pi
        value = turn**2 / (turn**2 + FAST**2) + CHANGE * change
        costs[:, [0, 1], [change, 1 - change]] = value[:, None]
    return costs


def _traced(heading: NDArray, origin: NDArray, now: int, state: int) -> NDArray:
    """Back along the chain; frames left out are read as their headings fit the next in the chain."""
    exchanged = np.zeros(len(heading), bool)
    exchanged[now:] = state
    while now >= 0:
        exchanged[now] = state
        before, state_before = origin[now, state]
        turn = heading[before + 1 : now] - heading[now]
        exchanged[before + 1 : now] = (np.cos(turn) < 0) ^ bool(state)
        now, state = before, state_before
    return exchanged
