"""BEDLAM's loader on a small world in its format, and the making of its label files."""

import functools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.mask_transformer.data import bedlam as module
from models.mask_transformer.data import items
from models.mask_transformer.data.bedlam import BedlamDataset, Settings, scene_names
from models.mask_transformer.data.module import collate
from moro.body.model import BodyModel
from moro.errors import MoroError
from moro.geometry.camera import project
from moro.geometry.rotation import rotvec_to_matrix
from moro.io.bedlam_files import LABELS, SCENE_NAMES, label_file, read_tracks, write_tracks
from moro.io.scenes import write_image
from moro.synth.worlds import bedlam as world_of
from scripts.preprocess import process_bedlam_labels

F = 3
load_once = functools.cache(module.load_body_model)
CLOSEUP, PITCHED = world_of.TRAIN[:2]


@pytest.fixture(scope="module", autouse=True)
def _one_body() -> Iterator[None]:
    """Most of what a data set costs here is the reading of its body."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_body_model", load_once)
        yield


@pytest.fixture(scope="module")
def bedlam(world):
    return world("bedlam")


@pytest.fixture(scope="module")
def train(bedlam) -> BedlamDataset:
    """As it was meant, without augmentation; clips of both scenes, person 0 first."""
    return bedlam.build("train", compat=False, extreme_crop_aug=False)


@pytest.fixture
def copy(bedlam, tmp_path: Path) -> Path:
    """A world of its own that a test may damage."""
    return shutil.copytree(bedlam.root, tmp_path / "BEDLAM")


def clip_of(dataset: BedlamDataset, scene: str, person: int = 0) -> int:
    """Number of the first clip of a person."""
    names = [f"{dataset.scenes[number].name} {track}" for number, track, _ in dataset.clips]
    return names.index(f"{scene} {person}")


def joints_of(item: dict) -> torch.Tensor:
    return item["local_joints"] @ item["rotation"].mT + item["translation"]


# ------------------------------------------------------------------------------------------------- items


def test_items_have_the_keys_of_the_specification(bedlam) -> None:
    item = bedlam.build("train")[0]
    shapes = {
        "mesh": (F, item["mesh"].shape[1], 3), "local_joints": (F, 22, 3), "offset": (F, 1, 3),
        "root_pos": (F, 1, 3), "rotation": (F, 3, 3), "translation": (F, 1, 3), "contact_label": (F - 1, 4),
        "K": (F, 3, 3), "dist_coeffs": (8,), "cam2world": (F, 4, 4), "world2cano": (1, 4, 4),
        "center": (F, 2), "scale": (F,), "crop_imgs": (F, 3, 256, 256), "bbox": (F, 3),
    }  # fmt: skip
    assert {key: tuple(item[key].shape) for key in shapes} == shapes
    assert all(item[key].dtype == torch.float32 for key in shapes)
    rest = {key: item[key] for key in item if key not in shapes and key != "img_paths"}
    assert rest == {
        "body_idx": "rp_person0_posed_000", "seq_name": CLOSEUP.scene, "has_transl": True, "true_params": True
    }  # fmt: skip
    assert [Path(path).name for path in item["img_paths"]] == [f"seq_000000_000{n}.png" for n in range(F)]
    assert item["world2cano"][0, 1:3, 1:3].tolist() == [[0, 1], [-1, 0]]
    assert "contact_label" not in bedlam.build("train", clip_len=1, overlap_len=0)[0]
    assert collate([bedlam.build("train")[n] for n in (0, 1)])["crop_imgs"].shape == (2, F, 3, 256, 256)


@pytest.mark.parametrize("view", [CLOSEUP, PITCHED], ids=lambda view: view.scene)
def test_labels_lie_on_the_picture(train: BedlamDataset, silhouette, view) -> None:
    item = train[clip_of(train, view.scene)]
    for frame in (0, 2):
        covered, upper = silhouette(item, train.body.faces, frame)
        assert covered > 0.99 and upper > 0.97
    wrong = {**item, "K": item["K"].clone()}
    wrong["K"][:, 0, 2] += 8  # the test notices a shift of a few pixels in the crop
    assert silhouette(wrong, train.body.faces, 0)[0] < 0.99


def test_the_world_is_level(train: BedlamDataset) -> None:
    """y down, the floor at y = 0 under the person; the frame of the networks z up."""
    for view in (CLOSEUP, PITCHED):
        item = train[clip_of(train, view.scene)]
        c2w, cano = item["cam2world"], item["world2cano"][0]
        world = joints_of(item) @ c2w[:, :3, :3].mT + c2w[:, None, :3, 3]
        up = (world @ cano[:3, :3].T)[..., 2]
        assert 0 < up.min() < 0.12 and up.max() > 1


def test_boxes_are_measured_from_the_image_centre(train: BedlamDataset) -> None:
    item = train[clip_of(train, CLOSEUP.scene)]
    middle = torch.tensor([720.0, 1280.0]) / 2
    focal = item["K"][:, 0, 0]
    torch.testing.assert_close(item["bbox"][:, :2], (item["center"] - middle) / focal[:, None])
    torch.testing.assert_close(item["bbox"][:, 2], 200 * item["scale"] / focal)
    pixels = project(joints_of(item), item["K"])
    assert ((pixels - item["center"][:, None]).abs() < 100 * item["scale"][:, None, None]).all()


def test_intrinsics_are_those_of_each_frame(train: BedlamDataset) -> None:
    """Cameras may zoom."""
    scene = train.scenes[0]
    arrays = {key: array.copy() for key, array in scene.tracks.arrays.items()}
    arrays["cam_int"][:F, 0, 0] = arrays["cam_int"][:F, 1, 1] = (900, 1000, 1100)
    scene = replace(scene, tracks=replace(scene.tracks, arrays=arrays))
    item = BedlamDataset([scene], train.body, "train", Settings(clip_len=F, compat=False))[0]
    assert item["K"][:, 1, 1].tolist() == [900, 1000, 1100]
    torch.testing.assert_close(item["bbox"][:, 2], 200 * item["scale"] / item["K"][:, 0, 0])


def test_training_items_depend_on_epoch_and_index_alone(bedlam, train: BedlamDataset) -> None:
    first, again = (bedlam.build("train", extreme_crop_aug_prob=1.0) for _ in range(2))
    stored = {key: value.copy() for key, value in first.scenes[0].tracks.arrays.items()}
    a, b, other = first[3, 0], again[3, 0], again[4, 0]
    assert torch.equal(a["center"], b["center"]) and torch.equal(a["crop_imgs"], b["crop_imgs"])
    assert not torch.equal(a["center"], other["center"])
    assert torch.equal(first[3, 0]["center"], a["center"])  # visits leave no trace (spec: data D8)
    for key, value in stored.items():
        np.testing.assert_array_equal(first.scenes[0].tracks.arrays[key], value)
    assert (a["center"] >= 0).all() and (a["center"] <= torch.tensor([719.0, 1279.0])).all()
    plain, jittered = train[0, 0], bedlam.build("train", extreme_crop_aug_prob=0.0)[0, 0]
    np.testing.assert_array_equal(plain["center"], stored["center"][:F])
    shift = (jittered["center"] - plain["center"]).abs() / (200 * plain["scale"][:, None])
    assert 0 < shift.max() <= 0.1 + 1e-6 and torch.equal(jittered["scale"], plain["scale"])


def test_one_body_forward_per_item(bedlam, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, calls, forward = bedlam.build("train", extreme_crop_aug_prob=1.0), [], BodyModel.forward
    monkeypatch.setattr(BodyModel, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    dataset[0]
    assert len(calls) == 1


@pytest.mark.parametrize("compat", [False, True])
def test_joints_of_the_filter_and_of_the_contact_labels(
    bedlam, monkeypatch: pytest.MonkeyPatch, compat: bool
) -> None:
    """Spec: data D6. The original mixes the world's orientation with a position in the camera frame."""
    dataset = bedlam.build("train", compat=compat)
    index = clip_of(dataset, PITCHED.scene)
    number, track, start = dataset.clips[index]
    labels = {key: torch.from_numpy(array[start : start + F])
              for key, array in dataset.scenes[number].tracks.arrays.items()}  # fmt: skip
    pose = rotvec_to_matrix(labels["pose_cam"].reshape(F, 22, 3))
    orient = rotvec_to_matrix(labels["pose_world"]) if compat else pose[:, 0]
    transl = labels["trans_cam"] + labels["cam_ext"][:, :3, 3]
    joints = dataset.body(pose[:, 1:], labels["shape"], orient, transl).joints
    pixels = project(joints, labels["cam_int"])
    inside = ((pixels >= 0) & (pixels < torch.tensor([1280, 720]))).all(-1).sum(-1)
    key = "compat" if compat else "true"
    np.testing.assert_array_equal(dataset.scenes[number].inside[key][start : start + F], inside)
    seen: list[torch.Tensor] = []
    original = items.contact_labels
    monkeypatch.setattr(items, "contact_labels", lambda j, *rest: seen.append(j) or original(j, *rest))
    item = dataset[index]
    c2w = item["cam2world"]
    torch.testing.assert_close(
        seen[0], joints @ c2w[:, :3, :3].mT + c2w[:, None, :3, 3], atol=1e-4, rtol=0
    )
    off = (joints - joints_of(item)).norm(dim=-1).max()
    assert off > 0.3 if compat else off < 1e-4


