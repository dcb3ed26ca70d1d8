"""A video in, motion out: the whole demo, step by step, resumable (spec: data 9)."""

import functools
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from models.backbones.human_fov import estimate_focal_length, load_human_fov
from models.mask_transformer.build import (
    build_system,
    choose_checkpoint,
    load_weights,
    provide_stats,
    resolve_paths,
)
from models.mask_transformer.data.module import collate
from models.mask_transformer.system import MoRoSystem, Recovered
from models.recovery.condition import PersonCondition, add_crops, condition_of_track
from models.recovery.files import check_files
from models.recovery.outputs import dump_results, fit_person, ground_under, write_exports, write_video
from models.recovery.windows import DemoDataset
from moro.body.loading import load_body_model
from moro.config import slug
from moro.errors import MoroError
from moro.io.atomic import atomic_path
from moro.video.blazepose import BlazePose
from moro.video.reader import VideoFrames, open_video
from moro.video.tracks import Track, cache_key, draw_tracks, load_tracks, save_tracks, select_tracks
from moro.video.writer import VideoWriter
from moro.video.yolo import choose_tracker, find_people

logger = logging.getLogger(__name__)

FPS = 30.0
FOV_FRAMES = 16  # frames looked at by HumanFOV; the camera is static
WORK_FOLDER = "intermediate"  # beside the results: tracks, and while running, meshes
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".gif")
LIST_SUFFIX = ".txt"


class Outcome(NamedTuple):
    """What became of a video."""

    video: Path
    state: Literal["done", "skipped", "failed"]  # skipped: its results were there already
    folder: Path | None  # of the results; None if failed
    reason: str = ""  # why it failed


# ---------------------------------------------------------------------------------------------- many videos


def videos_of(path: Path) -> list[Path] | None:
    """The videos of a folder that holds video files, or of a list file (.txt, one path a line, # comments).

    None for everything else: one video file or a folder of images. Raises MoroError for an empty list.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES)
        return [file for file in files if not file.name.startswith(".")] or None
    if path.suffix.lower() != LIST_SUFFIX or not path.is_file():
        return None
    lines = (line.strip() for line in path.read_text().splitlines())
    videos = [Path(line) for line in dict.fromkeys(lines) if line and not line.startswith("#")]
    if not videos:
        raise MoroError(f"{path} names no video; write the path of one into each line.")
    return videos


def recover_videos(cfg: DictConfig, videos: Sequence[Path]) -> list[Outcome]:
    """`recover_video` for each; the network is loaded once, and a video that fails does not stop the others.

    Raises MoroError for what no video could do without: missing weights and other files.
    """
    resolved, paths = resolve_paths(cfg)
    check_files(resolved, paths)
    choose_checkpoint(resolved, paths)
    load = functools.lru_cache(maxsize=1)(lambda checkpoint: load_system(resolved, checkpoint))
    outcomes = []
    for number, (video, name) in enumerate(zip(videos, own_names(videos)), start=1):
        logger.info("video %d of %d: %s", number, len(videos), video)
        try:
            outcome = recover_video(config_of(cfg, video, name), load)
        except MoroError as error:
            outcome = Outcome(video, "failed", None, str(error))
        except Exception as error:  # whatever is wrong with it, the others shall be done
            logger.exception("%s: an error that nobody foresaw", video)
            outcome = Outcome(video, "failed", None, f"{type(error).__name__}: {error}")
        logger.info("%s: %s", outcome.state, outcome.reason or outcome.folder)
        outcomes.append(outcome)
    return outcomes


def own_names(videos: Sequence[Path]) -> list[str]:
    """A name for each video's results: that of the file; the whole path where two are called the same."""
    names = [default_name(video) for video in videos]
    count = Counter(names)
    return [name if count[name] == 1 else slug(video) for name, video in zip(names, videos)]


