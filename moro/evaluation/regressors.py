"""From body vertices to what is compared: SMPL's mesh and joints (spec: data 1.1, 8.1)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moro.body.skeleton import VERTEX_JOINT_IDS, VERTEX_JOINT_NAMES
from moro.errors import MoroError
from moro.io.regressor_files import read_matrix

JOINT_FILE = "smpl_neutral_J_regressor.pt"
MAP_FILE = "smplx2smpl_sparse.pt"
FOOT_POINTS = ("left_big_toe", "left_heel", "right_big_toe", "right_heel")


@dataclass(frozen=True)
class Regressors:
    """joints (J, V) from SMPL vertices; smplx2smpl (V, V_smplx) sparse: SMPL vertices from SMPL-X's."""

    joints: Tensor
    smplx2smpl: Tensor

    @property
    def num_vertices(self) -> int:
        """Vertices of the SMPL mesh."""
        return self.joints.shape[1]

    def to_smpl(self, full_vertices: Tensor) -> Tensor:
        """SMPL vertices (F, V, 3) of SMPL-X bodies with eyeballs (F, V_smplx, 3)."""
        F, V = full_vertices.shape[:2]
        if self.smplx2smpl.shape[1] != V:
            raise MoroError(
                f"{MAP_FILE} is made for meshes of {self.smplx2smpl.shape[1]} vertices and the SMPL-X "
                f"file has {V}; use files that belong together"
            )
        columns = full_vertices.transpose(0, 1).reshape(V, 3 * F)  # (F, V, 3) -> (V, 3F)
        return torch.sparse.mm(self.smplx2smpl, columns).reshape(-1, F, 3).transpose(0, 1).contiguous()

    def to_joints(self, vertices: Tensor, count: int | None = None) -> Tensor:
        """The first `count` joints (F, count, 3) of SMPL vertices (F, V, 3), in float64."""
        self.check(vertices.shape[1])
        return (self.joints[:count] @ vertices).double()

    def check(self, num_vertices: int) -> None:
        """MoroError if a mesh is not the one the regressor is made for."""
        if num_vertices != self.num_vertices:
            raise MoroError(
                f"{JOINT_FILE} is made for meshes of {self.num_vertices} vertices, got {num_vertices}; "
                "use SMPL or SMPL-H body model files"
            )

    def foot_points(self) -> list[int] | None:
        """Vertices of toes and heels, for foot sliding; None for a mesh that is not SMPL's."""
        picked = VERTEX_JOINT_IDS.get(self.num_vertices)
        return None if picked is None else [picked[VERTEX_JOINT_NAMES.index(name)] for name in FOOT_POINTS]


def load_regressors(bm_path: str | Path) -> Regressors:
    """Both files from the folder of body models. MoroError if one is missing, damaged or of wrong shape."""
    joints = read_matrix(Path(bm_path) / JOINT_FILE).to_dense()
    mapping = read_matrix(Path(bm_path) / MAP_FILE)
    if mapping.shape[0] != joints.shape[1]:
        raise MoroError(
            f"{bm_path}: {JOINT_FILE} {tuple(joints.shape)} and {MAP_FILE} {tuple(mapping.shape)} do not fit "
            "together; fetch both again"
        )
    return Regressors(joints, mapping.to_sparse_coo().coalesce())
