"""Captured motion for worlds, from the arrays of scripts/preprocess/process_mocap.py (docs/data_open.md)."""

from pathlib import Path

import numpy as np
import torch

from moro.body.model import BodyModel
from moro.errors import MoroError
from moro.geometry.rotation import rotvec_to_matrix
from moro.io.amass_files import PARAMETERS, open_parameters, split_parameters
from moro.io.scenes import read_json
from moro.synth.motions import MotionClip, body_offsets

GENERATED = "generated"  # the subset that process_mocap made up itself
ROOM = 0.6  # metres: who goes farther leaves the picture, or walks into the others


def captured_clips(
    folder: Path, frames: int, count: int, body: BodyModel, rng: np.random.Generator
) -> list[MotionClip]:
    """`count` different pieces of captured motion in random order, `frames` long, that stay in one place.

    folder  output of process_mocap;  body: its pelvis tells where people stand
    Raises MoroError if there is no such folder, or too little such motion in it.
    """
    rows = read_json(folder / "motion" / "index.json")["clips"]
    rows = [row for row in rows if not row["path"].startswith(f"{GENERATED}/") and row["frames"] >= frames]
    rest, found = body_offsets(body)[0], []
    for number in rng.permutation(len(rows)):
        if len(found) == count:
            break
        row = rows[number]
        array = open_parameters(folder / "motion" / PARAMETERS / row["path"])
        start = (len(array) - frames) // 2
        parts = split_parameters(array[start : start + frames])
        transl = torch.from_numpy(parts["transl"])
        if (transl[:, :2] - transl[:1, :2]).norm(dim=-1).max() > ROOM:
            continue
        vectors = np.concatenate([parts["global_orient"], parts["body_pose"]], 1).reshape(frames, 22, 3)
        pose = rotvec_to_matrix(torch.from_numpy(vectors))  # (F, 66) -> (F, 22, 3, 3)
        found.append(MotionClip(row["path"], row["family"], pose, transl + rest))
    if len(found) < count:
        raise MoroError(
            f"{folder} holds {len(found)} captured motions of {frames} frames in one place, {count} are "
            "needed; ask for fewer frames, or make it with process_mocap --source (docs/data_open.md)."
        )
    return found
