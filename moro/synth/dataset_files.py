"""The files of the open training set: reading motion capture, writing motions and tokenizer poses."""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import roma
import torch
from torch import Tensor

from moro.body.skeleton import global_rotations
from moro.errors import MoroError
from moro.io.atomic import atomic_path
from moro.synth.motions import MotionClip, body_offsets, generate_clips, lowest_vertex
from moro.synth.retarget import retarget
from moro.synth.skeleton import (
    JOINT_INDEX,
    UPPER_BODY,
    joint_positions,
    mirror_local_rotations,
    resample_linear,
    resample_rotations,
    y_up_to_z_up,
)

logger = logging.getLogger(__name__)

FPS = 30.0
MAX_SOURCE_ERROR = 0.02  # metres; above this the rotations do not belong to the joints
MIN_FRAMES = 8  # a quarter of a second; shorter clips hold no motion
MAX_ACCELERATION = 600.0  # m/s^2 of a joint relative to the pelvis; above it the capture has jumped
MAX_SLIDE = 0.6  # m/s, median speed of the slower foot; a walk above it slides over the ground
MIN_LIMB_ROTATION = (
    0.15  # rad, median over the clip of the largest limb rotation; below it the clip is a T-pose
)

# The same CMU trial comes under several names; these copies are left out (cmuB has them, with rotations).
_DUPLICATES = ("cmuC_001", "cmuC_002", "cmuC_003", "cmuI_01_01", "cmuI_07_01")
# Locomotion keyed on the spot: its path over the ground is wrong, so only its poses are used (tokenizer).
_IN_PLACE = re.compile(
    r"^(m2m_(Walk|Jog|Sprint|Run_|Crouch_Fwd|Crawl$|Roll$|Swim|Jump_|Push|Sword_Attack$)|vir_(walk|run|jump|turn)"
    r"|m21_swim)"
)
# First match decides; families balance the sampling (docs/data_open.md).
_FAMILY_WORDS = (
    ("walk uneven", "walk"), ("walking_extra", "walk"), ("walking", "walk"), ("walk", "walk"),
    ("running", "run"), ("basketball_signal", "stand/idle/gesture"), ("directing", "stand/idle/gesture"),
    ("basketball", "sports"), ("soccer", "sports"), ("jumping", "jump"), ("washwindow", "reach/manipulate"),
    ("playground", "climb"), ("dance", "dance"), ("everyday", "everyday"),
)  # fmt: skip
# The small families of the sources, joined.
_FAMILY_GROUPS = {
    "sports/kick": "sports", "throw": "sports", "sideways/backward walk": "walk", "turn": "walk",
    "carry/push": "reach/manipulate", "fall/lie": "lie", "sit floor": "sit", "swim": "exercise",
}  # fmt: skip


@dataclass(frozen=True)
class SourceClip:
    """One motion on the open body, z-up world, 30 fps.

    trial       what decides the split: the CMU trial id where there is one, else the clip's name
    local_pose  (F, 22, 3, 3)   pelvis (F, 3) metres at zero betas
    pose_only   the path over the ground is not to be trusted
    """

    name: str
    subset: str
    subject: str
    trial: str
    family: str
    licence: str
    local_pose: Tensor
    pelvis: Tensor
    pose_only: bool = False


def split_of(trial: str) -> str:
    """train / val / test (80 / 10 / 10) by a hash of the source trial's name."""
    bucket = int(hashlib.sha256(trial.encode()).hexdigest()[:8], 16) % 10
    return {8: "val", 9: "test"}.get(bucket, "train")


def cmu_trial(name: str) -> str | None:
    """CMU trial id such as "cmu_01_05" of a clip name such as cmuB_01_05 or cmuC_001_05, else None."""
    match = re.match(r"cmu[A-Z]_(\d+)_(\d+)$", name)
    return f"cmu_{int(match[1]):02d}_{int(match[2]):02d}" if match else None


# ---- readers -------------------------------------------------------------------------------------


