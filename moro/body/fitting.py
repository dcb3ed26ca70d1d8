"""Body parameters from meshes: the fit of a SMPL-family body to predicted vertices (spec: data 7).

The solver is `smplfitter`. For the demo (`fit_body`) it is given the body our decoder draws, and no more: the
22 shared joints, with fingers, jaw and eyes rigidly attached to wrists and head. It takes two thirds of the
time and leaves no rotation to discard. Toes are fitted too. For the evaluation (`fit_body_as_published`) it
works as the original's does, so that numbers can be compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import roma
import torch
from smplfitter.pt import BodyFitter
from smplfitter.pt import BodyModel as FitterModel
from torch import Tensor, nn

from moro.body.model import BodyModel, BodyOutput
from moro.body.skeleton import NUM_BODY_JOINTS
from moro.errors import MoroError
from moro.io.row_file import RowFile

Meshes = Tensor | np.ndarray | RowFile  # (T, V, 3); a chunk is read at a time


@dataclass
class BodyFit:
    """Fitted parameters of T frames, in the frame of the given vertices; rotations as axis-angle, radians.

    global_orient  (T, 3)
    body_pose      (T, 21, 3)
    full_pose      (T, J, 3)  root, body, then zeros for the joints that are not fitted (fingers, jaw, eyes)
    betas          (B,) shared by all frames, or (T, B) with share_beta=False
    transl         (T, 3)     metres
    vertex_error   (T,)       mean distance between rebuilt and given vertices, metres
    joints         (T, 22, 3) of the rebuilt body, metres
    points         (T, P, 3)  vertices of the rebuilt body that `fit_body` was asked for
    """

    global_orient: Tensor
    body_pose: Tensor
    full_pose: Tensor
    betas: Tensor
    transl: Tensor
    vertex_error: Tensor
    joints: Tensor
    points: Tensor

    def rebuild(self, body: BodyModel, frames: slice = slice(None)) -> BodyOutput:
        """The fitted body in some frames, vertices (T', V, 3), with the gradient mode of the caller.

        `body` may be another resolution with the same parameters.
        """
        return body(
            roma.rotvec_to_rotmat(self.body_pose[frames]),
            self.betas if self.betas.ndim == 1 else self.betas[frames],
            roma.rotvec_to_rotmat(self.global_orient[frames]),
            self.transl[frames],
        )


@torch.no_grad()
def fit_body(
    body: BodyModel,
    vertices: Meshes,
    *,
    num_iter: int = 2,
    beta_regularizer: float = 1e-4,
    share_beta: bool = True,
    chunk: int = 64,
    shape_frames: int | None = 24,
    shape_iter: int = 8,
    points: np.ndarray | None = None,
) -> BodyFit:
    """Fit pose, translation and shape of `body` to meshes of its own topology (spec: data 7).

    vertices          (T, V, 3) body surface, metres, any frame
    num_iter          rounds of the per-frame pose fit with known shape; the original has one
    beta_regularizer  pull of betas 3.. towards zero, per frame, in square metres (the first two are free).
                      The original's 1 shrinks betas that move a vertex by few millimetres almost to zero
    share_beta        one shape for all frames, else one for each
    chunk             frames solved at once; memory depends on it and not on T
    shape_frames      the shared shape comes from this many evenly spaced frames; None takes all. Pose and
                      shape are solved in turns: more rounds on few frames beat one round on all
    shape_iter        rounds of the shape fit
    points            (P,) numbers of vertices of the full body to follow (`BodyFit.points`); None: none
    returns           BodyFit on the device of `body`, float32
    raises            MoroError: wrong shape, no frames, values that are not finite
    """
    _check_vertices(body, vertices, chunk)
    fitter = BodyFitter(_FitterModel(body, range(NUM_BODY_JOINTS), "body")).to(body.v_template.device)
    followed = torch.as_tensor(np.zeros(0) if points is None else points).long()
    shared = None
    if share_beta:
        shared = _shared_betas(fitter, body, vertices, beta_regularizer, chunk, shape_frames, shape_iter)

    parts = []
    for target in _parts(body, vertices, chunk):
        if shared is None:
            start = fitter.fit(target, num_iter=shape_iter, beta_regularizer=beta_regularizer,
                               requested_keys=["shape_betas"])  # fmt: skip
            betas = body.clamp_betas(start["shape_betas"])
        else:
            betas = shared.expand(len(target), -1)
        pose = fitter.fit_with_known_shape(betas, target, num_iter=num_iter, requested_keys=["pose_rotvecs"])
        parts.append(_as_fit(body, target, pose["pose_rotvecs"], pose["trans"], betas, followed))
    return _join(parts, shared)


@torch.no_grad()
def moved(
    body: BodyModel, fit: BodyFit, pose: Tensor, transl: Tensor, points: np.ndarray | None, chunk: int = 64
) -> BodyFit:
    """The fit with another pose (T, 22, 3), axis-angle, and translation (T, 3); points as for `fit_body`."""
    full_pose = torch.cat((pose, fit.full_pose[:, pose.shape[1] :]), dim=1)
    parts = {"global_orient": pose[:, 0], "body_pose": pose[:, 1:], "full_pose": full_pose}
    changed = replace(fit, **parts, transl=transl)
    followed = torch.as_tensor(np.zeros(0) if points is None else points).long().to(transl.device)
    joints, soles = [], []
    for start in range(0, len(transl), chunk):
        posed = changed.rebuild(body, slice(start, start + chunk))
        joints.append(posed.joints.clone())
        soles.append(posed.full_vertices[:, followed])
    return replace(changed, joints=torch.cat(joints), points=torch.cat(soles))


@torch.no_grad()
def fit_body_as_published(body: BodyModel, vertices: Meshes, *, chunk: int = 64) -> BodyFit:
    """The fit of the original's evaluation (spec: data 7): one round, one shape, betas pulled to 0 by 1 m².

    All joints of the body are fitted, and the first 22 used. Toes turn with the ankles and ten joints are
    refined in the end, as the library does for SMPL. The original gives the eyes' joints no weight, since the
    meshes lack the eyeballs; with smplfitter 0.6 the head would then be free to turn about the axis to the
    jaw (18 instead of 5 mm), so the eyes are taken for part of the head.

    vertices  (T, V, 3) body surface, metres, any frame
    raises    MoroError as `fit_body`
    """
    _check_vertices(body, vertices, chunk)
    joints = [j for j in range(body.num_joints) if j < NUM_BODY_JOINTS or "eye" not in body.joint_names[j]]
    fitter = BodyFitter(_FitterModel(body, joints, "smplx")).to(body.v_template.device)
    fit = fitter.fit_streaming(
        lambda: ((target,) for target in _parts(body, vertices, chunk)),
        num_iter=1,
        beta_regularizer=1.0,
        requested_keys=["pose_rotvecs", "shape_betas"],
    )
    betas, rotvecs = fit["shape_betas"], fit["pose_rotvecs"][:, : 3 * NUM_BODY_JOINTS]
    none = torch.zeros(0, dtype=torch.long)
    parts = [
        _as_fit(body, target, *rest, none)
        for target, *rest in zip(
            _parts(body, vertices, chunk), *(v.split(chunk) for v in (rotvecs, fit["trans"], betas))
        )
    ]
    return _join(parts, betas[0])


class _FitterModel(FitterModel):
    """smplfitter's body, filled from ours in memory (its own constructor only reads files).

    joints  those it has; the others are rigidly attached to the ones they hang on
    name    for "smpl…" the library gives the toes the ankles' rotation and refines few joints
    """

    def __init__(self, body: BodyModel, joints: Sequence[int], name: str) -> None:
        nn.Module.__init__(self)
        joints = list(joints)
        J, B = len(joints), body.num_betas
        self.model_name, self.gender, self._has_kid_template = name, "neutral", False
        self.num_joints, self.num_vertices, self.num_betas = J, body.num_vertices, B
        self.kintree_parents = [-1, *(joints.index(int(body.parents[j])) for j in joints[1:])]
        self.joint_names = [body.joint_names[j] for j in joints]
        self.faces = body.faces.cpu().numpy()
        self.vertex_subset = np.arange(body.num_vertices)

        surface = body.body_vertices
        regressor = body.J_regressor[joints].double()  # (J, V_full)
        columns = [9 * (j - 1) + k for j in joints[1:] for k in range(9)]
        posedirs = body.posedirs[surface][..., columns]  # (V, 3, 9 (J - 1))
        identity = torch.eye(3, device=posedirs.device).flatten().repeat(J - 1)  # (9 (J - 1),)
        buffers = {
            # The library multiplies the correctives with R, not with R - I.
            "v_template": body.v_template[surface] - posedirs @ identity,
            "shapedirs": body.shapedirs[surface],
            "posedirs": posedirs,
            "weights": _merged_weights(body, joints)[surface],
            "J_regressor_post_lbs": body.J_regressor[joints][:, surface],
            "J_template": regressor @ body.v_template.double(),
            "J_shapedirs": torch.einsum("jv,vcb->jcb", regressor, body.shapedirs.double()),
            "kid_shapedir": torch.zeros(body.num_vertices, 3),
            "kid_J_shapedir": torch.zeros(J, 3),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value.float().to(surface.device))
        parents = torch.tensor(self.kintree_parents, device=surface.device)
        self.register_buffer("kintree_parents_tensor", parents)


def _merged_weights(body: BodyModel, joints: Sequence[int]) -> Tensor:
    """Skinning weights (V_full, J): each further joint's weight goes to the one of `joints` it hangs on."""
    weights = body.weights.clone()
    for joint in reversed(range(body.num_joints)):  # children come after their parents
        if joint not in joints:
            weights[:, body.parents[joint]] += weights[:, joint]
    return weights[:, joints]


def _parts(body: BodyModel, vertices: Meshes, chunk: int) -> Iterator[Tensor]:
    """The meshes, `chunk` of them at a time, as tensors like those of the body."""
    for start in range(0, len(vertices), chunk):
        yield torch.as_tensor(vertices[start : start + chunk]).detach().to(body.v_template)


def _check_vertices(body: BodyModel, vertices: Meshes, chunk: int) -> None:
    if len(vertices.shape) != 3 or vertices.shape[1:] != (body.num_vertices, 3):
        raise MoroError(
            f"vertices to fit with body {body.body_id} must be (T, {body.num_vertices}, 3), "
            f"got {tuple(vertices.shape)}; use the body the meshes were made with"
        )
    if len(vertices) == 0:
        raise MoroError("there are no frames to fit; give at least one mesh")
    bad = torch.cat([~p.flatten(1).isfinite().all(1) for p in _parts(body, vertices, chunk)])  # (T,)
    if bad.any():
        raise MoroError(
            f"vertices to fit are not finite in {int(bad.sum())} frame(s), the first is frame "
            f"{int(bad.nonzero()[0])}; leave such frames out"
        )


def _shared_betas(
    fitter: BodyFitter,
    body: BodyModel,
    vertices: Meshes,
    regularizer: float,
    chunk: int,
    frames: int | None,
    rounds: int,
) -> Tensor:
    """One shape (B,) for all frames, by normal equations summed over chunks."""
    if frames is not None and len(vertices) > frames:
        picks = torch.linspace(0, len(vertices) - 1, frames).round().long().tolist()
        vertices = torch.cat([torch.as_tensor(vertices[pick : pick + 1]) for pick in picks])
    fit = fitter.fit_streaming(
        lambda: ((target,) for target in _parts(body, vertices, chunk)),
        num_iter=rounds,
        beta_regularizer=regularizer,
        final_adjust_rots=False,
        requested_keys=["shape_betas"],
    )
    return body.clamp_betas(fit["shape_betas"][0])


def _as_fit(
    body: BodyModel, target: Tensor, rotvecs: Tensor, transl: Tensor, betas: Tensor, points: Tensor
) -> BodyFit:
    """One chunk's parameters, and what its posed body tells: vertex error, joints, the points followed."""
    pose = rotvecs.reshape(len(target), NUM_BODY_JOINTS, 3)  # (T, 22, 3)
    full_pose = torch.nn.functional.pad(pose, (0, 0, 0, body.num_joints - NUM_BODY_JOINTS))  # (T, J, 3)
    none = transl.new_empty(0)
    fit = BodyFit(pose[:, 0], pose[:, 1:], full_pose, betas, transl, none, none, none)
    posed = fit.rebuild(body)
    fit.vertex_error = (posed.vertices - target).norm(dim=-1).mean(1)
    # copies: views would keep the chunk's vertices
    fit.joints, fit.points = posed.joints.clone(), posed.full_vertices[:, points.to(target.device)]
    return fit


def _join(parts: list[BodyFit], shared: Tensor | None) -> BodyFit:
    def column(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    return BodyFit(
        column("global_orient"),
        column("body_pose"),
        column("full_pose"),
        column("betas") if shared is None else shared,
        column("transl"),
        column("vertex_error"),
        column("joints"),
        column("points"),
    )
