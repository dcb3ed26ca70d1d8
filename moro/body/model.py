"""One body model for the whole SMPL family: shape and pose blend shapes, then linear blend skinning."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from moro.body.skeleton import HAND_JOINT_NAMES, NUM_BODY_JOINTS
from moro.errors import MoroError


@dataclass
class BodyData:
    """The arrays of a body model file, dense, in the names and layout of SMPL-X.

    v_template   (V, 3)            rest vertices, metres
    f            (F, 3)            triangles
    weights      (V, J)            skinning weights, rows sum to 1
    J_regressor  (J, V)            rest joints from rest vertices
    parents      list of J         parent joint, -1 for the root
    shapedirs    (V, 3, B)         shape directions
    posedirs     (V, 3, 9 (J-1))   pose correctives, multiplied with R - I of joints 1..J-1
    joint_names  J names
    J_template, J_shapedirs   (J, 3), (J, 3, B) rest joints; None: what J_regressor gives
    body_vertices       (V_body,) ids of the body surface, or None for all
    vertex_joints       (21,) ids of the vertex-picked joints, or None
    lmk_faces_idx, lmk_bary_coords   (L,), (L, 3) surface landmarks, or None
    landmark_regressor  (33, V), beta_limit (B,), mirror_vertices (V,): the open bodies only, or None
    """

    v_template: np.ndarray
    f: np.ndarray
    weights: np.ndarray
    J_regressor: np.ndarray
    parents: list[int]
    shapedirs: np.ndarray
    posedirs: np.ndarray
    joint_names: Sequence[str]
    J_template: np.ndarray | None = None
    J_shapedirs: np.ndarray | None = None
    body_vertices: np.ndarray | None = None
    vertex_joints: np.ndarray | None = None
    lmk_faces_idx: np.ndarray | None = None
    lmk_bary_coords: np.ndarray | None = None
    landmark_regressor: np.ndarray | None = None
    beta_limit: np.ndarray | None = None
    mirror_vertices: np.ndarray | None = None


@dataclass
class BodyOutput:
    """A posed body; what only some callers need is computed when first asked for.

    full_vertices    (*, V_full, 3)  all vertices, metres
    skeleton_joints  (*, J, 3)       the posed joints of the kinematic tree
    vertices         (*, V, 3)       body surface (without eyeballs)
    joints           (*, 22, 3)      the joints all bodies share
    full_joints      (*, K, 3)       skeleton joints, then vertex-picked joints, then surface landmarks
                                     (SMPL-X: 55 + 21 + 51)
    """

    full_vertices: Tensor
    skeleton_joints: Tensor
    body: "BodyModel"

    @cached_property
    def vertices(self) -> Tensor:
        body = self.body
        if body.body_is_prefix:  # a view instead of a copy
            return self.full_vertices[..., : body.num_vertices, :]
        return self.full_vertices[..., body.body_vertices, :]

    @property
    def joints(self) -> Tensor:
        return self.skeleton_joints[..., :NUM_BODY_JOINTS, :]

    @cached_property
    def full_joints(self) -> Tensor:
        parts = [self.skeleton_joints]
        if self.body.vertex_joints is not None:
            parts.append(self.full_vertices[..., self.body.vertex_joints, :])
        if self.body.surface_landmark_corners is not None:
            corners = self.full_vertices[..., self.body.surface_landmark_corners, :]  # (*, L, 3 corners, 3)
            parts.append((corners * self.body.surface_landmark_weights[..., None]).sum(-2))
        return torch.cat(parts, dim=-2)

    def landmarks(self) -> Tensor:
        """The 33 detector landmarks (*, 33, 3); MoroError when the body has no regressor for them."""
        regressor = self.body.landmark_regressor
        if regressor is None:
            raise MoroError(
                f"body {self.body.body_id} has no landmark regressor; use model_type=open or open_fine"
            )
        return regressor @ self.full_vertices


class BodyModel(nn.Module):
    """Differentiable SMPL-family body (spec: data 1.2); expression is zero, hands are flat unless posed.

    Internally a mesh is a row of 3 V numbers, all x before all y before all z, so that blend shapes are plain
    matrix products and skinning works on contiguous memory. Buffers are not part of any state dict.
    """

    faces: Tensor
    full_faces: Tensor
    body_vertices: Tensor
    v_template: Tensor
    shapedirs: Tensor
    weights: Tensor
    J_regressor: Tensor
    J_template: Tensor
    J_shapedirs: Tensor
    joint_regressor: Tensor
    vertex_joints: Tensor | None
    surface_landmark_corners: Tensor | None
    surface_landmark_weights: Tensor | None
    landmark_regressor: Tensor | None
    beta_limit: Tensor | None
    mirror_vertices: Tensor | None

    def __init__(self, data: BodyData, body_id: str, sha256: str = "") -> None:
        super().__init__()
        V, J = len(data.v_template), len(data.parents)
        self.body_id, self.sha256 = body_id, sha256
        self.parents = list(data.parents)
        self.joint_names = tuple(str(name) for name in data.joint_names)
        self.num_joints, self.num_full_vertices, self.num_betas = J, V, data.shapedirs.shape[-1]

        self.num_hand_joints = sum(name in HAND_JOINT_NAMES for name in self.joint_names)  # 30, SMPL: none

        self._buffer("v_template", data.v_template)  # (V, 3)
        self._buffer("shapedirs", data.shapedirs)  # (V, 3, B)
        self._buffer("weights", data.weights)  # (V, J)
        self._buffer("J_regressor", data.J_regressor)  # (J, V)
        self._register_surface(data)
        self._register_points(data)
        self._register_blend_shapes(data)
        self._register_joints(data)

    def _buffer(self, name: str, array: np.ndarray | None, dtype: torch.dtype = torch.float32) -> None:
        tensor = None if array is None else torch.as_tensor(np.ascontiguousarray(array)).to(dtype)
        self.register_buffer(name, tensor, persistent=False)

    def _register_surface(self, data: BodyData) -> None:
        """Body surface: its vertices, its faces renumbered to them, its joint regressor."""
        V = len(data.v_template)
        body = np.arange(V) if data.body_vertices is None else np.sort(data.body_vertices)
        renumber = np.full(V, -1)
        renumber[body] = np.arange(len(body))
        faces = renumber[data.f]
        self.num_vertices = len(body)
        self.body_is_prefix = bool(body[-1] == len(body) - 1)
        self._buffer("body_vertices", body, torch.int64)
        self._buffer("full_faces", data.f.astype(np.int64), torch.int64)
        self._buffer("faces", faces[(faces >= 0).all(1)], torch.int64)
        self._buffer("joint_regressor", data.J_regressor[:NUM_BODY_JOINTS, body])

    def _register_points(self, data: BodyData) -> None:
        """Points derived from the posed mesh, and what only the open bodies bring."""
        has_landmarks = data.lmk_faces_idx is not None
        self._buffer("vertex_joints", data.vertex_joints, torch.int64)
        corners = data.f.astype(np.int64)[data.lmk_faces_idx] if has_landmarks else None  # (L, 3)
        self._buffer("surface_landmark_corners", corners, torch.int64)
        self._buffer("surface_landmark_weights", data.lmk_bary_coords if has_landmarks else None)
        self._buffer("landmark_regressor", data.landmark_regressor)
        self._buffer("beta_limit", data.beta_limit)
        self._buffer("mirror_vertices", data.mirror_vertices, torch.int64)

    def _register_blend_shapes(self, data: BodyData) -> None:
        V, B = self.num_full_vertices, self.num_betas
        posedirs = data.posedirs.transpose(2, 1, 0).reshape(-1, 3 * V)  # (P, 3V), x before y before z
        corrected = np.flatnonzero(np.any(posedirs != 0, axis=0))  # half of the open body has no correctives
        self._buffer("_template_row", data.v_template.T.reshape(3 * V))  # (3V,)
        self._buffer("_shape_rows", data.shapedirs.transpose(2, 1, 0).reshape(B, 3 * V))  # (B, 3V)
        self._buffer("_pose_rows", posedirs[:, corrected])  # (P, R)
        self._buffer("_corrected", corrected, torch.int64)  # (R,)

    def _register_joints(self, data: BodyData) -> None:
        """Rest joints as a linear function of betas; joints that move rigidly with the 22 body joints."""
        J = self.num_joints
        template, directions = data.J_template, data.J_shapedirs
        if template is None or directions is None:
            regressor = data.J_regressor.astype(np.float64)
            template, directions = (
                regressor @ data.v_template,
                np.einsum("jv,vcb->jcb", regressor, data.shapedirs),
            )
        self._buffer("J_template", template)  # (J, 3)
        self._buffer("J_shapedirs", directions)  # (J, 3, B)
        anchor = np.arange(J)
        for joint in range(NUM_BODY_JOINTS, J):
            anchor[joint] = anchor[self.parents[joint]]
        merged = np.zeros((len(data.weights), NUM_BODY_JOINTS))
        np.add.at(merged.T, anchor, data.weights.T)
        self._buffer("_anchor", anchor, torch.int64)  # (J,)
        self._buffer("_body_weights", merged)  # (V, 22)

    @property
    def posedirs(self) -> Tensor:
        """Pose correctives in SMPL-X's layout (V_full, 3, 9 (J-1)), made on request."""
        P, V = len(self._pose_rows), self.num_full_vertices
        rows = self._pose_rows.new_zeros(P, 3 * V)
        rows[:, self._corrected] = self._pose_rows
        return rows.reshape(P, 3, V).permute(2, 1, 0)  # (V, 3, P)

    def clamp_betas(self, betas: Tensor) -> Tensor:
        """Betas (*, B) limited to the body's plausible range; unchanged where the file states none."""
        if self.beta_limit is None:
            return betas
        return torch.minimum(torch.maximum(betas, -self.beta_limit), self.beta_limit)

    def forward(
        self,
        body_pose: Tensor,
        betas: Tensor,
        global_orient: Tensor | None = None,
        transl: Tensor | None = None,
        hand_pose: Tensor | None = None,
    ) -> BodyOutput:
        """Pose the body. Leading dimensions are free and broadcast against each other.

        body_pose      (*, 21, 3, 3)  rotation of joints 1..21 relative to their parents
        betas          (*, B)
        global_orient  (*, 3, 3)      rotation about the pelvis (identity if None)
        transl         (*, 3)         metres (zero if None)
        hand_pose      (*, 30, 3, 3)  finger joints, left hand first (flat hands if None)
        raises         MoroError on wrong shapes
        """
        lead = self._check_inputs(body_pose, betas, global_orient, transl, hand_pose)
        N = lead.numel()
        betas = betas.expand(*lead, -1).reshape(N, -1)  # (N, B)
        rotations = self._local_rotations(body_pose, global_orient, hand_pose, lead)  # (N, A, 3, 3)

        mesh = torch.addmm(self._template_row, betas, self._shape_rows)  # (N, 3V)
        identity = torch.eye(3, dtype=mesh.dtype, device=mesh.device)
        features = (rotations[:, 1:] - identity).flatten(1)  # (N, 9)
        correctives = features @ self._pose_rows[: features.shape[1]]  # (N, R)
        mesh = mesh.index_add(1, self._corrected, correctives)

        transforms, joints = self._joint_transforms(rotations, self.rest_joints(betas))
        vertices = self._skin(mesh, transforms)
        if transl is not None:
            offset = transl.expand(*lead, 3).reshape(N, 1, 3)
            vertices, joints = vertices + offset, joints + offset
        return BodyOutput(vertices.reshape(*lead, -1, 3), joints.reshape(*lead, -1, 3), self)

    def rest_joints(self, betas: Tensor) -> Tensor:
        """Joints of the rest pose, betas (*, B) -> (*, J, 3) metres."""
        return self.J_template + torch.einsum("...b,jcb->...jc", betas, self.J_shapedirs)

    def posed_joints(
        self,
        body_pose: Tensor,
        betas: Tensor,
        global_orient: Tensor | None = None,
        transl: Tensor | None = None,
    ) -> Tensor:
        """`skeleton_joints` (*, J, 3) of `forward` without the mesh; arguments and errors as there."""
        lead = self._check_inputs(body_pose, betas, global_orient, transl, None)
        rest = self.rest_joints(betas.expand(*lead, -1)).reshape(lead.numel(), -1, 3)  # (N, J, 3)
        rotations = self._local_rotations(body_pose, global_orient, None, lead)
        joints = self._joint_transforms(rotations, rest)[1].reshape(*lead, -1, 3)
        return joints if transl is None else joints + transl[..., None, :]

    def _check_inputs(
        self,
        body_pose: Tensor,
        betas: Tensor,
        global_orient: Tensor | None,
        transl: Tensor | None,
        hand_pose: Tensor | None,
    ) -> torch.Size:
        """Common leading shape of all inputs; MoroError naming the input whose shape is wrong."""
        expected = {
            "body_pose": (body_pose, (NUM_BODY_JOINTS - 1, 3, 3)),
            "betas": (betas, (self.num_betas,)),
            "global_orient": (global_orient, (3, 3)),
            "transl": (transl, (3,)),
            "hand_pose": (hand_pose, (self.num_hand_joints, 3, 3)),
        }
        leads = []
        for name, (tensor, trailing) in expected.items():
            if tensor is None:
                continue
            split = tensor.ndim - len(trailing)
            if split < 0 or tuple(tensor.shape[split:]) != trailing:
                shape = ", ".join(map(str, trailing))
                raise MoroError(
                    f"{name} of body {self.body_id} must be (*, {shape}), got {tuple(tensor.shape)}"
                )
            leads.append(tensor.shape[:split])
        try:
            return torch.broadcast_shapes(*leads)
        except RuntimeError as error:
            shapes = ", ".join(str(tuple(lead)) for lead in leads)
            raise MoroError(
                f"leading dimensions of the body model's inputs do not match: {shapes}"
            ) from error

    def _local_rotations(
        self, body_pose: Tensor, global_orient: Tensor | None, hand_pose: Tensor | None, lead: torch.Size
    ) -> Tensor:
        """Parent-relative rotations (N, A, 3, 3) of the joints that turn: 22, or all J with a hand pose."""
        identity = torch.eye(3, dtype=body_pose.dtype, device=body_pose.device)
        root = identity if global_orient is None else global_orient
        parts = [root[..., None, :, :].expand(*lead, 1, 3, 3), body_pose.expand(*lead, -1, 3, 3)]
        if hand_pose is not None:
            face = self.num_joints - self.num_hand_joints - NUM_BODY_JOINTS  # jaw and eyes stay as they are
            parts += [identity.expand(*lead, face, 3, 3), hand_pose.expand(*lead, -1, 3, 3)]
        return torch.cat(parts, dim=-3).reshape(lead.numel(), -1, 3, 3)

    def _joint_transforms(self, rotations: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Rest-to-posed transforms of the turning joints and positions of all joints.

        rotations  (N, A, 3, 3) parent-relative;  rest (N, J, 3)
        returns    (N, A, 3, 4) with posed = R rest + t,  (N, J, 3)
        """
        A, J = rotations.shape[1], self.num_joints
        world, shift = [rotations[:, 0]], [rest[:, 0]]
        for joint in range(1, A):
            parent = self.parents[joint]
            bone = (rest[:, joint] - rest[:, parent])[..., None]
            shift.append(shift[parent] + (world[parent] @ bone)[..., 0])
            world.append(world[parent] @ rotations[:, joint])
        R, joints = torch.stack(world, 1), torch.stack(shift, 1)  # (N, A, 3, 3), (N, A, 3)
        t = joints - (R @ rest[:, :A, :, None])[..., 0]
        if A < J:  # the others move rigidly with the turning joint above them
            anchor = self._anchor[A:]
            rigid = (R[:, anchor] @ rest[:, A:, :, None])[..., 0] + t[:, anchor]
            joints = torch.cat((joints, rigid), dim=1)
        return torch.cat((R, t[..., None]), dim=-1), joints

    def _skin(self, mesh: Tensor, transforms: Tensor) -> Tensor:
        """Linear blend skinning: mesh (N, 3V) and transforms (N, A, 3, 4) to vertices (N, V, 3)."""
        N, A = transforms.shape[:2]
        V = self.num_full_vertices
        weights = self._body_weights if A == NUM_BODY_JOINTS else self.weights  # (V, A)
        blended = transforms.reshape(N, A, 12).transpose(1, 2) @ weights.T  # (N, 12, V)
        blended, mesh = blended.reshape(N, 3, 4, V), mesh.reshape(N, 3, V)
        posed = blended[:, :, 3]  # (N, 3, V)
        for axis in range(3):  # column by column: the full product of both would be three times as large
            posed = torch.addcmul(posed, blended[:, :, axis], mesh[:, None, axis])
        return posed.transpose(1, 2)
