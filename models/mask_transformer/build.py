"""From configuration to a system with weights: paths, stages, checkpoints (spec: models 3.10, 3.11, 7.9)."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from models.backbones import build_backbone
from models.backbones.base import Backbone
from models.mask_transformer.data.module import MotionDataModule
from models.mask_transformer.lifting import LiftingSystem
from models.mask_transformer.losses import H36M_ORDER, LossWeights, MoRoLoss
from models.mask_transformer.mirror import Mirror
from models.mask_transformer.network import MaskTransformer, MotionImageTransformer
from models.mask_transformer.placement import LandmarkPlacement
from models.mask_transformer.smoother import TokenSmoother
from models.mask_transformer.system import MoRoSystem
from models.mesh_vq_vae.network import build_mesh_vqvae, load_mesh_vqvae
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.errors import MoroError
from moro.geometry.trajectory import TrajectoryStats
from moro.io.regressor_files import read_matrix
from moro.io.weights import below, load_strict, load_tensors, own_tensors, save_tensors

_log = logging.getLogger(__name__)

EXPERIMENTS = Path("exp/mask_transformer")
NEAREST_DEPTH = 0.1  # metres; a pose head just born may put people behind the camera (docs/deviations.md)
FORMER = "mask_transformer.dst_former."


# -------------------------------------------------------------------------------------------- the run's paths


@dataclass(frozen=True)
class RunPaths:
    """Where a run reads and writes."""

    run: Path  # exp/mask_transformer/<name>
    stage: Path  # ... /<benchmark>[_<subtag>]
    checkpoints: Path  # ... /checkpoints
    last: Path  # ... /last.ckpt


def resolve_paths(cfg: DictConfig) -> tuple[DictConfig, RunPaths]:
    """Stage names in `motion_ckpt`, `image_ckpt` become files, `subtag` part of the stage (spec: models 7.9).

    returns  a changed copy of the configuration, and the paths of the run
    With a benchmark, both are null in test and when weights come from a checkpoint of this stage.
    """
    cfg = cfg.copy()
    run = stage = EXPERIMENTS / cfg.name
    if cfg.mode == "test":
        cfg.model.motion_ckpt = cfg.model.image_ckpt = None
    if cfg.benchmark:
        for branch in ("motion", "image"):
            cfg.model[f"{branch}_ckpt"] = _stage_checkpoint(cfg, branch, run)
        weights = cfg.model.backbone.weights
        if weights and not Path(weights).suffix:  # a stage, not a file
            cfg.model.backbone.weights = str(run / weights / "checkpoints" / "last.ckpt")
        if cfg.subtag:
            cfg.benchmark = f"{cfg.benchmark}_{cfg.subtag}"
        stage = run / cfg.benchmark
    checkpoints = stage / "checkpoints"
    return cfg, RunPaths(run, stage, checkpoints, checkpoints / "last.ckpt")


def _stage_checkpoint(cfg: DictConfig, branch: str, run: Path) -> str | None:
    stage, subtag = cfg.model[f"{branch}_ckpt"], cfg.model[f"{branch}_subtag"]
    if stage is None or cfg.resume or cfg.resume_weights_only:
        return None
    if Path(stage).suffix:  # a file, not a stage
        return str(stage)
    name = f"{stage}_{subtag}" if subtag else stage
    return str(run / name / "checkpoints" / "last.ckpt")


def choose_checkpoint(cfg: DictConfig, paths: RunPaths) -> Path:
    """Weights for val, test and demo: `model.ckpt_path` or `resume_ckpt`, the shipped file for tag `release`,
    else last.ckpt of the stage.

    The choice is logged. Raises MoroError if there is none.
    """
    named = cfg.model.ckpt_path or cfg.resume_ckpt
    if named is not None:
        candidates = [Path(named)]
    elif cfg.tag == "release" and cfg.model.release_ckpt is not None:
        candidates = [Path(cfg.model.release_ckpt), paths.last]
    else:
        candidates = [paths.last]
    for path in candidates:
        if path.is_file():
            _log.info("weights: %s", path)
            return path
    tried = " and ".join(str(path) for path in candidates)
    raise MoroError(f"no weights at {tried}; train this stage first, or set model.ckpt_path, tag or preset")


# ------------------------------------------------------------------------------------------------- the parts


def build_mask_transformer(model: DictConfig) -> MaskTransformer:
    """The network of `model.dst_former`, frozen as it says; weights as initialised."""
    flags = ("freeze", "freeze_motion", "freeze_image", "freeze_spatial")
    unused = ("num_frames", "motion_ckpt", "motion_gain", "image_ckpt", "use_rpe")
    options = OmegaConf.to_container(model.dst_former, resolve=True)
    arguments = {key: value for key, value in options.items() if key not in flags + unused}
    former = MotionImageTransformer(**arguments)
    network = MaskTransformer(former, model.opt_token and not model.dst_former.freeze_motion)
    former.freeze(*(bool(options[flag]) for flag in flags))
    if options["freeze"]:
        network.requires_grad_(False)
    return network


def build_smoother(model: DictConfig) -> TokenSmoother | None:
    """The smoother of `model.smoother`, None unless `use_smoother`."""
    if not model.use_smoother:
        return None
    options = OmegaConf.to_container(model.smoother, resolve=True)
    options.pop("image_ckpt")
    return TokenSmoother(**options)


def build_loss(cfg: DictConfig, body: BodyModel, mask_id: int) -> MoRoLoss:
    """Losses with the regressors of `body`."""
    weak = cfg.model.task == "image" and not cfg.model.use_transl
    return MoRoLoss(
        cfg.model.task,
        LossWeights(**cfg.model.loss),
        body.joint_regressor,
        keypoint_regressor(cfg, body) if weak else None,
        mask_id,
        use_transl=cfg.model.use_transl or cfg.model.task != "image",
        min_depth=0.0 if cfg.compat else NEAREST_DEPTH,
    )


def build_placement(cfg: DictConfig, body: BodyModel) -> LandmarkPlacement | None:
    """What puts recovered bodies on the detector's landmarks, if `model.test.place` wants it.

    Raises MoroError if `body` has no landmarks.
    """
    if not cfg.model.test.place or cfg.model.task == "motion":
        return None
    if body.landmark_regressor is None:
        raise MoroError(f"body {body.body_id} has no landmarks to be placed by; set model.test.place=false")
    return LandmarkPlacement(body.landmark_regressor[:, body.body_vertices], body.joint_regressor)


def build_mirror(cfg: DictConfig, body: BodyModel) -> Mirror | None:
    """What looks at clips a second time, mirrored; None unless `model.test.mirror`.

    Raises MoroError if the body's surface is not the same on both sides.
    """
    if not cfg.model.test.mirror or cfg.model.task == "motion":
        return None
    if body.mirror_vertices is None:
        raise MoroError(f"body {body.body_id} is not symmetric; set model.test.mirror=false")
    return Mirror(body.mirror_vertices)


def keypoint_regressor(cfg: DictConfig, body: BodyModel) -> Tensor:
    """(N, V) on the body surface: the body's landmarks if it has them, else H36M's 17 (spec: models 5.2).

    Raises MoroError if files for the latter are missing, damaged or do not fit.
    """
    if body.landmark_regressor is not None:
        return body.landmark_regressor[:, body.body_vertices]
    joints = read_matrix(cfg.model.j_regressor_h36m)  # (17, 6890)
    to_smpl = read_matrix(cfg.model.smplx2smpl)  # sparse (6890, V_full)
    if joints.shape[1] != to_smpl.shape[0] or to_smpl.shape[1] <= int(body.body_vertices[-1]):
        raise MoroError(
            f"{cfg.model.smplx2smpl} does not fit {cfg.model.j_regressor_h36m} and body {body.body_id}"
        )
    regressor = torch.sparse.mm(to_smpl.t(), joints.T).T  # (V_full, 6890) @ (6890, 17), turned
    return regressor[list(H36M_ORDER)][:, body.body_vertices].contiguous()


def build_system(cfg: DictConfig, initialise: bool = True) -> MoRoSystem:
    """The system of a resolved configuration (see `resolve_paths`).

    initialise  true: take tokenizer, backbone and earlier stages from their files, as the start of training
                does; false: leave everything to a full checkpoint that follows (`load_weights`)
    Raises MoroError if a file is missing or does not fit.
    """
    model = cfg.model
    body = load_body_model(cfg.dataset.bm_path, cfg.dataset.model_type)
    if initialise:
        vqvae = load_mesh_vqvae(model.vqvae.model_path, model.vqvae)
    else:
        vqvae = build_mesh_vqvae(model.vqvae)
    if vqvae.num_vertices != body.num_vertices:
        raise MoroError(
            f"the tokenizer was made for {vqvae.num_vertices} vertices, body {body.body_id} has "
            f"{body.num_vertices}; set dataset.model_type and the meshconv group to the same body"
        )
    network = build_mask_transformer(model)
    backbone = None if model.task == "motion" else build_backbone(model.backbone, pretrained=initialise)
    system = MoRoSystem(
        cfg,
        vqvae,
        backbone,
        network,
        build_smoother(model),
        build_loss(cfg, body, network.mask_id),
        body.body_id,
        build_placement(cfg, body),
        build_mirror(cfg, body),
    )
    if initialise:
        _initialise(system, cfg)
    return system


def build_lifting(cfg: DictConfig, checkpoint: str | Path | None = None) -> LiftingSystem:
    """The system of option=backbone_pretrain, with the weights of an earlier run if a checkpoint is given.

    No tokenizer is asked for if there are no token ids to learn (dataset.cache_tokens=false).
    Raises MoroError if it is missing or does not fit.
    """
    codebook = None
    if cfg.dataset.cache_tokens:
        codebook = load_mesh_vqvae(cfg.model.vqvae.model_path, cfg.model.vqvae).get_codebook()
    system = LiftingSystem(cfg, build_backbone(cfg.model.backbone), codebook)
    if checkpoint is not None:
        _log.info("weights: %s", checkpoint)
        load_strict(system, load_tensors(checkpoint)[0], str(checkpoint))
    return system


# -------------------------------------------------------------------------------------------------- weights


def _initialise(system: MoRoSystem, cfg: DictConfig) -> None:
    """Start of training: backbone file, then what earlier stages have learned (spec: models 3.10)."""
    model = cfg.model
    mask_row = None
    if system.backbone is not None and model.backbone.weights and not model.backbone.image_ckpt:
        _load_backbone(system.backbone, model.backbone.weights)
    former = system.mask_transformer.dst_former
    if model.dst_former.motion_ckpt:
        tensors = _hand_over(system, model.dst_former.motion_ckpt)
        take(former, tensors, FORMER, ("m_",), model.dst_former.motion_ckpt)
        if model.opt_token:
            mask_row = tensors["mask_transformer.token_emb.weight"][-1]
        if not cfg.compat:  # the reference drops it (spec: models 8.1, 10)
            _take_smoother(system, tensors, model.dst_former.motion_ckpt)
    if model.dst_former.image_ckpt:
        tensors = _hand_over(system, model.dst_former.image_ckpt)
        take(former, tensors, FORMER, ("img_", "d_"), model.dst_former.image_ckpt)
        if model.dst_former.motion_ckpt and model.dst_former.motion_gain is not None:
            former.join_motion(model.dst_former.motion_gain)
    if system.backbone is not None and model.backbone.image_ckpt:
        tensors = _hand_over(system, model.backbone.image_ckpt)
        take(system.backbone, tensors, "backbone.", ("",), model.backbone.image_ckpt)
    if system.smoother is not None and model.smoother.image_ckpt:
        _take_smoother(system, _hand_over(system, model.smoother.image_ckpt), model.smoother.image_ckpt)
    system.mask_transformer.load_codebook(system.vqvae.get_codebook(), mask_row)


def _load_backbone(backbone: Backbone, path: str) -> None:
    """Strictly: an image network's own file, or the checkpoint of backbone_pretrain (`backbone.*`)."""
    tensors = load_tensors(path)[0]
    own = below(tensors, "backbone.")
    if own:
        load_strict(backbone, own, path)
    else:
        load_strict(backbone.model, tensors, path)


