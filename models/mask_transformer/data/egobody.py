"""EgoBody: two people in a room, watched by up to five Kinects (spec: data 4.4)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from models.mask_transformer.data.base import ClipDataset
from models.mask_transformer.data.crops import (
    DEFAULT_RESOLUTION,
    BoxAugmentation,
    CropReader,
    boxes_of_joints,
)
from models.mask_transformer.data.items import body_entries, camera_entries, local_body
from models.mask_transformer.data.recordings import Motion, load_bodies, read_motion, require_complete
from models.mask_transformer.data.windows import windows_of
from moro.body.model import BodyModel
from moro.errors import MoroError
from moro.geometry.frames import world2cano
from moro.geometry.lens import Lens
from moro.io import egobody_files as files
from moro.io.egobody_files import MASTER, VIEWS
from moro.io.scenes import Boxes

DEBUG = {
    "train": "recording_20211004_S19_S06_01",
    "val": "recording_20220315_S21_S30_03",
    "test": ("recording_20220318_S33_S34_01", "sub_3", 0),
}


@dataclass(frozen=True)
class Target:
    """One person of a recording in the given views; a training item draws one of them."""

    recording: str
    body_idx: int
    views: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """lens: intrinsics; cam2world (4, 4) y-up; master2cam (4, 4); images: folder."""

    name: str
    lens: Lens
    cam2world: Tensor
    master2cam: Tensor
    images: Path


@dataclass(frozen=True)
class PersonSequence:
    """A target with its files read; boxes and keypoints (T, 25, 3) of the raw image only in the test."""

    target: Target
    gender: str
    motion: Motion
    master2world: Tensor
    views: list[View]
    boxes: Boxes | None = None
    keypoints: np.ndarray | None = None


@dataclass(frozen=True)
class Settings:
    """What the samples are like; gt_bbox: boxes around the true joints instead of the detector's."""

    clip_len: int
    overlap_len: int = 0
    gt_bbox: bool = False
    augmentation: BoxAugmentation | None = None
    contact_threshold: float = 0.3
    contact_hand: bool = False
    resolution: tuple[int, int] = DEFAULT_RESOLUTION
    compat: bool = True
    bm_path: str = "body_models"
    model_type: str = "smplx"
    max_unreadable: float = 0.05
    cache: Path | None = None
    seed: int = 0


class EgoBodyDataset(ClipDataset):
    """Clips of EgoBody in the camera frame of one view, with the body of the person's gender.

    Detector boxes (test) are in pixels of the raw image; with `compat` they are used as they are on the
    undistorted one, as the published numbers were made (spec: data D11), else they are undistorted and filled
    in where nobody was detected (D25; `detected` marks those frames in either case).
    `offset` is one zero per frame (see `items.body_entries`).
    """

    def __init__(self, root: Path, split: str, targets: Iterable[Target], settings: Settings) -> None:
        super().__init__(settings.seed)
        self.split, self.settings = split, settings
        self.sequences = _Files(root, settings, split == "test").sequences(list(targets))
        self.bodies: dict[str, BodyModel] = load_bodies(
            settings.bm_path, settings.model_type, [sequence.gender for sequence in self.sequences]
        )
        self.clips = [
            (sequence, start, stop)
            for sequence in self.sequences
            for start, stop in windows_of(
                len(sequence.motion.frames), settings.clip_len, settings.overlap_len, partial=split == "test"
            )
        ]
        self.reader = CropReader(settings.resolution, max_unreadable=settings.max_unreadable)

    def __len__(self) -> int:
        return len(self.clips)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        sequence, start, stop = self.clips[index]
        view = sequence.views[rng.integers(len(sequence.views))]
        settings, frames = self.settings, sequence.motion.frames[start:stop]
        local = local_body(self.bodies[sequence.gender], sequence.motion.parameters(start, stop))
        person = local.moved(view.master2cam)
        entries = body_entries(
            person,
            local.moved(sequence.master2world).joints(),
            settings.contact_threshold,
            settings.contact_hand,
        )
        K = torch.from_numpy(view.lens.K).float()
        if sequence.boxes is None:
            center, scale = boxes_of_joints(person.joints(), K)
        else:
            center, scale = self._detected_boxes(sequence.boxes, view.lens, start, stop)
            entries["detected"] = torch.from_numpy(sequence.boxes.detected[start:stop])
        if settings.augmentation is not None:
            center, scale = settings.augmentation.apply(center, scale, person, K, view.lens.size, rng)
        if sequence.keypoints is not None:
            entries["keypoints"] = _undistorted_keypoints(sequence.keypoints[start:stop], view.lens)
        paths = [view.images / f"{frame}.jpg" for frame in frames]
        entries |= camera_entries(K, center, scale, view.cam2world, world2cano("y"))
        return entries | {
            "dist_coeffs": torch.from_numpy(view.lens.dist_coeffs).float(),
            "crop_imgs": self.reader.read(paths, center, scale, view.lens),
            "img_paths": [str(path) for path in paths],
            "body_idx": str(sequence.target.body_idx),
            "seq_name": _sequence_name(sequence, view) if self.split == "test" else "train",
            "has_transl": True,
            "true_params": False,
        }

    def _detected_boxes(self, boxes: Boxes, lens: Lens, start: int, stop: int) -> tuple[Tensor, Tensor]:
        center, scale = boxes.centers[start:stop], boxes.scales[start:stop]
        if not self.settings.compat:
            center, scale = lens.undistort_boxes(boxes.bboxes[start:stop])
        return torch.from_numpy(center).float(), torch.from_numpy(scale).float()


