"""Generated motions, retargeting and the skeleton (moro.synth)."""

from collections.abc import Iterator

import numpy as np
import pytest
import roma
import torch

from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.body.skeleton import global_rotations, local_rotations
from moro.errors import MoroError
from moro.synth.keyposes import POSES, KeyPose
from moro.synth.motions import SCRIPTS, anchored_path, body_offsets, generate_clips, interpolate_keys
from moro.synth.retarget import retarget, source_offsets
from moro.synth.skeleton import (
    JOINT_INDEX,
    joint_positions,
    mirror_local_rotations,
    resample_linear,
    resample_rotations,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Many small operations: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def body(repository) -> BodyModel:
    return load_body_model(repository / "body_models", "open")


@pytest.fixture(scope="module")
def clips(body: BodyModel) -> list:
    return generate_clips(3, len(SCRIPTS), body)


def _vertices(body: BodyModel, clip, frames: slice) -> torch.Tensor:
    rest = body_offsets(body)[0]
    pose = clip.local_pose[frames]
    betas = torch.zeros(len(pose), body.num_betas)
    return body(pose[:, 1:], betas, pose[:, 0], clip.pelvis[frames] - rest).vertices


def test_skeleton_agrees_with_the_body_model(body: BodyModel) -> None:
    local = roma.rotvec_to_rotmat(0.4 * torch.randn(3, 22, 3))
    offsets = body_offsets(body)
    joints = joint_positions(global_rotations(local), offsets, offsets[0].expand(3, 3))
    expected = body(local[:, 1:], torch.zeros(3, body.num_betas), local[:, 0]).joints
    torch.testing.assert_close(joints, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(local_rotations(global_rotations(local)), local, atol=1e-5, rtol=1e-5)


def test_mirror_reflects_the_joints(body: BodyModel) -> None:
    local = roma.rotvec_to_rotmat(0.4 * torch.randn(2, 22, 3))
    offsets = body_offsets(body)
    symmetric = (offsets + mirror_offsets(offsets)) / 2
    joints = joint_positions(global_rotations(local), symmetric, torch.zeros(2, 3))
    mirrored = joint_positions(global_rotations(mirror_local_rotations(local)), symmetric, torch.zeros(2, 3))
    torch.testing.assert_close(mirrored, mirror_offsets(joints), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mirror_local_rotations(mirror_local_rotations(local)), local)


def mirror_offsets(points: torch.Tensor) -> torch.Tensor:
    from moro.body.skeleton import MIRROR_JOINTS

    return points[..., list(MIRROR_JOINTS), :] * torch.tensor([-1.0, 1, 1])


def test_resampling_hits_the_frames_and_halves_the_angle() -> None:
    turn = roma.rotvec_to_rotmat(torch.tensor([[[0.0, 0, 0]], [[0, 0, 1.0]]]))
    half = resample_rotations(turn, torch.tensor([0.0, 0.5, 1.0]))
    angles = roma.rotmat_to_rotvec(half)[:, 0, 2]
    torch.testing.assert_close(angles, torch.tensor([0.0, 0.5, 1.0]))
    assert resample_linear(torch.tensor([[2.0], [4.0]]), torch.tensor([0.25])).item() == 2.5


@pytest.mark.parametrize("name", sorted(POSES))
def test_key_poses_are_rotations_and_vary(name: str) -> None:
    rng = np.random.default_rng(0)
    first, second = POSES[name](rng).matrices(), POSES[name](rng).matrices()
    torch.testing.assert_close(first @ first.mT, torch.eye(3).expand(22, 3, 3), atol=1e-5, rtol=0)
    assert (first - second).abs().max() > 0.01


def test_angles_mean_what_their_names_say(body: BodyModel) -> None:
    from moro.synth.keyposes import Arm, Leg

    offsets = body_offsets(body)

    def joints(pose: KeyPose) -> dict[str, torch.Tensor]:
        positions = joint_positions(global_rotations(pose.matrices()[None]), offsets, torch.zeros(1, 3))[0]
        return {name: positions[index] for name, index in JOINT_INDEX.items()}

    sitting = joints(KeyPose(left_leg=Leg(hip=90, knee=90), right_leg=Leg(hip=90, knee=90)))
    for side in ("left", "right"):
        assert sitting[f"{side}_knee"][2] > sitting[f"{side}_hip"][2] + 0.25  # thighs forward
        assert sitting[f"{side}_ankle"][1] < sitting[f"{side}_knee"][1] - 0.3  # shins down
    arms = joints(KeyPose(left_arm=Arm(0, 90, 0, 0), right_arm=Arm(85, 0, 0, 0)))
    assert arms["left_wrist"][2] > arms["left_shoulder"][2] + 0.4  # forward
    assert arms["right_wrist"][1] < arms["right_shoulder"][1] - 0.4  # hanging
    assert joints(KeyPose(pitch=90))["head"][2] > 0.4
    assert joints(KeyPose(roll=90))["head"][0] > 0.4  # to the left


def test_minimum_jerk_rests_at_the_keys() -> None:
    stand, sit = POSES["stand"](np.random.default_rng(0)), POSES["sit"](np.random.default_rng(1))
    local, flat, support = interpolate_keys([(0.0, stand), (1.0, sit), (1.0, stand)], flows=False)
    assert len(local) == len(flat) == len(support) == 60
    speed = (local[1:] - local[:-1]).abs().amax(dim=(1, 2, 3))
    assert speed[0] < 0.003 and speed[29] < 0.003 and speed[14] > 0.03
    torch.testing.assert_close(local[30], sit.matrices(), atol=1e-5, rtol=0)


def test_clips_stand_on_the_floor_and_repeat_by_seed(body: BodyModel, clips: list) -> None:
    again = generate_clips(3, 2, body)
    assert torch.equal(again[1].local_pose, clips[1].local_pose)
    for clip in clips:
        assert 60 <= len(clip) <= 900
        lowest = _vertices(body, clip, slice(None, None, 20))[..., 2].amin(dim=1)
        assert lowest.abs().max() < 0.04, clip.name
        assert (clip.pelvis[1:] - clip.pelvis[:-1]).norm(dim=-1).max() < 0.1  # 3 m/s


def test_a_walk_goes_somewhere_on_firm_feet(body: BodyModel, clips: list) -> None:
    walk = next(clip for clip in clips if "_walk_" in clip.name)
    joints = joint_positions(global_rotations(walk.local_pose), body_offsets(body), walk.pelvis)
    assert (walk.pelvis[-1] - walk.pelvis[0]).norm() > 1
    feet = joints[:, [10, 11]]
    slower = (feet[1:] - feet[:-1]).norm(dim=-1).amin(dim=1) * 30
    assert slower.median() < 0.15
    forward = walk.local_pose[:, 0, :, 2]  # body z axis in the world
    step = walk.pelvis[15:] - walk.pelvis[:-15]
    assert ((step * forward[:-15]).sum(-1) > 0).float().mean() > 0.9  # ahead, not backwards


def test_anchored_path_keeps_the_support_in_place(body: BodyModel) -> None:
    local = roma.rotvec_to_rotmat(0.2 * torch.randn(8, 22, 3).cumsum(0) / 4)
    support = torch.tensor([[1.0, 0, 0, 0, 0]]).expand(8, 5)
    offsets = body_offsets(body)
    path = anchored_path(local, offsets, support)
    root = torch.stack([path[:, 0], torch.zeros(8), path[:, 1]], dim=-1)
    foot = joint_positions(global_rotations(local), offsets, root)[:, JOINT_INDEX["left_foot"]]
    assert (foot - foot[:1])[:, [0, 2]].abs().max() < 1e-4


def test_retargeting_keeps_bone_directions_and_scales_the_path(body: BodyModel) -> None:
    offsets = body_offsets(body).double()
    source = offsets * 1.2
    droop = roma.rotvec_to_rotmat(torch.tensor([0.0, 0, -0.14], dtype=torch.float64))
    source[18], source[20] = droop @ source[18], droop @ source[20]  # a T-pose with a hanging left arm
    local = roma.rotvec_to_rotmat(0.4 * torch.randn(10, 22, 3, dtype=torch.float64))
    root = torch.randn(10, 3, dtype=torch.float64)
    joints = joint_positions(global_rotations(local), source, root)
    found, error = source_offsets(global_rotations(local), joints)
    assert error < 1e-9
    torch.testing.assert_close(found[1:], source[1:])
    moved = retarget(local, joints, offsets)
    assert moved.scale == pytest.approx(1 / 1.2, rel=1e-6)
    rotations = global_rotations(moved.local_pose)
    result = joint_positions(rotations, offsets, moved.pelvis)
    for joint, child in ((1, 4), (4, 7), (16, 18), (18, 20)):
        bone, wanted = result[:, child] - result[:, joint], joints[:, child] - joints[:, joint]
        cosine = torch.cosine_similarity(bone, wanted, dim=-1)
        assert cosine.min() > 1 - 1e-9
    torch.testing.assert_close(result[:, 1:3].mean(1), joints[:, 1:3].mean(1) / 1.2)


def test_a_skeleton_without_legs_is_refused() -> None:
    local = torch.eye(3, dtype=torch.float64).expand(3, 22, 3, 3)
    with pytest.raises(MoroError, match="legs have no length"):
        retarget(local, torch.zeros(3, 22, 3, dtype=torch.float64), torch.ones(22, 3, dtype=torch.float64))