def read_mocap_folder(
    folder: str | Path, body: torch.nn.Module, exclude: Iterable[str] = ()
) -> list[SourceClip]:
    """All clips with rotations of the `*.npz` files in `folder`, on `body`.

    A file holds per clip `<clip>/joints` (F, 22, 3) metres, Y up, and `<clip>/pose_aa` (F, 22, 3) axis-angle;
    a json file of the same stem may name action, family and licence. Clips whose name (or file) holds a text
    of `exclude`, without rotations, or whose rotations do not explain their joints are left out and counted.
    """
    files = sorted(Path(folder).glob("*.npz"))
    if not files:
        raise MoroError(
            f"No .npz motion files in {folder}; name the folder that holds them (docs/data_open.md)."
        )
    offsets = body_offsets(body)
    clips, skipped = [], []
    for file in files:
        if any(text in file.name for text in exclude):
            continue
        details = _details(file)
        for name, joints, pose in _clips_of(file):
            if name.startswith(_DUPLICATES) or any(text in name for text in exclude):
                continue
            if pose is None:
                skipped.append((name, len(joints)))
                continue
            for part, frames in _sound_parts(name, joints, pose):
                captured = _captured(
                    part, name, file.stem, details.get(name, {}), joints[frames], pose[frames], offsets, body
                )
                clips += [captured] if captured is not None else []
    minutes = sum(frames for _, frames in skipped) / FPS / 60
    logger.info("left out %d clips without rotations (%.1f min)", len(skipped), minutes)
    return clips


def _details(file: Path) -> dict[str, dict]:
    path = file.with_suffix(".json")
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {
        clip["name"]: {"licence": content.get("licence", ""), **clip} for clip in content.get("clips", [])
    }


