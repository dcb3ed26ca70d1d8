"""Fit of body parameters to meshes (spec: data 7)."""

from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moro.body.fitting import BodyFit, _FitterModel, fit_body, fit_body_as_published
from moro.body.loading import load_body_model
from moro.body.model import BodyData, BodyModel, BodyOutput
from moro.errors import MoroError
from moro.io.row_file import RowFile


@pytest.fixture(scope="module")
def body(repository: Path) -> BodyModel:
    return load_body_model(repository / "body_models", "open")


@pytest.fixture(scope="module")
def posed(body: BodyModel) -> tuple[torch.Tensor, BodyOutput]:
    """Twelve random bodies of one shape, toes and all, anywhere in the room."""
    draw = torch.Generator().manual_seed(4)
    betas = torch.randn(body.num_betas, generator=draw)
    pose = roma.rotvec_to_rotmat(torch.randn(12, 21, 3, generator=draw) * 0.3)
    orient = roma.rotvec_to_rotmat(torch.randn(12, 3, generator=draw) * 1.5)
    transl = torch.randn(12, 3, generator=draw) * 3
    return betas, body(pose, betas, orient, transl)


@pytest.fixture(scope="module")
def fit(body: BodyModel, posed: tuple[torch.Tensor, BodyOutput]) -> BodyFit:
    return fit_body(body, posed[1].vertices)


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).norm(dim=-1)


def test_solver_and_body_agree(body: BodyModel) -> None:
    draw = torch.Generator().manual_seed(1)
    rotvecs = torch.randn(4, 22, 3, generator=draw) * 0.4
    betas, transl = torch.randn(4, body.num_betas, generator=draw), torch.randn(4, 3, generator=draw)
    matrices = roma.rotvec_to_rotmat(rotvecs)
    ours = body(matrices[:, 1:], betas, matrices[:, 0], transl)
    solver = _FitterModel(body, range(22), "body")
    theirs = solver(pose_rotvecs=rotvecs.flatten(1), shape_betas=betas, trans=transl)
    assert distance(ours.vertices, theirs["vertices"]).max() < 1e-5
    assert distance(ours.joints, theirs["joints"]).max() < 1e-5


def test_round_trip(body: BodyModel, posed: tuple[torch.Tensor, BodyOutput], fit: BodyFit) -> None:
    betas, truth = posed
    rebuilt = fit.rebuild(body)
    error = distance(rebuilt.vertices, truth.vertices).mean(1)
    assert error.mean() < 1e-3 and error.max() < 2e-3
    assert distance(rebuilt.joints, truth.joints).mean() < 1e-3
    assert torch.allclose(fit.vertex_error, error, atol=1e-6)
    rest = (body.shapedirs @ (fit.betas - betas)).norm(dim=-1)  # what the betas' error moves
    assert rest.mean() < 1.5e-3


def test_contents(body: BodyModel, fit: BodyFit) -> None:
    assert fit.global_orient.shape == (12, 3) and fit.body_pose.shape == (12, 21, 3)
    assert fit.full_pose.shape == (12, body.num_joints, 3) and fit.betas.shape == (body.num_betas,)
    assert fit.transl.shape == (12, 3) and fit.vertex_error.shape == (12,)
    assert torch.equal(fit.full_pose[:, 0], fit.global_orient)
    assert torch.equal(fit.full_pose[:, 1:22], fit.body_pose) and not fit.full_pose[:, 22:].any()


def test_solver_knows_every_joint_but_the_eyes(body: BodyModel) -> None:
    kept = [joint for joint, name in enumerate(body.joint_names) if "eye" not in name]
    assert len(kept) == 53
    draw = torch.Generator().manual_seed(1)
    rotvecs = torch.randn(2, 53, 3, generator=draw) * 0.4
    rotvecs[:, 22:] = 0
    theirs = _FitterModel(body, kept, "smplx")(
        pose_rotvecs=rotvecs.flatten(1), shape_betas=torch.ones(2, body.num_betas), trans=torch.zeros(2, 3)
    )
    matrices = roma.rotvec_to_rotmat(rotvecs[:, :22])
    ours = body(matrices[:, 1:], torch.ones(2, body.num_betas), matrices[:, 0], torch.zeros(2, 3))
    assert distance(ours.vertices, theirs["vertices"]).max() < 1e-5


def test_published_fit(body: BodyModel, posed: tuple[torch.Tensor, BodyOutput]) -> None:
    """Toes follow the ankles, chunks change nothing, and the head is where it was."""
    betas, truth = posed
    fit = fit_body_as_published(body, truth.vertices)
    assert fit.body_pose[:, [9, 10]].abs().max() < 1e-4 and fit.body_pose[:, [6, 7]].abs().max() > 0.1
    assert fit.betas.norm() < betas.norm()  # pulled towards zero
    assert fit.vertex_error.mean() < 0.02
    head = body.weights[:, 15] > 0.9
    assert distance(fit.rebuild(body).full_vertices, truth.full_vertices)[:, head].mean() < 0.02
    parts = fit_body_as_published(body, truth.vertices, chunk=5)
    assert distance(parts.joints, fit.joints).max() < 1e-3


