"""BEDLAM: rendered people, every parameter known (spec: data 4.2)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from models.mask_transformer.data.base import ClipDataset
from models.mask_transformer.data.crops import DEFAULT_RESOLUTION, BoxAugmentation, CropReader
from models.mask_transformer.data.items import (
    BodyParameters,
    body_entries,
    camera_entries,
    local_body,
)
from models.mask_transformer.data.recordings import require_complete
from models.mask_transformer.data.windows import windows_of
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.errors import MoroError
from moro.geometry.camera import project
from moro.geometry.frames import world2cano
from moro.geometry.rotation import rotvec_to_matrix
from moro.io.array_cache import keep_arrays, load_arrays, state_of
from moro.io.bedlam_files import LABELS, Tracks, image_folder, label_file, read_scene_names, read_tracks

_log = logging.getLogger(__name__)

TRAIN = (
    "static-hdri", "zoom-suburbd", "closeup-suburba", "closeup-suburbb", "closeup-suburbc", "closeup-suburbd",
    "closeup-gym", "zoom-gym", "static-gym", "static-office", "orbit-office", "static-hdri-zoomed",
    "pitchup-stadium", "pitchdown-stadium", "static-hdri-bmi", "closeup-suburbb-bmi", "closeup-suburbc-bmi",
    "static-suburbd-bmi", "zoom-gym-bmi", "static-office-hair", "zoom-suburbd-hair", "orbit-archviz-15",
    "orbit-archviz-19", "orbit-archviz-12", "orbit-archviz-10",
)  # fmt: skip
SCENES = {"train": TRAIN, "val": ("static-gym-hair",), "test": ("static-gym-hair",)}
DEBUG_SCENES = ("closeup-suburba",)
MOVING = ("orbit", "zoom")  # such cameras are left out where clips have more than one frame
ON_THEIR_SIDE = "closeup"  # scenes whose images are stored turned by 90 degrees
IMAGE_SIZE = (1280, 720)
NUM_JOINTS, JOINTS_INSIDE = 22, 16  # of these many joints so many must be in the picture,
FRAMES_INSIDE = (4, 5)  # in this share of a clip's frames
FRAMES_PER_PASS = 4096
CACHE_VERSION = 1


@dataclass(frozen=True)
class Scene:
    """One folder's labels (see Tracks) and images.

    inside  two arrays (N,): joints in the picture, posed rightly and as the original does (spec: data D6)
    """

    name: str
    images: Path
    tracks: Tracks
    inside: dict[str, np.ndarray]

    @property
    def on_its_side(self) -> bool:
        return ON_THEIR_SIDE in self.name

    @property
    def image_size(self) -> tuple[int, int]:
        """Width, height of the upright image."""
        return IMAGE_SIZE[::-1] if self.on_its_side else IMAGE_SIZE

    def parameters(self, start: int, stop: int, world_orient: bool = False) -> BodyParameters:
        """Body of these rows in the camera frame.

        world_orient  orientation of the world at the position in the camera frame, as the original mixes them
        """
        arrays = {key: torch.tensor(value[start:stop]) for key, value in self.tracks.arrays.items()}
        pose = rotvec_to_matrix(arrays["pose_cam"].reshape(-1, NUM_JOINTS, 3))  # (F, 66) -> (F, 22, 3)
        orient = rotvec_to_matrix(arrays["pose_world"]) if world_orient else pose[:, 0]
        transl = arrays["trans_cam"] + arrays["cam_ext"][:, :3, 3]
        return BodyParameters(orient, pose[:, 1:], arrays["shape"], transl)


@dataclass(frozen=True)
class Settings:
    """What the samples are like."""

    clip_len: int
    overlap_len: int = 0
    skip: int = 1
    augmentation: BoxAugmentation | None = None
    contact_threshold: float = 0.3
    contact_hand: bool = False
    resolution: tuple[int, int] = DEFAULT_RESOLUTION
    max_unreadable: float = 0.05
    compat: bool = True
    seed: int = 0


class BedlamDataset(ClipDataset):
    """Clips of BEDLAM in the camera frame, intrinsics per frame, with the neutral body.

    A clip is kept if in 80 % of its frames 16 joints are in the picture. With `compat` these joints, and
    those the contact labels come from, have the world's orientation in the camera frame (spec: data D6).
    `offset` is one zero per frame (see `items.body_entries`).
    """

    def __init__(self, scenes: Sequence[Scene], body: BodyModel, split: str, settings: Settings) -> None:
        super().__init__(settings.seed)
        self.scenes, self.body, self.split, self.settings = list(scenes), body, split, settings
        parts = [self._clips_of(number) for number in range(len(self.scenes))]
        self.clips = np.concatenate(parts)  # (C, 3): scene, track, first row
        if not len(self.clips):
            raise MoroError(
                f"BEDLAM has no {split} clip of {settings.clip_len} frames with the person in the picture; "
                "use a smaller dataset.clip_len or check the labels."
            )
        self.reader = CropReader(settings.resolution, max_unreadable=settings.max_unreadable)

    def _clips_of(self, number: int) -> np.ndarray:
        """(C, 3) of the clips of one scene that are kept (spec: data 4.2, filter)."""
        settings, scene = self.settings, self.scenes[number]
        inside = scene.inside["compat" if settings.compat else "true"] >= JOINTS_INSIDE
        good = np.concatenate([[0], np.cumsum(inside)])  # good frames before each row
        first, rows = scene.tracks.first, []
        for track, (begin, end) in enumerate(zip(first[:-1], first[1:])):
            length = int(end - begin)
            windows = windows_of(length, settings.clip_len, settings.overlap_len, partial=False)
            rows += [(number, track, begin + start) for start, _ in windows[:: settings.skip]]
        clips = np.array(rows, np.int64).reshape(-1, 3)  # () -> (0, 3) if there are none
        share = good[clips[:, 2] + settings.clip_len] - good[clips[:, 2]]
        return clips[FRAMES_INSIDE[1] * share >= FRAMES_INSIDE[0] * settings.clip_len]

    def __len__(self) -> int:
        return len(self.clips)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        number, track, start = (int(value) for value in self.clips[index])
        scene, settings = self.scenes[number], self.settings
        stop = start + settings.clip_len
        labels = {key: torch.tensor(scene.tracks.arrays[key][start:stop]) for key in LABELS}
        person = local_body(self.body, scene.parameters(start, stop))
        cam2world = torch.linalg.inv(labels["cam_ext"])
        standing = person  # compat: the original's joints for the contact labels
        if settings.compat:
            standing = replace(person, rotation=rotvec_to_matrix(labels["pose_world"]))
        entries = body_entries(
            person,
            standing.moved(cam2world).joints(),
            settings.contact_threshold,
            settings.contact_hand,
        )
        K, center, scale = labels["cam_int"], labels["center"], labels["scale"]
        if settings.augmentation is not None:
            center, scale = settings.augmentation.apply(center, scale, person, K, scene.image_size, rng)
        paths = [scene.images / name.decode() for name in scene.tracks.images[start:stop]]
        middle = torch.tensor(scene.image_size) / 2
        entries |= camera_entries(K, center, scale, cam2world, world2cano("-y"), origin=middle)
        return entries | {
            "dist_coeffs": torch.zeros(8),
            "crop_imgs": self.reader.read(
                paths, center, scale, size=scene.image_size, clockwise=scene.on_its_side
            ),
            "img_paths": [str(path) for path in paths],
            "body_idx": str(scene.tracks.subjects[track]),
            "seq_name": self._sequence_name(index) if self.split == "test" else self.scenes[0].name,
            "has_transl": True,
            "true_params": True,
        }

    def _sequence_name(self, index: int) -> str:
        """Clips that follow each other in a track share it; their results are put together by it."""
        number, track, start = self.clips[index]
        stride = self.settings.clip_len - self.settings.overlap_len
        while index and np.array_equal(self.clips[index - 1], (number, track, start - stride)):
            index, start = index - 1, start - stride
        scene = self.scenes[number]
        return f"{scene.name}/track_{track:05d}_{start - scene.tracks.first[track]:05d}"


def build(cfg: DictConfig, split: str) -> BedlamDataset:
    """The data set of one split from the whole configuration.

    Scenes of the split that bedlam_scene_names.csv does not name are left out and logged.
    Raises MoroError that names every scene with missing files.
    """
    dataset, training = cfg.dataset, split == "train"
    root = Path(dataset.dataset_root or dataset.roots.bedlam)
    if not root.is_dir():
        raise MoroError(f"BEDLAM not found at {root}; unpack it there or set dataset.dataset_root.")
    settings = Settings(
        clip_len=dataset.clip_len,
        overlap_len=dataset.overlap_len,
        skip=dataset.skip,
        augmentation=BoxAugmentation.from_config(dataset) if training else None,
        contact_threshold=dataset.contact_vel_thres,
        contact_hand=dataset.contact_hand,
        resolution=tuple(dataset.crop_res or DEFAULT_RESOLUTION),
        max_unreadable=dataset.max_unreadable,
        compat=cfg.compat,
        seed=cfg.seed if training else 0,
    )
    body = load_body_model(dataset.bm_path, dataset.model_type)
    names = DEBUG_SCENES if cfg.debug else scene_names(split, dataset.clip_len)
    scenes = read_scenes(root, names, body, root.parent / "bedlam_preprocess")
    return BedlamDataset(scenes, body, split, settings)


def scene_names(split: str, clip_len: int) -> list[str]:
    """Scenes of a split; for clips without those whose camera moves."""
    return [name for name in SCENES[split] if clip_len == 1 or not name.startswith(MOVING)]


def read_scenes(root: Path, names: Sequence[str], body: BodyModel, cache: Path | None = None) -> list[Scene]:
    """The named scenes that bedlam_scene_names.csv knows, with their labels.

    cache  folder that keeps the labels in a form that is fast to read, and the joints in the picture; made
           again when the label file, the body or the code's version changes
    """
    folders = read_scene_names(root)
    unknown = [name for name in names if name not in folders]
    if unknown:
        _log.warning("BEDLAM at %s: its list of scenes is without %s", root, ", ".join(unknown))
    wanted = [name for name in names if name in folders]
    if not wanted:
        raise MoroError(f"BEDLAM at {root}: its list of scenes has none of {', '.join(names)}.")
    problems = {}
    for name in wanted:
        needed = [label_file(root, folders[name]), image_folder(root, folders[name])]
        lacking = [str(path.relative_to(root)) for path in needed if not path.exists()]
        problems |= {name: lacking} if lacking else {}
    require_complete("BEDLAM", root, problems)
    bar = tqdm(wanted, desc="BEDLAM labels", unit="scene", disable=None)
    return [_read_scene(root, name, folders[name], body, cache) for name in bar]


def _read_scene(root: Path, name: str, folder: str, body: BodyModel, cache: Path | None) -> Scene:
    path = label_file(root, folder)
    kept = None if cache is None else cache / f"{folder}.npz"
    state = state_of(CACHE_VERSION, path, name, body.sha256, IMAGE_SIZE)
    arrays = load_arrays(kept, state)
    if arrays is None:
        tracks = read_tracks(path)
        scene = Scene(name, image_folder(root, folder), tracks, {})
        inside = {key: _joints_inside(scene, body, key == "compat") for key in ("true", "compat")}
        arrays = tracks.arrays | {f"inside_{key}": value for key, value in inside.items()}
        arrays |= {"images": tracks.images, "first": tracks.first, "subjects": tracks.subjects}
        keep_arrays(kept, state, arrays)
    labels = {key: arrays[key] for key in LABELS}
    tracks = Tracks(labels, arrays["images"], arrays["first"], arrays["subjects"])
    inside = {key: arrays[f"inside_{key}"] for key in ("true", "compat")}
    return Scene(name, image_folder(root, folder), tracks, inside)


def _joints_inside(scene: Scene, body: BodyModel, compat: bool) -> np.ndarray:
    """(N,) how many of the 22 joints are in the picture (spec: data 4.2, no epsilon)."""
    size = torch.tensor(scene.image_size)
    total, counts = int(scene.tracks.first[-1]), []
    for start in range(0, total, FRAMES_PER_PASS):
        stop = min(start + FRAMES_PER_PASS, total)
        K = torch.from_numpy(scene.tracks.arrays["cam_int"][start:stop])
        pixels = project(_joints(body, scene.parameters(start, stop, compat)), K)
        counts.append(((pixels >= 0) & (pixels < size)).all(-1).sum(-1))
    return torch.cat(counts).numpy().astype(np.int8)


def _joints(body: BodyModel, parameters: BodyParameters) -> Tensor:
    """(F, 22, 3) without the mesh."""
    betas = parameters.betas[:, : body.num_betas]
    joints = body.posed_joints(parameters.body_pose, betas, parameters.global_orient, parameters.transl)
    return joints[:, :NUM_JOINTS]