def _clips_of(file: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    with np.load(file, allow_pickle=False) as arrays:
        for key in sorted(arrays.files):
            name, _, kind = key.rpartition("/")
            if kind == "joints":
                pose = arrays[f"{name}/pose_aa"] if f"{name}/pose_aa" in arrays.files else None
                yield name, arrays[key], pose


def _sound_parts(name: str, joints: np.ndarray, pose: np.ndarray) -> list[tuple[str, slice]]:
    """Stretches of a clip without jumps: (name, frames); nothing where the clip is just a T-pose."""
    limbs = np.linalg.norm(pose[:, [1, 2, 4, 5, 16, 17, 18, 19]], axis=-1).max(axis=1)
    if np.median(limbs) < MIN_LIMB_ROTATION:
        return []
    relative = joints - joints[:, :1]
    acceleration = np.linalg.norm(np.diff(relative, n=2, axis=0), axis=-1).max(axis=1, initial=0) * FPS**2
    jumps = np.flatnonzero(acceleration > MAX_ACCELERATION) + 1
    if len(jumps) == 0:
        return [(name, slice(0, len(joints)))]
    bad = np.zeros(len(joints), dtype=bool)
    for jump in jumps:
        bad[max(0, jump - 2) : jump + 3] = True
    edges = np.flatnonzero(np.diff(np.r_[True, bad, True].astype(int)))
    runs = [(start, stop) for start, stop in zip(edges[::2], edges[1::2]) if stop - start >= 2 * MIN_FRAMES]
    return [(f"{name}-part{number}", slice(*run)) for number, run in enumerate(runs)]


def _captured(
    name: str,
    recording: str,
    source: str,
    details: dict,
    joints: np.ndarray,
    pose: np.ndarray,
    offsets: Tensor,
    body: torch.nn.Module,
) -> SourceClip | None:
    local = roma.rotvec_to_rotmat(torch.from_numpy(pose).double())  # (F, 22, 3, 3)
    moved = retarget(local, torch.from_numpy(joints).double(), offsets.double())
    if moved.source_error > MAX_SOURCE_ERROR or len(joints) < MIN_FRAMES:
        logger.info("left out %s: %d frames, rotations off by %.3f m", name, len(joints), moved.source_error)
        return None
    turn = y_up_to_z_up(torch.float64)
    local_pose, pelvis = moved.local_pose, moved.pelvis @ turn.T
    local_pose[:, 0] = turn @ local_pose[:, 0]
    local_pose, pelvis = local_pose.float(), pelvis.float()
    trial = cmu_trial(recording) or recording.removesuffix("_RM")
    family = _family(details)
    slides = family == "walk" and foot_slide(local_pose, pelvis, offsets) > MAX_SLIDE
    return SourceClip(
        name=name,
        subset=source,
        subject=trial.rpartition("_")[0] if cmu_trial(recording) else name.split("_")[0],
        trial=trial,
        family=family,
        licence=str(details.get("licence", "")),
        local_pose=local_pose,
        pelvis=on_floor(local_pose, pelvis, body),
        pose_only=slides or bool(_IN_PLACE.match(name)),
    )


def foot_slide(local_pose: Tensor, pelvis: Tensor, offsets: Tensor) -> float:
    """Median speed (m/s) of the slower foot; near zero when somebody walks on firm ground."""
    joints = joint_positions(global_rotations(local_pose), offsets, pelvis)
    feet = joints[:, [JOINT_INDEX["left_foot"], JOINT_INDEX["right_foot"]]]  # (F, 2, 3)
    return float(((feet[1:] - feet[:-1]).norm(dim=-1) * FPS).amin(dim=-1).median())


def _family(details: dict) -> str:
    family = details.get("family")
    if family is None:
        action = str(details.get("action", "")).lower()
        family = next((name for word, name in _FAMILY_WORDS if word in action), "everyday")
    return _FAMILY_GROUPS.get(family, family)


def on_floor(local_pose: Tensor, pelvis: Tensor, body: torch.nn.Module, step: int = 3) -> Tensor:
    """Pelvis path (F, 3), z up, so that the body's lowest vertex (5th percentile of frames) is at 0."""
    height = pelvis[::step, 2] + lowest_vertex(body, local_pose[::step], axis=2)
    shift = torch.zeros(3)
    shift[2] = torch.quantile(height, 0.05)
    return pelvis - shift


def read_amass_folder(folder: str | Path, body: torch.nn.Module) -> list[SourceClip]:
    """Motions of `<folder>/<subset>/<subject>/*.npz` in AMASS layout, for users who hold such files.

    Read are `poses` (T, >= 66), `trans` (T, 3) and the frame rate. The T-pose of their SMPL-family body is
    taken as the open body's. Files without `poses` are shapes and are skipped.
    """
    files = sorted(Path(folder).glob("*/*/*.npz"))
    if not files:
        raise MoroError(
            f"No <subset>/<subject>/*.npz files in {folder}; point --amass at an AMASS-layout folder."
        )
    rest = body_offsets(body)[0]
    clips = []
    for file in files:
        with np.load(file, allow_pickle=False) as arrays:
            if "poses" not in arrays.files:
                continue
            rate_key = next((k for k in ("mocap_frame_rate", "mocap_framerate") if k in arrays.files), None)
            if rate_key is None or "trans" not in arrays.files:
                raise MoroError(f"{file} lacks `trans` or `mocap_frame_rate`; it is not in AMASS layout.")
            rate = float(arrays[rate_key])
            pose = (
                torch.from_numpy(arrays["poses"][:, :66]).float().reshape(-1, 22, 3)
            )  # (T, 66) -> (T, 22, 3)
            trans = torch.from_numpy(arrays["trans"]).float()
        times = torch.arange(0, len(pose) - 1, rate / FPS)
        if len(times) < MIN_FRAMES:
            continue
        local = resample_rotations(roma.rotvec_to_rotmat(pose), times)
        pelvis = on_floor(local, resample_linear(trans + rest, times), body)
        subset, subject = file.parts[-3:-1]
        name = f"{subset}-{subject}-{file.stem}"
        clips.append(SourceClip(name, subset, subject, name, "amass", "user's own", local, pelvis))
    return clips


def generated_source(count: int, seed: int, body: torch.nn.Module) -> list[SourceClip]:
    """`count` generated motions (`moro.synth.motions`)."""
    return [_from_generated(clip) for clip in generate_clips(seed, count, body)]


def _from_generated(clip: MotionClip) -> SourceClip:
    return SourceClip(
        name=clip.name,
        subset="generated",
        subject=clip.name.split("_")[1],
        trial=clip.name,
        family=_FAMILY_GROUPS.get(clip.family, clip.family),
        licence="generated by this project",
        local_pose=clip.local_pose,
        pelvis=clip.pelvis,
    )


# ---- writers -------------------------------------------------------------------------------------


def write_motion(root: Path, clip: SourceClip, body: torch.nn.Module) -> dict:
    """Write the two arrays of spec: data 4.1 for `clip`; returns its row of `index.json`.

    pose_data_fps_30: (T, 25, 3) the body's first 25 joints, world z-up, metres; smpl_data_fps_30: (T, 178).
    """
    frames = len(clip.local_pose)
    rest = body_offsets(body)[0]
    transl = clip.pelvis - rest
    vectors = roma.rotmat_to_rotvec(clip.local_pose)  # (T, 22, 3)
    parameters = np.zeros((frames, 178), dtype=np.float32)
    parameters[:, 0:3] = vectors[:, 0]
    parameters[:, 3:6] = transl
    parameters[:, 16:79] = vectors[:, 1:].reshape(frames, 63)  # (T, 21, 3) -> (T, 63)
    name = f"{clip.subset}/{clip.subject}/{clip.name}.npy"
    with atomic_path(root / "smpl_data_fps_30" / name) as path:
        np.save(path, parameters)
    with atomic_path(root / "pose_data_fps_30" / name) as path:
        np.save(path, _first_joints(body, clip.local_pose, transl))
    return {
        "path": name,
        "split": split_of(clip.trial),
        "trial": clip.trial,
        "family": clip.family,
        "frames": frames,
        "licence": clip.licence,
    }


def _first_joints(body: torch.nn.Module, local_pose: Tensor, transl: Tensor, count: int = 25) -> np.ndarray:
    joints = []
    with torch.no_grad():
        for pose, shift in zip(local_pose.split(256), transl.split(256)):
            betas = torch.zeros(len(pose), body.num_betas)
            out = body(body_pose=pose[:, 1:], betas=betas, global_orient=pose[:, 0], transl=shift)
            joints.append(out.full_joints[:, :count])
    return torch.cat(joints).numpy().astype(np.float32)


def tokenizer_arrays(
    clips: list[SourceClip],
    body: torch.nn.Module,
    rng: np.random.Generator,
    *,
    mixes: float,
    mirror: bool,
    min_change: float = 0.025,
) -> dict[str, np.ndarray]:
    """The fields of spec: data 3.1 for the distinct poses of `clips`.

    Frames that differ from the last kept one by less than `min_change` metres (mean joint distance without
    global orientation) are left out. Added: mirrored copies, and `mixes` times as many poses that join the
    legs and trunk of one pose with the arms and head of another. Betas: normal, clamped to the body's limit.
    """
    offsets = body_offsets(body)
    poses, names, roots = [], [], []
    for clip in clips:
        kept = distinct_frames(clip.local_pose, offsets, min_change)
        poses.append(clip.local_pose[kept, 1:])
        roots.append(clip.local_pose[kept, 0])
        names += [clip.name] * len(kept)
    pose = torch.cat(poses) if poses else torch.zeros(0, 21, 3, 3)
    root = torch.cat(roots) if roots else torch.zeros(0, 3, 3)
    if mirror and len(pose):
        flipped = mirror_local_rotations(torch.cat([root[:, None], pose], dim=1))
        pose, root = torch.cat([pose, flipped[:, 1:]]), torch.cat([root, flipped[:, 0]])
        names += [f"{name}_mirrored" for name in names]
    mixed = int(mixes * len(pose))
    if mixed:
        lower, upper = rng.integers(len(pose), size=(2, mixed))
        pose = torch.cat([pose, _mix(pose[lower], pose[upper])])
        root = torch.cat([root, root[lower]])
        names += ["mixed"] * mixed
    count = len(pose)
    betas = sample_betas(count, body, rng)
    return {
        "pose_body": roma.rotmat_to_rotvec(pose).reshape(count, 63).double().numpy(),  # (N, 21, 3) -> (N, 63)
        "root_orient": roma.rotmat_to_rotvec(root).double().numpy(),
        "betas": betas,
        "gender": np.full(count, "neutral"),
        "name": np.array(names, dtype=np.str_),
    }


def _mix(lower: Tensor, upper: Tensor) -> Tensor:
    """Body poses (N, 21, 3, 3)."""
    rows = [joint - 1 for joint in UPPER_BODY]
    mixed = lower.clone()
    mixed[:, rows] = upper[:, rows]
    return mixed


def sample_betas(count: int, body: torch.nn.Module, rng: np.random.Generator) -> np.ndarray:
    """(count, num_betas) float64 standard-normal shapes, clamped to the body's own limit (else to 2)."""
    limit = body.beta_limit
    bound = 2.0 if limit is None else np.asarray(limit, dtype=np.float64)
    return np.clip(rng.standard_normal((count, body.num_betas)), -bound, bound)


def distinct_frames(local_pose: Tensor, offsets: Tensor, min_change: float) -> list[int]:
    """Frames that differ from the previous kept one by `min_change` metres (mean over the joints)."""
    upright = local_pose.clone()
    upright[:, 0] = torch.eye(3)
    joints = joint_positions(global_rotations(upright), offsets, torch.zeros(len(upright), 3)).numpy()
    kept = [0]
    for frame in range(1, len(joints)):
        if np.linalg.norm(joints[frame] - joints[kept[-1]], axis=-1).mean() >= min_change:
            kept.append(frame)
    return kept
