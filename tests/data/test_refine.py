"""Stand-ins with the number of vertices of the official bodies."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from moro.body.loading import load_body_model
from moro.errors import MoroError
from moro.synth.worlds.bodies import write_standin_bodies
from moro.synth.worlds.refine import refined
from tests.body.standin import official_arrays


def test_refinement_leaves_the_surface_where_it_is() -> None:
    source = official_arrays("smplx")
    count = 400
    body = refined(source, count)
    old, new = (trimesh.Trimesh(b["v_template"], b["f"], process=False) for b in (source, body))
    assert len(new.vertices) == count and new.is_watertight and new.is_winding_consistent
    assert (new.area, new.volume) == pytest.approx((old.area, old.volume))
    assert len(new.faces) == len(old.faces) + 2 * (count - len(old.vertices))
    assert np.array_equal(body["v_template"][: len(old.vertices)], source["v_template"])
    assert np.allclose(body["weights"].sum(1), 1)
    joints = source["J_regressor"] @ source["v_template"]
    assert np.allclose(body["J_regressor"] @ body["v_template"], joints)
    longest = [mesh.edges_unique_length.max() for mesh in (old, new)]
    assert longest[1] < longest[0]
    with pytest.raises(MoroError, match="cannot be refined"):
        refined(body, count - 1)


def test_standins_of_another_size_load(tmp_path: Path, repository: Path) -> None:
    write_standin_bodies(tmp_path, repository / "body_models", 3100)
    smplx, smplh = load_body_model(tmp_path, "smplx"), load_body_model(tmp_path, "smplh", "male")
    assert smplx.num_vertices == smplh.num_vertices == 3100 < smplx.num_full_vertices
    pose = torch.eye(3).expand(1, 21, 3, 3)
    assert torch.isfinite(smplx(pose, torch.zeros(1, 10)).vertices).all()
    vertex_map = torch.load(tmp_path / "smplx2smpl_sparse.pt", weights_only=True)
    assert vertex_map.shape == (3100, smplx.num_full_vertices)
