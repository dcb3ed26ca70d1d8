"""Open training data from end to end: process_mocap on generated motion, then the data set."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import roma
import torch

from models.mask_transformer.data.items import BodyParameters, local_body, parameters_from_arrays
from models.mask_transformer.data.open_motion import (
    DRAW_EPOCHS,
    OpenMotionDataset,
    WorldRanges,
    build,
    read_motions,
    sampling_probability,
    training_world,
)
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.config import compose_config
from moro.errors import MoroError
from moro.geometry.camera import project
from moro.geometry.trajectory import stats_from_clips
from moro.synth.dataset_files import cmu_trial, read_amass_folder, split_of
from moro.synth.landmarks import CROWDED, EXACT
from scripts.preprocess import process_mocap


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Many small operations: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def body(repository: Path) -> BodyModel:
    return load_body_model(repository / "body_models", "open")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Two captured clips, one of them without rotations, and a T-pose."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    vectors = np.cumsum(rng.normal(0, 0.01, (40, 22, 3)), axis=0).astype(np.float32)
    vectors[:, [16, 17], 2] += [-1.2, 1.2]
    offsets = rng.normal(0, 0.2, (22, 3))
    from moro.body.skeleton import global_rotations
    from moro.synth.skeleton import joint_positions

    rotations = global_rotations(roma.rotvec_to_rotmat(torch.from_numpy(vectors)))
    joints = joint_positions(rotations, torch.from_numpy(offsets).float(), torch.ones(40, 3)).numpy()
    np.savez(
        folder / "lab.npz",
        **{
            "cmuB_77_03/joints": joints,
            "cmuB_77_03/pose_aa": vectors,
            "cmuC_077_04/joints": joints,
            "bind/joints": joints,
            "bind/pose_aa": np.zeros_like(vectors),
            "secret_1/joints": joints,
            "secret_1/pose_aa": vectors,
        },
    )
    (folder / "lab.json").write_text(json.dumps({"clips": [{"name": "cmuB_77_03", "action": "walking"}]}))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory, repository: Path, source: Path) -> Path:
    out = tmp_path_factory.mktemp("open")
    arguments = ["--output", str(out), "--bm_path", str(repository / "body_models"), "--generated", "24"]
    process_mocap.main([*arguments, "--source", str(source), "--exclude", "secret"])
    return out


def _dataset(root: Path, body: BodyModel, split: str = "train", **options) -> OpenMotionDataset:
    return OpenMotionDataset(root, split, body, **{"clip_len": 20, "camera": True, **options})


def test_files_are_in_the_specified_layout(root: Path, body: BodyModel) -> None:
    rows = json.loads((root / "motion/index.json").read_text())["clips"]
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    captured = [row for row in rows if row["path"].startswith("lab/")]
    assert [(row["trial"], row["family"]) for row in captured] == [("cmu_77_03", "walk")]
    row = next(row for row in rows if "walk" in row["path"])
    pose = np.load(root / "motion/pose_data_fps_30" / row["path"])
    smpl = np.load(root / "motion/smpl_data_fps_30" / row["path"])
    assert pose.shape == (row["frames"], 25, 3) and smpl.shape == (row["frames"], 178)
    assert pose.dtype == smpl.dtype == np.float32
    parameters = parameters_from_arrays(
        {
            "global_orient": smpl[:, :3],
            "transl": smpl[:, 3:6],
            "betas": smpl[:, 6:16],
            "body_pose": smpl[:, 16:79],
        }
    )
    joints = body(
        parameters.body_pose, parameters.betas, parameters.global_orient, parameters.transl
    ).full_joints
    np.testing.assert_allclose(joints[:, :25].numpy(), pose, atol=1e-4)


def test_tokenizer_files_have_the_specified_fields(root: Path, body: BodyModel) -> None:
    for split in ("train", "val", "test"):
        with np.load(root / f"tokenizer/{split}.npz", allow_pickle=False) as arrays:
            count = len(arrays["name"])
            assert count > 0 and set(arrays["gender"]) == {"neutral"}
            shapes = {key: arrays[key].shape for key in ("pose_body", "root_orient", "betas")}
            assert shapes == {"pose_body": (count, 63), "root_orient": (count, 3), "betas": (count, 10)}
            assert all(arrays[key].dtype == np.float64 for key in shapes)
            assert (np.abs(arrays["betas"]) <= body.beta_limit.numpy() + 1e-6).all()


def test_splits_follow_the_source_trial() -> None:
    assert cmu_trial("cmuB_01_05") == cmu_trial("cmuC_001_05") == "cmu_01_05"
    assert cmu_trial("m2m_Sit") is None
    shares = [split_of(f"trial {number}") for number in range(2000)]
    assert 0.76 < shares.count("train") / 2000 < 0.84 and 0.07 < shares.count("val") / 2000 < 0.13


def test_published_splits_do_not_overlap(repository: Path) -> None:
    splits = json.loads((repository / "docs/splits_open.json").read_text())
    names = [name for split in splits.values() for name in split]
    assert len(names) == len(set(names)) and set(splits) == {"train", "val", "test"}
    for split, members in splits.items():
        assert all(split_of(cmu_trial(name)) == split for name in members if cmu_trial(name))


def test_local_mesh_equals_the_posed_body(body: BodyModel) -> None:  # spec: data 12.1 no. 3
    parameters = BodyParameters(
        roma.random_rotmat(3),
        roma.rotvec_to_rotmat(0.3 * torch.randn(3, 21, 3)),
        torch.randn(3, 10),
        torch.randn(3, 3),
    )
    item = local_body(body, parameters)
    posed = body(parameters.body_pose, parameters.betas, parameters.global_orient, parameters.transl)
    torch.testing.assert_close(item.place(item.output.vertices), posed.vertices, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(item.joints(), posed.joints, atol=1e-5, rtol=1e-4)
    transform = torch.eye(4)
    transform[:3, :3], transform[:3, 3] = roma.random_rotmat(), torch.tensor([1.0, 2, 3])
    moved = item.moved(transform).joints()
    torch.testing.assert_close(
        moved, posed.joints @ transform[:3, :3].T + transform[:3, 3], atol=1e-5, rtol=1e-4
    )


def test_training_items_have_the_contract_keys(root: Path, body: BodyModel) -> None:
    sample = _dataset(root, body)[(1, 0)]
    V = body.num_vertices
    shapes = {key: tuple(value.shape) for key, value in sample.items() if isinstance(value, torch.Tensor)}
    assert shapes == {
        "mesh": (20, V, 3), "local_joints": (20, 22, 3), "offset": (20, 1, 3), "root_pos": (20, 1, 3),
        "rotation": (20, 3, 3), "translation": (20, 1, 3), "contact_label": (19, 4), "K": (20, 3, 3),
        "center": (20, 2), "scale": (20,), "bbox": (20, 3), "cam2world": (20, 4, 4), "world2cano": (1, 4, 4),
        "landmarks": (20, 33, 4), "joint_visible": (20, 22), "detected": (20,), "image_size": (20, 2),
        "standing": (20, 4),
    }  # fmt: skip
    assert torch.equal(sample["standing"][:-1], sample["contact_label"])
    assert sample["landmarks"].dtype == torch.float32 and sample["seq_name"] == "train"
    motion = _dataset(root, body, camera=False)[0]
    assert set(motion) == {
        "mesh", "local_joints", "offset", "root_pos", "rotation", "translation", "contact_label",
    }  # fmt: skip
    assert "contact_label" not in _dataset(root, body, clip_len=1)[0]


def test_landmarks_lie_on_the_person(root: Path, body: BodyModel) -> None:
    dataset = _dataset(root, body)
    distances = []
    for index in range(12):
        sample = dataset[index]
        joints = sample["local_joints"] @ sample["rotation"].mT + sample["translation"]
        wrist = project(joints, sample["K"])[:, 20]
        seen = sample["landmarks"][:, 15]
        pixels = seen[:, :2] * 100 * sample["scale"][:, None] + sample["center"]
        good = (seen[:, 2] > 0.9) & sample["joint_visible"][:, 20]
        distances.append(((pixels - wrist).norm(dim=-1) / (200 * sample["scale"]))[good])
    assert torch.cat(distances).median() < 0.05


def test_items_depend_on_seed_epoch_and_index_only(root: Path, body: BodyModel) -> None:
    first, second = _dataset(root, body), _dataset(root, body)
    second[(4, 7)]
    for key, value in first[(2, 3)].items():
        other = second[(2, 3)][key]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    assert not torch.equal(first[(2, 3)]["rotation"], first[(3, 3)]["rotation"])
    other_seed = _dataset(root, body, seed=5)
    assert not torch.equal(first[0]["K"], other_seed[0]["K"]) or not torch.equal(
        first[0]["rotation"], other_seed[0]["rotation"]
    )


def test_person_stands_on_the_floor_with_any_shape(root: Path, body: BodyModel) -> None:
    dataset = _dataset(root, body, camera=False, clip_len=8)
    lowest = []
    for index in range(15):
        sample = dataset[index]
        world = sample["mesh"] @ sample["rotation"].mT + sample["translation"]
        lowest.append(world[..., 2].min())
    assert np.median(np.abs(lowest)) < 0.03


def test_short_motions_are_played_back_and_forth(root: Path, body: BodyModel) -> None:
    dataset = _dataset(root, body, clip_len=400, camera=False)
    rotation, translation = dataset[0]["rotation"], dataset[0]["translation"]
    assert rotation.shape == (400, 3, 3)
    assert (translation[1:] - translation[:-1]).norm(dim=-1).max() < 0.2
    statistics = stats_from_clips(dataset.trajectory_clips())
    assert statistics.std.min() > 1e-6


def test_test_windows_join_to_whole_sequences(root: Path, body: BodyModel) -> None:
    windows = _dataset(root, body, "test", clip_len=50, overlap_len=10)
    whole = _dataset(root, body, "test", clip_len=2000)
    by_name: dict[str, list[dict]] = {}
    for index in range(len(windows)):
        by_name.setdefault(windows[index]["seq_name"], []).append(windows[index])
    for index in range(len(whole)):
        sample = whole[index]
        parts = by_name[sample["seq_name"]]
        joined = torch.cat([part["landmarks"][0 if n == 0 else 10 :] for n, part in enumerate(parts)])
        assert torch.equal(joined, sample["landmarks"])
        assert parts[0]["contact_label"].shape[0] == len(parts[0]["mesh"]) - 1
        assert len(sample["img_paths"]) == len(sample["mesh"])


def test_validation_is_fixed_and_balanced_sampling_is_fair(root: Path, body: BodyModel) -> None:
    dataset = _dataset(root, body, "val")
    first, again = dataset[0], dataset[(9, 0)]
    assert torch.equal(first["landmarks"], again["landmarks"]) and first["seq_name"] == "val"
    motions = read_motions(root, "train")
    probability = sampling_probability(motions)
    assert probability.sum() == pytest.approx(1)
    assert len(read_motions(root, "train", 0.5)) == round(0.5 * len(motions))
    assert len(read_motions(root, "train", 3)) == 3


def test_amass_layout_files_are_resampled_to_30_fps(tmp_path: Path, body: BodyModel) -> None:
    folder = tmp_path / "LAB" / "s1"
    folder.mkdir(parents=True)
    trans = np.zeros((121, 3))
    trans[:, 0] = np.arange(121) / 120
    np.savez(folder / "walk_poses.npz", poses=np.zeros((121, 156)), trans=trans, mocap_framerate=120.0)
    np.savez(folder / "shape.npz", betas=np.zeros(16))
    clips = read_amass_folder(tmp_path, body)
    assert [clip.name for clip in clips] == ["LAB-s1-walk_poses"]
    step = clips[0].pelvis[1:] - clips[0].pelvis[:-1]
    assert len(clips[0].pelvis) == 30
    torch.testing.assert_close(step[:, 0], torch.full((29,), 1 / 30), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [("missing", "No open motion data"), ("shape", r"\(T, 178\)"), ("text", "Cannot read the motion")],
)
def test_bad_files_say_what_to_do(tmp_path: Path, damage: str, message: str) -> None:
    if damage != "missing":
        folder = tmp_path / "motion/smpl_data_fps_30"
        folder.mkdir(parents=True)
        row = {"path": "a.npy", "split": "train", "family": "walk"}
        (tmp_path / "motion/index.json").write_text(json.dumps({"clips": [row]}))
        if damage == "shape":
            np.save(folder / "a.npy", np.zeros((4, 3)))
        else:
            (folder / "a.npy").write_text("no array")
    with pytest.raises(MoroError, match=message):
        read_motions(tmp_path, "train")


def test_bad_options_are_refused(root: Path, body: BodyModel, tmp_path: Path) -> None:
    with pytest.raises(MoroError, match="overlap_len"):
        _dataset(root, body, clip_len=5, overlap_len=5)
    cfg = compose_config("config", ["option=video_pretrain", "preset=open", "dataset.cache_tokens=false"])
    cfg.dataset.dataset_root = str(root)
    with pytest.raises(MoroError, match="cache_tokens=false leaves nothing"):
        build(cfg, "train")
    with pytest.raises(MoroError, match="No .npz motion files"):
        process_mocap.main(["--source", str(tmp_path), "--output", str(tmp_path / "out")])


# ---- the motion cache ------------------------------------------------------------------------------------


def _ids_of(mesh: torch.Tensor) -> torch.Tensor:
    """Stands for a tokenizer: two numbers that tell meshes apart."""
    return (mesh[:, [100, 900], 1] * 1000).round()


def test_cached_people_are_the_posed_ones(root: Path, body: BodyModel, tmp_path: Path) -> None:
    ids_file = tmp_path / "cache" / "ids.npy"
    made = _dataset(root, body, motions=3)
    made.use_cache(tmp_path / "cache", 2)
    assert made.cache.clip(0, 0, 5)[1] is None and "ids" not in made[0, 1]  # no tokenizer yet
    made.use_tokens(ids_file, _ids_of)
    opened = _dataset(root, body, motions=3)
    opened.use_cache(tmp_path / "cache", 2)
    opened.use_tokens(ids_file, pytest.fail)  # nothing is tokenised again
    person, ids = opened.cache.clip(performance=3, start=5, frames=20)
    posed = next(made._performance(1, 1))
    torch.testing.assert_close(person.joints(), posed.joints()[5:25])
    landmarks = posed.place(posed.output.landmarks())[5:25]
    torch.testing.assert_close(person.place(person.output.landmarks()), landmarks)
    assert torch.equal(ids, _ids_of(posed.mesh).long()[5:25])


def test_some_cached_people_have_the_arms_of_another_motion(
    root: Path, body: BodyModel, tmp_path: Path
) -> None:
    dataset = _dataset(root, body, motions=3)
    dataset.use_cache(tmp_path / "cache", 1, mixed=1)
    assert len(dataset.cache.first) == 6 and list(dataset.cache.motion) == [0, 0, 1, 1, 2, 2]
    assert (dataset._performance_share > 0).all()
    dataset.use_cache(tmp_path / "cache", 1, mixed=1, show_mixed=False)
    assert (dataset._performance_share > 0).tolist() == [True, False] * 3
    one, again = (next(dataset._performance(0, 1, True)).local_joints for _ in range(2))
    assert torch.equal(one, again)
    rng = np.random.default_rng(0)
    times = torch.arange(20.0)
    arms = dataset._other_upper_body(rng, 20)
    state = rng.bit_generator.state
    own = dataset._person(dataset.motions[0], times, rng).local_joints
    rng.bit_generator.state = state
    joined = dataset._person(dataset.motions[0], times, rng, arms).local_joints
    legs = [1, 2, 4, 5, 7, 8, 10, 11]
    torch.testing.assert_close(joined[:, legs], own[:, legs])
    assert (joined[:, 20] - own[:, 20]).norm(dim=-1).mean() > 0.01


def test_the_observer_of_training_can_be_made_simple() -> None:
    cfg = compose_config("config", ["option=video_pretrain", "preset=open"]).dataset
    usual = training_world(cfg)
    assert usual.occlusion == WorldRanges().occlusion and usual.detector == CROWDED
    cfg.occlusion = cfg.detector_noise = False
    world = training_world(cfg)
    assert world.occlusion.clear == 1 and world.detector == EXACT and world.cameras == usual.cameras


def test_frames_carry_their_neighbours_along(root: Path, body: BodyModel) -> None:
    """From beyond the clip, too; in the box of the frame they are neighbours of."""
    test = _dataset(root, body, "test", clip_len=10, neighbours=[-12, -1, 3])
    first, second = test[0], test[1]
    assert second["neighbours"].shape == (10, 3, 33, 4) and second["landmarks"].shape == (10, 33, 4)
    assert not first["neighbours"][:10, 0].any() and not first["neighbours"][0, 1].any()  # nothing before
    known = (second["neighbours"][2:, 0] != 0).any(-1)  # frames 12 to 19 know of 0 to 7
    assert torch.equal(known, (first["landmarks"][:8] != 0).any(-1))

    def pixels(sample: dict, points: torch.Tensor, frame: int) -> torch.Tensor:
        side = 100 * sample["scale"][frame]
        return points[..., :2] * side + sample["center"][frame]

    seen = (first["landmarks"][9] != 0).any(-1)
    there = pixels(second, second["neighbours"][0, 1], 0)[seen]
    torch.testing.assert_close(there, pixels(first, first["landmarks"][9], 9)[seen], atol=1e-2, rtol=0)


def test_training_clips_are_observed_with_their_neighbours(
    root: Path, body: BodyModel, tmp_path: Path
) -> None:
    dataset = _dataset(root, body, motions=3, neighbours=[-30, 2])
    drawn = [dataset[0, number]["neighbours"] for number in range(30)]
    assert all(part.shape == (20, 2, 33, 4) for part in drawn)
    alone = sum(not part.any() for part in drawn)
    assert 0 < alone < 15  # some know nothing of their neighbours
    dataset.use_cache(tmp_path / "cache", 1)
    dataset.use_tokens(tmp_path / "cache" / "ids.npy", _ids_of)
    sample = dataset[0, 1]
    assert sample["neighbours"].shape == (20, 2, 33, 4) and len(sample["ids"]) == 20


def test_samples_from_the_cache(root: Path, body: BodyModel, tmp_path: Path) -> None:
    dataset = _dataset(root, body, motions=3)
    dataset.use_cache(tmp_path / "cache", 1)
    dataset.use_tokens(tmp_path / "cache" / "ids.npy", _ids_of)
    sample, again = dataset[0, 1], dataset[0, 1]
    assert sample["ids"].shape == (20, 2) and "mesh" not in sample
    assert sample["landmarks"].shape == (20, 33, 4) and sample["contact_label"].shape == (19, 4)
    for key in ("landmarks", "rotation", "ids"):
        assert torch.equal(sample[key], again[key])
    single = _dataset(root, body, motions=3, clip_len=1, draws=2)
    single.use_cache(tmp_path / "cache", 1)
    samples = [single[0, number] for number in range(40)]
    assert all(part["rotation"].shape == (1, 3, 3) and "contact_label" not in part for part in samples)
    intrinsics = {tuple(part["K"].flatten().tolist()) for part in samples}
    assert len(intrinsics) == 2  # one camera each
    other = _dataset(root, body, motions=3, clip_len=1, draws=2)
    other.use_cache(tmp_path / "cache", 1)
    assert torch.equal(other[0, 39]["landmarks"], samples[39]["landmarks"])  # whatever was made before
    later = {tuple(other[DRAW_EPOCHS, number]["K"].flatten().tolist()) for number in range(20)}
    assert len(later) == 2 and not later & intrinsics and len(other._kept) == 2


def test_a_damaged_cache_is_named(root: Path, body: BodyModel, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    dataset = _dataset(root, body, motions=1)
    with pytest.raises(MoroError, match="delete the folder"):
        dataset.use_cache(tmp_path / "cache", 1)
    dataset.use_cache(tmp_path / "other", 1)
    ids = tmp_path / "ids.npy"
    np.save(ids, np.zeros((3, 2), np.int16))  # of other performances
    with pytest.raises(MoroError, match="ids.npy has 3 frames"):
        dataset.use_tokens(ids, _ids_of)
    ids.write_bytes(b"no array")
    with pytest.raises(MoroError, match="damaged"):
        dataset.use_tokens(ids, _ids_of)
