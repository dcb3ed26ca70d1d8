import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import roma
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moro.body.loading import load_body_model, read_npz, write_compact
from moro.body.model import BodyModel
from moro.body.skeleton import JOINT_NAMES, LIMBS, MIRROR_JOINTS, mirror_pose
from moro.errors import MoroError
from tests.body.standin import NUM_EYE_VERTICES, official_arrays, official_smplx_arrays, parents_of


@pytest.fixture(scope="module")
def open_body(repository: Path) -> BodyModel:
    return load_body_model(repository / "body_models", "open")


def random_pose(*lead: int, seed: int = 0, scale: float = 0.4, joints: int = 21) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return roma.rotvec_to_rotmat(torch.randn(*lead, joints, 3, generator=generator) * scale)


def plain_lbs(
    arrays: dict[str, np.ndarray], parents: list[int], rotations: np.ndarray, betas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Textbook skinning of one body with 4x4 matrices: rotations (J, 3, 3), betas (B,)."""
    shaped = arrays["v_template"] + arrays["shapedirs"][..., : len(betas)] @ betas
    rest = arrays["J_regressor"] @ shaped
    posed = shaped + arrays["posedirs"] @ (rotations[1:] - np.eye(3)).ravel()
    world, skinning = [], []
    for joint, parent in enumerate(parents):
        local = np.eye(4)
        local[:3, :3] = rotations[joint]
        local[:3, 3] = rest[joint] - (rest[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
        undo = np.eye(4)
        undo[:3, 3] = -rest[joint]
        skinning.append(world[-1] @ undo)
    blended = np.einsum("vj,jab->vab", arrays["weights"], np.stack(skinning))
    vertices = np.einsum("vab,vb->va", blended, np.c_[posed, np.ones(len(posed))])[:, :3]
    return vertices, np.stack(world)[:, :3, 3]


def save(folder: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


@pytest.mark.parametrize("model_type", ["smpl", "smplh", "smplx"])
@pytest.mark.parametrize("with_hands", [False, True])
def test_forward_equals_textbook_skinning(tmp_path: Path, model_type: str, with_hands: bool) -> None:
    if model_type == "smpl" and with_hands:
        pytest.skip("SMPL has no finger joints")
    arrays = official_arrays(model_type)
    save(tmp_path, f"{model_type}/{model_type.upper()}_MALE.npz", arrays)
    body = load_body_model(tmp_path, model_type, gender="male").double()
    J = len(JOINT_NAMES[model_type])
    rotations = torch.eye(3).repeat(J, 1, 1).double()
    rotations[:22] = random_pose(1, joints=22)[0]
    if with_hands:
        rotations[J - 30 :] = random_pose(1, joints=30, seed=1)[0]
    betas = torch.randn(10, generator=torch.Generator().manual_seed(2)).double()
    transl = torch.tensor([0.3, -1.0, 2.0]).double()

    out = body(rotations[1:22], betas, rotations[0], transl, rotations[J - 30 :] if with_hands else None)
    arrays = {name: array.astype(np.float32).astype(float) for name, array in arrays.items()}
    vertices, joints = plain_lbs(arrays, parents_of(model_type), rotations.numpy(), betas.numpy())
    np.testing.assert_allclose(out.full_vertices, vertices + transl.numpy(), atol=2e-6)
    np.testing.assert_allclose(out.skeleton_joints, joints + transl.numpy(), atol=2e-6)
    np.testing.assert_array_equal(out.joints, out.skeleton_joints[:22])


def test_open_body_equals_textbook_skinning(open_body: BodyModel, repository: Path) -> None:
    names = ("v_template", "weights", "J_regressor", "shapedirs", "posedirs", "kintree_table")
    arrays = read_npz(repository / "body_models" / "open" / "OPEN_NEUTRAL.npz", names)
    arrays = {name: array.astype(float) for name, array in arrays.items()}
    arrays["weights"] /= arrays["weights"].sum(1, keepdims=True)
    rotations = torch.eye(3).repeat(55, 1, 1)
    rotations[:22] = random_pose(1, joints=22)[0]
    betas = torch.linspace(-2, 2, 10)
    out = open_body(rotations[1:22], betas, rotations[0])
    parents = arrays["kintree_table"][0].astype(int).tolist()
    vertices, joints = plain_lbs(arrays, parents, rotations.double().numpy(), betas.double().numpy())
    assert np.linalg.norm(out.vertices.numpy() - vertices, axis=-1).max() < 1e-4  # half precision shapedirs
    assert np.linalg.norm(out.skeleton_joints.numpy() - joints, axis=-1).max() < 1e-4


def test_posedirs_come_back_dense(open_body: BodyModel, repository: Path) -> None:
    path = repository / "body_models" / "open" / "OPEN_NEUTRAL.npz"
    np.testing.assert_array_equal(open_body.posedirs, read_npz(path, ("posedirs",))["posedirs"])


def test_identity_hands_equal_no_hands(open_body: BodyModel) -> None:
    pose, betas = random_pose(2), torch.randn(2, 10)
    flat = open_body(pose, betas, hand_pose=torch.eye(3).expand(2, 30, 3, 3))
    short = open_body(pose, betas)
    torch.testing.assert_close(short.vertices, flat.vertices, atol=2e-6, rtol=0)
    torch.testing.assert_close(short.skeleton_joints, flat.skeleton_joints, atol=2e-6, rtol=0)


def test_leading_dimensions_are_free_and_broadcast(open_body: BodyModel) -> None:
    pose, betas, transl = random_pose(2, 3), torch.randn(2, 1, 10), torch.randn(3, 3)
    out = open_body(pose, betas, transl=transl)
    V = open_body.num_vertices
    assert out.vertices.shape == (2, 3, V, 3)
    assert out.full_joints.shape == (2, 3, 55 + 21, 3)
    assert out.landmarks().shape == (2, 3, 33, 3)
    single = open_body(pose[1, 2], betas[1, 0], transl=transl[2])
    assert single.joints.shape == (22, 3)
    torch.testing.assert_close(out.vertices[1, 2], single.vertices, atol=2e-6, rtol=0)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_orientation_turns_about_the_pelvis_and_translation_adds(open_body: BodyModel, seed: int) -> None:
    """spec: data 12.1 check 3."""
    pose, betas = random_pose(3, seed=seed), torch.randn(3, 10)
    R, t = random_pose(3, joints=1, seed=seed + 1, scale=2.0)[:, 0], torch.randn(3, 3)
    local = open_body(pose, betas)
    pelvis = local.joints[:, :1]
    posed = open_body(pose, betas, R, t)
    expected = (local.vertices - pelvis) @ R.transpose(1, 2) + t[:, None] + pelvis
    torch.testing.assert_close(posed.vertices, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(posed.joints[:, :1], pelvis + t[:, None], atol=1e-6, rtol=0)


def test_gradients(tmp_path: Path) -> None:
    save(tmp_path, "smplx/SMPLX_NEUTRAL.npz", official_smplx_arrays())
    body = load_body_model(tmp_path, "smplx", num_betas=3).double()
    pose = random_pose(1).double().requires_grad_()
    betas = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    orient = random_pose(1, joints=1)[:, 0].double().requires_grad_()
    transl = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)

    def some_points(*inputs: torch.Tensor) -> torch.Tensor:
        out = body(*inputs)
        return torch.cat([out.vertices[:, ::50], out.full_joints[:, ::9]], dim=1)

    assert torch.autograd.gradcheck(some_points, (pose, betas, orient, transl), fast_mode=True)


def test_smplx_file(tmp_path: Path) -> None:
    """Eyeballs are no body vertices, pickled extras are left alone, landmarks lie on their faces."""
    arrays = official_smplx_arrays()
    save(tmp_path, "smplx/SMPLX_NEUTRAL.npz", arrays)
    body = load_body_model(tmp_path, "smplx")
    V_full = len(arrays["v_template"])
    assert body.num_vertices == V_full - 2 * NUM_EYE_VERTICES
    assert body.body_vertices.tolist() == list(range(body.num_vertices))
    assert body.faces.max() == body.num_vertices - 1
    assert len(body.full_faces) == len(arrays["f"])
    assert body.joint_regressor.shape == (22, body.num_vertices)
    assert body.body_id == f"smplx-{body.num_vertices}"
    assert body.num_betas == 10
    out = body(random_pose(2), torch.zeros(2, 10))
    assert out.full_joints.shape == (2, 55 + 51, 3)  # no vertex ids are known for a mesh of this size
    corners = out.full_vertices[0, torch.as_tensor(arrays["f"][arrays["lmk_faces_idx"][7]].astype(int))]
    expected = torch.as_tensor(arrays["lmk_bary_coords"][7]).float() @ corners
    torch.testing.assert_close(out.full_joints[0, 55 + 7], expected)
    with pytest.raises(MoroError, match="no landmark regressor"):
        out.landmarks()


def test_own_vertex_joints_and_reordered_eyeballs(tmp_path: Path) -> None:
    """The body surface is found by connectivity, wherever its vertices stand."""
    arrays = official_smplx_arrays()
    V = len(arrays["v_template"])
    order = np.random.default_rng(3).permutation(V)
    place = np.argsort(order)
    moved = dict(arrays, f=place[arrays["f"].astype(int)].astype(np.uint32), vertex_joints=place[:21])
    for name in ("v_template", "weights", "shapedirs", "posedirs"):
        moved[name] = arrays[name][order]
    moved["J_regressor"] = arrays["J_regressor"][:, order]
    save(tmp_path, "a/smplx/SMPLX_NEUTRAL.npz", arrays)
    save(tmp_path, "b/smplx/SMPLX_NEUTRAL.npz", moved)
    plain, shuffled = (load_body_model(tmp_path / name, "smplx") for name in "ab")
    pose, betas = random_pose(1), torch.randn(1, 10)
    a, b = plain(pose, betas), shuffled(pose, betas)
    assert b.vertices.shape == a.vertices.shape and b.full_joints.shape == (1, 55 + 21 + 51, 3)
    torch.testing.assert_close(b.full_joints[:, 55 : 55 + 21], a.full_vertices[:, :21], atol=1e-5, rtol=0)
    triangles_a, triangles_b = a.vertices[0, plain.faces], b.vertices[0, shuffled.faces]
    torch.testing.assert_close(triangles_b, triangles_a, atol=1e-5, rtol=0)


def test_official_vertex_ids_follow_the_mesh_size(tmp_path: Path) -> None:
    """A mesh with the official number of vertices gets the official ids (spec: data 1.2)."""
    arrays = {
        "v_template": np.zeros((6890, 3)),
        "f": np.arange(6888).reshape(-1, 3),
        "weights": np.full((6890, 52), 1 / 52, np.float32),
        "J_regressor": np.full((52, 6890), 1 / 6890, np.float32),
        "kintree_table": np.stack([parents_of("smplh"), range(52)]),
        "shapedirs": np.zeros((6890, 3, 10)),
        "posedirs": np.zeros((6890, 3, 459), np.float32),
    }
    save(tmp_path, "smplh/SMPLH_FEMALE.npz", arrays)
    body = load_body_model(tmp_path, "smplh", "female")
    assert body.num_vertices == 6890
    assert body.vertex_joints.tolist()[:5] == [332, 6260, 2800, 4071, 583]
    assert body(torch.eye(3).expand(21, 3, 3), torch.zeros(10)).full_joints.shape == (52 + 21, 3)
    assert body.body_id == "smplh-female-6890"


def test_missing_shape_directions_are_zero(tmp_path: Path) -> None:
    save(tmp_path, "smplh/SMPLH_NEUTRAL.npz", official_arrays("smplh", num_shapes=6))
    body = load_body_model(tmp_path, "smplh", num_betas=10)
    assert body.num_betas == 10
    assert (body.shapedirs[..., 6:] == 0).all() and (body.shapedirs[..., :6] != 0).any()


def test_official_smpl_pickle_without_chumpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chumpy arrays, a scipy matrix, Python 2 strings, and derived chumpy values nobody needs."""
    arrays = official_arrays("smpl", num_shapes=10)

    class Ch:
        def __init__(self, x: np.ndarray) -> None:
            self.x = x

    class Select:
        def __init__(self, a: Ch, idxs: np.ndarray, preferred_shape: tuple[int, ...]) -> None:
            self.a, self.idxs, self.preferred_shape = a, idxs, preferred_shape

    for module, kind in (("chumpy.ch", Ch), ("chumpy.reordering", Select)):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
        setattr(sys.modules[module], kind.__name__, kind)
        kind.__module__, kind.__qualname__ = module, kind.__name__
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    shape = arrays["posedirs"].shape
    whole = Ch(np.concatenate([arrays["posedirs"].ravel(), np.zeros(5)]))
    official = arrays | {
        "v_template": Ch(arrays["v_template"]),
        "posedirs": Select(whole, np.arange(np.prod(shape)), shape),
        "J_regressor": scipy.sparse.csc_matrix(arrays["J_regressor"]),
        "bs_type": "lrotmin",
        "J": Ch.__new__(Ch),
    }
    path = tmp_path / "smpl" / "SMPL_NEUTRAL.pkl"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps(official, protocol=2))
    monkeypatch.undo()

    body = load_body_model(tmp_path, "smpl")
    assert body.num_joints == 24 and body.parents == parents_of("smpl")
    save(tmp_path / "plain", "smpl/SMPL_NEUTRAL.npz", arrays)
    plain = load_body_model(tmp_path / "plain", "smpl")
    pose, betas = random_pose(1), torch.randn(1, 10)
    torch.testing.assert_close(body(pose, betas).vertices, plain(pose, betas).vertices)