def _take_smoother(system: MoRoSystem, tensors: Mapping[str, Tensor], where: str) -> None:
    """The smoother of an earlier stage, if both have one."""
    if system.smoother is not None and any(name.startswith("smoother.") for name in tensors):
        take(system.smoother, tensors, "smoother.", ("",), where)


def _hand_over(system: MoRoSystem, path: str) -> dict[str, Tensor]:
    """Tensors of an earlier stage's checkpoint; its trajectory statistics are taken over."""
    if not Path(path).is_file():
        raise MoroError(
            f"the earlier stage's checkpoint {path} does not exist; train that stage first with the same "
            "tag, or set model.motion_ckpt / model.image_ckpt (null: start without it)"
        )
    tensors, metadata = load_tensors(path)
    system.use_metadata({key: value for key, value in metadata.items() if key != "task"}, path)
    return own_tensors(tensors, path)


def take(
    module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, parts: Iterable[str], where: str
) -> int:
    """Load into `module` what `tensors` has below `prefix` for its parameters whose names start with `parts`.

    Tensors of another shape and parameters without a tensor are left as they are and logged.
    returns  how many were loaded. Raises MoroError if none.
    """
    own = {name: value for name, value in module.state_dict().items() if name.startswith(tuple(parts))}
    found = {name: tensors[prefix + name] for name in own if prefix + name in tensors}
    fitting = {name: value for name, value in found.items() if value.shape == own[name].shape}
    if own and not fitting:
        raise MoroError(
            f"{where} has nothing for {prefix}{'|'.join(parts)}*; it is not the checkpoint of the earlier "
            "stage, or of another size"
        )
    for kind, names in (
        ("does not have", own.keys() - found.keys()),
        ("has another shape for", found.keys() - fitting.keys()),
    ):
        if names:
            _log.warning("%s %s: %s", where, kind, ", ".join(sorted(prefix + name for name in names)))
    module.load_state_dict(fitting, strict=False)
    _log.info("%s: %d tensors for %s", where, len(fitting), prefix.rstrip("."))
    return len(fitting)


