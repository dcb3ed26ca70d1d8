"""Motion files in AMASS's layout: z up, metres (spec: data 9.6; docs/design.md 4.6)."""

import zipfile
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from moro.body.model import BodyModel
from moro.errors import MoroError
from moro.geometry.frames import transform_parameters
from moro.geometry.ground import Ground
from moro.io.atomic import atomic_path


class Fit(Protocol):
    """The parameters an export needs, camera frame (`moro.body.fit_body` returns them): full_pose (T, J, 3)
    axis-angle with the global orientation first, betas (B,), transl (T, 3) metres; tensors or arrays."""

    full_pose: torch.Tensor
    betas: torch.Tensor
    transl: torch.Tensor


def write_motion_npz(
    path: str | Path,
    body: BodyModel,
    fit: Fit,
    ground: Ground,
    K: NDArray,
    image_size: tuple[int, int],
    *,
    fps: float = 30.0,
    gender: str = "neutral",
    seen: NDArray | None = None,
    frame_times: NDArray | None = None,
) -> None:
    """Write one person's motion, in the world frame on `ground` (z up, floor z = 0).

    body         the model that was fitted
    fit          parameters in the camera frame, T frames
    K            (3, 3) pixels;  image_size (W, H)
    seen         (T,) bool, frames in which the person was detected (all if None)
    frame_times  (T,) seconds (frame number / fps if None)

    Arrays (float32 unless said): poses (T, 3J), root_orient (T, 3), pose_body (T, 63),
    pose_other (T, 3J - 66), betas (B,), trans (T, 3), gender, mocap_framerate, mocap_frame_rate,
    up_axis "z", world2cam and cam2world (4, 4) float64, camera_global_orient and camera_transl (T, 3): the
    same motion in the camera frame, K (3, 3), image_size (2,) int64, body_model, body_model_sha256,
    seen (T,) bool, frame_times (T,) float64.
    Raises MoroError when shapes disagree or numbers are not finite.
    """
    pose, betas, transl = fit_arrays(body, fit)
    T = len(pose)
    if len(body.parents) < 22:
        raise MoroError(
            f"cannot write {path}: the body has {len(body.parents)} joints, 22 or more are needed."
        )
    orient, trans = to_world(body, pose, betas, transl, ground.cam2world())
    world_pose = np.concatenate([orient[:, None], pose[:, 1:]], 1)  # (T, J, 3)
    seen = np.ones(T, bool) if seen is None else np.asarray(seen, bool)
    times = np.arange(T) / fps if frame_times is None else np.asarray(frame_times, np.float64)
    if seen.shape != (T,) or times.shape != (T,):
        raise MoroError(
            f"cannot write {path}: seen {seen.shape} and frame_times {times.shape} must both be ({T},)."
        )
    arrays = {
        "poses": world_pose.reshape(T, -1),  # (T, J, 3) -> (T, 3J)
        "root_orient": orient,
        "pose_body": world_pose[:, 1:22].reshape(T, -1),  # (T, 21, 3) -> (T, 63)
        "pose_other": world_pose[:, 22:].reshape(T, -1),  # (T, J - 22, 3) -> (T, 3J - 66)
        "betas": betas,
        "trans": trans,
        "mocap_framerate": np.asarray(fps),
        "mocap_frame_rate": np.asarray(fps),
        "camera_global_orient": pose[:, 0],
        "camera_transl": transl,
        "K": np.asarray(K).reshape(3, 3),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            **arrays,
            gender=np.asarray(gender),
            up_axis=np.asarray("z"),
            world2cam=ground.world2cam(),
            cam2world=ground.cam2world(),
            image_size=np.asarray(image_size, np.int64),
            body_model=np.asarray(body.body_id),
            body_model_sha256=np.asarray(body.sha256),
            seen=seen,
            frame_times=times,
        )


