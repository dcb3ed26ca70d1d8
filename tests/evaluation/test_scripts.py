"""The three programs on generated files, end to end (spec: data 8.3 to 8.7)."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import joblib
import numpy as np
import pytest
import torch

from moro.body.loading import load_body_model
from moro.errors import MoroError
from moro.evaluation import videos
from moro.evaluation.egobody import evaluate_egobody
from moro.evaluation.options import Options
from moro.evaluation.prediction import Predictor
from moro.evaluation.regressors import load_regressors
from moro.geometry.frames import transform_parameters
from moro.io.results import read_results, write_results
from tests.evaluation import world

ERRORS = ("pa_mpjpe", "mpjpe", "visible_mpjpe", "occluded_mpjpe", "pve", "gmpjpe", "accel", "g_accel", "rte")


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bodies")
    world.write_bodies(folder)
    return folder


def run(repository: Path, monkeypatch: pytest.MonkeyPatch, script: str, *arguments: object) -> int:
    """Exit status of a script."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    try:
        runpy.run_path(str(repository / script), run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def in_view(bodies: Path, arrays: dict[str, np.ndarray], transform: np.ndarray) -> dict[str, np.ndarray]:
    """Parameters of the neutral stand-in seen from another frame."""
    body = load_body_model(bodies, "smplh")
    tensors = {key: torch.tensor(value) for key, value in arrays.items()}
    delta = world.pose(body, arrays).joints[:, 0] - tensors["transl"]
    orient, transl = transform_parameters(
        tensors["global_orient"], tensors["transl"], delta, torch.tensor(transform).float()
    )
    return arrays | {"global_orient": orient.numpy(), "transl": transl.numpy()}


@pytest.fixture(scope="module")
def egobody(bodies: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Root of the data set; results of a method that is right, in each view's camera."""
    folder = tmp_path_factory.mktemp("egobody")
    root, results = folder / "EgoBody", folder / "result_egobody" / "x"
    root.mkdir()
    names = [f"frame_{n:05d}.jpg" for n in range(world.F)]
    for name, arrays in world.write_egobody(root).items():
        master2cam = np.linalg.inv(world.SUB2MASTER) if "sub_1" in name else np.eye(4)
        seen = in_view(bodies, arrays, master2cam)
        world.write_parameter_results(results / name / "results.pkl", names, seen)
    return root, results


def egobody_arguments(bodies: Path, egobody: tuple[Path, Path], *more: str) -> list[str]:
    return [f"--saved_data_dir={egobody[1]}", f"--dataset_root={egobody[0]}", f"--bm_path={bodies}",
            "--method=TokenHMR", *more]  # fmt: skip


def test_egobody_script_finds_no_error_in_the_truth(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
    bodies: Path, egobody: tuple[Path, Path],
) -> None:  # fmt: skip
    arguments = egobody_arguments(bodies, egobody, "--recording_name=all")
    assert run(repository, monkeypatch, "eval_egobody.py", *arguments) == 0
    printed = capsys.readouterr().out
    assert "% of path length" in printed and "2 sequences, 10 frames" in printed
    means = read_results(egobody[1] / "metrics_all.pkl")
    assert max(means[key] for key in ERRORS) < 0.02 and means["jitter"] > 0
    table = json.loads((egobody[1] / "metrics_all.json").read_text())
    assert [row["frames"] for row in table["sequences"]] == [5, 5]
    lines = (egobody[1] / "metrics_all.csv").read_text().splitlines()
    assert (
        len(lines) == 4 and lines[0].startswith("sequence,frames,pa_mpjpe") and lines[-1].startswith("all,10")
    )


def test_egobody_counts_only_the_frames_of_the_table(
    bodies: Path, egobody: tuple[Path, Path], tmp_path: Path
) -> None:
    """Frames outside target_start .. target_end may be as wrong as they like."""
    root, results = egobody
    sequence = "recording_a/master/body_idx_0"
    content = read_results(results / sequence / "results.pkl")
    content["transl"][0, [0, 1, 7]] += 5.0
    (tmp_path / sequence).mkdir(parents=True)
    joblib.dump(content, tmp_path / sequence / "results.pkl")
    options = Options("egobody", tmp_path, root, bodies, "recording_a", "TokenHMR")
    assert evaluate_egobody(options).overall["gmpjpe"] < 0.02
    content["transl"][0, :, 0] += 0.1
    joblib.dump(content, tmp_path / sequence / "results.pkl")
    moved = evaluate_egobody(options).overall
    assert moved["gmpjpe"] == pytest.approx(100, rel=1e-4) and moved["mpjpe"] < 0.02
    joblib.dump({key: value[:, :5] for key, value in content.items()}, tmp_path / sequence / "results.pkl")
    with pytest.raises(MoroError, match="lacks 2 of 5 frames, the first is frame_00005"):
        evaluate_egobody(options)


def test_egobody_videos(
    repository: Path, monkeypatch: pytest.MonkeyPatch, bodies: Path, egobody: tuple[Path, Path]
) -> None:
    arguments = egobody_arguments(bodies, egobody, "--recording_name=recording_b", "--render", "--render_gt",
                                  "--render_global", "--mesh_color=teal")  # fmt: skip
    assert run(repository, monkeypatch, "eval_egobody.py", *arguments) == 0
    for folder in ("x_global", "gt_render_global"):
        place = egobody[1].with_name(folder)
        assert (place / "video/recording_b-sub_1-1.mp4").stat().st_size > 1000
        pictures = sorted((place / "recording_b/sub_1/body_idx_1/render").glob("*.jpg"))
        assert [picture.name for picture in pictures] == [f"frame_{n:05d}.jpg" for n in range(world.F)]
        picture = cv2.imread(str(pictures[0]))
        assert picture.shape == (108, 2 * 192 + 4, 3)
        green = (picture[..., 1].astype(int) - picture[..., 0]) > 30
        assert green[54, 20:30].any()  # left side of the box of centre 54, side 60
    monkeypatch.setattr(videos, "WORLD_SIZE", (72, 128))
    table = egobody_arguments(bodies, egobody, "--recording_name=recording_a", "--visualize_3d")
    assert run(repository, monkeypatch, "eval_egobody.py", *table) == 0
    assert (egobody[1] / "visualize_3d/recording_a-master-0.mp4").stat().st_size > 1000


def test_rich_script_with_fitted_meshes(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """Meshes of MoRo go through the fit; a body that can be fitted comes out where it was."""
    root, results, models = tmp_path / "rich", tmp_path / "result_rich_crop" / "x", tmp_path / "models"
    root.mkdir()
    names, arrays = world.write_rich(root)
    body = world.open_body_as_smplx(repository / "body_models", models)
    posed = world.pose(body, arrays).vertices
    turned = (
        posed @ torch.tensor(world.WORLD2CAM[:3, :3].T).float() + torch.tensor(world.WORLD2CAM[:3, 3]).float()
    )
    write_results(results / "Gym_013_burpee4/cam_06/results.pkl", names, turned.numpy(), None)
    arguments = [
        f"--saved_data_dir={results}",
        f"--dataset_root={root}",
        f"--bm_path={models}",
        "--seq_name=Gym_013",
    ]
    assert run(repository, monkeypatch, "eval_rich.py", *arguments) == 0
    means = read_results(results / "metrics_Gym_013.pkl")
    assert means["pve"] < 15 and means["gmpjpe"] < 15
    assert "visible_mpjpe" not in means and "Foot sliding" not in capsys.readouterr().out


def test_rich_videos_of_the_truth(
    repository: Path, monkeypatch: pytest.MonkeyPatch, bodies: Path, tmp_path: Path
) -> None:
    root, results = tmp_path / "rich", tmp_path / "result_rich_crop" / "x"
    root.mkdir()
    names, arrays = world.write_rich(root)
    body = load_body_model(bodies, "smplx")
    tensors = {key: torch.tensor(value) for key, value in arrays.items()}
    delta = world.pose(body, arrays).joints[:, 0] - tensors["transl"]
    orient, transl = transform_parameters(
        tensors["global_orient"], tensors["transl"], delta, torch.tensor(world.WORLD2CAM).float()
    )
    seen = arrays | {"global_orient": orient.numpy(), "transl": transl.numpy()}
    world.write_parameter_results(results / "Gym_013_burpee4/cam_06/results.pkl", names, seen)
    arguments = [
        f"--saved_data_dir={results}",
        f"--dataset_root={root}",
        f"--bm_path={bodies}",
        "--seq_name=all",
    ]
    assert run(repository, monkeypatch, "eval_rich.py", *arguments, "--method=GVHMR", "--render_gt") == 0
    means = read_results(results / "metrics_all.pkl")
    assert max(means[key] for key in ERRORS if key in means) < 0.02
    pictures = sorted((results.with_name("gt_render") / "Gym_013_burpee4/cam_06/render").glob("*.jpeg"))
    assert [picture.name for picture in pictures] == names
    assert cv2.imread(str(pictures[0])).shape == (24, 32, 3)


def test_prox_by_its_own_and_by_egobody_script(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    root, results, models = tmp_path / "PROX", tmp_path / "result_prox" / "x", tmp_path / "models"
    root.mkdir()
    names = world.write_prox(root, images=0)[:4]
    body = world.open_body_as_smplx(repository / "body_models", models)
    still = {key: np.repeat(value[:1], 4, 0) for key, value in world.motion(3, betas=0.0).items()}
    meshes = world.pose(body, still).vertices.numpy()
    write_results(results / world.PROX_RECORDING / "results.pkl", names, meshes, None)
    arguments = [f"--saved_data_dir={results}", f"--dataset_root={root}", f"--bm_path={models}"]
    assert run(repository, monkeypatch, "eval_prox.py", *arguments) == 0
    own = capsys.readouterr().out
    assert run(repository, monkeypatch, "eval_egobody.py", *arguments) == 0
    assert capsys.readouterr().out == own and "Penetration Ratio" in own
    means = read_results(results / f"metrics_{world.PROX_RECORDING}.pkl")
    assert means["jitter"] < 0.01 and means["skating_ratio"] == 0 and means["penetration_ratio"] == 0
    assert run(repository, monkeypatch, "eval_prox.py", *arguments, "--recording_name=all") == 1
    assert "no results.pkl for 18 of 19 sequences" in capsys.readouterr().err


def test_prox_video(repository: Path, monkeypatch: pytest.MonkeyPatch, bodies: Path, tmp_path: Path) -> None:
    root, results = tmp_path / "PROX", tmp_path / "inference" / "x"
    root.mkdir()
    names = world.write_prox(root)[:3]
    body = load_body_model(bodies, "smplx")
    posed = world.pose(body, {key: value[:3] for key, value in world.motion(3).items()})
    write_results(results / world.PROX_RECORDING / "results.pkl", names, posed.vertices.numpy(), None)
    (results / "config.yaml").write_text("dataset:\n  name: prox\n")
    arguments = [
        f"--saved_data_dir={results}",
        f"--dataset_root={root}",
        f"--bm_path={bodies}",
        "--render_global",
    ]
    assert run(repository, monkeypatch, "eval_egobody.py", *arguments) == 0
    video = results.with_name("x_global") / f"video/{world.PROX_RECORDING}.mp4"
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_results_of_the_open_body_are_refused_in_one_sentence(bodies: Path, tmp_path: Path) -> None:
    write_results(tmp_path / "results.pkl", ["frame_00000.jpg"], np.zeros((1, 3001, 3)), None)
    predictor = Predictor("MoRo", bodies, load_regressors(bodies))
    with pytest.raises(MoroError, match="has meshes of 3001 vertices.*open body.*preset=release"):
        predictor.load(tmp_path / "results.pkl")


def test_missing_and_unfit_files_are_named(bodies: Path, egobody: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(MoroError, match=r"smpl_neutral_J_regressor.pt not found"):
        load_regressors(tmp_path)
    options = Options("egobody", egobody[1], egobody[0], bodies, "recording_c", "TokenHMR")
    with pytest.raises(MoroError, match="no test recording 'recording_c'; use all or one of recording_a"):
        evaluate_egobody(options)
    with pytest.raises(MoroError, match="has no verts; check --method"):
        evaluate_egobody(Options("egobody", egobody[1], egobody[0], bodies, "recording_a", "MoRo"))
    with pytest.raises(MoroError, match="no results.pkl for 2 of 2"):
        evaluate_egobody(Options("egobody", tmp_path, egobody[0], bodies, "all"))
