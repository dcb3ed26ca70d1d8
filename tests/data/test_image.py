"""COCO, MPII, Human3.6M and MPI-INF-3DHP on small worlds in their formats (spec: data 4.3)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from models.mask_transformer.build import keypoint_regressor
from models.mask_transformer.data import image, reading
from models.mask_transformer.data.image import J2D, Augmentation, Change, ImageDataset
from models.mask_transformer.data.module import MotionDataModule, build_dataset
from models.mask_transformer.data.reading import ImageReader
from moro.config import compose_config
from moro.errors import MoroError
from moro.io.image_files import SETS, read_labels
from moro.synth.worlds import BODIES, WorldSize, make_world
from tests.data.conftest import picture_of

# SMPL joints of the first twelve 2-D points
LIMBS = [8, 5, 2, 1, 4, 7, 21, 19, 17, 16, 18, 20]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """One recording of each set: three pictures."""
    folder = tmp_path_factory.mktemp("images")
    for name in SETS:
        make_world(name, folder, 0, WorldSize(3, 1), repository / "body_models")
    return folder


@pytest.fixture(scope="module")
def cfg(out: Path) -> DictConfig:
    overrides = [f"dataset.roots.{name}={out / kind.folder}" for name, kind in SETS.items()]
    cfg = compose_config(
        "config",
        ["option=image_pretrain", f"dataset.bm_path={out / BODIES}", "dataset.batch_size=4",
         "dataset.num_workers=0", "dataset.num_workers_val=0", *overrides],
    )  # fmt: skip
    OmegaConf.set_struct(cfg, False)
    return cfg


def build(cfg: DictConfig, name: str, split: str = "train", **dataset: Any) -> ImageDataset:
    top = {key: dataset.pop(key) for key in ("compat", "debug") if key in dataset}
    return build_dataset(OmegaConf.merge(cfg, {**top, "dataset": {"name": name, **dataset}}), split)


class Fixed(Augmentation):
    """Always the same change."""

    change = Change()

    def draw(self, rng: np.random.Generator) -> Change:
        return self.change


def changed(dataset: ImageDataset, change: Change, monkeypatch: pytest.MonkeyPatch) -> ImageDataset:
    """The data set with one change for all samples and the colours left alone."""
    monkeypatch.setattr(image, "augment_colours", lambda picture, rng, rows: picture)
    monkeypatch.setattr(Fixed, "change", change)
    dataset.augmentation = Fixed()
    return dataset


def test_items_have_the_keys_of_the_specification(cfg: DictConfig) -> None:
    for name in SETS:
        item = build(cfg, name)[0]
        shapes = {
            "mesh": (1, item["mesh"].shape[1], 3), "local_joints": (1, 22, 3), "offset": (1, 1, 3),
            "root_pos": (1, 1, 3), "rotation": (1, 3, 3), "translation": (1, 1, 3), "j2d": (1, 17, 3),
            "K": (1, 3, 3), "cam2world": (1, 4, 4), "world2cano": (1, 4, 4), "center": (1, 2), "scale": (1,),
            "crop_imgs": (1, 3, 256, 256), "bbox": (1, 3),
        }  # fmt: skip
        assert {key: tuple(item[key].shape) for key in shapes} == shapes
        assert all(item[key].dtype == torch.float32 for key in shapes)
        assert set(item) == {*shapes, "img_paths", "has_transl"} and item["has_transl"] is False
        assert Path(item["img_paths"][0]).is_file()
    assert build(cfg, "coco", "val")[0]["has_transl"] is True


def test_labels_lie_on_the_picture(cfg: DictConfig, silhouette) -> None:
    for name in ("coco", "mpii"):
        dataset = build(cfg, name, "val")
        item = dataset[0]
        covered, upper = silhouette(item, dataset.body.faces, 0)
        assert covered > 0.98 and upper > 0.93
        labels = read_labels(SETS[name].smplx_labels(dataset.root))
        assert item["K"][0, 0, 0] == labels.focal[0]
        assert item["center"][0].numpy() == pytest.approx(labels.center[0])
    K = build(cfg, "h36m")[0]["K"][0]
    assert K[0, 0] == pytest.approx(np.hypot(1000, 1002)) and K[:2, 2].tolist() == [500, 501]


def distance_up_to_size_and_place(points: np.ndarray, target: np.ndarray) -> float:
    points, target = points - points.mean(0), target - target.mean(0)
    size = (points * target).sum() / (points**2).sum()
    assert size > 0.5
    return float(np.abs(size * points - target).max())


def test_the_regressor_of_the_2d_loss_gives_the_labelled_points(cfg: DictConfig, out: Path) -> None:
    paths = {"j_regressor_h36m": "J_regressor_h36m.npy", "smplx2smpl": "smplx2smpl_sparse.pt"}
    changes = {"model": {key: str(out / BODIES / name) for key, name in paths.items()}}
    dataset = build(cfg, "h36m", augment=False)
    regressor = keypoint_regressor(OmegaConf.merge(cfg, changes), dataset.body)
    item = dataset[0]
    points = (regressor @ item["mesh"][0] @ item["rotation"][0].T)[:, :2].double().numpy()
    assert distance_up_to_size_and_place(points, item["j2d"][0, :, :2].double().numpy()) < 0.12


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("degrees", [0.0, 40.0, -55.0])
def test_pose_points_and_picture_change_together(
    cfg: DictConfig, monkeypatch: pytest.MonkeyPatch, flip: bool, degrees: float
) -> None:
    change = Change(flip=flip, degrees=degrees, zoom=1.15, shift=(0.05, -0.04))
    item = changed(build(cfg, "h36m"), change, monkeypatch)[1]
    # the turned (and mirrored) body, seen from afar, is at the 2-D points up to size and place
    joints = (item["local_joints"] @ item["rotation"].mT)[0, LIMBS, :2].double().numpy()
    points, seen = item["j2d"][0, :12, :2].double().numpy(), item["j2d"][0, :12, 2].numpy() > 0
    assert distance_up_to_size_and_place(joints, points) < 0.1
    # and the points that are seen lie on the person of the crop
    picture = picture_of(item, 0)
    orange = picture[..., 0] - picture[..., 2] > 40
    for x, y in np.round((points[seen] + 1) * 128).astype(int):
        assert orange[y - 4 : y + 5, x - 4 : x + 5].any()
    assert seen.sum() >= 8


def test_points_are_whole_pixels_of_the_crop(cfg: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = changed(build(cfg, "coco"), Change(degrees=25.0, zoom=0.9), monkeypatch)
    item, labels = dataset[2], dataset.labels
    center, side = labels.center[2], 200 * labels.scale[2] * 0.9
    shift = 128 - 256 * center / side
    affine = np.array([[256 / side, 0, shift[0]], [0, 256 / side, shift[1]]])
    angle = np.radians(-25.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = labels.keypoints[2][list(J2D)]
    pixels = affine[:, :2] @ points[:, :2].T + affine[:, 2:]
    pixels = np.trunc(turn @ (pixels - 128) + 128) + 1
    assert item["j2d"][0, :, :2].numpy() == pytest.approx(2 * pixels.T / 256 - 1, abs=1e-6)
    assert (item["j2d"][0, :, 2].numpy() == points[:, 2]).all()


def test_box_condition(cfg: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    change = Change(flip=True, zoom=1.2, shift=(0.1, 0.0))
    published, meant = (
        changed(build(cfg, "coco", compat=compat), change, monkeypatch)[0] for compat in (True, False)
    )
    labels, w, h = read_labels(SETS["coco"].smplx_labels(Path(cfg.dataset.roots.coco))), 640, 480
    side = 200 * labels.scale[0]
    x, y = labels.center[0] + [0.1 * side, 0]
    expected = np.array([-(x - w / 2), y - h / 2, side]) / np.hypot(w, h)
    assert published["bbox"][0].numpy() == pytest.approx(expected, rel=1e-5)
    assert published["center"][0].tolist() == pytest.approx([x, y])
    assert published["scale"][0] == pytest.approx(side / 200)
    assert meant["bbox"][0].numpy() == pytest.approx(expected * [1, 1, 1.2], rel=1e-5)
    assert meant["center"][0].tolist() == pytest.approx([w - x, y])
    assert meant["scale"][0] == pytest.approx(1.2 * side / 200)
    assert meant["translation"][0, 0, 0] == -published["translation"][0, 0, 0]


def test_draws() -> None:
    rng = np.random.default_rng(0)
    draws = [Augmentation().draw(rng) for _ in range(4000)]
    for values, share in (([d.flip for d in draws], 0.5), ([d.degrees != 0 for d in draws], 0.6),
                          ([d.level == 2 for d in draws], 0.1)):  # fmt: skip
        assert np.mean(values) == pytest.approx(share, abs=0.03)
    assert max(abs(d.degrees) for d in draws) == 60 and min(d.zoom for d in draws) == pytest.approx(0.7)
    assert max(abs(part) for d in draws for part in d.shift) == pytest.approx(0.1)
    assert not any(replace(Augmentation(), flip_prob=0.0).draw(rng).flip for _ in range(50))


def test_training_items_depend_on_epoch_and_index_alone(cfg: DictConfig) -> None:
    first, again = (build(cfg, "coco") for _ in range(2))
    a, b, other = first[3, 1], again[3, 1], again[4, 1]
    assert torch.equal(a["crop_imgs"], b["crop_imgs"]) and torch.equal(a["j2d"], b["j2d"])
    assert not torch.equal(a["center"], other["center"])
    plain = build(cfg, "coco", augment=False)
    assert torch.equal(plain[0, 1]["crop_imgs"], plain[7, 1]["crop_imgs"])


def test_body_part_crops(cfg: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = changed(build(cfg, "coco"), Change(level=2), monkeypatch)
    whole = dataset.labels.scale[1]  # the person nobody hides
    boxes = {(round(float(item["scale"][0]), 4)) for item in (dataset[epoch, 1] for epoch in range(8))}
    assert len(boxes) > 1 and min(boxes) < 0.8 * whole


def test_unreadable_images(cfg: DictConfig, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = build(cfg, "coco")
    dataset.labels.imgname[0] = "train2014/none.jpg"
    item = dataset[0]
    assert item["crop_imgs"].amax() < 0 and torch.isfinite(item["bbox"]).all()
    assert dataset.reader.report() == "1 of 1 images could not be read and became black crops"
    strict = build(cfg, "coco", max_unreadable=0)
    strict.labels.imgname[0] = "train2014/none.jpg"
    with pytest.raises(MoroError, match="cannot read the image .*none.jpg"):
        strict[0]
    monkeypatch.setattr(reading, "GRACE", 1)
    with pytest.raises(MoroError, match="2 of 2 images could not be read.*dataset.max_unreadable"):
        dataset[0]


class Missing(torch.utils.data.Dataset):
    """Images that are not there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.reader = folder, ImageReader()

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        return int(self.reader.load(self.folder / f"{index}.jpg") is None)


