"""Body parameters from meshes: the fit of a SMPL-family body to predicted vertices (spec: data 7).

The solver is `smplfitter`. It is given the body our decoder draws, and no more: the 22 shared joints,
with fingers, jaw and eyes rigidly attached to wrists and head. That keeps the head well determined
without eyeballs: with the eyes weighted 0, smplfitter 0.6 leaves the head free to turn about its joint-
to-jaw axis (18 instead of 5 mm after one round). It takes two thirds of the time and leaves no rotation
to discard. Toes are fitted too.
"""

from dataclasses import dataclass

import numpy as np
import roma
import torch
from smplfitter.pt import BodyFitter
from smplfitter.pt import BodyModel as FitterModel
from torch import Tensor, nn

from moro.body.model import BodyModel, BodyOutput
from moro.body.skeleton import NUM_BODY_JOINTS
from moro.errors import MoroError


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
    vertices: Tensor | np.ndarray,
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

    vertices          (T, V, 3) body surface, metres, any frame; may lie on disk, a chunk is read at a time
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
    vertices = _checked_vertices(body, vertices, chunk)
    fitter = BodyFitter(_FitterModel(body)).to(body.v_template.device)
    followed = torch.as_tensor(np.zeros(0) if points is None else points).long()
    shared = None
    if share_beta:
        shared = _shared_betas(fitter, body, vertices, beta_regularizer, chunk, shape_frames, shape_iter)

    parts = []
    for target in vertices.split(chunk):
        target = target.to(body.v_template)
        if shared is None:
            start = fitter.fit(target, num_iter=shape_iter, beta_regularizer=beta_regularizer,
                               requested_keys=["shape_betas"])  # fmt: skip
            betas = body.clamp_betas(start["shape_betas"])
        else:
            betas = shared.expand(len(target), -1)
        pose = fitter.fit_with_known_shape(betas, target, num_iter=num_iter, requested_keys=["pose_rotvecs"])
        parts.append(_as_fit(body, target, pose["pose_rotvecs"], pose["trans"], betas, followed))
    return _join(parts, shared)


class _FitterModel(FitterModel):
    """smplfitter's body, filled from ours in memory (its own constructor only reads files).

    The name matters: for "smpl…" the library would give the toes the ankles' rotation and refine few joints.
    """

    def __init__(self, body: BodyModel) -> None:
        nn.Module.__init__(self)
        J, B = NUM_BODY_JOINTS, body.num_betas
        self.model_name, self.gender, self._has_kid_template = "body", "neutral", False
        self.num_joints, self.num_vertices, self.num_betas = J, body.num_vertices, B
        self.kintree_parents = body.parents[:J]
        self.joint_names = list(body.joint_names[:J])
        self.faces = body.faces.cpu().numpy()
        self.vertex_subset = np.arange(body.num_vertices)

        surface = body.body_vertices
        regressor = body.J_regressor[:J].double()  # (22, V_full)
        posedirs = body.posedirs[surface, :, : 9 * (J - 1)]  # (V, 3, 189)
        identity = torch.eye(3, device=posedirs.device).flatten().repeat(J - 1)  # (189,)
        buffers = {
            # The library multiplies the correctives with R, not with R - I.
            "v_template": body.v_template[surface] - posedirs @ identity,
            "shapedirs": body.shapedirs[surface],
            "posedirs": posedirs,
            "weights": _merged_weights(body)[surface],
            "J_regressor_post_lbs": body.joint_regressor,
            "J_template": regressor @ body.v_template.double(),
            "J_shapedirs": torch.einsum("jv,vcb->jcb", regressor, body.shapedirs.double()),
            "kid_shapedir": torch.zeros(body.num_vertices, 3),
            "kid_J_shapedir": torch.zeros(J, 3),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value.float().to(surface.device))
        parents = torch.tensor(self.kintree_parents, device=surface.device)
        self.register_buffer("kintree_parents_tensor", parents)


def _merged_weights(body: BodyModel) -> Tensor:
    """Skinning weights (V_full, 22): each further joint's weight goes to the body joint it hangs on."""
    weights = body.weights.clone()
    for joint in range(body.num_joints - 1, NUM_BODY_JOINTS - 1, -1):  # children come after their parents
        weights[:, body.parents[joint]] += weights[:, joint]
    return weights[:, :NUM_BODY_JOINTS]


def _checked_vertices(body: BodyModel, vertices: Tensor | np.ndarray, chunk: int) -> Tensor:
    vertices = torch.as_tensor(vertices).detach()
    if vertices.ndim != 3 or vertices.shape[1:] != (body.num_vertices, 3):
        raise MoroError(
            f"vertices to fit with body {body.body_id} must be (T, {body.num_vertices}, 3), "
            f"got {tuple(vertices.shape)}; use the body the meshes were made with"
        )
    if len(vertices) == 0:
        raise MoroError("there are no frames to fit; give at least one mesh")
    bad = torch.cat([~part.flatten(1).isfinite().all(1) for part in vertices.split(chunk)])  # (T,)
    if bad.any():
        raise MoroError(
            f"vertices to fit are not finite in {int(bad.sum())} frame(s), the first is frame "
            f"{int(bad.nonzero()[0])}; leave such frames out"
        )
    return vertices


def _shared_betas(
    fitter: BodyFitter,
    body: BodyModel,
    vertices: Tensor,
    regularizer: float,
    chunk: int,
    frames: int | None,
    rounds: int,
) -> Tensor:
    """One shape (B,) for all frames, by normal equations summed over chunks."""
    if frames is not None and len(vertices) > frames:
        picks = torch.linspace(0, len(vertices) - 1, frames, device=vertices.device).round().long()
        vertices = vertices[picks]
    fit = fitter.fit_streaming(
        lambda: ((target.to(body.v_template),) for target in vertices.split(chunk)),
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
