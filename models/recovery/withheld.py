"""Real clips without ground truth: limbs withheld from the model are compared with what the detector saw.

In stretches of one to two seconds a limb's landmarks are taken out of the model's input; the recovered body's
landmarks are projected, and those withheld compared with the detector's own (docs/real_video.md).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from models.mask_transformer.system import MoRoSystem
from models.recovery.condition import condition_of_track
from models.recovery.heldout import Table, fill_gaps
from models.recovery.pipeline import FPS, focal_length, intrinsics, tracks_of
from models.recovery.real_video import metric_landmarks, recover_landmarks
from models.recovery.reference import POINTS
from moro.body.model import BodyModel
from moro.body.skeleton import LANDMARK_NAMES
from moro.geometry.camera import project
from moro.metrics import jitter
from moro.synth.occlusion import point_groups
from moro.video.reader import open_video
from moro.video.tracks import Track

LIMBS = ("left_arm", "right_arm", "left_leg", "right_leg")
SHARE = 0.3  # of the time a limb is withheld
SECONDS = (1.0, 2.0)  # length of a stretch
RADIUS = 0.1  # of the box's side, within which a landmark counts as found
MIN_VISIBILITY = 0.5  # of the detector's landmark, to be compared with


Hits = dict[str, list[NDArray]]  # by method: which of the compared landmarks were found


def measure_withheld(
    cfg: DictConfig,
    system: MoRoSystem,
    body: BodyModel,
    clips: Sequence[Path],
    work: Path,
    repeats: int = 3,
) -> Table:
    """{clip and person: measures}, and "all" over everybody.

    PCK of the withheld landmarks: recovered without them; recovered with them (what projection can reach);
    the detector's, interpolated over the stretch. Jitter [10 m/s³] of the recovered joints with and without
    them, and of the detector's metric landmarks.
    repeats  draws of what is withheld, with fixed seeds
    """
    table: Table = {}
    total: Hits = {}
    for clip in clips:
        frames = open_video(clip, FPS)
        size = (frames.width, frames.height)
        K = intrinsics(focal_length(cfg, frames), size)
        for number, track in enumerate(tracks_of(cfg, frames, work / clip.stem)):
            hits: Hits = {}
            row: dict[str, float] = {}
            whole = recover_landmarks(cfg, system, body, track, K, size)
            row["Jitter BlazePose"] = float(jitter(metric_landmarks(track)[:, POINTS]).mean())
            row["Jitter shown"] = float(jitter(_centred(whole)).mean())
            shaken = []
            for seed in range(repeats):
                hidden = hide_limbs(len(track.seen), np.random.default_rng((seed, number)))
                partial = recover_landmarks(cfg, system, body, withhold(track, hidden), K, size)
                add_hits(hits, track, hidden, {"withheld": partial, "shown": whole}, K, size)
                shaken.append(float(jitter(_centred(partial)).mean()))
            row["Jitter withheld"] = float(np.mean(shaken))
            for name, found in hits.items():
                total.setdefault(name, []).extend(found)
            table[f"{clip.stem} id{number}"] = shares(hits) | row
    table["all"] = shares(total) | {
        name: float(np.mean([row[name] for row in table.values()]))
        for name in ("Jitter BlazePose", "Jitter shown", "Jitter withheld")
    }
    return table


def hide_limbs(frames: int, rng: np.random.Generator) -> NDArray:
    """(L, 33) bool: each limb by itself is withheld in stretches of 1-2 s, 30 % of the time on average."""
    groups = point_groups(LANDMARK_NAMES)
    hidden = np.zeros((frames, len(LANDMARK_NAMES)), bool)
    mean = sum(SECONDS) / 2
    rest = mean * (1 - SHARE) / SHARE
    for limb in LIMBS:
        time = -rng.uniform(0, mean + rest)
        while time * FPS < frames:
            time += rng.uniform(0.5, 1.5) * rest
            length = rng.uniform(*SECONDS)
            start, stop = round(time * FPS), round((time + length) * FPS)
            hidden[max(start, 0) : max(stop, 0), groups[limb]] = True
            time += length
    return hidden


def withhold(track: Track, hidden: NDArray) -> Track:
    """The track without the landmarks hidden (L, 33), as if the detector had not reported them."""
    landmarks, world = track.landmarks.copy(), track.world.copy()
    landmarks[hidden], world[hidden] = 0, 0
    return replace(track, landmarks=landmarks, world=world)


def add_hits(
    hits: Hits,
    track: Track,
    hidden: NDArray,
    recovered: dict[str, Tensor],
    K: Tensor,
    image_size: tuple[int, int],
) -> None:
    """Compare recovered landmarks (L, 33, 3), camera frame, with those seen by the detector but hidden."""
    side = 200 * condition_of_track(track, "", image_size).scale.numpy()
    truth = track.landmarks[..., :2]
    counted = hidden & track.seen[:, None] & (track.landmarks[..., 2] > MIN_VISIBILITY)
    counted[:, np.setdiff1d(np.arange(len(LANDMARK_NAMES)), POINTS)] = False  # fingers say the wrist again
    images = {name: project(points, K).numpy() for name, points in recovered.items()}
    known = track.seen[:, None] & ~hidden
    images["interpolated"] = fill_gaps(torch.from_numpy(truth), known).numpy()
    for name, image in images.items():
        hits.setdefault(name, []).append(found_within(image, truth, side)[counted])


def shares(hits: Hits) -> dict[str, float]:
    """PCK by method, percent."""
    return {f"PCK {name} [%]": 100 * float(np.concatenate(found).mean()) for name, found in hits.items()}


def found_within(image: NDArray, truth: NDArray, side: NDArray, radius: float = RADIUS) -> NDArray:
    """(L, N) bool: image (L, N, 2) lies nearer to truth than `radius` of the box's side (L,); pixels."""
    return np.linalg.norm(image - truth, axis=-1) < radius * side[:, None]


def _centred(landmarks: Tensor) -> Tensor:
    """(L, 16, 3) relative to the hips, as the detector's metric landmarks are."""
    hips = [LANDMARK_NAMES.index(f"{side}_hip") for side in ("left", "right")]
    return landmarks[:, POINTS] - landmarks[:, hips].mean(1, keepdim=True)