def test_counts_are_those_of_all_processes(tmp_path: Path) -> None:
    dataset = Missing(tmp_path)
    assert sum(int(batch.sum()) for batch in DataLoader(dataset, 1, num_workers=2)) == 6
    assert dataset.reader.unreadable == dataset.reader.read_so_far == 6


def test_missing_files_are_named_at_once(cfg: DictConfig, tmp_path: Path) -> None:
    changes = {"dataset": {"roots": {name: str(tmp_path / name) for name in SETS}}}
    with pytest.raises(MoroError) as error:
        MotionDataModule(OmegaConf.merge(cfg, changes)).datasets("train")
    assert all(f"{kind.stem}_smplx.npz not found" in str(error.value) for kind in SETS.values())
    assert "process_hmr_smplx" in str(error.value)
    kind = SETS["coco"]
    target = kind.smplx_labels(tmp_path)
    target.write_bytes(kind.smplx_labels(Path(cfg.dataset.roots.coco)).read_bytes())
    with pytest.raises(MoroError, match=r"coco at .* train2014 \(images\)"):
        build(cfg, "coco", dataset_root=str(tmp_path))
    with np.load(target) as file:
        fields = dict(file)
    damaged = {"part": fields["part"][:, :20], "scale": fields["scale"][1:], "pose": fields["pose"] * np.nan}
    for key, wrong in damaged.items():
        np.savez(target, **(fields | {key: wrong}))
        with pytest.raises(MoroError, match=f"holds no labels of images.*{key}"):
            read_labels(target)


