"""A video in, motion out: the whole demo, step by step, resumable (spec: data 9)."""

import functools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
from models.mask_transformer.mirror import MIRRORED_TOKENS
from models.mask_transformer.results import mode_name
from models.mask_transformer.system import MoRoSystem, Recovered
from models.recovery.condition import PersonCondition, add_crops, condition_of_track, crops_file
from models.recovery.files import check_files
from models.recovery.options import check_demo, choose_device, low_precision
from models.recovery.outputs import RecoveredPerson, fit_person, ground_under, write_exports, write_video
from models.recovery.steps import (
    FPS,
    WORK_FOLDER,
    clear_outputs,
    finish,
    is_finished,
    keys_of,
    load_motion,
    save_motion,
    tracks_key,
)
from models.recovery.windows import DemoDataset, FrameTokens, Window
from moro.body.fitting import BodyFit
from moro.body.loading import load_body_model
from moro.config import slug
from moro.errors import MoroError
from moro.io.atomic import atomic_path
from moro.io.results import write_results
from moro.io.row_file import RowFile
from moro.memory import give_back
from moro.video.ahead import read_ahead
from moro.video.blazepose import BlazePose
from moro.video.reader import VideoFrames, open_video
from moro.video.tracks import Track, draw_tracks, load_tracks, save_tracks, select_tracks
from moro.video.writer import VideoWriter
from moro.video.yolo import choose_tracker, find_people

logger = logging.getLogger(__name__)

FOV_FRAMES = 16  # frames looked at by HumanFOV; the camera is static
PRESENCE = 0.6  # part of the frames in which a person must be seen (spec: data 9.2)
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
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise MoroError(f"{path} is not a text file in UTF-8; write one path a line.") from error
    videos = [Path(line) for line in dict.fromkeys(lines) if line and not line.startswith("#")]
    if not videos:
        raise MoroError(f"{path} names no video; write the path of one into each line.")
    return videos


def recover_videos(cfg: DictConfig, videos: Sequence[Path]) -> list[Outcome]:
    """`recover_video` for each; the network is loaded once, and a video that fails does not stop the others.

    Raises MoroError for what no video could do without: missing weights and other files.
    """
    resolved, paths = resolve_paths(cfg)
    check_demo(resolved)
    check_files(resolved, paths)
    choose_checkpoint(resolved, paths)
    load = functools.lru_cache(maxsize=1)(lambda checkpoint: load_system(resolved, checkpoint))
    outcomes = []
    for number, (video, name) in enumerate(zip(videos, own_names(videos)), start=1):
        logger.info("video %d of %d: %s", number, len(videos), video)
        try:
            outcome = recover_video(config_of(cfg, video, name), load)
        except (MoroError, OSError) as error:
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
    video = Path(str(cfg.demo.video_path))
    frames = open_video(video, FPS)
    cfg, paths = resolve_paths(cfg)
    folder = result_folder(cfg, paths.stage, video)
    check_demo(cfg)  # before the long part, so that what is wrong or missing is told at once
    check_files(cfg, paths)
    checkpoint = choose_checkpoint(cfg, paths)
    keys = keys_of(cfg, video, checkpoint)
    if is_finished(folder, keys.results):
        logger.info("nothing to do: %s holds the results of this video and these settings", folder)
        return Outcome(video, "skipped", folder)
    work = folder / WORK_FOLDER
    motion = load_motion(work / "fits.npz", folder, keys.motion)
    clear_outputs(folder, keep_results=motion is not None)
    with atomic_path(folder / "config.yaml") as temporary:
        temporary.write_text(OmegaConf.to_yaml(cfg))
    system = None
    if motion is None:
        system = load_system(cfg, checkpoint) if load is None else load(checkpoint)

    tracks = tracks_of(cfg, frames, work)
    give_back()
    size = (frames.width, frames.height)
    uses_boxes = cfg.model.backbone.type != "keypoints" and choose_tracker(cfg.demo.tracker) == "yolo"
    people = [condition_of_track(track, f"id{k}", size, uses_boxes) for k, track in enumerate(tracks)]
    if cfg.demo.verbose:
        write_tracks_video(folder / "bbx_overlay.mp4", frames, tracks)
    if motion is None:
        focal = focal_length(cfg, frames)
        K = intrinsics(focal, size)
        contacts = recover_meshes(cfg, system, people, K, folder, frames)
        del system
        motion = fit_people(cfg, people, contacts, frames.names, K, folder), focal
        save_motion(work / "fits.npz", *motion, keys.motion)
        remove_meshes(folder, people)
    fits, focal = motion
    K = intrinsics(focal, size)
    write_outputs(cfg, frames, people, fits, K, folder)
    finish(folder, keys.results, report_of(frames, people, focal, checkpoint))
    return Outcome(video, "done", folder)


