"""Motion on the open body, watched by nobody (motion stages) or by a simulated detector (camera stages).

Files: docs/data_open.md. With a motion cache (motion_cache.py) people are ready-made. A training sample is
drawn anew for each (seed, epoch, index): which motion, which part, mirrored or not, speed, heading, body
shape, camera, occlusion, detector errors. Validation and test are fixed.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from models.mask_transformer.data.base import ClipDataset
from models.mask_transformer.data.items import (
    BodyParameters,
    LocalBody,
    body_entries,
    camera_entries,
    local_body,
)
from models.mask_transformer.data.motion_cache import (
    CHUNK,
    CachedMotion,
    Performances,
    Tokenise,
    build_cache,
    cache_key,
    open_cache,
    with_tokens,
)
from models.mesh_vq_vae.network import load_mesh_vqvae
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.errors import MoroError
from moro.geometry.boxes import box_from_landmarks, neighbour_landmarks, normalise_landmarks
from moro.geometry.camera import project
from moro.geometry.frames import world2cano
from moro.geometry.rotation import rotvec_to_matrix
from moro.geometry.trajectory import STATISTICS_CLIP_LENGTH
from moro.io.weights import digest
from moro.synth.cameras import Camera, CameraRanges, sample_camera
from moro.synth.landmarks import CROWDED, EXACT, DetectorNoise, observe_landmarks
from moro.synth.occlusion import OcclusionRanges, behind_torso, outside_image, sample_occlusion
from moro.synth.skeleton import (
    UPPER_BODY,
    mirror_local_rotations,
    resample_linear,
    resample_rotations,
)

SPEED = (0.8, 1.25)  # of a training clip relative to the capture
MIRRORED = 0.5  # share of mirrored training clips
FAMILY_POWER = 0.5  # a family's share of the samples grows with this power of its length
DRAW_FRAMES, DRAW_SPACING = 8, 7  # clip length 1: frames of one draw of `draws`, and frames between them
DRAW_EPOCHS = 20  # so long is a draw kept: observers seen too often are learned by heart
SINGLE_FRAME_STRIDE = 5  # of the frames per epoch and in validation when the clip length is 1
ALONE = 0.15  # share of training clips whose frames know nothing of their neighbours
BOX_SHIFT, BOX_SHAKE, BOX_SIZE = 0.03, 0.01, 0.06  # training: shares of the box's side; log of its size


@dataclass(frozen=True)
class WorldRanges:
    """What the simulated observer is like."""

    cameras: CameraRanges = field(default_factory=CameraRanges)
    occlusion: OcclusionRanges = field(default_factory=OcclusionRanges)
    detector: DetectorNoise = field(default_factory=DetectorNoise)


@dataclass(frozen=True)
class Motion:
    """One recording in the z-up world: name, family, rotvec (T, 22, 3), transl (T, 3) at zero betas."""

    name: str
    family: str
    rotvec: Tensor
    transl: Tensor

    def __len__(self) -> int:
        return len(self.rotvec)


@dataclass(frozen=True)
class Window:
    """Frames [start, stop) of a motion; stop may lie beyond its end in validation (played back and forth)."""

    motion: int
    start: int
    stop: int


class OpenMotionDataset(ClipDataset):
    """Clips of open motion (spec: data 4.1 for `camera=False`, 4.4 without images for `camera=True`).

    root         folder with `motion/index.json` (scripts/preprocess/process_mocap.py)
    split        train | val | test
    body         body model with a landmark regressor if `camera`
    clip_len     frames per clip
    camera       False: world z-up, nobody watches; True: camera frame, boxes and landmarks
    overlap_len  test: frames shared by neighbouring windows of a sequence
    neighbours   frames around each whose landmarks it carries along (`model.backbone.neighbours`)
    draws        clip_len 1 with a motion cache: so many draws of performance, camera, occlusion and detector
                 errors are kept, some of them replaced in each epoch, and samples are frames of them;
                 None: every sample is drawn anew
    motions_of   split whose motions it shows, if not of `split`: whole sequences of the validation motions
    motions      share of the split's motions (up to 1.0) or a number of them; None: all
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        body: BodyModel,
        *,
        clip_len: int,
        camera: bool,
        overlap_len: int = 0,
        contact_threshold: float = 0.3,
        contact_hand: bool = False,
        neighbours: Sequence[int] = (),
        draws: int | None = None,
        motions: float | int | None = None,
        motions_of: str | None = None,
        world: WorldRanges | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        if camera and body.landmark_regressor is None:
            raise MoroError(
                f"Body {body.body_id} has no landmarks; use dataset.model_type=open for dataset.name=open."
            )
        if clip_len < 1 or not 0 <= overlap_len < max(clip_len, 1):
            raise MoroError(
                f"dataset.overlap_len={overlap_len} must be less than dataset.clip_len={clip_len}."
            )
        self.split, self.body, self.clip_len, self.camera = split, body, clip_len, camera
        self.overlap_len, self.draws = overlap_len, draws
        self.neighbours = list(neighbours) if camera else []
        self.reach = max((abs(offset) for offset in self.neighbours), default=0)
        self.contact_threshold, self.contact_hand = contact_threshold, contact_hand
        self.world = world or WorldRanges()
        self.motions = read_motions(Path(root), motions_of or split, motions)
        self.windows = self._windows()
        self.probability = sampling_probability(self.motions)
        self.cache: CachedMotion | None = None  # training: see use_cache
        self._kept: dict[int, list[dict[str, Any]]] = {}  # training: draws made so far, frame by frame
        self._sequence: tuple[int, dict[str, Any]] | None = None  # test: the one made last
        zero = torch.zeros(1, body.num_betas)
        with torch.no_grad():
            rest = body(body_pose=torch.eye(3).expand(1, 21, 3, 3), betas=zero).joints[0]
        self._rest = rest  # (22, 3)

    # ---- what is in it ------------------------------------------------------------------------------

    def __len__(self) -> int:
        if self.split != "train":
            return len(self.windows)
        frames = sum(len(motion) for motion in self.motions)
        return max(1, frames // (SINGLE_FRAME_STRIDE if self.clip_len == 1 else self.clip_len))

    def _windows(self) -> list[Window]:
        """Validation: windows side by side, short motions once; test: sequences in windows with overlap."""
        windows = []
        stride = self.clip_len - (self.overlap_len if self.split == "test" else 0)
        step = stride * (SINGLE_FRAME_STRIDE if self.clip_len == 1 else 1)
        for number, motion in enumerate(self.motions):
            total = len(motion)
            last = max(1, total - self.overlap_len if self.split == "test" else total - self.clip_len + 1)
            for start in range(0, last, step):
                stop = start + self.clip_len
                windows.append(Window(number, start, min(stop, total) if self.split == "test" else stop))
        if self.split == "val":  # trainer.limit_val_batches shall see all kinds of motion
            order = np.random.default_rng(0).permutation(len(windows))
            windows = [windows[number] for number in order]
        return windows

    def trajectory_clips(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Rotation (60, 3, 3), translation (60, 1, 3) of the clips side by side (spec: models 3.7)."""
        for motion in self.motions:
            count = max(1, len(motion) // STATISTICS_CLIP_LENGTH)
            for number in range(count):
                times = self._times(motion, number * STATISTICS_CLIP_LENGTH, 1.0, STATISTICS_CLIP_LENGTH)
                rotations = resample_rotations(rotvec_to_matrix(motion.rotvec), times)
                pelvis = resample_linear(motion.transl, times) + self._rest[0]
                yield rotations[:, 0], pelvis[:, None]

    # ---- one sample ---------------------------------------------------------------------------------

    def sample(self, epoch: int, index: int, rng: np.random.Generator) -> dict[str, Any]:
        if self.cache is None or self.clip_len > 1 or not self.draws:
            return self.item(index, rng)
        first = epoch * self.draws // DRAW_EPOCHS
        frames = self._draw(first + int(rng.integers(self.draws)), first)
        return frames[int(rng.integers(DRAW_FRAMES))]

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        if self.split == "train":
            return self._training_item(rng)
        window = self.windows[index]
        motion = self.motions[window.motion]
        rng = np.random.default_rng(
            (self.seed, window.motion)
        )  # one shape, camera, ... for a whole recording
        if self.split == "val":
            return self._sample(motion, window.start, 1.0, window.stop - window.start, rng, name="val")
        if self._sequence is None or self._sequence[0] != window.motion:
            self._sequence = (window.motion, self._sample(motion, 0, 1.0, len(motion), rng, name=motion.name))
        return self._part(self._sequence[1], slice(window.start, window.stop))

    # ---- the motion cache -----------------------------------------------------------------------------

    def use_cache(self, folder: Path, variants: int, mixed: int = 0, show_mixed: bool = True) -> None:
        """Take training people from the cache in `folder`, which is made if need be.

        variants    performances of each motion
        mixed       as many again with the arms and head of another motion
        show_mixed  samples are of those as well
        """
        self._kinds = [kind >= variants for kind in range(variants + mixed)]
        if folder.is_dir():
            self.cache = open_cache(folder)
        else:
            count = len(self._kinds) * len(self.motions)
            self.cache = build_cache(folder, self._performances(), count)
        weight = self.probability[self.cache.motion]  # (P,)
        if not show_mixed:
            weight = np.where(np.tile(self._kinds, len(self.motions)), 0, weight)
        self._performance_share = weight / weight.sum()

    def use_tokens(self, file: Path, tokenise: Tokenise) -> None:
        """Token ids of the cache for the samples; `file` is made if need be.

        tokenise  local meshes (F, V, 3) → ids (F, J)
        """
        self.cache = with_tokens(self.cache, file, self._performances(), tokenise)

    def _performances(self) -> Performances:
        """All performances, those of a motion one after another."""
        for number in range(len(self.motions)):
            for kind, mixed in enumerate(self._kinds):
                yield number, self._performance(number, kind, mixed)

    def _performance(self, number: int, variant: int, mixed: bool = False) -> Iterator[LocalBody]:
        """A whole motion by one random person, in runs of frames; long enough for a clip."""
        motion = self.motions[number]
        rng = np.random.default_rng((self.seed, number, variant))
        speed = _speed(rng)
        count = max(STATISTICS_CLIP_LENGTH, int((len(motion) - 1) / speed) + 1)
        times = self._times(motion, 0.0, speed, count)
        upper = self._other_upper_body(rng, count) if mixed else None
        state = rng.bit_generator.state
        for rows in torch.arange(count).split(CHUNK):
            rng.bit_generator.state = state  # the same person in all runs
            yield self._person(motion, times[rows], rng, None if upper is None else upper[rows])

    def _other_upper_body(self, rng: np.random.Generator, count: int) -> Tensor:
        """(count, 10, 3, 3) arms and head of a random motion, from a random moment on."""
        other = self.motions[rng.choice(len(self.motions), p=self.probability)]
        times = self._times(other, rng.uniform(0, len(other) - 1), 1.0, count)
        return _rotations(other, times)[:, UPPER_BODY]

    def _from_cache(self, rng: np.random.Generator, frames: int, stride: int = 1) -> dict[str, Any]:
        """A clip of a performance, turned to a random heading, with its token ids (F, J)."""
        performance = rng.choice(len(self._performance_share), p=self._performance_share)
        span = (frames - 1) * stride + 1
        room = int(self.cache.length[performance]) - span
        start = int(rng.integers(room + 1))
        before, after = min(self.reach, start), min(self.reach, room - start)
        person, ids = self.cache.clip(performance, start - before, before + span + after)
        turn = torch.eye(4)
        turn[:3, :3] = _heading(rng.uniform(-np.pi, np.pi))
        sample = self._observed(person.moved(turn), rng, name="train")
        if ids is not None:
            sample["ids"] = ids
        return self._part(sample, slice(before, before + span, stride), rng)

    def _training_item(self, rng: np.random.Generator) -> dict[str, Any]:
        if self.cache is not None:
            return self._from_cache(rng, self.clip_len)
        motion = self.motions[rng.choice(len(self.motions), p=self.probability)]
        speed = _speed(rng)
        room = len(motion) - 1 - (self.clip_len - 1) * speed
        start = rng.uniform(0, room) if room > 0 else rng.uniform(0, max(0.0, len(motion) - 1.0))
        return self._sample(motion, start, speed, self.clip_len, rng, name="train")

    def _draw(self, number: int, first: int) -> list[dict[str, Any]]:
        """The frames of a draw; the same whoever makes it, and when. Those before `first` are forgotten."""
        if number not in self._kept:
            if len(self._kept) >= self.draws:  # rarely: it looks at all of them
                self._kept = {kept: frames for kept, frames in self._kept.items() if kept >= first}
            rng = np.random.default_rng((self.seed, number))
            sample = self._from_cache(rng, DRAW_FRAMES, DRAW_SPACING)
            self._kept[number] = [_cut(sample, slice(frame, frame + 1)) for frame in range(DRAW_FRAMES)]
        return self._kept[number]

    @staticmethod
    def _times(motion: Motion, start: float, speed: float, count: int) -> Tensor:
        """Fractional frames (count,) from `start` on; a motion that ends before is played back and forth."""
        last = len(motion) - 1
        times = start + np.arange(count) * speed
        if last == 0:
            return torch.zeros(count)
        if times[-1] > last + 1e-6:
            times = last - np.abs(np.mod(times, 2 * last) - last)
            times = gaussian_filter1d(times, min(3.0, last / 6), mode="nearest")  # no jerk where it turns
        return torch.from_numpy(np.clip(times, 0, last)).float()

    def _sample(
        self, motion: Motion, start: float, speed: float, frames: int, rng: np.random.Generator, name: str
    ) -> dict[str, Any]:
        """A clip of a motion; the frames around it that its own look at are there while it is observed."""
        before = min(self.reach, int(start / speed))
        after = min(self.reach, max(0, int((len(motion) - 1 - start) / speed) - frames + 1))
        times = self._times(motion, start - before * speed, speed, before + frames + after)
        sample = self._observed(self._person(motion, times, rng), rng, name)
        return self._part(sample, slice(before, before + frames), rng)

    def _part(
        self, sample: dict[str, Any], frames: slice, rng: np.random.Generator | None = None
    ) -> dict[str, Any]:
        """Some frames of a sample, with their neighbours from all of it; some training clips have none."""
        part = _cut(sample, frames)
        if self.neighbours:
            seen = sample["landmarks"], sample["center"], sample["scale"]
            around = neighbour_landmarks(*seen, self.neighbours, frames)  # (F, K, 33, 4)
            alone = self.split == "train" and rng.random() < ALONE
            part["neighbours"] = torch.zeros_like(around) if alone else around
        return part

    def _observed(self, person: LocalBody, rng: np.random.Generator, name: str) -> dict[str, Any]:
        """Batch entries of a person in the world, seen by a random camera if there is one."""
        world_joints = person.joints()
        if not self.camera:
            return body_entries(person, world_joints, self.contact_threshold, self.contact_hand)
        camera = sample_camera(world_joints, rng, self.world.cameras)
        seen = person.moved(camera.world2cam)
        entries = body_entries(seen, world_joints, self.contact_threshold, self.contact_hand)
        entries |= self._observe(seen, camera, rng)
        entries |= {"seq_name": name, "has_transl": True, "true_params": False}
        if "contact_label" in entries:  # single frames are told, too
            label = entries["contact_label"]
            entries["standing"] = torch.cat((label, label[-1:]))  # (F, 4|6)
        if self.split == "test":
            entries["img_paths"] = [f"frame_{frame:05d}" for frame in range(len(world_joints))]
        return entries

    def _person(
        self, motion: Motion, times: Tensor, rng: np.random.Generator, upper: Tensor | None = None
    ) -> LocalBody:
        """The body in the world at the given frames, with a shape, mirror image and heading of its own.

        upper  (F, 10, 3, 3) rotations of UPPER_BODY instead of the motion's
        """
        rotations = _rotations(motion, times)
        if upper is not None:
            rotations[:, UPPER_BODY] = upper
        pelvis = resample_linear(motion.transl, times) + self._rest[0]
        if self.split == "train" and rng.random() < MIRRORED:
            rotations = mirror_local_rotations(rotations)
            pelvis = pelvis * torch.tensor([-1.0, 1.0, 1.0])
        turn = _heading(rng.uniform(-np.pi, np.pi))
        betas = torch.from_numpy(rng.standard_normal(self.body.num_betas)).float()
        parameters = BodyParameters(
            global_orient=turn @ rotations[:, 0],
            body_pose=rotations[:, 1:],
            betas=self.body.clamp_betas(betas).expand(len(times), -1),
            transl=pelvis @ turn.T,
        )
        return self._on_own_legs(local_body(self.body, parameters), parameters.transl)

    def _on_own_legs(self, person: LocalBody, pelvis: Tensor) -> LocalBody:
        """Pelvis path for the person's own legs: longer ones carry the hips higher and make longer steps.

        pelvis (F, 3): path of the body at zero betas
        """
        scale = _leg_length(person.local_joints[0]) / _leg_length(self._rest)
        rest_hips = (self._rest[1:3] - self._rest[:1]).mean(dim=0)  # (3,)
        own_hips = person.local_joints[:, 1:3].mean(dim=1)  # (F, 3)
        hips = pelvis + person.rotation @ rest_hips
        path = hips * scale - (person.rotation @ own_hips[..., None])[..., 0]
        return LocalBody(
            person.mesh, person.local_joints, person.root_pos, person.rotation, path[:, None], person.output
        )

    def _observe(self, person: LocalBody, camera: Camera, rng: np.random.Generator) -> dict[str, Any]:
        """Boxes, landmarks and visibility of a person in the camera frame."""
        landmarks, joints = person.place(person.output.landmarks()), person.joints()
        points = torch.cat([landmarks, joints], dim=1)  # (F, 33 + 22, 3)
        count = landmarks.shape[1]
        pixels = project(points, camera.K).double().numpy()
        hidden = sample_occlusion(pixels, camera.image_size, rng, self.world.occlusion)
        visible = ~(hidden | outside_image(pixels, camera.image_size))
        covered = behind_torso(pixels, points[..., 2].numpy())
        detected = torch.from_numpy(
            observe_landmarks(
                pixels[:, :count],
                hidden[:, :count],
                covered[:, :count],
                camera.image_size,
                rng,
                self.world.detector,
            )
        )
        center, scale, seen = box_from_landmarks(detected, camera.image_size)
        if self.split == "train":
            center, scale = _jitter_box(center, scale, rng)
        frames = len(points)
        entries = camera_entries(camera.K, center, scale, torch.linalg.inv(camera.world2cam), world2cano("z"))
        return entries | {
            "landmarks": normalise_landmarks(detected, center, scale),
            "joint_visible": torch.from_numpy(visible[:, count:]),
            "detected": seen,
            "image_size": torch.tensor(camera.image_size).expand(frames, 2),
        }


def build(cfg: DictConfig, split: str) -> OpenMotionDataset:
    """The data set of one split from the whole configuration; model.task decides whether a camera watches."""
    dataset = cfg.dataset
    root = Path(dataset.dataset_root or dataset.roots.open)
    body = load_body_model(dataset.bm_path, dataset.model_type)
    motions = OpenMotionDataset(
        root,
        split,
        body,
        clip_len=dataset.clip_len,
        camera=cfg.model.task != "motion",
        overlap_len=dataset.overlap_len,
        contact_threshold=dataset.contact_vel_thres,
        contact_hand=dataset.contact_hand,
        neighbours=cfg.model.backbone.neighbours,
        draws=dataset.draws,
        motions=8 if cfg.debug else dataset.motions,
        world=training_world(dataset) if split == "train" else None,
        seed=cfg.seed if split == "train" else 0,
    )
    if not dataset.cache_tokens and cfg.model.task != "backbone":
        raise MoroError("dataset.cache_tokens=false leaves nothing to learn from but for backbone_pretrain.")
    if split == "train" and dataset.cache_variants:
        counts = dataset.cache_variants, dataset.cache_mixed
        index = hashlib.sha256((root / "motion" / "index.json").read_bytes()).hexdigest()
        names = ",".join(motion.name for motion in motions.motions)
        key = cache_key(index, body.sha256, names, *counts, cfg.seed)
        folder = Path(dataset.cache or root / "cache") / key
        motions.use_cache(folder, *counts, dataset.cache_mixed_shown)
        if dataset.cache_tokens:
            vqvae = load_mesh_vqvae(cfg.model.vqvae.model_path, cfg.model.vqvae)
            motions.use_tokens(folder / f"ids_{digest(vqvae.state_dict())[:16]}.npy", vqvae.encode)
    return motions


def training_world(dataset: DictConfig) -> WorldRanges:
    """The observer of `dataset.occlusion` and `dataset.detector_noise`; harder than of held-out motion."""
    return WorldRanges(
        cameras=CameraRanges(tilted_share=0.2),
        occlusion=OcclusionRanges() if dataset.occlusion else OcclusionRanges(clear=1.0),
        detector=CROWDED if dataset.detector_noise else EXACT,
    )


def read_motions(root: Path, split: str, motions: float | int | None = None) -> list[Motion]:
    """The motions of one split below `root`/motion.

    motions  None: all; up to 1.0: this share of them; else so many (evenly spread over the sorted names)
    Raises MoroError if the files are missing or the split is empty.
    """
    index = root / "motion" / "index.json"
    if not index.is_file():
        raise MoroError(
            f"No open motion data at {root} ({index} is missing); make it with "
            "python -m scripts.preprocess.process_mocap (docs/data_open.md)."
        )
    rows = [row for row in json.loads(index.read_text(encoding="utf-8"))["clips"] if row["split"] == split]
    rows.sort(key=lambda row: row["path"])
    if motions is not None and rows:
        count = round(motions * len(rows)) if isinstance(motions, float) and motions <= 1 else int(motions)
        rows = [
            rows[i] for i in np.linspace(0, len(rows) - 1, max(1, min(count, len(rows)))).round().astype(int)
        ]
    if not rows:
        raise MoroError(f"{index} lists no motion of split '{split}'; run process_mocap with more motions.")
    return [_read(root / "motion" / "smpl_data_fps_30" / row["path"], row["family"]) for row in rows]


def _read(path: Path, family: str) -> Motion:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MoroError(f"Cannot read the motion {path} ({error}); run process_mocap again.") from error
    if array.ndim != 2 or array.shape[1] != 178 or not np.isfinite(array).all():
        raise MoroError(f"{path} is not a finite (T, 178) array (spec: data 4.1); run process_mocap again.")
    vectors = np.concatenate([array[:, 0:3], array[:, 16:79]], axis=1).reshape(-1, 22, 3)  # (T, 66)
    name = "/".join(path.with_suffix("").parts[-3:])
    return Motion(name, family, torch.from_numpy(vectors).float(), torch.from_numpy(array[:, 3:6]).float())


def sampling_probability(motions: list[Motion]) -> np.ndarray:
    """(N,) share of the samples of each motion: rare families more often, within a family by length."""
    totals: dict[str, int] = {}
    for motion in motions:
        totals[motion.family] = totals.get(motion.family, 0) + len(motion)
    weight = np.array([len(motion) * totals[motion.family] ** (FAMILY_POWER - 1) for motion in motions])
    return weight / weight.sum()


def _rotations(motion: Motion, times: Tensor) -> Tensor:
    """(F, 22, 3, 3) of a motion at fractional frames (F,)."""
    first, last = int(times.min().floor()), int(times.max().ceil()) + 1
    return resample_rotations(rotvec_to_matrix(motion.rotvec[first:last]), times - first)


def _speed(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(SPEED))))


def _heading(angle: float) -> Tensor:
    c, s = float(np.cos(angle)), float(np.sin(angle))
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _leg_length(joints: Tensor) -> float:
    """Thigh and shin of the left leg (rigid in any pose); joints (22, 3)."""
    return float((joints[4] - joints[1]).norm() + (joints[7] - joints[4]).norm())


def _jitter_box(center: Tensor, scale: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A steady offset and a small shake: boxes of other detectors differ."""
    shift = torch.from_numpy(rng.standard_normal((1, 2)) * BOX_SHIFT).float()
    shake = torch.from_numpy(rng.standard_normal(tuple(center.shape)) * BOX_SHAKE).float()
    size = float(np.exp(np.clip(rng.standard_normal(), -2, 2) * BOX_SIZE))
    return center + (shift + shake) * 200 * scale[:, None], scale * size


def _cut(sample: dict[str, Any], part: slice) -> dict[str, Any]:
    """Some frames of a sample; single ones have no contact labels."""
    frames = len(sample["rotation"])
    start, stop, step = part.indices(frames)
    window = {}
    for key, value in sample.items():
        if key == "contact_label":
            if stop - start == 1 or step > 1:
                continue
            value = value[start : stop - 1]
        elif isinstance(value, Tensor | list) and len(value) == frames and key != "world2cano":
            value = value[start:stop:step]
        window[key] = value
    return window