@pytest.mark.parametrize(
    ("model_type", "address"),
    [
        ("smplx", "https://smpl-x.is.tue.mpg.de"),
        ("smpl", "https://smpl.is.tue.mpg.de"),
        ("smplh", "https://mano.is.tue.mpg.de"),
    ],
)
def test_missing_file_says_where_it_comes_from(tmp_path: Path, model_type: str, address: str) -> None:
    with pytest.raises(MoroError) as error:
        load_body_model(tmp_path, model_type, "male")
    message = str(error.value)
    assert str(tmp_path / model_type / f"{model_type.upper()}_MALE") in message
    assert address in message and "preset=open" in message


def test_bad_files_and_arguments(tmp_path: Path, repository: Path) -> None:
    good = (repository / "body_models" / "open" / "OPEN_NEUTRAL.npz").read_bytes()
    broken = tmp_path / "open" / "OPEN_NEUTRAL.npz"
    broken.parent.mkdir()
    damaged = bytearray(good)
    damaged[40000:40100] = bytes(100)
    for content in (good[: len(good) // 2], b"", b"not a zip", bytes(damaged)):
        broken.write_bytes(content)
        with pytest.raises(MoroError, match="damaged or incomplete"):
            load_body_model(tmp_path, "open")
    with pytest.raises(MoroError, match="unknown model_type 'smplz'"):
        load_body_model(tmp_path, "smplz")
    with pytest.raises(MoroError, match="unknown gender"):
        load_body_model(tmp_path, "smplx", "other")

    arrays = official_arrays("smplx")
    save(tmp_path, "smplx/SMPLX_NEUTRAL.npz", {k: v for k, v in arrays.items() if k != "posedirs"})
    with pytest.raises(MoroError, match="lacks posedirs"):
        load_body_model(tmp_path, "smplx")
    save(tmp_path, "smplh/SMPLH_NEUTRAL.npz", arrays)
    with pytest.raises(MoroError, match="55 joints found"):
        load_body_model(tmp_path, "smplh")
    save(tmp_path, "smplx/SMPLX_MALE.npz", arrays | {"f": arrays["f"] + 1})
    with pytest.raises(MoroError, match="faces do not fit"):
        load_body_model(tmp_path, "smplx", "male")
    save(tmp_path, "smplx/SMPLX_FEMALE.npz", arrays | {"weights": arrays["weights"].astype(object)})
    with pytest.raises(MoroError, match="cannot read body model"):
        load_body_model(tmp_path, "smplx", "female")


def test_wrong_shapes_are_named(open_body: BodyModel) -> None:
    pose, betas = random_pose(2), torch.zeros(2, 10)
    with pytest.raises(MoroError, match="body_pose"):
        open_body(pose[:, :20], betas)
    with pytest.raises(MoroError, match="betas"):
        open_body(pose, betas[:, :9])
    with pytest.raises(MoroError, match="global_orient"):
        open_body(pose, betas, torch.zeros(2, 3))
    with pytest.raises(MoroError, match="do not match"):
        open_body(pose, betas, transl=torch.zeros(5, 3))


def test_buffers_stay_out_of_state_dicts(open_body: BodyModel) -> None:
    assert open_body.state_dict() == {}
    assert len(open_body.sha256) == 64


def test_mirror_pose_twice_is_identity_and_reflects_rotations() -> None:
    pose, orient = torch.randn(4, 63), torch.randn(4, 3)
    mirrored, turned = mirror_pose(pose, orient)
    back, orient_back = mirror_pose(mirrored, turned)
    torch.testing.assert_close(back, pose)
    torch.testing.assert_close(orient_back, orient)
    S = torch.diag(torch.tensor([-1.0, 1, 1]))
    torch.testing.assert_close(roma.rotvec_to_rotmat(turned), S @ roma.rotvec_to_rotmat(orient) @ S)
    by_joint, _ = mirror_pose(pose.reshape(4, 21, 3), orient)
    torch.testing.assert_close(by_joint.reshape(4, 63), mirrored)
    left_knee, right_knee = (JOINT_NAMES["smplx"].index(f"{side}_knee") for side in ("left", "right"))
    assert MIRROR_JOINTS[left_knee] == right_knee and len(LIMBS) == 21


def test_compact_arrays_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(7, 3, 300)) * (rng.random((7, 3, 300)) < 0.05)
    arrays = {
        "posedirs": dense.astype(np.float16),
        "f": np.arange(6).reshape(2, 3),
        "weights": np.zeros((4, 5)),
    }
    write_compact(tmp_path / "x.npz", arrays, ("posedirs", "weights"))
    back = read_npz(tmp_path / "x.npz", ("posedirs", "f", "weights", "absent"))
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