def config_of(cfg: DictConfig, video: Path, name: str) -> DictConfig:
    """The configuration for one of many: demo.name becomes a prefix, demo.output_path the folder above."""
    own = {"video_path": str(video)}
    if cfg.demo.name is not None:
        own["name"] = f"{cfg.demo.name}_{name}"
    elif name != default_name(video):
        own["name"] = name
    if cfg.demo.output_path is not None:
        own["output_path"] = str(Path(cfg.demo.output_path) / name)
    return OmegaConf.merge(cfg, {"demo": own})


def summarise(outcomes: Sequence[Outcome]) -> None:
    """Log what became of each video. Raises MoroError if one failed."""
    for outcome in outcomes:
        logger.info("%-7s %s: %s", outcome.state, outcome.video, outcome.reason or outcome.folder)
    count = Counter(outcome.state for outcome in outcomes)
    told = "%d videos: %d done, %d skipped (done before), %d failed"
    logger.info(told, len(outcomes), count["done"], count["skipped"], count["failed"])
    if count["failed"]:
        raise MoroError(
            f"{count['failed']} of {len(outcomes)} videos failed, for the reasons above; the "
            "same command tries them again and skips the others."
        )


# ------------------------------------------------------------------------------------------------ one video


def recover_video(cfg: DictConfig, load: Callable[[Path], MoRoSystem] | None = None) -> Outcome:
    """Everything `demo.py` does, for one video: never "failed".

    load  gives the network with the weights of a checkpoint; None: it is built here
    A step whose output is there and belongs to the same input and settings is not repeated.
    Raises MoroError for bad input, missing files, or a video without people.
    """
    video = Path(cfg.demo.video_path)
    frames = open_video(video, FPS)
    cfg, paths = resolve_paths(cfg)
    folder = result_folder(cfg, paths.stage, video)
    key = cache_key(video, _settings(cfg))
    if _is_finished(folder, key):
        logger.info("nothing to do: %s holds the results of this video and these settings", folder)
        return Outcome(video, "skipped", folder)
    check_files(cfg, paths)  # before the long part, so that a missing file is told at once
    checkpoint = choose_checkpoint(cfg, paths)
    system = load_system(cfg, checkpoint) if load is None else load(checkpoint)

    tracks = tracks_of(cfg, frames, folder / WORK_FOLDER)
    size = (frames.width, frames.height)
    people = [condition_of_track(track, f"id{k}", size) for k, track in enumerate(tracks)]
    K = intrinsics(focal_length(cfg, frames), size)
    if cfg.model.backbone.type != "keypoints":
        add_crops(people, frames, tuple(cfg.dataset.crop_res), folder / WORK_FOLDER)
    if cfg.demo.verbose:
        write_tracks_video(folder / "bbx_overlay.mp4", frames, tracks)

    recover_people(cfg, system, people, K, folder)
    del system
    write_outputs(cfg, frames, people, K, folder)
    shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
    _finish(folder, key, cfg, frames, people, K, checkpoint)
    return Outcome(video, "done", folder)


# ------------------------------------------------------------------------------------------------ settings


def result_folder(cfg: DictConfig, stage: Path, video: Path) -> Path:
    """`demo.output_path`, or `<stage>/result_demo_<name>/<mode>_<timesteps>_<topk>` (spec: models 6.4)."""
    if cfg.demo.output_path is not None:
        return Path(cfg.demo.output_path)
    generate = cfg.model.test.generate
    name = cfg.demo.name or default_name(video)
    return stage / f"result_demo_{name}" / f"{cfg.model.mode}_{generate.timesteps}_{generate.topk}"


def default_name(video: Path) -> str:
    """Of the result folder: that of the file or folder."""
    return video.name if video.is_dir() else video.stem


def load_system(cfg: DictConfig, checkpoint: Path) -> MoRoSystem:
    """The network with its weights, on the device of `demo.device`, in eval mode."""
    system = build_system(cfg, initialise=False)
    load_weights(system, checkpoint)
    provide_stats(system, cfg)  # released weights carry none
    return system.to(choose_device(cfg.demo.device)).eval()


