from pathlib import Path

import numpy as np
import pytest
import roma
import torch
import trimesh

from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.body.refinement import holder_of
from moro.body.skeleton import (
    BODY_JOINT_NAMES,
    JOINT_NAMES,
    LANDMARK_NAMES,
    MIRROR_LANDMARKS,
    VERTEX_JOINT_NAMES,
    global_rotations,
    mirror_indices,
    mirror_pose,
)
from scripts.open.open_body.readings import OFFSETS

REFLECT = torch.tensor([-1.0, 1.0, 1.0])
REST = torch.eye(3).expand(21, 3, 3)


@pytest.fixture(scope="module", params=["open", "open_fine"])
def body(request: pytest.FixtureRequest, repository: Path) -> BodyModel:
    return load_body_model(repository / "body_models", request.param)


def random_parameters(body: BodyModel, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Axis-angle body pose (count, 21, 3) and clamped betas."""
    generator = torch.Generator().manual_seed(0)
    pose = torch.randn(count, 21, 3, generator=generator) * 0.4
    return pose, body.clamp_betas(torch.randn(count, body.num_betas, generator=generator))


def test_file_is_small_and_needs_no_unpickling(body: BodyModel, repository: Path) -> None:
    kind = body.body_id.split("-")[0]
    path = repository / "body_models" / kind / f"{kind.upper()}_NEUTRAL.npz"
    assert path.stat().st_size < 1e6
    with np.load(path, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)
        assert "CC0" in str(file["metadata"])
    assert body.joint_names == JOINT_NAMES["smplx"]
    assert body.num_joints == 55 and body.num_betas == 10


def test_surface_is_closed_genus_0_and_oriented(body: BodyModel) -> None:
    mesh = trimesh.Trimesh(body(REST, torch.zeros(10)).vertices, body.faces, process=False)
    assert mesh.is_watertight and mesh.euler_number == 2 and mesh.body_count == 1
    assert 0.05 < mesh.volume < 0.09  # cubic metres; positive: faces look outwards


def test_template_and_regressors_are_symmetric(body: BodyModel) -> None:
    mirror = body.mirror_vertices
    assert torch.equal(mirror[mirror], torch.arange(body.num_vertices))
    torch.testing.assert_close(body.v_template[mirror] * REFLECT, body.v_template, atol=1e-6, rtol=0)
    joints = mirror_indices(JOINT_NAMES["smplx"])
    torch.testing.assert_close(body.J_regressor[joints][:, mirror], body.J_regressor, atol=1e-6, rtol=0)
    torch.testing.assert_close(body.weights[mirror][:, joints], body.weights, atol=1e-6, rtol=0)
    landmarks = body.landmark_regressor
    torch.testing.assert_close(landmarks[list(MIRROR_LANDMARKS)][:, mirror], landmarks, atol=1e-6, rtol=0)
    picked = body.vertex_joints[mirror_indices(VERTEX_JOINT_NAMES)]
    assert torch.equal(mirror[picked][1:], body.vertex_joints[1:])  # the nose may sit beside the mid line
    flipped = {tuple(sorted(face)) for face in mirror[body.faces].tolist()}
    assert flipped == {tuple(sorted(face)) for face in body.faces.tolist()}


def test_mirrored_pose_gives_mirrored_mesh(body: BodyModel) -> None:
    pose, betas = random_parameters(body, 6)
    orient = torch.randn(6, 3)
    mirrored_pose, mirrored_orient = mirror_pose(pose, orient)
    plain = body(roma.rotvec_to_rotmat(pose), betas, roma.rotvec_to_rotmat(orient))
    mirrored = body(roma.rotvec_to_rotmat(mirrored_pose), betas, roma.rotvec_to_rotmat(mirrored_orient))
    error = (plain.vertices[:, body.mirror_vertices] * REFLECT - mirrored.vertices).norm(dim=-1)
    assert error.max() < 1e-4
    error = plain.landmarks()[:, list(MIRROR_LANDMARKS)] * REFLECT - mirrored.landmarks()
    assert error.norm(dim=-1).max() < 1e-4


def test_regressor_rows_sum_to_one(body: BodyModel) -> None:
    for regressor in (body.J_regressor, body.landmark_regressor):
        torch.testing.assert_close(regressor.sum(1), torch.ones(len(regressor)), atol=1e-5, rtol=0)


def test_joint_regressor_gives_posed_joints(body: BodyModel) -> None:
    """It is trained on posed meshes, since networks regress joints from the meshes they predict."""
    pose, betas = random_parameters(body, 40)
    out = body(roma.rotvec_to_rotmat(pose), betas)
    error = (body.joint_regressor @ out.vertices - out.joints).norm(dim=-1)
    assert error.mean() < 1.2e-3 and error.max() < 1e-2


def test_clamped_random_betas_give_plausible_people(body: BodyModel) -> None:
    betas = torch.randn(200, 10, generator=torch.Generator().manual_seed(1)) * 3
    clamped = body.clamp_betas(betas)
    assert (clamped.abs() <= body.beta_limit).all() and (clamped != betas).any()
    y = body(REST, clamped).vertices[..., 1]
    heights = y.amax(-1) - y.amin(-1)
    assert heights.min() > 1.25 and heights.max() < 2.15
    y = body(REST, body.clamp_betas(betas / 3)).vertices[..., 1]
    heights = y.amax(-1) - y.amin(-1)
    assert 1.65 < heights.mean() < 1.75 and 0.07 < heights.std() < 0.13
    assert (body(REST, torch.eye(10)[0]).vertices[:, 1].amax() > body.v_template[:, 1].max()).all()


def test_landmarks_lie_where_their_names_say(body: BodyModel) -> None:
    """T-pose, x to the person's left, y up, z forward."""
    out = body(REST, torch.zeros(10))
    at = dict(zip(LANDMARK_NAMES, out.landmarks().tolist(), strict=True))
    for name, (x, _, _) in at.items():
        if name.startswith("left"):
            assert x > 0.01
    assert at["nose"][2] > at["left_eye"][2] > at["left_ear"][2]
    assert at["left_ear"][0] > at["left_eye_outer"][0] > at["left_eye"][0] > at["left_eye_inner"][0]
    assert at["left_eye"][1] > at["nose"][1] > at["left_mouth"][1]
    assert at["left_pinky"][0] > at["left_wrist"][0] < at["left_index"][0]
    assert at["left_thumb"][2] > at["left_index"][2] > at["left_pinky"][2]
    assert at["left_foot_index"][2] > at["left_ankle"][2] > at["left_heel"][2]
    joints = dict(zip(BODY_JOINT_NAMES, out.joints, strict=True))
    for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        offset = torch.tensor(at[f"left_{name}"]) - joints[f"left_{name}"]
        assert (offset - torch.tensor(OFFSETS[f"left_{name}"])).norm() < 3e-3


def test_landmarks_stay_where_the_detector_reads_them_on_a_limb(body: BodyModel) -> None:
    """The offset from the joint turns with the limb, whatever the shape."""
    pose, betas = random_parameters(body, 40)
    rotations = roma.rotvec_to_rotmat(pose)
    out = body(rotations, betas)
    turns = global_rotations(torch.cat((torch.eye(3).expand(40, 1, 3, 3), rotations), dim=1))
    for name in ("left_shoulder", "left_elbow", "left_wrist", "left_hip", "left_knee", "left_ankle"):
        wanted = out.joints[:, BODY_JOINT_NAMES.index(name)] + (
            turns[:, holder_of(name)] @ torch.tensor(OFFSETS[name])
        )
        error = (out.landmarks()[:, LANDMARK_NAMES.index(name)] - wanted).norm(dim=-1)
        assert error.mean() < 6e-3, name


def test_vertex_joints_lie_where_their_names_say(body: BodyModel) -> None:
    points = body(REST, torch.zeros(10)).full_joints[55:]
    at = dict(zip(VERTEX_JOINT_NAMES, points.tolist(), strict=True))
    assert abs(at["nose"][0]) < 5e-3
    assert at["left_small_toe"][0] > at["left_big_toe"][0] > 0
    assert at["left_heel"][2] < 0 < at["left_big_toe"][2]
    order = [at[f"left_{finger}"][2] for finger in ("thumb", "index", "middle", "ring", "pinky")]
    assert order == sorted(order, reverse=True)
    assert at["right_middle"][0] == pytest.approx(-at["left_middle"][0])


def test_both_resolutions_are_the_same_person(repository: Path) -> None:
    coarse, fine = (load_body_model(repository / "body_models", kind) for kind in ("open", "open_fine"))
    assert coarse.num_vertices < fine.num_vertices
    assert torch.equal(coarse.beta_limit, fine.beta_limit)
    pose, betas = random_parameters(coarse, 20)
    rotations = roma.rotvec_to_rotmat(pose)
    hands = roma.rotvec_to_rotmat(torch.randn(20, 30, 3) * 0.2)
    a, b = coarse(rotations, betas, hand_pose=hands), fine(rotations, betas, hand_pose=hands)
    assert (a.skeleton_joints - b.skeleton_joints).norm(dim=-1).max() < 1e-3
    assert (a.landmarks() - b.landmarks()).norm(dim=-1).max() < 5e-3
    for n in range(0, 20, 5):
        surface = trimesh.Trimesh(b.vertices[n], fine.faces, process=False)
        centres = torch.tensor(surface.triangles_center).float()
        nearest = torch.cdist(a.vertices[n], torch.cat([b.vertices[n], centres])).amin(1)
        assert nearest.mean() < 4e-3 and nearest.max() < 2e-2


def test_agrees_with_the_prototype(repository: Path, shared_dir: Path) -> None:
    """Same vertex order and triangles; its random adults were other ones, hence the millimetres."""
    path = shared_dir / "prototypes" / "open_body" / "out" / "v3001J" / "compact.npz"
    if not path.is_file():
        pytest.skip(f"prototype not found at {path}")
    body = load_body_model(repository / "body_models", "open")
    with np.load(path) as prototype:
        faces, template = prototype["f"].astype(int), prototype["v_template"]
    assert {tuple(np.roll(f, -f.argmin())) for f in faces} == {
        tuple(np.roll(f, -f.argmin())) for f in body.faces.numpy()
    }
    assert np.linalg.norm(body.v_template.numpy() - template, axis=1).max() < 2e-3
