"""The release's networks at full size on the meta device: names and shapes without the memory."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from models.backbones import build_backbone
from models.mask_transformer.build import build_mask_transformer, build_smoother
from models.mask_transformer.losses import LossWeights, MoRoLoss
from models.mask_transformer.system import MoRoSystem
from models.mesh_vq_vae.network import build_mesh_vqvae
from moro.body.topology import save_connection_matrices
from moro.config import compose_config
from tests.release.topology import stand_in_tables


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of connection tables of the release's size."""
    folder = tmp_path_factory.mktemp("smplx_ConnectionMatrices")
    save_connection_matrices(folder, stand_in_tables())
    return folder


@pytest.fixture(scope="session")
def release_config(tables: Path) -> Callable[[str], DictConfig]:
    """Configuration of a stage as the release has it."""

    def of(stage: str) -> DictConfig:
        place = f"model.vqvae.meshconv.connection_folder={tables}"
        return compose_config("config", [f"option={stage}", place])

    return of


@pytest.fixture(scope="session")
def release_system(release_config: Callable[[str], DictConfig]) -> MoRoSystem:
    """The whole system of the last stage, without data behind its tensors."""
    cfg = release_config("video_train")
    with torch.device("meta"):
        vqvae = build_mesh_vqvae(cfg.model.vqvae)
        backbone = build_backbone(cfg.model.backbone)
        network, smoother = build_mask_transformer(cfg.model), build_smoother(cfg.model)
        regressor = torch.zeros(22, vqvae.num_vertices)
        weights = LossWeights(**cfg.model.loss)
        loss = MoRoLoss("video", weights, regressor, None, network.mask_id, use_transl=True)
        return MoRoSystem(cfg, vqvae, backbone, network, smoother, loss, "smplx-9383")