def choose_device(name: str) -> torch.device:
    """cuda, else mps, else cpu for `auto`."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def intrinsics(focal: float, size: tuple[int, int]) -> torch.Tensor:
    """(3, 3) pinhole camera with the principal point in the middle; size is (width, height)."""
    width, height = size
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)


def focal_length(cfg: DictConfig, frames: VideoFrames) -> float:
    """Pixels: what was given, else HumanFOV if its weights are there, else sqrt(W² + H²), and says which."""
    if cfg.demo.focal_length is not None:
        if not cfg.demo.focal_length > 0:
            raise MoroError(f"demo.focal_length={cfg.demo.focal_length} must be above 0 (pixels).")
        return float(cfg.demo.focal_length)
    weights = Path(cfg.demo.fov_ckpt)
    if weights.is_file():
        starts = np.linspace(0, len(frames) - 1, min(FOV_FRAMES, len(frames))).astype(int)
        images = (next(frames.frames(int(i), int(i) + 1)) for i in starts)
        focal = estimate_focal_length(load_human_fov(weights), images, frames.height)
        logger.info("focal length %.0f px, estimated by HumanFOV", focal)
        return focal
    focal = float(np.hypot(frames.width, frames.height))
    logger.info("focal length %.0f px, a guess from the image size; demo.focal_length=<px> is better", focal)
    return focal


# -------------------------------------------------------------------------------------------------- tracks


def tracks_of(cfg: DictConfig, frames: VideoFrames, folder: Path) -> list[Track]:
    """The people present in 60 % of the frames, largest first (spec: data 9.2); kept in `folder`."""
    tracker = choose_tracker(cfg.demo.tracker)
    key = cache_key(frames.path, {"tracker": tracker, "fps": FPS})
    file = folder / "tracks.npz"
    tracks = load_tracks(file, key)
    if tracks is None:
        detector = BlazePose(cfg.demo.detector_folder)
        shown = tqdm(frames, total=len(frames), desc="track", unit="frame", disable=None)
        tracks = find_people(shown, detector, tracker)
        save_tracks(file, tracks, key)
    chosen = select_tracks(tracks)[: cfg.demo.max_people]
    logger.info("%d of %d people are in view long enough", len(chosen), len(tracks))
    for number, track in enumerate(chosen):
        logger.info("id%d: seen in %d of %d frames", number, int(track.seen.sum()), len(track.seen))
    return chosen


def write_tracks_video(path: Path, frames: VideoFrames, tracks: list[Track]) -> None:
    """The tracks drawn on the video (`demo.verbose`)."""
    with VideoWriter(path, FPS, (frames.width, frames.height)) as writer:
        for index, frame in enumerate(frames):
            writer.write(draw_tracks(frame, tracks, index))


# ------------------------------------------------------------------------------------------------ recovery


def recover_people(
    cfg: DictConfig,
    system: MoRoSystem,
    people: Sequence[PersonCondition],
    K: torch.Tensor,
    folder: Path,
) -> None:
    """results.pkl of every person; the meshes go through a file, so memory does not grow with the video."""
    names = [f"{index:06d}.jpg" for index in range(len(people[0].scale))]
    for name, contact in recover_meshes(cfg, system, people, K, folder).items():
        meshes = np.load(meshes_file(folder, name), mmap_mode="r")
        dump_results(folder / name / "results.pkl", names, meshes, contact)


def recover_meshes(
    cfg: DictConfig,
    system: MoRoSystem,
    people: Sequence[PersonCondition],
    K: torch.Tensor,
    folder: Path,
) -> dict[str, NDArray]:
    """Every person's meshes (L, V, 3) into `meshes_file(folder, name)`; returns contacts (L, 4|6) by name."""
    length = len(people[0].scale)
    names = [f"{index:06d}.jpg" for index in range(length)]
    dataset = DemoDataset(people, K, names, cfg.dataset.clip_len, cfg.dataset.overlap_len)
    skip = cfg.dataset.overlap_len // 2  # each half of an overlap comes from the window it is more inside of
    (folder / WORK_FOLDER).mkdir(parents=True, exist_ok=True)
    vertices: dict[str, NDArray] = {}
    contact: dict[str, NDArray] = {}
    for index in tqdm(range(len(dataset)), desc="recover", unit="window", disable=None):
        window = dataset.windows[index]
        name = people[window.person].name
        first = window.start + (skip if window.start else 0)
        result = recover_window(cfg, system, dataset[index])
        if name not in vertices:
            shape = (length, *result.vertices.shape[2:])
            vertices[name] = np.lib.format.open_memmap(meshes_file(folder, name), "w+", np.float32, shape)
            contact[name] = np.zeros((length, result.contact.shape[-1]), bool)
        kept = slice(first - window.start, None)
        vertices[name][first : window.stop] = result.vertices[0, kept].float().cpu().numpy()
        contact[name][first : window.stop] = (result.contact[0, kept] > 0).cpu().numpy()
    for meshes in vertices.values():
        meshes.flush()
    return contact


