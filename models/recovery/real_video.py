"""Recovery from one real camera, measured against what four calibrated cameras saw (docs/real_video.md).

The clips show one motion twice: clean, and with a second person composited into the picture. Methods: the
detector's own metric landmarks, frame by frame, and MoRo as the demo runs it, told the focal length.
"""

import logging
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from models.mask_transformer.system import MoRoSystem
from models.recovery.condition import condition_of_track
from models.recovery.heldout import Table, fill_gaps
from models.recovery.outputs import fit_person
from models.recovery.pipeline import FPS, intrinsics, meshes_file, recover_meshes, tracks_of
from models.recovery.reference import MAIN, POINTS, Reference, build_reference, read_carefully
from moro.body.model import BodyModel
from moro.errors import MoroError
from moro.geometry.alignment import similarity_transform
from moro.io.qualisys import CalibratedCamera, read_calibration
from moro.io.row_file import RowFile
from moro.metrics import acceleration_error, jitter, mean_error, pa_error
from moro.video.blazepose import BlazePose
from moro.video.reader import open_video
from moro.video.tracks import Track, cache_key, load_tracks, save_tracks

logger = logging.getLogger(__name__)

CALIBRATION = "Calib.qca.txt"
DECIDING = ("cam01", "cam02")  # cameras to decide by while developing; the others are for the final report
CLIPS = {"clean": "single_{}.mp4", "occluded": "multi_{}.mp4"}
LAG = {"clean": 0.0, "occluded": 0.5}  # frames: the occluded files show everything 1/60 s later (measured)
MAX_REPROJECTION = 15.0  # pixels; a reference worse than this is of no use
HIPS = slice(6, 8)  # of the reference's points
SHOULDERS = slice(0, 2)

Result = dict[str, dict[str, dict[str, dict[str, float]]]]  # camera, kind of clip, method, measure


def compare_with_reference(
    cfg: DictConfig,
    system: MoRoSystem,
    body: BodyModel,
    folder: Path,
    names: Collection[str] | None,
    work: Path,
) -> tuple[Result, Reference]:
    """Errors of both methods in each camera, clean and occluded.

    cfg     configuration of the demo        folder  of the clips (scripts/fetch_demo_files.py --benchmark)
    body    the body of the system's meshes  work    where tracks are kept between runs
    names   cameras to measure; None: all. The reference is made from all in any case
    Raises MoroError if a file is missing or the reference is not consistent.
    """
    cameras = cameras_of(folder)
    reference = load_reference(cfg, cameras, folder, work)
    result: Result = {}
    for shown in subjects(cfg, cameras, reference, folder, names, work):
        K = intrinsics(float(shown.camera.K[0, 0]), shown.image_size)
        ours = recover_landmarks(cfg, system, body, shown.track, K, shown.image_size)
        methods = {"BlazePose": metric_landmarks(shown.track), "MoRo": ours}
        found = {name: scores(points[:, POINTS], shown.truth) for name, points in methods.items()}
        found["BlazePose"]["Seen [%]"] = 100 * shown.track.presence
        result.setdefault(shown.camera.name, {})[shown.kind] = found
    return result, reference


def cameras_of(folder: Path) -> list[CalibratedCamera]:
    """The cameras of the clips in `folder`. Raises MoroError if their calibration is missing or damaged."""
    return read_calibration(_existing(folder / CALIBRATION))


class Subject(NamedTuple):
    """The person of the reference in one clip of one camera."""

    camera: CalibratedCamera
    kind: str  # of clip: clean | occluded
    image_size: tuple[int, int]  # width, height
    track: Track
    truth: Tensor  # (T, 16, 3) metres, camera frame
    image: NDArray  # (T, 16, 2) pixels


def subjects(
    cfg: DictConfig,
    cameras: Sequence[CalibratedCamera],
    reference: Reference,
    folder: Path,
    names: Collection[str] | None,
    work: Path,
) -> Iterator[Subject]:
    """What is to be measured: each of the cameras (`names`; None: all), clean and occluded."""
    for view, camera in enumerate(cameras):
        if names is not None and camera.name not in names:
            continue
        for kind, pattern in CLIPS.items():
            path = _existing(folder / pattern.format(camera.name))
            frames, moment = open_video(path, FPS), reference.delayed(LAG[kind])
            image = moment.in_image(camera, view)
            track = subject_of(tracks_of(cfg, frames, work / path.stem), image, path)
            yield Subject(camera, kind, (frames.width, frames.height), track, moment.in_camera(camera), image)


