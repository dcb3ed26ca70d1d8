"""Every `python` command of the original README, word for word, on made-up data in its folders.

What is appended makes things small: few steps, frames and channels, a ViT of one block, the open body's
connection tables (54 tokens). docs/commands.md lists the commands with the tests.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from moro.io.prox_files import RECORDINGS
from moro.io.results import read_results
from moro.video.reader import open_video
from moro.video.writer import VideoWriter
from tests.readme_place import (
    FRAMES,
    IMAGE_SETS,
    RELEASED,
    TOKENIZER,
    TRANSFORMER,
    VIT,
    Place,
    as_released,
    write_vit,
)

TRAIN_TOKENIZER = "python train_mesh_vqvae.py"
STAGES = {
    stage: f"python train_mask_transformer.py option={stage} tag=default"
    for stage in ("pose_pretrain", "motion_pretrain", "image_pretrain", "video_pretrain", "video_train")
}
INFERENCE = {
    data: f"python train_mask_transformer.py option=[inference,video_train] tag=release data={data}"
    for data in ("egobody", "rich", "prox")
}
RESULTS = "./exp/mask_transformer/MIMO-vit-release/video_train/result_{}/inference_5_1"
EVALUATION = {
    "egobody": f"python eval_egobody.py --saved_data_dir={RESULTS} --recording_name=all --render",
    "rich": f"python eval_rich.py --saved_data_dir={RESULTS} --seq_name=all --render",
    "prox": f"python eval_egobody.py --saved_data_dir={RESULTS} --recording_name=all --render",
}
DEMO_VIDEO = (
    "python demo.py option=demo demo.video_path=/path/to/demo.mp4 demo.name=<video_name> "
    "demo.focal_length=<focal_length>"
)
DEMO_IMAGES = (
    "python demo.py demo.video_path=/path/to/image_dir demo.name=<video_name> "
    "demo.focal_length=<focal_length>"
)
COMMANDS = [
    DEMO_VIDEO, DEMO_IMAGES, TRAIN_TOKENIZER, *STAGES.values(), *INFERENCE.values(),
    *(command.format(data) for data, command in EVALUATION.items()),
]  # fmt: skip

SHOWN = 12  # frames of the demo
ONE_PROCESS = ("dataset.num_workers=0", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
FEW_STEPS = (
    *ONE_PROCESS,
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "dataset.batch_size=2",
)
SMALL = (
    *ONE_PROCESS,
    "dataset.num_workers_val=0",
    "model.vqvae.num_tokens=54",
    "model.dst_former.dim_feat=16",
    "model.dst_former.num_heads=2",
    "model.dst_former.mdepth=1",
    "model.dst_former.ddepth=1",
    *(f"model.backbone.{key}={value}" for key, value in VIT.items()),
)
CLIPS = ("dataset.clip_len=3",)  # of the stages that train on clips


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Place:
    return Place(tmp_path_factory.mktemp("user"), repository)


# ------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def tokenizer(place: Place) -> str:
    """Data of the tokenizer from the files as downloaded, the tokenizer, and its step to ckpt/."""
    place.world(TOKENIZER, "AMASS_smplx", "MOYO", "bedlam_animations")
    place.remove(*(f"{TOKENIZER}/{name}" for name in ("AMASS_smplx", "MOYO", "bedlam_animations")))
    for name, folder in (("amass", "AMASS_raw"), ("moyo", "MOYO_raw"),
                         ("bedlam", "neutral_ground_truth_motioninfo")):  # fmt: skip
        module = f"python -m models.mesh_vq_vae.data.preprocess.{name}"
        place.run(module, "--root", f"{TOKENIZER}/{folder}", "--jobs", "1")
    output = place.run(TRAIN_TOKENIZER, *FEW_STEPS, "model.vqvae.num_tokens=54")
    trained = place / "exp/mesh_vqvae/mesh-vqvae-medium-default/checkpoints/last.ckpt"
    (place / "ckpt/tokenizer").mkdir(parents=True)
    shutil.copy(trained, place / "ckpt/tokenizer/tokenizer.ckpt")
    return output


@pytest.fixture(scope="module")
def training_data(place: Place, tokenizer: str) -> None:
    """Data of the five stages, by the scripts the README names from files as downloaded."""
    place.world(TRANSFORMER, "bedlam", "egobody", *IMAGE_SETS)
    place.remove(f"{TRANSFORMER}/BEDLAM/processed_labels", f"{TRANSFORMER}/*/*_smplx.npz")
    scripts = "python scripts/preprocess/"
    place.run(f"{scripts}process_amass.py", "--root", f"{TOKENIZER}/AMASS_raw", "--jobs", "1")
    labels = f"{TRANSFORMER}/bedlam_labels_30fps"
    place.run(f"{scripts}process_bedlam_labels.py", "--labels", labels, "--jobs", "1")
    place.run(f"{scripts}process_egobody_bbox.py", "--jobs", "1")
    place.run(f"{scripts}process_hmr_smplx.py", "--jobs", "1")
    write_vit(place / "ckpt/backbones/vit_pose_hmr2.pth")


@pytest.fixture(scope="module")
def stages(place: Place, training_data: None) -> Path:
    """The five stages, one after the other; folder of the run."""
    for stage, command in STAGES.items():
        clips = CLIPS if stage in ("motion_pretrain", "video_train") else ()
        place.run(command, *FEW_STEPS, *SMALL, "optim.warmup_steps=1", *clips)
    return place / "exp/mask_transformer/MIMO-vit-default"


def test_tokenizer(tokenizer: str, place: Place) -> None:
    assert "v2v_error" in tokenizer and (place / "ckpt/tokenizer/tokenizer.ckpt").is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_stage(stages: Path, stage: str) -> None:
    assert (stages / stage / "checkpoints/last.ckpt").is_file()
    (metrics,) = (stages / stage).rglob("metrics.csv")
    header, *rows = metrics.read_text().splitlines()
    columns = dict(zip(header.split(","), zip(*(row.split(",") for row in rows))))
    losses = [float(value) for value in columns["train/loss"] if value]
    assert len(losses) == 2 and np.isfinite(losses).all()


# ------------------------------------------------------------------------------ inference and evaluation


@pytest.fixture(scope="module")
def released(place: Place, stages: Path) -> Path:
    """The last stage in the place and in the form of the released model; statistics from their script."""
    as_released(stages / "video_train/checkpoints/last.ckpt", place / RELEASED)
    place.run("python scripts/compute_trajectory_stats.py")
    return place / RELEASED.parent.parent


def test_released_weights_can_be_trained_on_but_not_resumed(place: Place, released: Path) -> None:
    more = (*FEW_STEPS, *SMALL, *CLIPS, "optim.warmup_steps=1", f"resume_ckpt={RELEASED}", "subtag=on")
    output = place.run(STAGES["video_train"], *more, "resume=true", status=1)
    assert "resume_weights_only=true" in output and "Traceback" not in output
    output = place.run(STAGES["video_train"], *more, "resume_weights_only=true")
    assert f"{RELEASED}: ignored 1 body model tensors" in output
    assert (released.parent.parent / "MIMO-vit-default/video_train_on/checkpoints/last.ckpt").is_file()


def infer(place: Place, data: str) -> dict[str, dict]:
    """Results by sequence."""
    place.run(INFERENCE[data], *SMALL)
    folder = place / RESULTS.format(data)
    return {str(path.parent.relative_to(folder)): read_results(path) for path in folder.rglob("results.pkl")}


def evaluate(place: Place, data: str) -> tuple[str, dict]:
    """What is printed, and metrics_all.json; a video for each sequence must be there."""
    printed = place.run(EVALUATION[data].format(data))
    folder = place / RESULTS.format(data)
    table = json.loads((folder / "metrics_all.json").read_text())
    assert len(list((folder / "video").glob("*.mp4"))) == len(table["sequences"])
    assert {path.suffix for path in folder.glob("metrics_all.*")} == {".pkl", ".csv", ".json"}
    return printed, table


def check_meshes(results: dict[str, dict], frames: int = FRAMES) -> None:
    for name, content in results.items():
        assert content["verts"].shape == (1, frames, 3001, 3), name
        assert content["frame_name"].shape == (1, frames) and content["contact"].shape == (1, frames, 4)
        assert np.isfinite(content["verts"]).all()


def test_egobody(place: Place, released: Path) -> None:
    results = infer(place, "egobody")
    check_meshes(results)
    assert list(results) == ["recording_20220318_S33_S34_01/sub_3/body_idx_0"]
    printed, table = evaluate(place, "egobody")
    assert "Occluded MPJPE" in printed and "RTE" in printed
    assert table["sequences"][0]["frames"] == FRAMES - 2  # the table of occlusions leaves out the ends


def test_rich(place: Place, released: Path) -> None:
    place.world(TRANSFORMER, "rich")
    results = infer(place, "rich")
    check_meshes(results)
    printed, table = evaluate(place, "rich")
    assert "PA-MPJPE" in printed and len(table["sequences"]) == len(results)


def under_all_names(root: Path) -> None:
    """The one recording of the world under the names of all 19 of the original."""
    (written,) = (path.name for path in (root / "recordings").iterdir())
    (scene,) = (root / "cam2world").iterdir()
    for name in RECORDINGS:
        for folder in ("recordings", "PROXD_filled", "keypoints_openpose"):
            if name != written:
                (root / folder / name).symlink_to(written)
        other = root / "cam2world" / f"{name.split('_')[0]}.json"
        if other != scene:
            shutil.copy(scene, other)


def test_prox_is_measured_by_its_own_protocol(place: Place, released: Path) -> None:
    frames = 4  # as jitter asks for; there are 19 recordings to be drawn
    place.world(TRANSFORMER, "prox", frames=frames)
    place.run("python scripts/preprocess/process_prox_bbox.py", "--jobs", "1")
    under_all_names(place / TRANSFORMER / "PROX")
    results = infer(place, "prox")
    check_meshes(results, frames)
    printed, table = evaluate(place, "prox")
    assert "Penetration" in printed and "PA-MPJPE" not in printed
    assert len(table["sequences"]) == len(results) == 19


# ------------------------------------------------------------------------------------------------ demo


@pytest.fixture(scope="module")
def frames(repository: Path) -> list[np.ndarray]:
    """As many frames of a real video as people must be seen in, at half the size."""
    for name in ("sports2d.mp4", "blazepose/pose_landmark_full.tflite"):
        if not (repository / "downloads" / name).is_file():
            pytest.skip(f"downloads/{name} is missing (make fetches it)")
    video = open_video(repository / "downloads/sports2d.mp4")
    return [np.ascontiguousarray(frame[::2, ::2][:496]) for frame in video.frames(0, SHOWN)]


def recover(place: Place, command: str, source: Path, name: str) -> Path:
    """The folder of the results of a demo command."""
    places = {"/path/to/demo.mp4": source, "/path/to/image_dir": source}
    for word, value in {**places, "<video_name>": name, "<focal_length>": 1500}.items():
        command = command.replace(word, str(value))
    place.run(command, *SMALL)
    return place / RELEASED.parent.parent / f"result_demo_{name}" / "inference_5_1"


def check_recovered(folder: Path) -> None:
    report = json.loads((folder / "demo.json").read_text())
    assert report["frames"] == SHOWN and report["people"] and (folder / "result.mp4").is_file()
    for person in report["people"]:
        written = {path.name for path in (folder / person).iterdir()}
        assert {"results.pkl", "motion.npz", "motion.glb"} <= written


def test_demo_of_a_video(place: Place, released: Path, frames: list[np.ndarray]) -> None:
    height, width = frames[0].shape[:2]
    with VideoWriter(place / "clip.mp4", 30, (width, height)) as writer:
        for frame in frames:
            writer.write(frame)
    check_recovered(recover(place, DEMO_VIDEO, place / "clip.mp4", "clip"))


def test_demo_of_an_image_folder(place: Place, released: Path, frames: list[np.ndarray]) -> None:
    from PIL import Image

    (place / "images").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(place / "images" / f"{number:04d}.png")
    check_recovered(recover(place, DEMO_IMAGES, place / "images", "images"))


# ----------------------------------------------------------------------------------------- the lists agree


def python_lines(path: Path) -> list[str]:
    lines = (line.split(" #")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line.startswith("python ")]


def test_every_command_of_the_original_is_here(shared_dir: Path) -> None:
    assert sorted(python_lines(shared_dir / "spec" / "original_readme.md")) == sorted(COMMANDS)


def test_our_readme_and_the_list_of_commands_have_them_all(repository: Path) -> None:
    assert set(COMMANDS) <= set(python_lines(repository / "README.md"))
    listed = (repository / "docs" / "commands.md").read_text()
    assert not [command for command in COMMANDS if f"`{command}`" not in listed]
