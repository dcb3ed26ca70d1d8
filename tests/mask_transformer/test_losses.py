"""Losses against their formulas on whole moved meshes (spec: models 4.6, 5.1, 5.2)."""

import math

import pytest
import torch
from torch import Tensor

from models.mask_transformer.losses import (
    LossWeights,
    MoRoLoss,
    box_coordinates,
    code_loss,
    distance,
    gumbel_tokens,
    skating_loss,
    token_loss,
    trajectory_loss,
)
from models.mask_transformer.network import TransformerOutput
from moro.errors import MoroError
from moro.geometry.rotation import rot6d_to_matrix
from moro.geometry.trajectory import TrajectoryStats, integrate_trajectory

B, F, J, K, V = 2, 5, 3, 6, 30
STATS = TrajectoryStats(torch.linspace(-0.1, 0.1, 9), torch.linspace(0.5, 1.5, 9))
WEIGHTS = LossWeights(lambda_accel=0.5)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def rotations(seed: int) -> Tensor:
    return rot6d_to_matrix(random(B, F, 6, seed=seed))


def regressor(count: int) -> Tensor:
    return random(count, V, seed=3).softmax(-1)


def make_batch(frames: int = F) -> dict[str, Tensor]:
    K_matrix = torch.tensor([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
    batch = {
        "mesh": random(B, F, V, 3),
        "local_joints": random(B, F, 22, 3, seed=1),
        "rotation": rotations(2),
        "translation": random(B, F, 1, 3, seed=4) + torch.tensor([0.0, 0, 20]),
        "K": K_matrix.expand(B, F, 3, 3),
        "center": random(B, F, 2, seed=5) * 10 + 300,
        "scale": random(B, F, seed=6).abs() + 1,
        "cano_traj_clean": random(B, F, 9, seed=7),
        "contact_label": (random(B, F - 1, 4, seed=8) > 0).float(),
        "j2d": random(B, F, 17, 3, seed=9).abs(),
    }
    return {key: value[:, : frames - 1 if key == "contact_label" else frames] for key, value in batch.items()}


def make_output(frames: int = F) -> TransformerOutput:
    fields = {
        "cano_traj": random(B, F, 9, seed=11),
        "contact": random(B, F, 4, seed=12),
        "weak": random(B, F, 9, seed=13) * 0.1,
        "rotation_coarse": rotations(14),
        "translation_coarse": random(B, F, 1, 3, seed=15) + torch.tensor([0.0, 0, 20]),
        "rotation": rotations(16),
        "translation": random(B, F, 1, 3, seed=17) + torch.tensor([0.0, 0, 20]),
    }
    fields = {name: value[:, :frames] for name, value in fields.items()}
    return TransformerOutput(random(B, K, F, J)[:, :, :frames], **fields)


def make_labels(frames: int = F) -> Tensor:
    labels = torch.randint(K, (B, F, J), generator=torch.Generator().manual_seed(0))
    labels[:, :, 0] = K
    return labels[:, :frames]


def run(
    task: str, frames: int = F, use_transl: bool = True, part: slice | None = None, **told: Tensor
) -> dict[str, Tensor]:
    loss = MoRoLoss(task, WEIGHTS, regressor(22), regressor(17), K, use_transl)
    part = part or slice(0, frames)
    mesh = random(B, F, V, 3, seed=20)[:, part]
    return loss(make_batch(frames) | told, make_output(frames), make_labels(frames), mesh, part, STATS)


def rmse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).pow(2).sum(-1).sqrt().mean()


def plain(task: str, use_transl: bool = True) -> dict[str, Tensor]:
    """All terms from meshes moved as a whole."""
    batch, output, mesh = make_batch(), make_output(), random(B, F, V, 3, seed=20)
    gt = batch["local_joints"] @ batch["rotation"].mT + batch["translation"]
    start = batch["rotation"][:, :1], batch["translation"][:, :1]
    relative = integrate_trajectory(output.cano_traj * STATS.std + STATS.mean, *start)
    camera = {
        "_coarse": (output.rotation_coarse, output.translation_coarse),
        "": (output.rotation, output.translation),
    }
    if not use_transl:
        camera = {suffix: (R, batch["translation"]) for suffix, (R, _) in camera.items()}
    terms = {"v3d_local": rmse(mesh, batch["mesh"])}
    picked = [7, 10, 8, 11]

    def pixels(points: Tensor) -> Tensor:
        projected = points @ batch["K"].mT
        uv = projected[..., :2] / (projected[..., 2:] + 1e-6)
        return (uv - batch["center"][:, :, None]) / (100 * batch["scale"][:, :, None, None])

    def smoothness(joints: Tensor, suffix: str) -> None:
        second = joints[:, 2:] - 2 * joints[:, 1:-1] + joints[:, :-2]
        terms[f"accel{suffix}"] = second.pow(2).mean()
        speed = (joints[:, 1:, picked] - joints[:, :-1, picked]).norm(dim=-1) * 30
        label = batch["contact_label"]
        terms[f"skating{suffix}"] = ((speed - 0.15).clamp(min=0) * label).sum() / (label.sum() + 1e-6)

    if task in ("motion", "video"):
        joints = regressor(22) @ (mesh @ relative[0].mT + relative[1])
        terms["j3d_pos_rel"] = rmse(joints, gt)
        terms["j3d_vel_rel"] = rmse(joints[:, 1:] - joints[:, :-1], gt[:, 1:] - gt[:, :-1])
        probability = output.contact[:, :-1].sigmoid()
        label = batch["contact_label"]
        terms["contact"] = -(label * probability.log() + (1 - label) * (1 - probability).log()).mean()
    if task == "motion":
        valid = torch.ones(F)
        valid[-1] = 0
        error = (batch["cano_traj_clean"] - output.cano_traj) * valid[:, None]
        terms["cano_traj"] = error.pow(2).mean()
        smoothness(joints, "_rel")
    if task in ("image", "video"):
        for suffix, (R, t) in camera.items():
            joints = regressor(22) @ (mesh @ R.mT + t)
            terms[f"rot{suffix}"] = (R - batch["rotation"]).pow(2).mean()
            terms[f"j3d_pos{suffix}"] = rmse(joints, gt)
            if use_transl:
                terms[f"transl{suffix}"] = (t - batch["translation"]).pow(2).mean()
                terms[f"j2d{suffix}"] = (pixels(joints) - pixels(gt)).abs().mean()
            if task == "video":
                terms[f"j3d_vel{suffix}"] = rmse(joints[:, 1:] - joints[:, :-1], gt[:, 1:] - gt[:, :-1])
        if task == "video":
            smoothness(joints, "")
        if not use_transl:
            points = regressor(17) @ (mesh @ output.rotation_coarse.mT)  # true translation taken away
            weak = output.weak
            u = weak[:, :, None, 6:7].exp() * (points[..., :2] + weak[:, :, None, 7:9])
            terms["j2d_coarse"] = ((u - batch["j2d"][..., :2]).abs() * batch["j2d"][..., 2:]).mean()
    return terms


@pytest.mark.parametrize(
    ("task", "use_transl"), [("motion", True), ("image", True), ("image", False), ("video", True)]
)
def test_terms_and_sum(task: str, use_transl: bool) -> None:
    found, expected = run(task, use_transl=use_transl), plain(task, use_transl)
    assert set(found) == {"loss", "loss_ce"} | {f"loss_{name}" for name in expected}
    for name, value in expected.items():
        torch.testing.assert_close(found[f"loss_{name}"], value, rtol=1e-4, atol=1e-6, msg=name)
    weights = {
        "ce": 1, "v3d_local": 10, "j3d_pos": 1, "j3d_vel": 20, "contact": 1, "cano_traj": 10, "accel": 0.5,
        "skating": 1, "rot": 1, "transl": 1, "j2d": 1,
    }  # fmt: skip
    total = sum(
        weights[name.removeprefix("loss_").removesuffix("_rel").removesuffix("_coarse")] * value
        for name, value in found.items()
        if name != "loss"
    )
    torch.testing.assert_close(found["loss"], total)


@pytest.mark.parametrize("task", ["motion", "image", "video"])
def test_single_frames_have_no_velocity_terms(task: str) -> None:
    names = run(task, frames=1).keys()
    assert not any(part in name for name in names for part in ("vel", "skating", "accel", "contact"))
    assert all(torch.isfinite(value) for value in run(task, frames=1).values())


def test_single_frames_that_are_told_what_stands_learn_it() -> None:
    output = make_output(1)
    told = (random(B, 1, 4, seed=30) > 0).float()
    found = run("image", frames=1, standing=told)
    probability = output.contact.sigmoid()
    expected = -(told * probability.log() + (1 - told) * (1 - probability).log()).mean()
    torch.testing.assert_close(found["loss_contact"], expected)
    plain = run("image", frames=1)
    torch.testing.assert_close(found["loss"] - plain["loss"], expected)
    assert set(found) - set(plain) == {"loss_contact"}


def test_part_of_the_frames_is_the_loss_of_that_part() -> None:
    part = run("video", part=slice(1, 4))
    whole = run("video")
    assert set(part) == set(whole)
    for name in ("loss_ce", "loss_rot", "loss_transl", "loss_contact"):  # need no mesh: all frames
        torch.testing.assert_close(part[name], whole[name])
    mesh, batch = random(B, F, V, 3, seed=20)[:, 1:4], make_batch()
    torch.testing.assert_close(part["loss_v3d_local"], rmse(mesh, batch["mesh"][:, 1:4]))


def test_code_loss() -> None:
    logits, labels = make_output().logits, make_labels()
    entropies = []
    for b in range(B):
        for f in range(F):
            for j in range(J):
                if labels[b, f, j] != K:
                    entropies.append(-logits[b, :, f, j].log_softmax(0)[labels[b, f, j]])
    entropy = torch.stack(entropies)
    torch.testing.assert_close(code_loss(logits, labels, K), entropy.mean())
    focal = ((1 - torch.exp(-entropy)) ** 2 * entropy).mean()
    torch.testing.assert_close(code_loss(logits, labels, K, focal_gamma=2.0), focal)


def test_distances() -> None:
    a, b = random(4, 3), random(4, 3, seed=5)
    assert math.isclose(distance(a, b, "l1"), (a - b).abs().mean())
    assert math.isclose(distance(a, b, "l2"), (a - b).pow(2).mean())
    assert math.isclose(distance(a, b, "rmse"), (a - b).norm(dim=1).mean())
    with pytest.raises(MoroError, match="loss_type"):
        LossWeights(loss_type="huber")


def test_last_frame_of_the_trajectory_does_not_matter() -> None:
    a, b = random(B, F, 9), random(B, F, 9, seed=2)
    changed = torch.cat((a[:, :-1], a[:, -1:] + 100), dim=1)
    assert trajectory_loss(a, b, "l2") == trajectory_loss(changed, b, "l2")


def test_hands_take_part_in_skating() -> None:
    joints = torch.zeros(1, 2, 22, 3)
    joints[0, 1, 20, 0] = 1.0  # 30 m/s
    assert float(skating_loss(joints, torch.ones(1, 1, 4))) == 0
    assert math.isclose(float(skating_loss(joints, torch.ones(1, 1, 6))), (30 - 0.15) / 6, rel_tol=1e-5)


def test_points_behind_the_camera_stay_bounded() -> None:
    batch = make_batch()
    points = torch.zeros(B, F, 1, 3)
    points[..., 2] = -5e-7
    points[..., 0] = 1.0
    assert float(box_coordinates(points, batch, min_depth=0.1).abs().max()) < 1e3
    assert float(box_coordinates(points, batch).abs().max()) > 1e5


@pytest.mark.parametrize("gumbel", [True, False])
def test_gumbel_tokens(gumbel: bool) -> None:
    logits = random(B, K, F, J).requires_grad_()
    codebook = random(K, 4, seed=1)
    options = {"gumbel": gumbel, "temperature": 0.7}
    torch.manual_seed(0)
    hard = gumbel_tokens(logits, codebook, straight_through=True, **options)
    distances = torch.cdist(hard.detach().reshape(-1, 4), codebook)
    assert float(distances.min(1).values.max()) < 1e-2  # every token is one code
    (hard.pow(2).sum()).backward()
    assert float(logits.grad.abs().max()) > 0
    if not gumbel:
        chosen = codebook[logits.detach().permute(0, 2, 3, 1).argmax(-1)]
        torch.testing.assert_close(hard.detach(), chosen)
        soft = gumbel_tokens(logits.detach(), codebook, straight_through=False, **options)
        torch.testing.assert_close(soft, (logits.detach().permute(0, 2, 3, 1) / 0.7).softmax(-1) @ codebook)


def test_gumbel_samples_follow_the_softmax() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2])).view(1, 3, 1, 1).expand(1, 3, 4000, 1)
    torch.manual_seed(0)
    tokens = gumbel_tokens(logits, torch.eye(3), 1.0, gumbel=True, straight_through=True)
    torch.testing.assert_close(tokens.mean((0, 1, 2)), torch.tensor([0.5, 0.3, 0.2]), atol=0.03, rtol=0)


def test_token_loss_counts_how_far_off_the_expected_embedding_is() -> None:
    codebook = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]])
    labels = torch.tensor([[[1, 3]]])  # (B, F, J); 3: no label
    even = torch.zeros(1, 3, 1, 2)  # (B, K, F, J)
    variance = codebook.var(0).sum()
    error = torch.tensor([2 / 3 - 2, 4 / 3]).square().sum()
    torch.testing.assert_close(token_loss(even, labels, codebook, 3), error / variance)
    sure = even.clone()
    sure[0, 1, 0, 0] = 100.0
    assert token_loss(sure, labels, codebook, 3) < 1e-6
    assert token_loss(even, torch.full_like(labels, 3), codebook, 3) == 0