# ------------------------------------------------------------------------------------------------ settings


def result_folder(cfg: DictConfig, stage: Path, video: Path) -> Path:
    """`demo.output_path`, or `<stage>/result_demo_<name>/<mode>_<timesteps>_<topk>` (spec: models 6.4)."""
    if cfg.demo.output_path is not None:
        return Path(cfg.demo.output_path)
    return stage / f"result_demo_{cfg.demo.name or default_name(video)}" / mode_name(cfg)


def default_name(video: Path) -> str:
    """Of the result folder: that of the file or folder."""
    return video.name if video.is_dir() else video.stem


def load_system(cfg: DictConfig, checkpoint: Path) -> MoRoSystem:
    """The network with its weights, on the device of `demo.device`, in eval mode."""
    system = build_system(cfg, initialise=False)
    load_weights(system, checkpoint)
    provide_stats(system, cfg)  # released weights carry none
    return system.to(choose_device(cfg.demo.device)).eval()


def intrinsics(focal: float, size: tuple[int, int]) -> torch.Tensor:
    """(3, 3) pinhole camera with the principal point in the middle; size is (width, height)."""
    width, height = size
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)


def focal_length(cfg: DictConfig, frames: VideoFrames) -> float:
    """Pixels: what was given, else HumanFOV if its weights are there, else sqrt(W² + H²), and says which."""
    if cfg.demo.focal_length is not None:
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
    key, file = tracks_key(cfg, frames.path), folder / "tracks.npz"
    tracks = load_tracks(file, key)
    if tracks is None:
        detector = BlazePose(cfg.demo.detector_folder)
        limit = {} if cfg.demo.max_people is None else {"max_people": cfg.demo.max_people}
        with closing(read_ahead(frames)) as decoded:
            shown = tqdm(decoded, total=len(frames), desc="track", unit="frame", disable=None)
            tracks = find_people(
                shown,
                detector,
                cfg.demo.tracker,
                yolo_weights=cfg.demo.yolo_weights,
                min_fraction=PRESENCE,
                **limit,
            )
        save_tracks(file, tracks, key)
    chosen = select_tracks(tracks, PRESENCE)[: cfg.demo.max_people]
    for number, track in enumerate(chosen):
        logger.info("id%d: seen in %d of %d frames", number, int(track.seen.sum()), len(track.seen))
    return chosen


def write_tracks_video(path: Path, frames: VideoFrames, tracks: list[Track]) -> None:
    """The tracks drawn on the video (`demo.verbose`)."""
    with VideoWriter(path, FPS, (frames.width, frames.height)) as writer:
        for index, frame in enumerate(frames):
            writer.write(draw_tracks(frame, tracks, index))


# ------------------------------------------------------------------------------------------------ recovery


def recover_meshes(
    cfg: DictConfig,
    system: MoRoSystem,
    people: Sequence[PersonCondition],
    K: torch.Tensor,
    folder: Path,
    frames: VideoFrames | None = None,
) -> dict[str, NDArray]:
    """Every person's meshes (L, V, 3) into `meshes_file(folder, name)`; returns logits (L, 4|6) of contact.

    They go through a file so that memory does not grow with the video, and so do the crops of `frames`, for
    backbones that look at images.
    """
    length = len(people[0].scale)
    (folder / WORK_FOLDER).mkdir(parents=True, exist_ok=True)
    if cfg.model.backbone.type != "keypoints":
        add_crops(people, frames, tuple(cfg.dataset.crop_res), folder / WORK_FOLDER)
    neighbours = cfg.model.backbone.neighbours
    dataset = DemoDataset(people, K, cfg.dataset.clip_len, cfg.dataset.overlap_len, neighbours)
    tokens = {"cond": FrameTokens(system.backbone, dataset, system.device)}
    if system.mirror is not None:
        tokens[MIRRORED_TOKENS] = FrameTokens(system.backbone, dataset, system.device, mirrored=True)
    vertices: dict[str, RowFile] = {}
    contact: dict[str, NDArray] = {}
    for index in tqdm(range(len(dataset)), desc="recover", unit="window", disable=None):
        window = dataset.windows[index]
        name = people[window.person].name
        result = recover_window(cfg, system, dataset[index], tokens, window)
        if name not in vertices:
            shape = (length, *result.vertices.shape[2:])
            vertices[name] = RowFile.create(meshes_file(folder, name), shape, np.float32)
            contact[name] = np.zeros((length, result.contact.shape[-1]), np.float32)
        vertices[name][window.first : window.last] = result.vertices[0].float().cpu().numpy()
        contact[name][window.first : window.last] = result.contact[0, window.kept].float().cpu().numpy()
        del result  # before the next window makes its own
        give_back()
    return contact