def load_weights(system: MoRoSystem, path: str | Path, strict: bool = True) -> dict[str, str]:
    """All weights of a checkpoint (.ckpt or .safetensors) and its trajectory statistics.

    strict   every tensor must be there and fit; otherwise what fits is taken and the rest logged
    returns  what the file says of itself; empty for files of the original
    Raises MoroError if it does not fit, or nothing of it does.
    """
    tensors, metadata = load_tensors(path)
    tensors = own_tensors(tensors, str(path))
    if strict:
        load_strict(system, tensors, str(path))
    else:
        take(system, tensors, "", ("",), str(path))
    system.use_metadata(metadata, str(path))
    return metadata


def save_weights(system: MoRoSystem, path: str | Path, half: bool = True) -> None:
    """Write the system's weights as .safetensors, with what `load_weights` wants to know.

    half  store as float16 (tokens and meshes change by less than the tokenizer's error)
    """
    save_tensors(path, dict(system.state_dict()), system.metadata(), half=half)


def provide_stats(system: MoRoSystem, cfg: DictConfig, data: MotionDataModule | None = None) -> None:
    """Set the trajectory statistics if the task needs them and no checkpoint brought any (spec: models 3.7).

    From the file `model.trajectory_stats` if it exists, else from AMASS or, in training, the open motions.
    """
    if not system.needs_stats:
        return
    path = cfg.model.trajectory_stats
    if path is not None and Path(path).is_file():
        system.set_trajectory_stats(TrajectoryStats.load(path))
        _log.info("trajectory statistics: %s", path)
    elif data is not None and (cfg.mode == "train" or cfg.dataset.name != "open"):
        system.set_trajectory_stats(data.trajectory_stats())
        _log.info("trajectory statistics: %s", json.loads(system.metadata()["trajectory_stats"]))
    else:
        TrajectoryStats.load(path or "(model.trajectory_stats)")  # says what is missing and what to do

