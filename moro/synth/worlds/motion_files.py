"""Small AMASS, MOYO and BEDLAM motions without pictures: as released, and made ready (spec: data 3.1, 4.1).

Each function writes the files a user downloads beside those the preprocessing makes of them, the latter by
the specification alone, so that the preprocessing can be compared with them.
"""

from pathlib import Path

import numpy as np
import torch

from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.geometry.rotation import matrix_to_rotvec, rotvec_to_matrix
from moro.io.amass_files import NUM_JOINTS, write_recording
from moro.io.atomic import atomic_path
from moro.synth.skeleton import resample_linear, resample_rotations
from moro.synth.worlds import WorldSize
from moro.synth.worlds.stage import Actor, make_stage

FPS = 30
FRAMES = 64  # of a recording at least: a clip of 60 is needed for the trajectory statistics
NUM_BETAS = 16  # in a file
# Subsets with their frame rates, one by a little not a multiple of 30; for the transformer TotalCapture is
# held out, the others are training data.
AMASS = {"CMU": 120.0, "HumanEva": 120.0, "TotalCapture": 60.0, "SSM": 59.99}
TOKENIZER_SPLITS = {"train": ("CMU", "TotalCapture"), "val": ("HumanEva",), "test": ("SSM",)}
AMASS_KEPT, MOYO_KEPT = (0.2, 10), (0.1, 5)  # trimmed at both ends, every n-th frame

Arrays = dict[str, np.ndarray]


def write_amass(out: Path, seed: int, size: WorldSize, bodies: Path) -> Path:
    """AMASS_raw/<subset>/<subject>/*.npz as released, AMASS/{pose,smpl}_data_fps_30 made of them."""
    body = load_body_model(bodies, "smplx")
    for name, raw in _write_raw_amass(out, seed, size, bodies).items():
        step = round(AMASS[name.split("/")[0]] / FPS)
        rows = {key: raw[key][::step] for key in ("root_orient", "trans", "pose_body")}
        rows["betas"] = np.broadcast_to(raw["betas"][:10], (len(rows["trans"]), 10))
        parts = {
            "global_orient": rows["root_orient"],
            "transl": rows["trans"],
            "body_pose": rows["pose_body"],
            "betas": rows["betas"],
        }
        write_recording(out / "AMASS", name, parts, _joints(body, rows))
    return out / "AMASS"


def write_amass_smplx(out: Path, seed: int, size: WorldSize, bodies: Path) -> Path:
    """AMASS_raw, and the tokenizer's AMASS_smplx/{train,val,test}.npz."""
    raw = _write_raw_amass(out, seed, size, bodies)
    for split, subsets in TOKENIZER_SPLITS.items():
        members = {name: raw[name] for subset in subsets for name in raw if name.split("/")[0] == subset}
        _write_tokenizer_file(out / "AMASS_smplx" / f"{split}.npz", members, *AMASS_KEPT)
    return out / "AMASS_smplx"


def write_moyo(out: Path, seed: int, size: WorldSize, bodies: Path) -> Path:
    """MOYO_raw/<split>/<session>/<part>/*.npz, and the tokenizer's MOYO/{train,val,test}.npz."""
    splits = ("train", "val", "test")
    actors = _actors((seed, 2), size, len(splits) * size.recordings, bodies)
    for number, split in enumerate(splits):
        members = {}
        for actor in actors[number :: len(splits)]:
            name = f"220923_yogi_body_hands_Pose_{len(members)}_stageii.npz"
            members[name] = raw = _upsampled(actor, 2)
            fields = {**raw, "gender": "neutral", "mocap_frame_rate": 60.0}
            _save(out / "MOYO_raw" / split / "220923_yogi" / "part_0" / name, fields)
        _write_tokenizer_file(out / "MOYO" / f"{split}.npz", members, *MOYO_KEPT)
    return out / "MOYO"


def write_bedlam_animations(out: Path, seed: int, size: WorldSize, bodies: Path) -> Path:
    """neutral_ground_truth_motioninfo/<person>/<sequence>/motion_seq.npz, bedlam_animations/train.npz."""
    members = {}
    for number, actor in enumerate(_actors((seed, 3), size, size.recordings, bodies)):
        person, sequence = f"rp_person{number}_posed_{number:03d}", f"{1000 + number}"
        members[f"{person}-{sequence}"] = raw = _upsampled(actor, 1)
        path = out / "neutral_ground_truth_motioninfo" / person / sequence / "motion_seq.npz"
        _save(path, {"poses": _poses(raw), **_subset(raw, "trans", "betas"), "gender": "neutral"})
    _write_tokenizer_file(out / "bedlam_animations" / "train.npz", members, *AMASS_KEPT)
    return out / "bedlam_animations"


