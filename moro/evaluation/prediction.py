"""Results of MoRo and of other methods as SMPL vertices in the camera frame (spec: data 7, 8.1)."""

import logging
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moro.body.fitting import fit_body_as_published
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.body.skeleton import NUM_BODY_JOINTS
from moro.errors import MoroError
from moro.evaluation.regressors import Regressors
from moro.geometry.rotation import rotvec_to_matrix
from moro.io.results import read_results

logger = logging.getLogger(__name__)

CHUNK = 128  # frames posed at once


@dataclass(frozen=True)
class Method:
    """What a method stores (`mesh` or `param`), for which body, and the colour it is drawn in."""

    stored: str
    body: str
    colour: str


METHODS = {
    "MoRo": Method("mesh", "smplx", "skin"),
    "RoHM": Method("param", "smplx", "red"),
    "TokenHMR": Method("param", "smplh", "purple"),
    "WHAM": Method("param", "smpl", "orange"),
    "GVHMR": Method("param", "smplx", "cyan"),
    "PromptHMR": Method("param", "smplx", "pink"),
}


@dataclass(frozen=True)
class Prediction:
    """frame_names: base names of the T images; vertices (T, V, 3) of SMPL, camera frame, metres."""

    frame_names: tuple[str, ...]
    vertices: Tensor


@dataclass(frozen=True)
class Parameters:
    """Bodies of T frames: global_orient (T, 3, 3), body_pose (T, 21, 3, 3), betas (T, B), transl (T, 3)."""

    global_orient: Tensor
    body_pose: Tensor
    betas: Tensor
    transl: Tensor

    @classmethod
    def from_rotvecs(cls, arrays: dict[str, np.ndarray]) -> "Parameters":
        """From global_orient (T, 3), body_pose (T, 63), axis-angle, betas, transl (spec: data 2.1)."""
        orient, pose, betas, transl = (
            torch.as_tensor(arrays[key], dtype=torch.float32)
            for key in ("global_orient", "body_pose", "betas", "transl")
        )
        joints = pose.reshape(len(pose), NUM_BODY_JOINTS - 1, 3)  # (T, 63) -> (T, 21, 3)
        return cls(rotvec_to_matrix(orient), rotvec_to_matrix(joints), betas, transl)

    def __getitem__(self, frames: slice) -> "Parameters":
        return Parameters(
            self.global_orient[frames], self.body_pose[frames], self.betas[frames], self.transl[frames]
        )


@torch.no_grad()
def smpl_vertices(body: BodyModel, parameters: Parameters, regressors: Regressors, is_smplx: bool) -> Tensor:
    """SMPL vertices (T, V, 3) of posed bodies; SMPL-X goes through the vertex map, in chunks of frames."""
    chunks = []
    for start in range(0, len(parameters.transl), CHUNK):
        part = parameters[start : start + CHUNK]
        posed = body(
            part.body_pose, part.betas[:, : body.num_betas], part.global_orient, part.transl
        ).full_vertices
        chunks.append(regressors.to_smpl(posed) if is_smplx else posed)
    if not chunks:
        raise MoroError("there are no frames to evaluate")
    vertices = torch.cat(chunks)
    regressors.check(vertices.shape[1])
    return vertices


class TrueBodies:
    """Ground truth as SMPL vertices; the body model of each gender is read once.

    model_type  smplh or smplx
    regressors  of SMPL's mesh
    """

    def __init__(self, model_type: str, bm_path: str | Path, regressors: Regressors) -> None:
        self.is_smplx, self.regressors = model_type == "smplx", regressors
        self._body = cache(partial(load_body_model, bm_path, model_type))

    def vertices(self, gender: str, arrays: dict[str, np.ndarray]) -> Tensor:
        """(F, V, 3) of axis-angle parameters (see `Parameters.from_rotvecs`)."""
        parameters = Parameters.from_rotvecs(arrays)
        return smpl_vertices(self._body(gender), parameters, self.regressors, self.is_smplx)