def load_reference(
    cfg: DictConfig, cameras: Sequence[CalibratedCamera], folder: Path, work: Path
) -> Reference:
    """The reference from the clean clips, where the subject is the largest person; `work` keeps readings."""
    detector = BlazePose(cfg.demo.detector_folder)
    readings = []
    for camera in cameras:
        path = _existing(folder / CLIPS["clean"].format(camera.name))
        frames = open_video(path, FPS)
        file, key = work / path.stem / "reading.npz", cache_key(path, {"reading": 1, "fps": FPS})
        kept = load_tracks(file, key)
        if kept is None:
            kept = [read_carefully(frames, tracks_of(cfg, frames, work / path.stem)[0], detector)]
            save_tracks(file, kept, key)
        readings += kept
    reference = build_reference(cameras, readings)
    for camera, off in zip(cameras, reference.reprojection.tolist()):
        if off > MAX_REPROJECTION:
            raise MoroError(
                f"the reference does not fit {camera.name} ({off:.0f} pixels); check the clips in {folder}."
            )
    return reference


def subject_of(tracks: Sequence[Track], image: NDArray, path: Path) -> Track:
    """The track nearest to the reference's projection (T, 16, 2), by the middles of shoulders and hips."""

    def middles(points: NDArray) -> NDArray:
        return np.stack([points[:, SHOULDERS].mean(1), points[:, HIPS].mean(1)], 1)  # (T, 2, 2)

    def distance(track: Track) -> float:
        if not track.seen.any():
            return np.inf
        own = middles(track.landmarks[:, POINTS, :2])[track.seen]
        return float(np.median(np.linalg.norm(own - middles(image)[track.seen], axis=-1)))

    chosen = min(tracks, key=distance)
    logger.info("%s: of %d people, the one %.0f pixels away", path.stem, len(tracks), distance(chosen))
    return chosen


def metric_landmarks(track: Track) -> Tensor:
    """(L, 33, 3) the detector's own metres from the hips, interpolated where the person is unseen."""
    known = np.repeat(track.seen[:, None], track.world.shape[1], axis=1)
    return fill_gaps(torch.from_numpy(track.world), known)


def recover_landmarks(
    cfg: DictConfig,
    system: MoRoSystem,
    body: BodyModel,
    track: Track,
    K: Tensor,
    image_size: tuple[int, int],
) -> Tensor:
    """(L, 33, 3) landmarks, camera frame, of the body the demo fits to the recovered meshes of one person."""
    person = condition_of_track(track, "id0", image_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contact = recover_meshes(cfg, system, [person], K, folder)[person.name]
        meshes = RowFile(meshes_file(folder, person.name))
        fit = fit_person(body, meshes, person, contact, K, cfg.demo.refine)
    return fit.rebuild(body).landmarks()


def scores(points: Tensor, truth: Tensor) -> dict[str, float]:
    """Measures of the 12 main joints; points and truth (T, 16, 3) metres, axes of the camera.

    MPJPE is relative to the middle of the hips. Accelerations and jitter are those of the hip-centred joints,
    after one similarity for the whole clip: turning and scaling frame by frame would make or hide jitter.
    """
    own, true = (value[:, MAIN] - value[:, HIPS].mean(1, keepdim=True) for value in (points, truth))
    once = similarity_transform(own.flatten(0, 1), true.flatten(0, 1)).apply(own)  # (T, 12, 3) -> (T*12, 3)
    return {
        "PA-MPJPE [mm]": float(pa_error(own, true).mean()),
        "MPJPE [mm]": float(mean_error(own, true).mean()),
        "Accel error [m/s2]": float(acceleration_error(once, true).mean()),
        "Jitter [10 m/s3]": float(jitter(once).mean()),
        "Jitter of the reference": float(jitter(true).mean()),
    }


def summary(result: Result) -> Table:
    """Rows "camera, kind of clip, method" and their means over cameras, with the cost of occlusion."""
    rows = {
        f"{camera} {kind} {method}": measures
        for camera, kinds in result.items()
        for kind, methods in kinds.items()
        for method, measures in methods.items()
    }
    for kind in CLIPS:
        for method in ("BlazePose", "MoRo"):
            all_of = [kinds[kind][method] for kinds in result.values()]
            rows[f"mean {kind} {method}"] = {
                name: float(np.mean([row[name] for row in all_of])) for name in all_of[0]
            }
    for camera in (*result, "mean"):
        for method in ("BlazePose", "MoRo"):
            clean, occluded = (rows[f"{camera} {kind} {method}"]["PA-MPJPE [mm]"] for kind in CLIPS)
            cost = {"Cost of occlusion [%]": 100 * (occluded / clean - 1)}
            rows[f"{camera} occluded {method}"] = rows[f"{camera} occluded {method}"] | cost
    return rows


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise MoroError(f"{path} not found; run `python scripts/fetch_demo_files.py --benchmark`.")
    return path