def read_motion_npz(path: str | Path) -> dict[str, NDArray | str | float]:
    """The arrays of `write_motion_npz`, checked; texts as str, the frame rate as float.

    Raises MoroError for a file that cannot be read, lacks an array, or holds arrays whose shapes disagree or
    whose numbers are not finite.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            motion = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise MoroError(f"{path} is not a readable motion file (npz): {error}.") from error
    missing = [name for name in _SHAPES if name not in motion]
    if missing:
        raise MoroError(f"{path} is not a motion file of ours: it lacks {', '.join(missing)}.")
    if motion["poses"].ndim != 2 or motion["poses"].shape[1] < 66 or motion["poses"].shape[1] % 3:
        raise MoroError(f"{path}: poses must be (T, 3 J) with J >= 22, got {motion['poses'].shape}.")
    if motion["betas"].ndim != 1:
        raise MoroError(f"{path}: betas must be (B,), got {motion['betas'].shape}.")
    T, width = motion["poses"].shape
    sizes = {"T": T, "3J": width, "3J-66": width - 66, "B": motion["betas"].shape[0]}
    for name, shape in _SHAPES.items():
        expected = tuple(sizes.get(n, n) for n in shape)
        if motion[name].shape != expected:
            raise MoroError(f"{path}: {name} must be {expected}, got {motion[name].shape}.")
        if motion[name].dtype.kind == "f" and not np.isfinite(motion[name]).all():
            raise MoroError(f"{path}: {name} holds numbers that are not finite.")
    texts = {name: str(motion[name]) for name in ("gender", "up_axis", "body_model", "body_model_sha256")}
    rates = {name: float(motion[name]) for name in ("mocap_framerate", "mocap_frame_rate")}
    return motion | texts | rates


_SHAPES: dict[str, tuple[int | str, ...]] = {
    "poses": ("T", "3J"), "root_orient": ("T", 3), "pose_body": ("T", 63), "pose_other": ("T", "3J-66"),
    "betas": ("B",), "trans": ("T", 3), "gender": (), "mocap_framerate": (), "mocap_frame_rate": (),
    "up_axis": (), "world2cam": (4, 4), "cam2world": (4, 4), "camera_global_orient": ("T", 3),
    "camera_transl": ("T", 3), "K": (3, 3), "image_size": (2,), "body_model": (), "body_model_sha256": (),
    "seen": ("T",), "frame_times": ("T",),
}  # fmt: skip


def fit_arrays(body: BodyModel, fit: Fit) -> tuple[NDArray, NDArray, NDArray]:
    """pose (T, J, 3), betas (B,), transl (T, 3) as float64 arrays; MoroError if they do not fit the body."""
    pose, betas, transl = (
        torch.as_tensor(value).detach().cpu().numpy().astype(np.float64)
        for value in (fit.full_pose, fit.betas, fit.transl)
    )
    J, B = len(body.parents), body.shapedirs.shape[-1]
    T = len(pose)
    if pose.shape != (T, J, 3) or betas.shape != (B,) or transl.shape != (T, 3) or not T:
        raise MoroError(
            f"export: body {body.body_id} needs full_pose (T, {J}, 3), betas ({B},) and transl (T, 3), "
            f"got {pose.shape}, {betas.shape}, {transl.shape}."
        )
    if not all(np.isfinite(value).all() for value in (pose, betas, transl)):
        raise MoroError("export: the fitted parameters hold numbers that are not finite.")
    return pose, betas, transl


def rest_joints(body: BodyModel, betas: NDArray) -> NDArray:
    """(J, 3) float64: joints of the rest pose, for betas (B,)."""
    shape = torch.as_tensor(betas, dtype=torch.float64, device=body.shapedirs.device)
    vertices = body.v_template.double() + body.shapedirs.double() @ shape
    return (body.J_regressor.double() @ vertices).cpu().numpy()


def to_world(
    body: BodyModel, pose: NDArray, betas: NDArray, transl: NDArray, cam2world: NDArray
) -> tuple[NDArray, NDArray]:
    """Global orientation (T, 3) and translation (T, 3) after a rigid change of frame (spec: data 2.3).

    The body turns about its pelvis, which is not the origin of the model.
    """
    pelvis = torch.as_tensor(rest_joints(body, betas)[0])
    orient, trans = transform_parameters(
        torch.as_tensor(pose[:, 0]),
        torch.as_tensor(transl),
        pelvis.expand(len(pose), 3),
        torch.as_tensor(cam2world),
    )
    return orient.numpy(), trans.numpy()
