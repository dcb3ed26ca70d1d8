"""The ground plane on made-up people whose floor is known."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from moro.errors import MoroError
from moro.geometry.ground import FOOT_JOINT_HEIGHT, Ground, _fit_plane, fit_ground, sole_vertices

STANDING = np.array([
    [0, 0, 0.95], [-0.09, 0, 0.87], [0.09, 0, 0.87], [0, 0, 1.07], [-0.1, 0, 0.48], [0.1, 0, 0.48],
    [0, 0, 1.2],
    [-0.1, 0, 0.08], [0.1, 0, 0.08], [0, 0, 1.27], [-0.1, 0.13, 0.025], [0.1, 0.13, 0.025], [0, 0, 1.48],
    [-0.08, 0, 1.42], [0.08, 0, 1.42], [0, 0, 1.6], [-0.18, 0, 1.43], [0.18, 0, 1.43], [-0.2, 0, 1.15],
    [0.2, 0, 1.15], [-0.2, 0, 0.9], [0.2, 0, 0.9],
])  # fmt: skip


def walk(way, period=30):
    """(T, 22, 3) world joints, z up: feet rest in turn while the other swings; `way` (T, 2) is the path."""
    T = len(way)
    joints = np.repeat(STANDING[None], T, 0)
    joints[..., :2] += way[:, None]
    swing = np.array([[4, 7, 10], [5, 8, 11]])
    for side in range(2):
        moving = (np.arange(T) // (period // 2)) % 2 == side
        position = way.copy()
        starts = np.flatnonzero(np.diff(np.r_[True, moving].astype(int)) == -1)
        for start in starts:  # a stance: the foot stays where it was put down
            stance = np.arange(start, min(T, start + period // 2))
            position[stance] = way[start]
        lift = np.where(moving, 0.12 * np.sin(np.pi * (np.arange(T) % (period // 2)) / (period / 2)), 0)
        joints[:, swing[side], :2] += (position - way)[:, None]
        joints[:, swing[side], 2] += lift[:, None]
    return joints


def sit(T):
    joints = np.repeat(STANDING[None], T, 0)
    joints[:, :, 2] -= 0.45
    joints[:, [4, 5]] = STANDING[[1, 2]] + [0, 0.42, -0.45]
    joints[:, [7, 8]] = STANDING[[7, 8]] + [0, 0.42, 0]
    joints[:, [10, 11]] = STANDING[[10, 11]] + [0, 0.42, 0]
    return joints


def camera(pitch=20.0, roll=0.0, height=1.6, distance=4.0, yaw=0.0):
    """world2cam (4, 4) of a camera `distance` behind the origin (looking along +y), pitched down."""
    axes = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float)  # camera rows in the world: x, -z, y
    R = Rotation.from_euler("zx", [roll, pitch], degrees=True).as_matrix() @ axes
    R = R @ Rotation.from_euler("z", yaw, degrees=True).as_matrix()
    world2cam = np.eye(4)
    centre = Rotation.from_euler("z", -yaw, degrees=True).apply([0, -distance, height])
    world2cam[:3, :3], world2cam[:3, 3] = R, -R @ centre
    return world2cam


def seen_by(joints, world2cam):
    return joints @ world2cam[:3, :3].T + world2cam[:3, 3]


def errors(ground, world2cam, at=(0, 0, 0)):
    """Angle to the true normal in degrees, and the height error of the floor below `at`, metres."""
    up = world2cam[:3, 2]
    angle = np.degrees(np.arccos(np.clip(ground.normal @ up, -1, 1)))
    return angle, abs(ground.height(seen_by(np.array(at, float), world2cam)))


def circle(T, radius=1.5):
    angle = np.linspace(0, 2 * np.pi, T)
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1)


@pytest.mark.parametrize("pitch, roll", [(0, 0), (20, 0), (50, 0), (-10, 5), (25, -12)])
def test_walk_in_a_circle_finds_a_tilted_floor(pitch, roll):
    world2cam = camera(pitch, roll)
    ground = fit_ground(seen_by(walk(circle(240)), world2cam))
    angle, height = errors(ground, world2cam)
    assert ground.source == "contacts" and angle < 0.3 and height < 0.01


def test_level_camera_is_no_special_case():
    """For a level camera z = m x + n y + c cannot be solved (spec: data 9.4); total least squares can."""
    world2cam = camera(pitch=0)
    ground = fit_ground(seen_by(walk(circle(120)), world2cam))
    np.testing.assert_allclose(ground.normal, [0, -1, 0], atol=2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_noisy_feet_and_outliers(seed):
    rng = np.random.default_rng(seed)
    joints = walk(circle(240)) + rng.normal(0, 0.002, (240, 22, 3))
    joints += np.cumsum(rng.normal(0, 0.002, (240, 1, 3)), 0) * [
        1,
        1,
        0.3,
    ]  # drift, as of a monocular estimate
    joints[rng.integers(0, 240, 20), :, 2] += rng.uniform(-0.4, 0.4, (20, 1))
    world2cam = camera(15)
    angle, height = errors(fit_ground(seen_by(joints, world2cam)), world2cam)
    assert angle < 2 and height < 0.05


def test_of_two_floors_the_lower() -> None:
    """Somebody stands on a wall for long, somebody else walks past below."""
    above = np.repeat(STANDING[None], 300, 0) + [1.0, 0.5, 1.4]
    world2cam = camera(15)
    people = [seen_by(above, world2cam), seen_by(walk(circle(120)), world2cam)]
    angle, height = errors(fit_ground(people), world2cam)
    assert angle < 2 and height < 0.05


@pytest.mark.parametrize("direction", [(1, 0), (0, 1), (0.7, 0.7)])
@pytest.mark.parametrize("seed", range(2))
def test_straight_walk_is_held_level_by_the_body(direction, seed):
    """The contacts nearly lie on a line; the tilt about it comes from the upright body."""
    rng = np.random.default_rng(seed)
    way = np.linspace(-1.5, 1.5, 120)[:, None] * np.array(direction)
    world2cam = camera(25, 6)
    joints = walk(way) + rng.normal(0, 0.003, (120, 22, 3)) + rng.normal(0, 0.01, 3)
    joints[:, [4, 5, 7, 8, 10, 11], 0] *= 0.2 if direction[1] == 1 else 1  # feet on one line
    angle, height = errors(fit_ground(seen_by(joints, world2cam)), world2cam)
    assert angle < 4 and height < 0.05


def test_somebody_standing_still():
    world2cam = camera(30, -8)
    joints = np.repeat(STANDING[None], 50, 0)
    angle, height = errors(fit_ground(seen_by(joints, world2cam)), world2cam)
    assert angle < 3 and height < 0.01


def test_one_frame():
    world2cam = camera(30)
    angle, height = errors(fit_ground(seen_by(STANDING[None], world2cam)), world2cam)
    assert angle < 5 and height < 0.03


def test_sitting_person_gets_the_floor_under_the_feet():
    """Nothing tells up but the camera: the floor is at the feet, tilted no more than the camera is."""
    world2cam = camera(10)
    ground = fit_ground(seen_by(sit(60), world2cam))
    angle, height = errors(ground, world2cam, at=(0, 0.5, 0))
    assert angle < 11 and height < 0.02
    assert ground.height(seen_by(sit(1), world2cam))[0, 0] > 0.3


def test_sliding_feet_fall_back_to_the_lowest_points():
    joints = np.repeat(STANDING[None], 60, 0)
    joints[..., 1] += np.linspace(0, 3, 60)[:, None]  # 1.5 m/s without a step: no contact at all
    world2cam = camera(20)
    angle, height = errors(fit_ground(seen_by(joints, world2cam)), world2cam)
    assert angle < 4 and height < 0.03


def test_several_people_share_one_floor():
    world2cam = camera(25)
    people = [seen_by(walk(circle(90) * 0.3 + offset), world2cam) for offset in ([-1.5, 0], [1.5, 1])]
    angle, height = errors(fit_ground(people), world2cam)
    assert angle < 0.5 and height < 0.01


def test_unseen_frames_do_not_count():
    world2cam = camera(20)
    joints = walk(circle(200))
    joints[100:, :, 2] += 0.7  # invented frames float
    seen = np.arange(200) < 100
    angle, height = errors(fit_ground(seen_by(joints, world2cam), seen=seen), world2cam)
    assert angle < 0.5 and height < 0.01


def test_frames_that_are_not_finite_are_left_out():
    joints = walk(circle(100))
    joints[10:20] = np.nan
    world2cam = camera(20)
    angle, _ = errors(fit_ground(seen_by(joints, world2cam)), world2cam)
    assert angle < 0.5


def test_soles_set_the_height_without_an_offset():
    world2cam = camera(20)
    joints = walk(circle(120))
    soles = joints[:, [10, 11]] - [0, 0, 0.025]
    with_soles = fit_ground(seen_by(joints, world2cam), seen_by(soles, world2cam))
    without = fit_ground(seen_by(joints, world2cam))
    assert FOOT_JOINT_HEIGHT == 0.025
    np.testing.assert_allclose(with_soles.origin, without.origin, atol=1e-3)


def test_same_seed_same_plane():
    joints = seen_by(walk(circle(100)) + np.random.default_rng(0).normal(0, 0.01, (100, 22, 3)), camera(20))
    assert (fit_ground(joints).normal == fit_ground(joints).normal).all()


@settings(max_examples=40, deadline=None)
@given(
    pitch=st.floats(-15, 60), roll=st.floats(-15, 15), yaw=st.floats(-180, 180), height=st.floats(0.3, 4),
    distance=st.floats(2, 9), seed=st.integers(0, 99),
)  # fmt: skip
def test_frames_of_any_camera(pitch, roll, yaw, height, distance, seed):
    """World frames are rigid, invert each other, put the floor at 0 and the origin below the root."""
    world2cam = camera(pitch, roll, height, distance, yaw)
    rng = np.random.default_rng(seed)
    joints = seen_by(walk(circle(120, rng.uniform(0.5, 2))), world2cam)
    ground = fit_ground(joints)
    assert errors(ground, world2cam)[0] < 1
    for y_up in (False, True):
        forth, back = ground.cam2world(y_up), ground.world2cam(y_up)
        np.testing.assert_allclose(forth @ back, np.eye(4), atol=1e-9)
        assert np.linalg.det(forth[:3, :3]) == pytest.approx(1)
        world = joints @ forth[:3, :3].T + forth[:3, 3]
        up = 1 if y_up else 2
        np.testing.assert_allclose(world[..., up], ground.height(joints), atol=1e-9)
        np.testing.assert_allclose(np.delete(world[0, 0], up), 0, atol=1e-9)
        assert world[0, 15, up] > 1.2 and world[..., up].min() > -0.05
    ahead = ground.cam2world()[:3, :3] @ [0, 0, 1]  # the viewing direction has no part to the side
    assert abs(ahead[0]) < 1e-9 and ahead[1] > 0
    assert (ground.cam2world(True)[:3, :3] @ [0, 0, 1])[2] < 0


def test_camera_looking_straight_down():
    ground = Ground(np.array([0.0, 0, -1]), np.array([0.0, 0, 3]))
    np.testing.assert_allclose(ground.cam2world() @ [0, 0, 3, 1], [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(ground.cam2world()[:3, :3] @ [0, -1, 0], [0, 1, 0], atol=1e-12)


def test_sole_vertices_are_low_and_on_both_feet():
    rng = np.random.default_rng(0)
    vertices = rng.uniform([-0.5, -1, -0.2], [0.5, 0.8, 0.2], (4000, 3))
    ids = sole_vertices(vertices)
    assert len(ids) == len(set(ids)) and (vertices[ids, 1] < -0.98).all()
    assert (vertices[ids, 0] > 0).sum() == (vertices[ids, 0] < 0).sum() == 12


@pytest.mark.parametrize(
    "joints, message",
    [
        (np.zeros((5, 10, 3)), "must be"),
        (np.full((5, 22, 3), np.nan), "finite"),
        ([], "finite"),
    ],
)
def test_bad_input(joints, message):
    with pytest.raises(MoroError, match=message):
        fit_ground(joints)


def test_soles_of_another_length():
    with pytest.raises(MoroError, match="soles"):
        fit_ground(np.zeros((5, 22, 3)), np.zeros((4, 8, 3)))


@pytest.mark.parametrize("clip", ["cmuA_train_walking_2", "cmuB_02_01", "cmuA_train_basketball_1"])
def test_recorded_motion(shared_dir, clip):
    """Recorded people (y up, floor 0) seen by a pitched camera: the floor within 4 degrees and 4 cm."""
    with np.load(shared_dir / "mocap" / "cmu22_30fps.npz") as file:
        joints = file[f"{clip}/joints"].astype(float)
    joints = joints @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0.0]])  # y up → z up: (x, -z, y)
    joints[..., :2] -= joints[:1, :1, :2]
    world2cam = camera(pitch=15, distance=5)
    ground = fit_ground(seen_by(joints, world2cam))
    angle, height = errors(ground, world2cam)
    assert angle < 4 and height < 0.04


def test_memory_does_not_follow_the_number_of_contacts():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-3, 3, (300_000, 2)), rng.normal(0, 0.01, (300_000, 1))], 1)
    points[::7, 2] += rng.uniform(0, 1, len(points[::7]))  # feet in the air
    tracemalloc.start()
    try:
        normal, height, inliers = _fit_plane(points, 50, np.array([0.0, 0.1, 1.0]), 0.1, seed=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6  # every point beside every candidate would be 1.4 GB
    assert normal[2] > 0.9999 and abs(height) < 0.01 and inliers.sum() > 250_000