class Predictor:
    """Reads results.pkl files of one method; the body model is loaded once, when first needed.

    A file is read, and its meshes are fitted, once; asked for again, the parameters kept are posed anew.

    method      a name of METHODS
    bm_path     folder of body models
    regressors  of SMPL's mesh
    """

    def __init__(self, method: str, bm_path: str | Path, regressors: Regressors) -> None:
        if method not in METHODS:
            raise MoroError(f"unknown method {method!r}; use one of {', '.join(METHODS)}")
        self.method, self.bm_path, self.regressors = METHODS[method], bm_path, regressors
        self._kept: dict[Path, tuple[tuple[str, ...], Parameters]] = {}

    @cached_property
    def body(self) -> BodyModel:
        """Neutral body of the method."""
        return load_body_model(self.bm_path, self.method.body)

    def load(self, path: str | Path) -> Prediction:
        """One sequence. MoroError if the file is missing, damaged or made with another body."""
        path = Path(path)
        if path not in self._kept:
            self._kept[path] = self._read(path)
        frame_names, parameters = self._kept[path]
        is_smplx = self.method.body == "smplx"
        return Prediction(frame_names, smpl_vertices(self.body, parameters, self.regressors, is_smplx))

    def _read(self, path: Path) -> tuple[tuple[str, ...], Parameters]:
        content = read_results(path)
        names = _entry(content, "frame_name", path).reshape(-1)  # (1, T) -> (T,)
        frame_names = tuple(Path(str(name)).name for name in names)
        if self.method.stored == "mesh":
            parameters = self._fitted(_entry(content, "verts", path), path)
        else:
            parameters = _stored_parameters(content, path)
        if len(parameters.transl) != len(frame_names):
            raise MoroError(
                f"{path}: {len(parameters.transl)} bodies for {len(frame_names)} frame names; write it anew"
            )
        return frame_names, parameters

    def _fitted(self, meshes: np.ndarray, path: str | Path) -> Parameters:
        """SMPL-X parameters of decoded meshes (1, T, V, 3), with the original's settings (spec: data 7)."""
        V = meshes.shape[-2] if meshes.ndim >= 3 else 0
        if self.body.num_vertices != V:
            raise MoroError(
                f"{path} has meshes of {V} vertices, not the {self.body.num_vertices} of SMPL-X, as results "
                "of the open body do: the benchmarks are defined on SMPL-X, so test with preset=release"
            )
        fit = fit_body_as_published(self.body, meshes.reshape(-1, V, 3))  # (1, T, V, 3) -> (T, V, 3)
        logger.info("%s: the fit is %.1f mm from the mesh", path, float(fit.vertex_error.mean()) * 1000)
        return Parameters(
            rotvec_to_matrix(fit.global_orient),
            rotvec_to_matrix(fit.body_pose),
            fit.betas.expand(len(fit.transl), -1),
            fit.transl,
        )


def _stored_parameters(content: dict[str, np.ndarray], path: str | Path) -> Parameters:
    """Parameters stored as rotation matrices with leading (B, F), flattened to one run of frames."""
    shapes = {"global_orient": (3, 3), "body_pose": (-1, 3, 3), "betas": (), "transl": (3,)}
    tensors = {}
    transl = _entry(content, "transl", path)
    T = transl.size // 3
    for key, shape in shapes.items():
        value = torch.as_tensor(np.asarray(_entry(content, key, path), np.float32))
        try:
            tensors[key] = value.reshape(T, *(shape or (-1,)))  # (B, F, *) -> (T, *)
        except RuntimeError as error:
            raise MoroError(f"{path}: {key} of shape {tuple(value.shape)} does not fit {T} frames") from error
    pose = tensors["body_pose"]
    if pose.shape[1] < NUM_BODY_JOINTS - 1:
        raise MoroError(f"{path}: body_pose has {pose.shape[1]} joints, {NUM_BODY_JOINTS - 1} are needed")
    return Parameters(
        tensors["global_orient"], pose[:, : NUM_BODY_JOINTS - 1], tensors["betas"], tensors["transl"]
    )


def _entry(content: dict[str, np.ndarray], key: str, path: str | Path) -> np.ndarray:
    if key not in content:
        raise MoroError(f"{path} has no {key}; check --method and --saved_data_dir")
    return np.asarray(content[key])