def test_joints_and_points_are_those_of_the_rebuilt_body(
    body: BodyModel, posed: tuple[torch.Tensor, BodyOutput]
) -> None:
    followed = np.array([7, 2000])
    vertices = posed[1].vertices[:6].numpy()
    fit = fit_body(body, vertices, num_iter=1, chunk=5, shape_frames=2, shape_iter=1, points=followed)
    rebuilt = fit.rebuild(body)
    assert fit.joints.shape == (6, 22, 3) and fit.points.shape == (6, 2, 3)
    assert torch.allclose(fit.joints, rebuilt.joints, atol=1e-5)
    assert torch.allclose(fit.points, rebuilt.full_vertices[:, followed], atol=1e-5)
    part = fit.rebuild(body, slice(3, 6)).joints
    assert torch.allclose(part, rebuilt.joints[3:6], atol=1e-5)


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor made within, views of `given` left out."""

    def __init__(self, given: torch.Tensor) -> None:
        super().__init__()
        self.given, self.bytes = given.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() != self.given:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


def test_memory_depends_on_the_chunk(body: BodyModel, posed: tuple[torch.Tensor, BodyOutput]) -> None:
    def largest(frames: int) -> int:
        vertices = posed[1].vertices[torch.arange(frames) % 12].contiguous()
        with Largest(vertices) as watch:
            fit_body(body, vertices, num_iter=1, chunk=2, shape_frames=2, shape_iter=1)
        return watch.bytes

    assert largest(10) == largest(4)


@pytest.mark.parametrize("shape_frames", [24, 6])
def test_chunks_change_nothing(
    body: BodyModel, posed: tuple[torch.Tensor, BodyOutput], fit: BodyFit, shape_frames: int
) -> None:
    vertices = posed[1].vertices.numpy()
    whole = fit if shape_frames == 24 else fit_body(body, vertices, shape_frames=shape_frames)
    parts = fit_body(body, vertices, chunk=5, shape_frames=shape_frames)
    assert distance(whole.rebuild(body).vertices, parts.rebuild(body).vertices).max() < 1e-3
    assert (whole.betas - parts.betas).abs().max() < 1e-2


def test_meshes_may_lie_in_a_file(
    body: BodyModel, posed: tuple[torch.Tensor, BodyOutput], tmp_path: Path
) -> None:
    vertices = posed[1].vertices[:6].contiguous().numpy()  # rows as in a file: sums are then the same
    rows = RowFile.create(tmp_path / "meshes.npy", vertices.shape, np.float32)
    rows[:] = vertices
    options = {"num_iter": 1, "chunk": 4, "shape_frames": 2, "shape_iter": 1}
    array, file = fit_body(body, vertices, **options), fit_body(body, rows, **options)
    assert torch.equal(array.full_pose, file.full_pose) and torch.equal(array.betas, file.betas)
    assert torch.equal(array.vertex_error, file.vertex_error)


def test_one_shape_per_frame(body: BodyModel, posed: tuple[torch.Tensor, BodyOutput]) -> None:
    single = fit_body(body, posed[1].vertices[:3], share_beta=False)
    assert single.betas.shape == (3, body.num_betas)
    assert single.vertex_error.max() < 3e-3


def test_strong_regularizer_shrinks_betas(
    body: BodyModel, posed: tuple[torch.Tensor, BodyOutput], fit: BodyFit
) -> None:
    shrunk = fit_body(body, posed[1].vertices[:3], beta_regularizer=100.0, num_iter=1)
    assert shrunk.betas[2:].norm() < 0.1 * fit.betas[2:].norm()


def test_noise_is_not_followed(body: BodyModel, posed: tuple[torch.Tensor, BodyOutput]) -> None:
    truth = posed[1].vertices
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2)) * 0.005
    fitted = fit_body(body, truth + noise).rebuild(body)
    assert distance(fitted.vertices, truth).mean() < 3e-3


def test_one_frame(body: BodyModel, posed: tuple[torch.Tensor, BodyOutput]) -> None:
    assert fit_body(body, posed[1].vertices[:1]).vertex_error.item() < 3e-3


def test_partial_mesh(body: BodyModel, posed: tuple[torch.Tensor, BodyOutput]) -> None:
    """A body whose file holds vertices the meshes lack (SMPL-X's eyeballs) is fitted by its surface alone."""
    ball = 4  # extra vertices, not on the surface and not in the regressor

    def more(array: torch.Tensor, rows: torch.Tensor | None = None) -> np.ndarray:
        extra = array[:ball] if rows is None else rows
        return torch.cat([array, extra]).numpy()

    count = body.num_vertices
    partial = BodyModel(
        BodyData(
            v_template=more(body.v_template),
            f=np.concatenate([body.faces.numpy(), [[count, count + 1, count + 2]]]),
            weights=more(body.weights),
            J_regressor=more(body.J_regressor.T, torch.zeros(ball, body.num_joints)).T,
            parents=body.parents,
            shapedirs=more(body.shapedirs),
            posedirs=more(body.posedirs),
            joint_names=body.joint_names,
            body_vertices=np.arange(count),
        ),
        "partial",
    )
    vertices = posed[1].vertices[:4]
    assert partial.num_vertices == count
    rebuilt = fit_body(partial, vertices).rebuild(partial)
    assert rebuilt.full_vertices.shape[1] == count + ball
    assert distance(rebuilt.vertices, vertices).mean() < 2e-3


def test_bad_input(body: BodyModel, posed: tuple[torch.Tensor, BodyOutput]) -> None:
    vertices = posed[1].vertices[:3].clone()
    with pytest.raises(MoroError, match=r"must be \(T, 3001, 3\).*3000"):
        fit_body(body, vertices[:, :-1])
    with pytest.raises(MoroError, match="must be"):
        fit_body(body, vertices[0])
    with pytest.raises(MoroError, match="no frames"):
        fit_body(body, vertices[:0])
    vertices[1, 5, 2] = float("nan")
    with pytest.raises(MoroError, match="first is frame 1"):
        fit_body(body, vertices)