def _write_raw_amass(out: Path, seed: int, size: WorldSize, bodies: Path) -> dict[str, Arrays]:
    """<subset>/<subject>/<recording> → arrays, sorted by path; each subject has a file of its shape too."""
    actors = iter(_actors((seed, 1), size, len(AMASS) * size.recordings, bodies))
    recordings = {}
    for subset, rate in sorted(AMASS.items()):
        for number in range(size.recordings):
            name = f"{subset}/subject_{number}/motion_{number:02d}_stageii"
            raw = recordings[name] = _upsampled(next(actors), round(rate / FPS))
            frames = len(raw["trans"])
            fields = {
                **raw,
                "poses": _poses(raw),
                "pose_hand": np.zeros((frames, 90)),
                "pose_jaw": np.zeros((frames, 3)),
                "pose_eye": np.zeros((frames, 6)),
                "gender": "neutral",
                "surface_model_type": "smplx",
                "mocap_frame_rate": rate,
            }
            path = out / "AMASS_raw" / f"{name}.npz"
            _save(path, fields)
            _save(path.with_name("neutral_stagei.npz"), _subset(fields, "betas", "gender"))
    return recordings


def _actors(seed: tuple[int, int], size: WorldSize, count: int, bodies: Path) -> list[Actor]:
    frames = max(size.frames, FRAMES)
    genders, spots = ["neutral"] * count, [(0.0, 0.0)] * count
    return make_stage(seed, frames, genders, spots, bodies, (0.0, 0.0), size.motions).actors


def _upsampled(actor: Actor, step: int) -> Arrays:
    """root_orient, trans (N, 3), pose_body (N, 63), betas (16,); `step` frames for each of the actor's."""
    times = torch.arange((len(actor.transl) - 1) * step + 1) / step
    vectors = torch.cat([actor.global_orient, actor.body_pose], 1).unflatten(1, (22, 3))  # (F, 66)
    pose = matrix_to_rotvec(resample_rotations(rotvec_to_matrix(vectors), times)).flatten(1)  # (N, 66)
    arrays = {
        "root_orient": pose[:, :3],
        "pose_body": pose[:, 3:],
        "trans": resample_linear(actor.transl, times),
        "betas": torch.nn.functional.pad(actor.betas, (0, NUM_BETAS - len(actor.betas))),
    }
    return {key: value.double().numpy() for key, value in arrays.items()}


def _poses(raw: Arrays) -> np.ndarray:
    """(N, 165) with hands, jaw and eyes at rest."""
    return np.pad(np.concatenate([raw["root_orient"], raw["pose_body"]], 1), ((0, 0), (0, 99)))


def _joints(body: BodyModel, rows: Arrays) -> np.ndarray:
    tensors = {key: torch.tensor(value).float() for key, value in rows.items()}
    pose = rotvec_to_matrix(tensors["pose_body"].unflatten(1, (21, 3)))  # (T, 63) -> (T, 21, 3, 3)
    orient = rotvec_to_matrix(tensors["root_orient"])
    return body.posed_joints(pose, tensors["betas"], orient, tensors["trans"])[:, :NUM_JOINTS].numpy()


def _write_tokenizer_file(path: Path, members: dict[str, Arrays], trim: float, skip: int) -> None:
    columns: dict[str, list[np.ndarray]] = {
        key: [] for key in ("pose_body", "root_orient", "betas", "gender", "name")
    }
    for name, raw in members.items():
        frames = len(raw["trans"])
        kept = slice(int(trim * frames), int((1 - trim) * frames), skip)
        pose = raw["pose_body"][kept]
        columns["pose_body"].append(pose)
        columns["root_orient"].append(raw["root_orient"][kept])
        columns["betas"].append(np.tile(raw["betas"][:10], (len(pose), 1)))
        columns["gender"].append(np.full(len(pose), "neutral"))
        columns["name"].append(np.full(len(pose), name))
    _save(path, {key: np.concatenate(values) for key, values in columns.items()})


def _subset(arrays: dict[str, object], *keys: str) -> dict[str, object]:
    return {key: arrays[key] for key in keys}


def _save(path: Path, arrays: dict[str, object]) -> None:
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)
