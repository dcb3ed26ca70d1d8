"""Fixtures of the tokenizer's tests: a small stand-in body with its levels, and the original's tables."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from moro.body.model import BodyData, BodyModel
from moro.body.topology import build_connection_matrices, load_connection_matrices, save_connection_matrices


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The networks here are tiny: threads would spend their time waiting for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def smplx_tables(shared_dir: Path) -> dict[str, np.ndarray]:
    return load_connection_matrices(shared_dir / "reference_data" / "smplx_ConnectionMatrices")


@pytest.fixture(scope="session")
def small_body() -> BodyModel:
    return make_small_body()


def make_small_body(height: float = 1.0) -> BodyModel:
    """A bent tube of 120 vertices with 55 joints along it; enough of a body for meshes that differ."""
    random = np.random.default_rng(0)
    rings, around = 15, 8
    angle, level = np.meshgrid(np.arange(around) * 2 * np.pi / around, np.linspace(0, height, rings))
    vertices = np.stack([0.2 * np.cos(angle), level, 0.2 * np.sin(angle)], -1).reshape(-1, 3)  # (V, 3)
    faces = []
    for r in range(rings - 1):
        for a in range(around):
            i, j = r * around + a, r * around + (a + 1) % around
            faces += [(i, j, i + around), (j, j + around, i + around)]
    joints = 55
    where = np.linspace(0, rings - 1, joints).round().astype(int)
    regressor = np.zeros((joints, len(vertices)))
    regressor[np.arange(joints)[:, None], where[:, None] * around + np.arange(around)] = 1 / around
    weights = random.dirichlet(np.ones(joints), len(vertices))
    return BodyModel(BodyData(
        v_template=vertices, f=np.array(faces), weights=weights, J_regressor=regressor,
        parents=[j - 1 for j in range(joints)], joint_names=[f"joint{j}" for j in range(joints)],
        shapedirs=0.02 * random.standard_normal((len(vertices), 3, 10)),
        posedirs=np.zeros((len(vertices), 3, 9 * (joints - 1))),
    ), body_id="tube-120", sha256="0" * 64)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory, small_body: BodyModel) -> Path:
    """Connection matrices 120 → 40 → 12 of the stand-in body."""
    folder = tmp_path_factory.mktemp("tables")
    tables = build_connection_matrices(small_body.faces.numpy(), small_body.num_vertices, [40, 12])
    save_connection_matrices(folder, tables)
    return folder


@pytest.fixture
def small_config(small_folder: Path) -> DictConfig:
    """`model.vqvae` for the stand-in body."""
    return OmegaConf.create({
        "num_embeddings": 16, "embedding_dim": 4, "decay": 0.9, "num_quantizer": 1, "shared_codebook": False,
        "num_tokens": 12, "temperature": 1.0, "reset": "random",
        "meshconv": {
            "connection_folder": str(small_folder), "initial_connection_fn": "_pool0.npy",
            "connection_layer_lst": [f"pool{i}" for i in range(4)] + [f"unpool{i}" for i in (3, 2, 1, 0)],
            "channel_lst": [6, 6, 8, 4, 8, 6, 6, 3], "weight_num_lst": [3, 0, 3, 3, 3, 3, 0, 3],
            "residual_rate_lst": [0, 1, 0, 0, 0, 0, 1, 0],
        },
    })