def build(cfg: DictConfig, split: str) -> EgoBodyDataset:
    """The data set of one split from the whole configuration.

    split  train: both people, a random view per sample; val: person 0 in the master view; test: the rows of
           egobody_occ_info.csv that dataset.test_idx selects, or one recording, view and body_idx (-1)
    Raises MoroError that names every recording with missing files.
    """
    dataset, training = cfg.dataset, split == "train"
    root = Path(dataset.dataset_root or dataset.roots.egobody)
    if not root.is_dir():
        raise MoroError(f"EgoBody not found at {root}; unpack it there or set dataset.dataset_root.")
    settings = Settings(
        clip_len=dataset.clip_len,
        overlap_len=dataset.overlap_len,
        # the detector's boxes are for the test; validation inside a mixture goes by the truth as well
        gt_bbox=bool(training or dataset.gt_bbox or dataset.sub_datasets),
        augmentation=BoxAugmentation.from_config(dataset) if training else None,
        contact_threshold=dataset.contact_vel_thres,
        contact_hand=dataset.contact_hand,
        resolution=tuple(dataset.crop_res or DEFAULT_RESOLUTION),
        compat=cfg.compat,
        bm_path=dataset.bm_path,
        model_type=dataset.model_type,
        max_unreadable=dataset.max_unreadable,
        cache=root.parent / "egobody_preprocess",
        seed=cfg.seed if training else 0,
    )
    return EgoBodyDataset(root, split, _targets(root, split, dataset, cfg.debug), settings)


def _targets(root: Path, split: str, dataset: DictConfig, debug: bool) -> list[Target]:
    if split == "test":
        chosen = [DEBUG["test"]] if debug else _test_rows(root, dataset)
        return [Target(recording, body_idx, (view,)) for recording, view, body_idx in chosen]
    names = [DEBUG[split]] if debug else files.read_split(root, split)
    if split == "val":
        return [Target(name, 0, (MASTER,)) for name in names]
    return [Target(name, body_idx, VIEWS) for name in names for body_idx in (0, 1)]


def _test_rows(root: Path, dataset: DictConfig) -> list[tuple[str, str, int]]:
    """Recording, view, body_idx of the test sequences (spec: models 7.6)."""
    if dataset.test_idx == -1:
        chosen = (dataset.recording, dataset.view, dataset.body_idx)
        if None in chosen:
            raise MoroError("dataset.test_idx=-1 needs dataset.recording, dataset.view and dataset.body_idx.")
        return [(str(dataset.recording), str(dataset.view), int(dataset.body_idx))]
    rows = files.read_test_sequences(root)
    wanted = dataset.test_idx
    if wanted is None:
        wanted = range(len(rows))
    numbers = [wanted] if isinstance(wanted, int) else list(wanted)
    wrong = [number for number in numbers if not 0 <= number < len(rows)]
    if wrong:
        raise MoroError(f"dataset.test_idx={wrong} is outside egobody_occ_info.csv ({len(rows)} rows).")
    return [(rows[n].recording, rows[n].view, rows[n].body_idx) for n in numbers]