def recover_window(cfg: DictConfig, system: MoRoSystem, item: dict) -> Recovered:
    """`system.recover` on one window, at the precision of `demo.precision`."""
    batch = collate([item])
    batch = {k: v.to(system.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    low = str(cfg.demo.precision).startswith("bf16")
    with torch.inference_mode(), torch.autocast(system.device.type, torch.bfloat16, enabled=low):
        return system.recover(batch)


def meshes_file(folder: Path, name: str) -> Path:
    return folder / WORK_FOLDER / f"vertices_{name}.npy"


# ------------------------------------------------------------------------------------------------- outputs


def write_outputs(
    cfg: DictConfig, frames: VideoFrames, people: Sequence[PersonCondition], K: torch.Tensor, folder: Path
) -> None:
    """Fit the body to the meshes, stand it on the ground, write the files of spec: data 9.6."""
    root, kind = cfg.dataset.bm_path, cfg.dataset.model_type
    body = load_body_model(root, kind)
    shown = load_body_model(root, cfg.demo.fit_body or kind)  # the same parameters, maybe finer
    fitted = []
    for person in people:
        meshes = np.load(meshes_file(folder, person.name), mmap_mode="r+")  # torch wants to be able to write
        fitted.append(fit_person(body, meshes, folder / person.name, person))
    ground = ground_under(fitted, FPS)
    size, camera = (frames.width, frames.height), K.numpy()
    full = not cfg.demo.npz_only
    write_exports(fitted, shown, ground, camera, size, FPS, cfg.demo.gender or "neutral", with_glb=full)
    if full and cfg.demo.render:
        view = ground if cfg.demo.render_global else None
        write_video(folder / "result.mp4", frames, fitted, shown, view, camera, cfg.demo.use_bbox)


# ---------------------------------------------------------------------------------------------- resumption


def _settings(cfg: DictConfig) -> dict:
    """What results depend on, beside the video."""
    return {"demo": dict(cfg.demo), "model": str(cfg.model), "dataset": str(cfg.dataset), "tag": cfg.tag}


def _is_finished(folder: Path, key: str) -> bool:
    try:
        return json.loads((folder / "demo.json").read_text())["key"] == key
    except (OSError, ValueError, KeyError):
        return False


def _finish(
    folder: Path,
    key: str,
    cfg: DictConfig,
    frames: VideoFrames,
    people: Sequence[PersonCondition],
    K: NDArray,
    checkpoint: Path,
) -> None:
    """demo.json: what was done, and the mark that it is complete."""
    report = {
        "key": key,
        "video": str(frames.path),
        "frames": len(frames),
        "fps": FPS,
        "size": [frames.width, frames.height],
        "focal_length": float(K[0, 0]),
        "checkpoint": str(checkpoint),
        "people": {
            person.name: {
                "seen_frames": int(person.seen.sum()),
                "interpolated_boxes": int((~person.seen).sum()),
            }
            for person in people
        },
    }
    with atomic_path(folder / "demo.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1))
