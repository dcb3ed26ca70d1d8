"""The three programs on generated files, end to end (spec: data 8.3 to 8.7)."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import joblib
import numpy as np
import pytest
import torch

from moro.body.loading import load_body_model
from moro.errors import MoroError
from moro.evaluation import prediction, videos
from moro.evaluation.egobody import evaluate_egobody
from moro.evaluation.options import Options
from moro.evaluation.prediction import METHODS, Predictor
from moro.evaluation.regressors import load_regressors
from moro.geometry.frames import transform_parameters
from moro.io.prox_files import FLOOR_HEIGHTS
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


@pytest.fixture(scope="module")
def one_surface(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    folder = tmp_path_factory.mktemp("one_surface")
    world.write_one_surface(folder, repository / "body_models")
    return folder


def write_as(method: str, path: Path, names: list[str], bodies: Path, arrays: dict[str, np.ndarray]) -> None:
    """results.pkl in the form of a method."""
    if METHODS[method].stored == "param":
        world.write_parameter_results(path, names, arrays)
        return
    body = load_body_model(bodies, METHODS[method].body)
    write_results(path, names, world.pose(body, arrays).vertices.numpy(), None)


@pytest.mark.parametrize("method", METHODS)
def test_no_method_has_an_error_in_the_truth(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path,
    one_surface: Path, method: str,
) -> None:  # fmt: skip
    """Whatever body it stores; what MoRo's fit adds stays below its bound."""
    root, results = tmp_path / "EgoBody", tmp_path / "result_egobody" / "x"
    root.mkdir()
    names = [f"frame_{n:05d}.jpg" for n in range(world.F)]
    for name, arrays in world.write_egobody(root, images=0).items():
        seen = in_view(one_surface, arrays, np.linalg.inv(world.SUB2MASTER) if "sub_1" in name else np.eye(4))
        write_as(method, results / name / "results.pkl", names, one_surface, seen)
    (root / "mask_joint/recording_b/sub_1/mask_joint.npy").unlink()
    arguments = [f"--saved_data_dir={results}", f"--dataset_root={root}", f"--bm_path={one_surface}"]
    arguments += ["--recording_name=all", f"--method={method}"]
    assert run(repository, monkeypatch, "eval_egobody.py", *arguments) == 0
    means = read_results(results / "metrics_all.pkl")
    lengths = ("pa_mpjpe", "mpjpe", "visible_mpjpe", "occluded_mpjpe", "pve", "gmpjpe")
    assert max(means[key] for key in lengths) < (world.FIT_BOUND if method == "MoRo" else 0.05)
    lines = {line[:18].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert lines["Visible MPJPE"].endswith("mm  (1 of 2 sequences)") and lines["MPJPE"].endswith("mm")


def test_files_are_read_and_meshes_fitted_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one_surface: Path
) -> None:
    """Though every sequence is measured and then drawn."""
    root, results = tmp_path / "EgoBody", tmp_path / "x"
    root.mkdir()
    for name, arrays in world.write_egobody(root).items():
        shown = {key: value[2:7] for key, value in arrays.items()}
        names = [f"frame_{n:05d}.jpg" for n in range(2, 7)]
        write_as("MoRo", results / name / "results.pkl", names, one_surface, shown)
    calls: list[str] = []
    for owner, name in ((prediction, "fit_body_as_published"), (prediction, "load_body_model")):
        inner = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, n=name, f=inner, **k: (calls.append(n), f(*a, **k))[1])
    options = Options("egobody", results, root, one_surface, "all", render_gt=True)
    scenes = [scene_of() for scene_of in evaluate_egobody(options).scenes]
    assert [scene.truth is not None and len(scene.prediction) for scene in scenes] == [5, 5]
    assert calls.count("fit_body_as_published") == 2
    assert calls.count("load_body_model") == 3  # the method's, and one of each gender
    assert not evaluate_egobody(replace(options, render_gt=False)).scenes


def write_first(frames: int, content: dict[str, np.ndarray], folder: Path) -> None:
    """The first frames of results as results of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump({key: value[:, :frames] for key, value in content.items()}, folder / "results.pkl")


def test_rohm_may_end_before_the_frames_that_count(
    bodies: Path, egobody: tuple[Path, Path], tmp_path: Path
) -> None:
    root, results = egobody
    sequence = "recording_a/master/body_idx_0"
    content = read_results(results / sequence / "results.pkl")
    write_first(5, content, tmp_path / sequence)
    options = Options("egobody", tmp_path, root, bodies, "recording_a", "RoHM")
    report = evaluate_egobody(options).report
    assert report.sequences[0].num_frames == 5 - world.START
    shown = report.sequences[0].values
    assert len(shown["visible_mpjpe"]) + len(shown["occluded_mpjpe"]) == 22 * (5 - world.START)
    with pytest.raises(MoroError, match="lacks 2 of 5 frames"):
        evaluate_egobody(replace(options, method="GVHMR"))
    write_first(2, content, tmp_path / sequence)
    with pytest.raises(MoroError, match="hold no frame that counts"):
        evaluate_egobody(options)


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
    assert evaluate_egobody(options).report.overall["gmpjpe"] < 0.02
    content["transl"][0, :, 0] += 0.1
    joblib.dump(content, tmp_path / sequence / "results.pkl")
    moved = evaluate_egobody(options).report.overall
    assert moved["gmpjpe"] == pytest.approx(100, rel=1e-4) and moved["mpjpe"] < 0.02
    write_first(5, content, tmp_path / sequence)
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
    assert means["pve"] < world.FIT_BOUND and means["gmpjpe"] < world.FIT_BOUND
    assert "visible_mpjpe" not in means and "Foot sliding" not in capsys.readouterr().out


def test_rich_videos_of_the_truth(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, bodies: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
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
    (root / "images" / world.VID / names[2]).write_bytes(b"no image")  # costs the video, not the metrics
    (results / "metrics_all.pkl").unlink()
    assert run(repository, monkeypatch, "eval_rich.py", *arguments, "--method=GVHMR", "--render_gt") == 1
    assert "1 of 1 sequences could not be drawn" in capsys.readouterr().err
    assert read_results(results / "metrics_all.pkl") == means


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
    feet = (body.joint_regressor[[10, 11]] @ torch.tensor(meshes)).double().numpy()
    heights = feet @ world.CAM2WORLD[2, :3] + world.CAM2WORLD[2, 3]
    monkeypatch.setitem(FLOOR_HEIGHTS, "N0Sofa", heights.max() + 0.1)  # the feet are in the floor
    assert run(repository, monkeypatch, "eval_prox.py", *arguments, "--scene_floor") == 0
    in_scene = read_results(results / f"metrics_{world.PROX_RECORDING}.pkl")
    depth = 1000 * (heights.max() + 0.1 - heights).mean()
    assert in_scene["penetration_depth"] == pytest.approx(depth, abs=world.FIT_BOUND)
    assert in_scene["jitter"] == pytest.approx(means["jitter"]) and in_scene["penetration_ratio"] == 100
    capsys.readouterr()
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
