"""EgoBody: two people in a room, watched by up to five Kinects (spec: data 4.4)."""

import csv
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
    Lens,
    boxes_of_joints,
)
from models.mask_transformer.data.items import body_entries, camera_entries, local_body
from models.mask_transformer.data.recordings import (
    Boxes,
    Motion,
    load_bodies,
    read_boxes,
    read_intrinsics,
    read_json,
    read_matrix,
    read_motion,
    require_complete,
)
from models.mask_transformer.data.windows import windows_of
from moro.body.model import BodyModel
from moro.errors import MoroError
from moro.geometry.frames import world2cano

IMAGE_SIZE = (1920, 1080)
MASTER = "master"
# View -> the file with its transform to the master camera.
TO_MASTER = {
    "sub_1": "kinect_11to12_color.json",
    "sub_2": "kinect_13to12_color.json",
    "sub_3": "kinect_14to12_color.json",
    "sub_4": "kinect_15to12_color.json",
}
VIEWS = (MASTER, *TO_MASTER)
BOX_SCRIPT = "scripts.preprocess.process_egobody_bbox"
MIN_CONFIDENCE = 0.2  # of an OpenPose point
NUM_POINTS = 25
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
        self.reader = CropReader(settings.resolution)

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
            center, scale = settings.augmentation.apply(center, scale, person, K, IMAGE_SIZE, rng)
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
        center, scale = boxes.center[start:stop], boxes.scale[start:stop]
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
        cache=root.parent / "egobody_preprocess",
        seed=cfg.seed if training else 0,
    )
    return EgoBodyDataset(root, split, _targets(root, split, dataset, cfg.debug), settings)


def _targets(root: Path, split: str, dataset: DictConfig, debug: bool) -> list[Target]:
    if split == "test":
        chosen = [DEBUG["test"]] if debug else _test_rows(root, dataset)
        return [Target(recording, body_idx, (view,)) for recording, view, body_idx in chosen]
    names = [DEBUG[split]] if debug else _split_recordings(root / "data_splits.csv", split)
    if split == "val":
        return [Target(name, 0, (MASTER,)) for name in names]
    return [Target(name, body_idx, VIEWS) for name in names for body_idx in (0, 1)]


def _read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a csv file that has these columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, found = list(reader), reader.fieldnames or []
    except OSError as error:
        raise MoroError(f"cannot read {path} ({error.strerror}); it is part of EgoBody.") from error
    lacking = [column for column in columns if column not in found]
    if lacking:
        raise MoroError(f"{path} has no column {', '.join(lacking)}; it is not EgoBody's file.")
    return rows


def _split_recordings(path: Path, split: str) -> list[str]:
    entries = [(row[split] or "").strip() for row in _read_csv(path, [split])]
    return [entry for entry in entries if entry and entry.lower() != "nan"]


def _test_rows(root: Path, dataset: DictConfig) -> list[tuple[str, str, int]]:
    """Recording, view, body_idx of the test sequences (spec: models 7.6)."""
    if dataset.test_idx == -1:
        chosen = (dataset.recording, dataset.view, dataset.body_idx)
        if None in chosen:
            raise MoroError("dataset.test_idx=-1 needs dataset.recording, dataset.view and dataset.body_idx.")
        return [(str(dataset.recording), str(dataset.view), int(dataset.body_idx))]
    path = root / "egobody_occ_info.csv"
    rows = _read_csv(path, ["recording_name", "view", "target_idx"])
    wanted = dataset.test_idx
    if wanted is None:
        wanted = range(len(rows))
    numbers = [wanted] if isinstance(wanted, int) else list(wanted)
    wrong = [number for number in numbers if not 0 <= number < len(rows)]
    if wrong:
        raise MoroError(f"dataset.test_idx={wrong} is outside {path}, which has {len(rows)} rows.")
    return [
        (rows[n]["recording_name"].strip(), rows[n]["view"].strip(), int(float(rows[n]["target_idx"])))
        for n in numbers
    ]


