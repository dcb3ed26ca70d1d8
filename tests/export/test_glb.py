"""The GLB, read by trimesh and by a small reader of raw JSON and bytes with its own forward kinematics."""

import json
import struct

import numpy as np
import pytest
import roma
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from moro.errors import MoroError
from moro.export.glb import continuous_quaternions, write_motion_glb

SIZES = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}
TYPES = {5126: np.float32, 5121: np.uint8, 5123: np.uint16, 5125: np.uint32}


class Glb:
    """Raw reader: the two chunks of a GLB."""

    def __init__(self, path):
        data = path.read_bytes()
        magic, version, length = struct.unpack_from("<4sII", data, 0)
        assert (magic, version, length) == (b"glTF", 2, len(data))
        size, kind = struct.unpack_from("<I4s", data, 12)
        assert kind == b"JSON" and size % 4 == 0
        self.json = json.loads(data[20 : 20 + size])
        binary, kind = struct.unpack_from("<I4s", data, 20 + size)
        assert kind == b"BIN\0" and binary % 4 == 0
        self.binary = data[28 + size : 28 + size + binary]

    def array(self, index):
        accessor = self.json["accessors"][index]
        view = self.json["bufferViews"][accessor["bufferView"]]
        width, kind = SIZES[accessor["type"]], TYPES[accessor["componentType"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        assert start % np.dtype(kind).itemsize == 0
        values = np.frombuffer(self.binary, kind, accessor["count"] * width, start)
        return values.reshape(accessor["count"], width)

    def joints(self, skin, frame):
        """World matrices (J, 4, 4) of a skin's joints at a key frame."""
        nodes = self.json["nodes"]
        state = {i: dict(node) for i, node in enumerate(nodes)}
        for channel in self.json["animations"][0]["channels"]:
            sampler = self.json["animations"][0]["samplers"][channel["sampler"]]
            target = channel["target"]
            state[target["node"]][target["path"]] = self.array(sampler["output"])[frame]
        parent = {child: i for i, node in enumerate(nodes) for child in node.get("children") or []}

        def world(index):
            local = np.eye(4)
            local[:3, :3] = Rotation.from_quat(state[index].get("rotation", [0, 0, 0, 1])).as_matrix()
            local[:3, 3] = state[index].get("translation", [0, 0, 0])
            return world(parent[index]) @ local if index in parent else local

        return np.stack([world(i) for i in self.json["skins"][skin]["joints"]])

    def skinned(self, skin, frame):
        """Vertices (V, 3) at a key frame."""
        matrices = self.joints(skin, frame)
        inverse_bind = (
            self.array(self.json["skins"][skin]["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
        )
        attributes = self.json["meshes"][skin]["primitives"][0]["attributes"]
        vertices, joints, weights = (self.array(attributes[n]) for n in ("POSITION", "JOINTS_0", "WEIGHTS_0"))
        blended = np.einsum("vk,vkab->vab", weights, (matrices @ inverse_bind)[joints])
        return np.einsum("vab,vb->va", blended, np.c_[vertices, np.ones(len(vertices))])[:, :3]


@pytest.fixture
def file(tmp_path, body, fit, ground):
    report = write_motion_glb(tmp_path / "motion.glb", body, fit, ground, fps=30)
    return Glb(tmp_path / "motion.glb"), report


def in_world(points, ground):
    transform = torch.tensor(ground.cam2world(y_up=True), dtype=torch.float32)
    return (points @ transform[:3, :3].T + transform[:3, 3]).numpy()


def test_joints_follow_the_body_model(file, posed, ground):
    glb, _ = file
    expected = in_world(posed.skeleton_joints, ground)
    for frame in (0, 7, 21, 39):
        actual = glb.joints(0, frame)[:, :3, 3]
        assert np.linalg.norm(actual - expected[frame], axis=1).max() < 1e-4


def test_surface_deviation_is_what_the_report_says(file, posed, ground):
    glb, report = file
    expected = in_world(posed.full_vertices, ground)
    worst = max(np.linalg.norm(glb.skinned(0, t) - expected[t], axis=1).max() for t in (0, 39))
    assert worst <= report.pose_deviation * 1.001 + 1e-6
    assert 0 < report.weight_deviation < report.pose_deviation


def test_structure(file, body, fit):
    glb, _ = file
    skin = glb.json["skins"][0]
    names = [glb.json["nodes"][i]["name"] for i in skin["joints"]]
    assert names == list(body.joint_names)
    attributes = glb.json["meshes"][0]["primitives"][0]["attributes"]
    weights = glb.array(attributes["WEIGHTS_0"])
    assert weights.shape[1] == 4 and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    assert glb.array(attributes["JOINTS_0"]).max() < body.num_joints
    assert len(glb.json["animations"]) == 1
    channels = glb.json["animations"][0]["channels"]
    assert {c["target"]["path"] for c in channels} == {"rotation", "translation"}
    times = glb.array(glb.json["animations"][0]["samplers"][0]["input"])[:, 0]
    np.testing.assert_allclose(times, np.arange(len(fit.transl)) / 30, atol=1e-6)
    for sampler in glb.json["animations"][0]["samplers"]:
        values = glb.array(sampler["output"])
        assert sampler["interpolation"] == "LINEAR"
        if values.shape[1] == 4:
            np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-6)
            assert ((values[1:] * values[:-1]).sum(1) > 0).all()


def test_trimesh_reads_the_rest_geometry(tmp_path, file, body, fit):
    scene = trimesh.load(tmp_path / "motion.glb", process=False)
    mesh = next(iter(scene.geometry.values()))
    rest = body.v_template + body.shapedirs @ fit.betas
    np.testing.assert_allclose(mesh.vertices, rest, atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, body.full_faces)


def test_two_people_in_one_file(tmp_path, body, fit, posed, ground):
    other = type(fit)(fit.full_pose.flip(0), fit.betas * 0.5, fit.transl + 1)
    write_motion_glb(tmp_path / "two.glb", body, [fit, other], ground, colours=["red", (0, 0, 1)])
    glb = Glb(tmp_path / "two.glb")
    R = roma.rotvec_to_rotmat(other.full_pose)
    out = body(R[:, 1:22], other.betas.expand(len(R), -1), R[:, 0], other.transl, hand_pose=R[:, 25:])
    for skin, points in enumerate((posed.skeleton_joints, out.skeleton_joints)):
        distance = np.linalg.norm(glb.joints(skin, 11)[:, :3, 3] - in_world(points, ground)[11], axis=1)
        assert distance.max() < 1e-4
    assert len(glb.json["animations"]) == 1 and len(glb.json["scenes"][0]["nodes"]) == 2
    assert glb.json["materials"][1]["pbrMetallicRoughness"]["baseColorFactor"] == [0, 0, 1, 1]


def test_one_frame(tmp_path, body, fit, ground):
    single = type(fit)(fit.full_pose[:1], fit.betas, fit.transl[:1])
    write_motion_glb(tmp_path / "one.glb", body, single, ground)
    assert Glb(tmp_path / "one.glb").joints(0, 0).shape == (55, 4, 4)


def test_bad_input_leaves_no_file(tmp_path, body, fit, ground):
    with pytest.raises(MoroError, match="colours"):
        write_motion_glb(tmp_path / "a.glb", body, fit, ground, colours=["red", "blue"])
    with pytest.raises(MoroError, match="no person"):
        write_motion_glb(tmp_path / "a.glb", body, [], ground)
    fit.betas = fit.betas[:3]
    with pytest.raises(MoroError, match="betas"):
        write_motion_glb(tmp_path / "a.glb", body, fit, ground)
    assert not list(tmp_path.iterdir())


@given(st.lists(st.tuples(*[st.floats(-7, 7)] * 3), min_size=2, max_size=12))
def test_quaternions_stay_in_the_half_space_of_their_predecessor(rotvecs):
    rotvecs = np.array(rotvecs)
    quaternions = continuous_quaternions(rotvecs)
    assert ((quaternions[1:] * quaternions[:-1]).sum(1) >= -1e-12).all()
    same = Rotation.from_quat(quaternions).inv() * Rotation.from_rotvec(rotvecs)
    assert same.magnitude().max() < 1e-6