# ------------------------------------------------------------------------------------------------- clips


def test_clips_of_tracks(bedlam) -> None:
    """Person 0 is seen in all five frames, person 1 in three and, after a gap, in one."""

    def clips(**dataset: object) -> list[tuple[int, int]]:
        built = bedlam.build("train", compat=False, **dataset)
        first = built.scenes[0].tracks.first
        return [(int(track), int(start - first[track])) for n, track, start in built.clips if n == 0]

    assert clips() == [(0, 0), (0, 2), (1, 0)]
    assert clips(skip=2) == [(0, 0), (1, 0)]
    assert clips(clip_len=1, overlap_len=0, skip=5) == [(0, 0), (1, 0), (2, 0)]
    assert clips(clip_len=5, overlap_len=0) == [(0, 0)]
    with pytest.raises(MoroError, match="no train clip of 9 frames"):
        clips(clip_len=9)


def test_clips_are_kept_with_joints_in_the_picture(train: BedlamDataset) -> None:
    scene = train.scenes[0]

    def kept(*inside: int) -> int:
        counts = np.array([*inside, *[0] * (scene.tracks.first[-1] - len(inside))], np.int8)
        changed = replace(scene, inside={"true": counts, "compat": counts})
        dataset = BedlamDataset([changed, scene], train.body, "train", Settings(clip_len=5, compat=False))
        return int((dataset.clips[:, 0] == 0).sum())

    assert kept(22, 16, 0, 16, 16) == 1  # 80 %
    assert kept(22, 16, 15, 16, 15) == 0


