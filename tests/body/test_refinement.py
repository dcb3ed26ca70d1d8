"""Limbs turned to where their landmarks were seen."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from moro.body import refinement
from moro.body.fitting import BodyFit, moved
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.body.refinement import _chains, refine_by_landmarks
from moro.body.skeleton import BODY_JOINT_NAMES, LANDMARK_NAMES
from moro.errors import MoroError

FRAMES = 12


@pytest.fixture(scope="module")
def body(repository: Path) -> BodyModel:
    return load_body_model(repository / "body_models", "open")


def motion(body: BodyModel, **turns: float) -> BodyFit:
    """Somebody 4 m in front of the camera, in a random pose; joints turned by so much about z."""
    pose = (0.15 * torch.randn(1, 22, 3, generator=torch.Generator().manual_seed(0))).repeat(FRAMES, 1, 1)
    pose[:, 0] = torch.tensor([math.pi, 0, 0])
    for name, angle in turns.items():
        pose[:, BODY_JOINT_NAMES.index(name), 2] += angle
    transl, none = torch.tensor([0.0, 0, 4]).repeat(FRAMES, 1), torch.zeros(FRAMES)
    full_pose = torch.nn.functional.pad(pose, (0, 0, 0, body.num_joints - 22))
    betas = torch.zeros(body.num_betas)
    fit = BodyFit(pose[:, 0], pose[:, 1:], full_pose, betas, transl, none, none, none)
    return moved(body, fit, pose, transl, None)


def rays_of(body: BodyModel, fit: BodyFit) -> Tensor:
    landmarks = fit.rebuild(body).landmarks()
    return landmarks[..., :2] / landmarks[..., 2:]


OFF = {"left_shoulder": 0.5, "left_elbow": -0.3, "right_knee": 0.3, "left_hip": -0.2}


def test_damped_limbs_follow_the_landmarks(body: BodyModel) -> None:
    truth, damped = motion(body), motion(body, **OFF)
    seen = rays_of(body, truth)
    refined = refine_by_landmarks(body, damped, seen, torch.ones(FRAMES, 33), points=np.array([5, 7]))
    wrist = BODY_JOINT_NAMES.index("left_wrist")

    def errors(fit: BodyFit) -> tuple[float, float]:
        beside = 4 * (rays_of(body, fit) - seen).norm(dim=-1).mean()
        return float(beside), float((fit.joints - truth.joints)[:, wrist].norm(dim=-1).mean())

    before, after = errors(damped), errors(refined)
    assert after[0] < 0.35 * before[0] and after[1] < 0.6 * before[1]
    # all of it tells the same story
    posed = refined.rebuild(body)
    torch.testing.assert_close(posed.joints, refined.joints, atol=1e-5, rtol=0)
    torch.testing.assert_close(posed.full_vertices[:, [5, 7]], refined.points, atol=1e-5, rtol=0)
    assert torch.equal(refined.full_pose[:, 0], refined.global_orient)
    assert torch.equal(refined.full_pose[:, 1:22], refined.body_pose)


def test_what_fits_is_left_alone_and_what_is_unseen_turns_nothing(body: BodyModel) -> None:
    truth, damped = motion(body), motion(body, **OFF)
    exact = refine_by_landmarks(body, truth, rays_of(body, truth), torch.ones(FRAMES, 33))
    torch.testing.assert_close(exact.joints, truth.joints, atol=1e-3, rtol=0)
    blind = refine_by_landmarks(body, damped, rays_of(body, truth), torch.zeros(FRAMES, 33))
    torch.testing.assert_close(blind.joints, damped.joints, atol=1e-4, rtol=0)


def test_a_doubtful_or_a_wild_landmark_moves_little(body: BodyModel) -> None:
    truth = motion(body)
    wrist = LANDMARK_NAMES.index("left_wrist")
    seen, weight = rays_of(body, truth), torch.ones(FRAMES, 33)
    seen[:, wrist] += 0.2  # 80 cm away
    wild = refine_by_landmarks(body, truth, seen, weight)
    weight[:, wrist] = 0.3
    doubted = refine_by_landmarks(body, truth, seen, weight)
    assert (wild.joints - truth.joints).norm(dim=-1).max() < 0.1
    assert (doubted.joints - truth.joints).norm(dim=-1).max() < 0.03


def test_feet_that_stand_do_not_slide(body: BodyModel) -> None:
    """Somebody is pushed along by 1 cm a frame: a leg that is said to stand gives way."""
    truth = motion(body)
    drift = truth.transl + torch.arange(FRAMES)[:, None] * torch.tensor([0.01, 0, 0])
    pose = torch.cat((truth.global_orient[:, None], truth.body_pose), dim=1)
    pushed = moved(body, truth, pose, drift, None)
    contact = torch.full((FRAMES, 4), -20.0)
    contact[:, :2] = 20  # the left foot
    points = np.array([5, 7])
    unseen = torch.zeros(FRAMES, 33)
    refined = refine_by_landmarks(body, pushed, rays_of(body, pushed), unseen, contact, points)

    def steps(fit: BodyFit, joint: str) -> float:
        return float(fit.joints[:, BODY_JOINT_NAMES.index(joint)].diff(dim=0).norm(dim=-1).mean())

    assert steps(refined, "left_ankle") < 0.002 and steps(refined, "left_foot") < 0.002
    assert steps(refined, "right_ankle") > 0.004
    changed = (refined.body_pose - pushed.body_pose).abs().amax(dim=(0, 2)) > 1e-3
    assert all(changed[BODY_JOINT_NAMES.index(name) - 1] for name in ("left_hip", "left_knee"))
    others = [BODY_JOINT_NAMES.index(name) for name in ("pelvis", "head", "left_wrist", "right_ankle")]
    torch.testing.assert_close(refined.joints[:, others], pushed.joints[:, others], atol=1e-3, rtol=0)
    posed = refined.rebuild(body).full_vertices[:, points]
    torch.testing.assert_close(posed, refined.points, atol=1e-5, rtol=0)


def test_chunks_change_nothing(body: BodyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    damped, contact = motion(body, **OFF), torch.randn(FRAMES, 4, generator=torch.Generator().manual_seed(0))
    seen = rays_of(body, motion(body)), torch.ones(FRAMES, 33)
    whole = refine_by_landmarks(body, damped, *seen, contact)
    monkeypatch.setattr(refinement, "CHUNK", 5)
    torch.testing.assert_close(refine_by_landmarks(body, damped, *seen, contact).joints, whole.joints)


def test_landmarks_hang_on_the_limbs_they_lie_on() -> None:
    held, moving, _ = _chains()

    def movers(landmark: str) -> set[str]:
        row = held[LANDMARK_NAMES.index(landmark)]
        return {BODY_JOINT_NAMES[joint] for joint, moves in zip(moving, row) if moves}

    trunk = {"pelvis", "spine1", "spine2", "spine3"}
    assert movers("left_index") == trunk | {"left_shoulder", "left_elbow", "left_wrist"}
    assert movers("right_foot_index") == {"pelvis", "right_hip", "right_knee", "right_ankle"}
    assert movers("right_knee") == {"pelvis", "right_hip"} and movers("left_hip") == {"pelvis"}
    assert movers("nose") == trunk | {"neck"} == movers("left_eye_inner")


def test_a_body_without_landmarks_is_refused(body: BodyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = motion(body)
    rays = rays_of(body, fit)
    monkeypatch.setattr(body, "landmark_regressor", None)
    with pytest.raises(MoroError, match="demo.refine=false"):
        refine_by_landmarks(body, fit, rays, torch.ones(FRAMES, 33))