class _Files:
    """Reads what belongs to the targets; intrinsics and calibrations once each."""

    def __init__(self, root: Path, settings: Settings, test: bool) -> None:
        self.root, self.settings, self.test = root, settings, test
        self.info = {
            row["recording_name"].strip(): row
            for row in _read_csv(
                root / "data_info_release.csv",
                ["recording_name", "scene_name", "body_idx_0", "body_idx_1", "body_idx_fpv"],
            )
        }
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
            return ["a row of data_info_release.csv"]
        problems = []
        if self._motion_folder(target) is None:
            problems.append("body parameters")
        views = self._present_views(target)
        needed = [self._calibration(target, MASTER)]
        for view in views:
            needed += [self._color_json(view), *([self._calibration(target, view)] if view != MASTER else [])]
        problems += [str(path.relative_to(self.root)) for path in needed if not path.is_file()]
        if not views:
            problems.append(f"images of {' or '.join(target.views)}")
        if not self.settings.gt_bbox:
            boxes = [self._box_file(target, view) for view in views]
            problems += [f"boxes (run {BOX_SCRIPT})" for path in boxes if not path.is_file()]
        return problems

    def _sequence(self, target: Target) -> PersonSequence:
        gender = self._gender(target)
        name = f"{target.recording}_body_idx_{target.body_idx}.npz"
        cache = None if self.settings.cache is None else self.settings.cache / name
        motion = read_motion(self._motion_folder(target), cache)
        views = [self._view(target, name) for name in self._present_views(target)]
        boxes = keypoints = None
        if not self.settings.gt_bbox:
            path = self._box_file(target, views[0].name)
            boxes = read_boxes(path, motion.frames, BOX_SCRIPT, interpolate=not self.settings.compat)
        if self.test:
            folder = self.root / "keypoints_cleaned" / target.recording / views[0].name
            keypoints = np.stack([_openpose(folder, frame, target.body_idx) for frame in motion.frames])
        return PersonSequence(
            target, gender, motion, self._master2world(target).float(), views, boxes, keypoints
        )

    def _gender(self, target: Target) -> str:
        """Of "1 male" in the column body_idx_<i>."""
        entry = self.info[target.recording][f"body_idx_{target.body_idx}"].split()
        if len(entry) != 2 or entry[1] not in ("male", "female"):
            raise MoroError(
                f"data_info_release.csv: body_idx_{target.body_idx} of {target.recording} "
                "is not '<index> <gender>'."
            )
        return entry[1]

    def _motion_folder(self, target: Target) -> Path | None:
        """The release unpacks into smplx_interactee, or into smplx_interactee_<split>."""
        interactee = self.info[target.recording]["body_idx_fpv"].split()[:1] == [str(target.body_idx)]
        role = "smplx_interactee" if interactee else "smplx_camera_wearer"
        for suffix in ("", "_train", "_val", "_test"):
            below = Path(f"{role}{suffix}") / target.recording / f"body_idx_{target.body_idx}" / "results"
            if (self.root / below).is_dir():
                return self.root / below
        return None

    def _present_views(self, target: Target) -> list[str]:
        folder = self.root / "kinect_color" / target.recording
        return [view for view in target.views if view in VIEWS and (folder / view).is_dir()]

    def _color_json(self, view: str) -> Path:
        return self.root / "kinect_cam_params" / f"kinect_{view}" / "Color.json"

    def _calibration(self, target: Target, view: str) -> Path:
        folder = self.root / "calibrations" / target.recording / "cal_trans"
        if view == MASTER:
            return folder / "kinect12_to_world" / f"{self.info[target.recording]['scene_name'].strip()}.json"
        return folder / TO_MASTER[view]

    def _box_file(self, target: Target, view: str) -> Path:
        folder = self.root / "keypoints_cleaned" / target.recording / view
        return folder / f"bbox_idx{target.body_idx}.npz"

    def _master2world(self, target: Target) -> Tensor:
        return torch.from_numpy(read_matrix(self._calibration(target, MASTER), "trans"))

    def _view(self, target: Target, view: str) -> View:
        key = (target.recording, view)
        if key not in self._views:
            if view not in self._lenses:
                self._lenses[view] = Lens(*read_intrinsics(self._color_json(view)), IMAGE_SIZE)
            view2master = (
                torch.eye(4, dtype=torch.float64)
                if view == MASTER
                else torch.from_numpy(read_matrix(self._calibration(target, view), "trans"))
            )
            self._views[key] = View(
                view,
                self._lenses[view],
                (self._master2world(target) @ view2master).float(),
                torch.linalg.inv(view2master).float(),  # = inv(cam2world) @ master2world
                self.root / "kinect_color" / target.recording / view,
            )
        return self._views[key]


def _openpose(folder: Path, frame: str, body_idx: int) -> np.ndarray:
    """(25, 3) x, y, confidence of one person in the raw image; zeros where nobody was detected."""
    path = folder / f"{frame}_keypoints.json"
    people = read_json(path).get("people", []) if path.is_file() else []
    points = people[body_idx].get("pose_keypoints_2d", []) if body_idx < len(people) else []
    if len(points) != 3 * NUM_POINTS:
        return np.zeros((NUM_POINTS, 3), np.float32)
    points = np.asarray(points, np.float32).reshape(NUM_POINTS, 3)  # (75,) -> (25, 3)
    return np.where(points[:, 2:] > MIN_CONFIDENCE, points, 0)


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