def test_other_names_of_the_fields(cfg: DictConfig, tmp_path: Path) -> None:
    source = SETS["coco"].smplx_labels(Path(cfg.dataset.roots.coco))
    with np.load(source) as file:
        fields = dict(file)
    pose, part, shape = (fields.pop(key) for key in ("pose", "part", "shape"))
    other = {"root_orient": pose[:, :3], "pose_body": pose[:, 3:66], "j2d": part, "betas": shape}
    np.savez(tmp_path / "a.npz", **fields, **other)
    a, b = read_labels(tmp_path / "a.npz"), read_labels(source)
    assert (a.pose == b.pose).all() and (a.keypoints == b.keypoints).all() and (a.betas == b.betas).all()


def test_splits_and_shares(cfg: DictConfig) -> None:
    for name in ("h36m", "mpi_inf_3dhp"):
        with pytest.raises(MoroError, match=f"{name} is a training set"):
            build(cfg, name, "val")
    assert len(build(cfg, "coco", proportion=0.5)) == len(build(cfg, "coco")) / 2 == 3
    with pytest.raises(MoroError, match="leave no samples"):
        build(cfg, "coco", proportion=0.0)


def test_stage_three_loads_all_four(cfg: DictConfig) -> None:
    data = MotionDataModule(cfg)
    batch = next(iter(data.train_dataloader()))
    assert batch["crop_imgs"].shape == (4, 1, 3, 256, 256) and batch["j2d"].shape == (4, 1, 17, 3)
    sizes = [len(member) for member in data.datasets("train")]
    assert sizes == [6, 3, 3, 6] and cfg.dataset.sub_datasets == ["coco", "h36m", "mpi_inf_3dhp", "mpii"]
    assert [len(loader.dataset) for loader in data.val_dataloader()] == [6, 6]  # coco and mpii