def test_splits() -> None:
    assert len(scene_names("train", 1)) == 25 and len(scene_names("train", 60)) == 16
    assert not any(name.startswith(("orbit", "zoom")) for name in scene_names("train", 2))
    assert scene_names("val", 60) == scene_names("test", 1) == ["static-gym-hair"]


def test_scenes_of_a_split(bedlam, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        names = [scene.name for scene in bedlam.build("train", compat=False).scenes]
    assert names == [CLOSEUP.scene, PITCHED.scene]
    assert "is without static-hdri, closeup-suburbb" in caplog.text
    assert [scene.name for scene in bedlam.build("val").scenes] == ["static-gym-hair"]
    assert [scene.name for scene in bedlam.build("test", debug=True).scenes] == [CLOSEUP.scene]


def test_results_of_a_track_belong_together(bedlam) -> None:
    dataset = bedlam.build("test", compat=False, clip_len=2, overlap_len=0)
    names = [dataset._sequence_name(index) for index in range(len(dataset))]
    tracks = [f"static-gym-hair/track_0000{track}_00000" for track in (0, 0, 1)]
    assert names == tracks and dataset[0]["seq_name"] == tracks[0]
    dataset.clips = dataset.clips[[0, 0, 2]] + [[0, 0, 0], [0, 0, 4], [0, 0, 0]]  # a clip between left out
    assert dataset._sequence_name(1) == "static-gym-hair/track_00000_00004"


# ------------------------------------------------------------------------------------------------- files


def test_missing_files_are_named_at_once(bedlam, copy: Path) -> None:
    shutil.rmtree(copy / "images" / CLOSEUP.folder)
    label_file(copy, PITCHED.folder).unlink()
    with pytest.raises(MoroError) as error:
        bedlam.build("train", root=copy)
    text = str(error.value)
    assert f"{CLOSEUP.scene} (images/{CLOSEUP.folder}/png)" in text
    assert f"{PITCHED.scene} (processed_labels/{PITCHED.folder}.pkl)" in text
    (copy / SCENE_NAMES).unlink()
    with pytest.raises(MoroError, match="a file of BEDLAM's repository"):
        bedlam.build("train", root=copy)
    with pytest.raises(MoroError, match="not found at"):
        bedlam.build("train", root=copy / "nowhere")


def test_unreadable_and_wrong_images(bedlam, train: BedlamDataset, copy: Path) -> None:
    folder = copy / "images" / CLOSEUP.folder / "png" / "seq_000000"
    (folder / "seq_000000_0001.png").write_bytes(b"no picture")
    dataset = bedlam.build("train", root=copy, compat=False, extreme_crop_aug=False)
    crops, whole = dataset[0]["crop_imgs"], train[0]["crop_imgs"]
    assert dataset.reader.unreadable == 1
    assert torch.equal(crops[[0, 2]], whole[[0, 2]]) and crops[1].amax() < 0
    upright = np.zeros((1280, 720, 3), np.uint8)
    write_image(folder / "seq_000000_0000.png", upright)
    with pytest.raises(MoroError, match="is 1280x720 pixels but its camera has 720x1280"):
        dataset[0]


def test_cache_follows_the_labels(bedlam, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"root": copy, "compat": False, "extreme_crop_aug": False, "debug": True}
    before = bedlam.build("train", **options)[0]
    cache = copy.parent / "bedlam_preprocess" / f"{CLOSEUP.folder}.npz"
    assert cache.is_file()
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_tracks", lambda path: pytest.fail("read again"))
        kept = bedlam.build("train", **options)[0]
        assert torch.equal(kept["translation"], before["translation"])
        assert kept["img_paths"] == before["img_paths"] and kept["body_idx"] == before["body_idx"]
    path = label_file(copy, CLOSEUP.folder)
    tracks = [{key: [value + 0.5 if key == "trans_cam" else value for value in values]
               for key, values in track.items()} for track in tracks_in(path)]  # fmt: skip
    write_tracks(path, tracks)
    after = bedlam.build("train", **options)[0]
    torch.testing.assert_close(after["translation"], before["translation"] + 0.5)
    cache.write_bytes(b"damaged")
    assert torch.equal(bedlam.build("train", **options)[0]["translation"], after["translation"])


def tracks_in(path: Path) -> list[dict[str, list]]:
    content = module.read_tracks(path)
    parts = list(zip(content.first[:-1], content.first[1:]))
    return [
        {key: list(array[start:stop]) for key, array in content.arrays.items()}
        | {"imgname": [name.decode() for name in content.images[start:stop]],
           "sub": [content.subjects[number]] * (stop - start)}
        for number, (start, stop) in enumerate(parts)
    ]  # fmt: skip


def test_damaged_labels_are_explained(bedlam, copy: Path) -> None:
    path = label_file(copy, CLOSEUP.folder)
    tracks = tracks_in(path)
    write_tracks(path, [{**tracks[0], "cam_int": tracks[0]["cam_int"][:-1]}, *tracks[1:]])
    with pytest.raises(MoroError, match="cam_int does not fit imgname"):
        read_tracks(path)
    write_tracks(path, [{**tracks[0], "pose_cam": [pose[:60] for pose in tracks[0]["pose_cam"]]}])
    with pytest.raises(MoroError, match=r"pose_cam is \[60\] per frame instead of \[66\]"):
        read_tracks(path)
    write_tracks(path, [])
    with pytest.raises(MoroError, match="holds no labels"):
        read_tracks(path)


# ----------------------------------------------------------------------------------------- label files


def words(bedlam, root: Path, labels: Path | None = None) -> list[str]:
    source = labels or bedlam.root.parent / world_of.LABELS
    return ["--labels", str(source), "--root", str(root), "--jobs", "1"]


def test_label_files_are_made_of_generated_labels(
    bedlam, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(copy / "processed_labels")
    with caplog.at_level("INFO"):
        process_bedlam_labels.main(words(bedlam, copy))
    assert "3 label files written with 9 tracks of 27 frames" in caplog.text
    for view in (CLOSEUP, PITCHED, world_of.HELD_OUT):
        made, expected = (read_tracks(label_file(root, view.folder)) for root in (copy, bedlam.root))
        assert made.first.tolist() == expected.first.tolist() == [0, 5, 8, 9]
        for key in LABELS:
            np.testing.assert_array_equal(made.arrays[key], expected.arrays[key])
        assert made.images.tolist() == expected.images.tolist()
        assert made.subjects.tolist() == expected.subjects.tolist()
    label_file(copy, CLOSEUP.folder).unlink()
    with caplog.at_level("INFO"):
        process_bedlam_labels.main(words(bedlam, copy))
    assert "1 label files written with 3 tracks of 9 frames, 2 were there" in caplog.text


def test_labels_may_be_mixed_but_not_thinned_out(bedlam, tmp_path: Path) -> None:
    source = bedlam.root.parent / world_of.LABELS / f"{CLOSEUP.folder}_30fps.npz"
    with np.load(source) as file:
        columns = dict(file)
    whole = [columns["imgname"][track].tolist() for track in process_bedlam_labels.tracks_of(columns, source)]
    order = np.argsort(columns["imgname"], kind="stable")  # image by image
    mixed = {key: column[order] for key, column in columns.items()}
    tracks = process_bedlam_labels.tracks_of(mixed, source)
    assert [mixed["imgname"][track].tolist() for track in tracks] == whole
    assert all(len(set(mixed["sub"][track])) == 1 for track in tracks)
    twice = {key: np.concatenate([column, column]) for key, column in columns.items()}  # a double
    assert len(process_bedlam_labels.tracks_of(twice, source)) == 2 * len(whole)
    names = [f"seq_000000/seq_000000_{5 * frame:04d}.png" for frame in range(4)]
    with pytest.raises(MoroError, match="labels of every 5th image; make them at 30"):
        process_bedlam_labels.tracks_of({"imgname": np.array(names), "sub": np.array(["a"] * 4)}, source)
    (tmp_path / "bad.npz").write_bytes(b"no")
    with pytest.raises(MoroError, match="holds no labels of BEDLAM"):
        process_bedlam_labels.main(words(bedlam, tmp_path, tmp_path))
    with pytest.raises(MoroError, match="has no npz files"):
        process_bedlam_labels.main(words(bedlam, tmp_path, tmp_path / "none"))