class _Files:
    """Reads what belongs to the targets; intrinsics and calibrations once each."""

    def __init__(self, root: Path, settings: Settings, test: bool) -> None:
        self.root, self.settings, self.test = root, settings, test
        self.info = files.read_recordings(root)
        self._lenses: dict[str, Lens] = {}
        self._views: dict[tuple[str, str], View] = {}

    def sequences(self, targets: Sequence[Target]) -> list[PersonSequence]:
        """Raises MoroError naming every target with missing files before any of them is read."""
        if not targets:
            raise MoroError(f"EgoBody at {self.root}: the split has no recordings.")
        problems = {
            "/".join([target.recording, *_only(target.views), f"body_idx_{target.body_idx}"]): problem
            for target in targets
            if (problem := self._problems(target))
        }
        require_complete("EgoBody", self.root, problems)
        return [self._sequence(target) for target in targets]

    def _problems(self, target: Target) -> list[str]:
        if target.recording not in self.info:
            return ["a valid row of data_info_release.csv"]
        problems = [] if self._motion_folder(target).is_dir() else ["body parameters"]
        views, scene = self._present_views(target), self.info[target.recording].scene
        needed = [files.lens_file(self.root, view) for view in views]
        needed += [
            files.calibration_file(self.root, target.recording, scene, view) for view in {MASTER, *views}
        ]
        problems += sorted(str(path.relative_to(self.root)) for path in needed if not path.is_file())
        if not views:
            problems.append(f"images of {' or '.join(target.views)}")
        if not self.settings.gt_bbox:
            boxes = [
                files.box_file(self.root, target.recording, view, target.body_idx)
                for view in views or target.views
            ]
            problems += [f"boxes (run {files.BOX_SCRIPT})" for path in boxes if not path.is_file()]
        return problems

    def _sequence(self, target: Target) -> PersonSequence:
        root, recording, body_idx = self.root, target.recording, target.body_idx
        folder, compat = self.settings.cache, self.settings.compat
        cache = None if folder is None else folder / f"{recording}_body_idx_{body_idx}.npz"
        motion = read_motion(self._motion_folder(target), cache)
        views = [self._view(recording, name) for name in self._present_views(target)]
        boxes = keypoints = None
        if not self.settings.gt_bbox:
            boxes = files.person_boxes(root, recording, views[0].name, body_idx)
            boxes = (boxes if compat else boxes.interpolated()).select(motion.frames)
        if self.test:
            where = (root, recording, views[0].name)
            keypoints = np.stack([files.read_keypoints(*where, frame, body_idx) for frame in motion.frames])
        gender, world = self.info[recording].genders[body_idx], self._master2world(recording).float()
        return PersonSequence(target, gender, motion, world, views, boxes, keypoints)

    def _motion_folder(self, target: Target) -> Path:
        interactee = self.info[target.recording].interactee_idx
        return files.parameter_folder(self.root, "smplx", target.recording, target.body_idx, interactee)

    def _present_views(self, target: Target) -> list[str]:
        return [
            view
            for view in target.views
            if view in VIEWS and files.image_folder(self.root, target.recording, view).is_dir()
        ]

    def _master2world(self, recording: str) -> Tensor:
        scene = self.info[recording].scene
        return torch.from_numpy(files.master_to_world(self.root, recording, scene))

    def _view(self, recording: str, view: str) -> View:
        key = (recording, view)
        if key not in self._views:
            if view not in self._lenses:
                self._lenses[view] = files.view_lens(self.root, view)
            view2master = torch.from_numpy(files.view_to_master(self.root, recording, view))
            self._views[key] = View(
                view,
                self._lenses[view],
                (self._master2world(recording) @ view2master).float(),
                torch.linalg.inv(view2master).float(),  # = inv(cam2world) @ master2world
                files.image_folder(self.root, recording, view),
            )
        return self._views[key]


def _undistorted_keypoints(keypoints: np.ndarray, lens: Lens) -> Tensor:
    """(F, 25, 3) of the raw image to the undistorted one; what is zero stays so."""
    points = keypoints.copy()
    kept = points[..., 2] > 0
    points[kept, :2] = lens.undistort_points(points[kept, :2])
    return torch.from_numpy(points)


def _only(views: tuple[str, ...]) -> tuple[str, ...]:
    return views if len(views) == 1 else ()


def _sequence_name(sequence: PersonSequence, view: View) -> str:
    return f"{sequence.target.recording}/{view.name}/body_idx_{sequence.target.body_idx}"
