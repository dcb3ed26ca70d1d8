"""The second look in a mirror: geometry of the mirror image, and the mean of both looks."""

from pathlib import Path

import pytest
import roma
import torch

from models.mask_transformer.build import build_mirror
from models.mask_transformer.mirror import MIRRORED_TOKENS, Mirror, Poses, mirror_images
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.body.skeleton import mirror_pose
from moro.errors import MoroError
from moro.geometry.boxes import normalise_landmarks
from moro.geometry.camera import bbox_condition, project
from tests.mask_transformer.fake_data import SPHERE, small_config
from tests.mask_transformer.test_system import first_batch, make

FRAMES = 4


@pytest.fixture(scope="module")
def body(repository: Path) -> BodyModel:
    return load_body_model(repository / "body_models", "open")


def _pose(body: BodyModel, mirrored: bool) -> Poses:
    """Someone who bends and turns, or the one in the mirror; true poses, and contacts that tell sides."""
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(FRAMES, 22, 3, generator=generator) * 0.3
    shift = torch.randn(FRAMES, 1, 3, generator=generator) * 0.3 + torch.tensor([0.4, 0.0, 4.0])
    contact = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(FRAMES, 4)
    betas = torch.randn(1, body.num_betas, generator=generator).expand(FRAMES, -1)
    if mirrored:
        limbs, root = mirror_pose(vectors[:, 1:], vectors[:, 0])
        vectors = torch.cat((root[:, None], limbs), dim=1)
        shift, contact = shift * torch.tensor([-1.0, 1, 1]), contact[:, [2, 3, 0, 1]]
    posed = body(body_pose=roma.rotvec_to_rotmat(vectors[:, 1:]), betas=betas)
    mesh = posed.vertices - posed.joints[:, :1]
    return Poses(mesh[None], roma.rotvec_to_rotmat(vectors[:, 0])[None], shift[None], contact[None])


def _seen(body: BodyModel, poses: Poses, center: torch.Tensor, K: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a backbone is shown of them."""
    mesh = poses.mesh @ poses.rotation.mT + poses.translation
    pixels = project(body.landmark_regressor[:, body.body_vertices] @ mesh, K)
    detected = torch.cat((pixels, torch.linspace(0.2, 0.9, 33)[:, None].expand(1, FRAMES, 33, 2)), dim=-1)
    scale = torch.full((FRAMES,), 2.5)
    return {
        "landmarks": normalise_landmarks(detected[0], center, scale)[None],
        "bbox": bbox_condition(center, scale, K[0])[None],
        "center": center[None],
        "K": K,
    }


def test_a_mirrored_batch_shows_the_person_in_the_mirror(body: BodyModel) -> None:
    K = torch.tensor([[900.0, 0, 640], [0, 900, 360], [0, 0, 1]]).expand(1, FRAMES, 3, 3)
    center = torch.tensor([700.0, 380.0]).expand(FRAMES, 2)
    found = Mirror(body.mirror_vertices).batch(_seen(body, _pose(body, False), center, K))
    expected = _seen(body, _pose(body, True), center * torch.tensor([-1.0, 1]) + torch.tensor([1280.0, 0]), K)
    torch.testing.assert_close(found["bbox"], expected["bbox"])
    torch.testing.assert_close(found["center"], expected["center"])
    places = slice(0, 2)
    torch.testing.assert_close(
        found["landmarks"][..., places], expected["landmarks"][..., places], atol=2e-3, rtol=0
    )


def test_poses_come_back_from_the_mirror(body: BodyModel) -> None:
    own, mirror = _pose(body, False), Mirror(body.mirror_vertices)
    for found in (mirror.back(_pose(body, True)), mirror.mean(own, _pose(body, True))):
        for name, value in found._asdict().items():
            torch.testing.assert_close(value, getattr(own, name), atol=1e-3, rtol=0, msg=name)
    assert not mirror.state_dict()


def test_images_are_mirrored_with_what_was_seen_of_neighbours() -> None:
    images = {"landmarks": torch.rand(2, 33, 4), "neighbours": torch.rand(2, 3, 33, 4)}
    images["crop_imgs"] = torch.rand(2, 3, 8, 6)
    once = mirror_images(images)
    assert all(not torch.equal(once[key], images[key]) for key in images)
    torch.testing.assert_close(once["neighbours"][..., 15, 0], -images["neighbours"][..., 16, 0])  # wrists
    torch.testing.assert_close(once["landmarks"][..., 15, 2], images["landmarks"][..., 16, 2])
    assert torch.equal(once["crop_imgs"][..., 0], images["crop_imgs"][..., -1])
    assert all(torch.equal(value, images[key]) for key, value in mirror_images(once).items())


def test_recovered_is_the_mean_of_both_looks() -> None:
    system, data = make("video_train", "model.mode=full")
    system.eval()
    batch = first_batch(data)
    order = torch.arange(len(SPHERE.vertices)).flip(0)
    mirror = Mirror(order)
    once = system.recover(batch)
    again = system.recover({k: v for k, v in mirror.batch(batch).items() if k not in ("mesh", "rotation")})
    system.mirror = mirror
    both = system.recover(batch)
    sign = torch.tensor([-1.0, 1, 1])
    expected = (once.local_mesh + again.local_mesh[..., order, :] * sign) / 2
    torch.testing.assert_close(both.local_mesh, expected)
    torch.testing.assert_close(both.translation, (once.translation + again.translation * sign) / 2)
    torch.testing.assert_close(both.contact, (once.contact + again.contact[..., [2, 3, 0, 1]]) / 2)
    assert torch.equal(both.ids, once.ids)
    made = system.backbone(mirror_images(batch))  # as the demo does, once for each frame
    torch.testing.assert_close(system.recover(batch | {MIRRORED_TOKENS: made}).vertices, both.vertices)


def test_true_tokens_are_not_mirrored() -> None:
    system, data = make("video_train", "model.mode=random", "model.mask_ratio=0.5")
    system.eval()
    batch = first_batch(data)
    torch.manual_seed(0)
    once = system.recover(batch)
    system.mirror = Mirror(torch.arange(len(SPHERE.vertices)))
    torch.manual_seed(0)
    torch.testing.assert_close(system.recover(batch).vertices, once.vertices)


def test_only_symmetric_bodies_are_mirrored(body: BodyModel) -> None:
    cfg = small_config("video_train")
    assert cfg.model.test.mirror and isinstance(build_mirror(cfg, body), Mirror)
    cfg.model.task = "motion"
    assert build_mirror(cfg, body) is None
    cfg.model.task, body.mirror_vertices = "video", None
    with pytest.raises(MoroError, match="model.test.mirror=false"):
        build_mirror(cfg, body)