def recover_window(
    cfg: DictConfig, system: MoRoSystem, item: dict, tokens: Mapping[str, FrameTokens], window: Window
) -> Recovered:
    """`system.recover` on one window, at the precision of `demo.precision`; meshes of the kept frames.

    tokens  of the backbone, by their key in the batch
    """
    batch = collate([item])
    batch = {k: v.to(system.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    low = low_precision(cfg.demo.precision)
    with torch.inference_mode(), torch.autocast(system.device.type, torch.bfloat16, enabled=low):
        batch |= {key: made.of(window) for key, made in tokens.items()}
        return system.recover(batch, window.kept)


def fit_people(
    cfg: DictConfig,
    people: Sequence[PersonCondition],
    contacts: Mapping[str, NDArray],
    frame_names: Sequence[str],
    K: torch.Tensor,
    folder: Path,
) -> list[BodyFit]:
    """Parameters of every person's meshes; meanwhile a thread writes them as results.pkl (zlib is slow)."""
    body = load_body_model(cfg.dataset.bm_path, cfg.dataset.model_type)
    meshes = {person.name: RowFile(meshes_file(folder, person.name)) for person in people}
    with ThreadPoolExecutor(1) as writer:
        written = [
            writer.submit(write_results, folder / name / "results.pkl", frame_names, rows, contacts[name] > 0)
            for name, rows in meshes.items()
        ]
        fits = [
            fit_person(body, meshes[one.name], one, contacts[one.name], K, cfg.demo.refine) for one in people
        ]
        for job in written:
            job.result()  # raises what went wrong
    return fits


def remove_meshes(folder: Path, people: Sequence[PersonCondition]) -> None:
    """The large files that are only needed on the way."""
    for person in people:
        person.crops = None
        for file in (meshes_file(folder, person.name), crops_file(folder / WORK_FOLDER, person.name)):
            file.unlink(missing_ok=True)


def meshes_file(folder: Path, name: str) -> Path:
    return folder / WORK_FOLDER / f"vertices_{name}.npy"


# ------------------------------------------------------------------------------------------------- outputs


def write_outputs(
    cfg: DictConfig,
    frames: VideoFrames,
    people: Sequence[PersonCondition],
    fits: Sequence[BodyFit],
    K: torch.Tensor,
    folder: Path,
) -> None:
    """Stand everybody on the ground and write the files of spec: data 9.6."""
    shown = load_body_model(cfg.dataset.bm_path, cfg.demo.fit_body or cfg.dataset.model_type)  # maybe finer
    fitted = [RecoveredPerson(person, folder / person.name, fit) for person, fit in zip(people, fits)]
    ground = ground_under(fitted, FPS)
    size, camera = (frames.width, frames.height), K.numpy()
    full = not cfg.demo.npz_only
    write_exports(fitted, shown, ground, camera, size, FPS, cfg.demo.gender or "neutral", with_glb=full)
    if full and cfg.demo.render:
        view = ground if cfg.demo.render_global else None
        write_video(folder / "result.mp4", frames, fitted, shown, view, camera, cfg.demo.use_bbox)


def report_of(
    frames: VideoFrames, people: Sequence[PersonCondition], focal: float, checkpoint: Path
) -> dict[str, Any]:
    """What demo.json says of a run."""
    return {
        "video": str(frames.path),
        "frames": len(frames),
        "fps": FPS,
        "size": [frames.width, frames.height],
        "focal_length": focal,
        "checkpoint": str(checkpoint),
        "people": {
            person.name: {
                "seen_frames": int(person.seen.sum()),
                "interpolated_boxes": int((~person.seen).sum()),
            }
            for person in people
        },
    }
