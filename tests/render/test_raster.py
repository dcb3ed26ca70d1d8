"""The rasteriser against a brute-force twin that tests every triangle at every pixel."""

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from moro.errors import MoroError
from moro.render import raster
from moro.render.raster import rasterise

K = torch.tensor([[60.0, 0, 32.3], [0, 66.0, 23.1], [0, 0, 1]])
SIZE = (48, 64)


def brute_force(vertices, faces, K, size, cull_back=False, near=0.05):
    """Every pixel's ray against every triangle, float64: ids (H, W), barycentrics, depth, doubtful (H, W).

    Works in 3D (ray-triangle intersection), so it needs no clipping. `doubtful` marks pixels where an
    edge or two depths coincide within rounding.
    """
    H, W = size
    y, x = np.mgrid[:H, :W] + 0.5
    K = K.double().numpy()
    rays = (
        np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ np.linalg.inv(K).T
    )  # z = 1: distance is depth
    corners = vertices.double().numpy()[faces.numpy()]  # (F, 3, 3)
    best = np.full(H * W, np.inf)
    second = np.full(H * W, np.inf)
    ids = np.full(H * W, -1)
    weights = np.zeros((H * W, 3))
    doubtful = np.zeros(H * W, bool)
    for f, triangle in enumerate(corners):
        normal = np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])
        area = normal @ normal
        if area == 0 or (cull_back and normal @ triangle[0] >= 0):
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = (normal @ triangle[0]) / (rays @ normal)
            points = rays * depth[:, None]
            b = [
                np.cross(triangle[(k + 2) % 3] - triangle[(k + 1) % 3], points - triangle[(k + 1) % 3])
                @ normal
                / area
                for k in range(3)
            ]
        b = np.stack(b, 1)
        margin = np.nan_to_num(b, nan=-1).min(1)
        doubtful |= (np.abs(margin) < 1e-3) & (depth > 0) & (depth < best + 1e-3)
        doubtful |= (np.abs(depth - near) < 1e-4) & (margin > -1e-3)
        hit = (margin >= 0) & (depth >= near)
        closer = hit & (depth < best)
        second = np.where(closer, best, np.where(hit, np.minimum(second, depth), second))
        best[closer], ids[closer], weights[closer] = depth[closer], f, b[closer]
    with np.errstate(invalid="ignore"):  # infinity less infinity
        doubtful |= np.abs(second - best) < 1e-4 * best
    return ids.reshape(size), weights.reshape(*size, 3), best.reshape(size), doubtful.reshape(size)


def compare(vertices, faces, allowed=0.0, **options):
    ids, weights, depth, doubtful = brute_force(vertices, faces, K, SIZE, **options)
    fragments = rasterise(vertices, faces, K, SIZE, **options)
    sure = ~doubtful
    same = fragments.face_ids().numpy() == ids
    assert (~same[sure]).mean() <= allowed
    covered = sure & same & (ids >= 0)
    np.testing.assert_allclose(fragments.depth_map().numpy()[covered], depth[covered], rtol=1e-3)
    picture = torch.zeros(SIZE[0] * SIZE[1], 3)
    picture[fragments.pixels] = fragments.barycentrics
    np.testing.assert_allclose(picture.view(*SIZE, 3).numpy()[covered], weights[covered], atol=5e-3)
    return sure.mean(), (ids >= 0).mean()


@pytest.mark.parametrize("cull_back", [False, True])
def test_equals_brute_force_on_bodies(cull_back):
    ball = trimesh.creation.icosphere(2, radius=0.6)
    ring = trimesh.creation.torus(0.8, 0.15, major_sections=24, minor_sections=10)
    vertices = np.concatenate(
        [
            ball.vertices + [0, 0, 2.5],
            ring.vertices @ [[1, 0, 0], [0, 0.6, -0.8], [0, 0.8, 0.6]] + [0.1, 0, 2.4],
        ]
    )
    faces = np.concatenate([ball.faces, ring.faces + len(ball.vertices)])
    sure, covered = compare(torch.tensor(vertices).float(), torch.tensor(faces), cull_back=cull_back)
    assert sure > 0.97 and covered > 0.2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.05, 0.5, 4.0]), cull_back=st.booleans())
def test_equals_brute_force_on_triangle_soup(seed, scale, cull_back):
    """Random triangles, some behind the camera or through the near plane, some far outside the picture.

    Huge triangles cut at the near plane have corners 10 k pixels away: there float32 decides near-ties
    otherwise than float64, in a few pixels of a thousand pictures.
    """
    rng = np.random.default_rng(seed)
    centre = rng.normal(0, 1, (30, 1, 3)) * [1.2, 1, 1] + [0, 0, 1.5]
    vertices = torch.tensor(centre + rng.normal(0, scale, (30, 3, 3))).float().view(-1, 3)
    allowed = 0.001 if scale > 1 else 0.0
    sure, _ = compare(vertices, torch.arange(90).view(30, 3), allowed, cull_back=cull_back)
    assert sure > 0.75


def test_ground_through_the_camera_plane_is_clipped_not_dropped():
    corners = torch.tensor([[-20.0, 1, -20], [20, 1, -20], [20, 1, 20], [-20, 1, 20]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    sure, covered = compare(corners, faces)
    assert covered > 0.4
    fragments = rasterise(corners, faces, K, SIZE)
    heights = fragments.interpolate(corners, faces)
    np.testing.assert_allclose(heights[:, 1], 1, atol=1e-4)
    np.testing.assert_allclose(heights[:, 2], fragments.depth, rtol=1e-3)


def test_closed_surface_has_no_pinholes_and_culling_changes_nothing():
    ball = trimesh.creation.icosphere(5, radius=0.5)  # 20 k faces, about one per pixel
    vertices = torch.tensor(ball.vertices).float() + torch.tensor([0, 0, 3.0])
    faces = torch.tensor(ball.faces)
    camera = torch.tensor([[600.0, 0, 128], [0, 600, 128], [0, 0, 1]])
    both = rasterise(vertices, faces, camera, (256, 256))
    front = rasterise(vertices, faces, camera, (256, 256), cull_back=True)
    assert torch.equal(both.face_ids(), front.face_ids())
    y, x = np.mgrid[:256, :256] + 0.5
    sine = np.sin(np.arctan(np.hypot(x - 128, y - 128) / 600)) * 3
    mask = front.face_ids().numpy() >= 0
    assert mask[sine < 0.495].all() and not mask[sine > 0.501].any()


def test_chunks_do_not_change_the_picture(monkeypatch):
    ball = trimesh.creation.icosphere(3, radius=0.6)
    vertices, faces = (
        torch.tensor(ball.vertices).float() + torch.tensor([0, 0, 2.0]),
        torch.tensor(ball.faces),
    )
    whole = rasterise(vertices, faces, K, SIZE)
    monkeypatch.setattr(raster, "MAX_FRAGMENTS", 50)
    parts = rasterise(vertices, faces, K, SIZE)
    assert torch.equal(whole.faces, parts.faces) and torch.equal(whole.pixels, parts.pixels)


def test_equal_depth_goes_to_the_lowest_face():
    vertices = torch.tensor([[-1.0, -1, 2], [1, -1, 2], [0, 1, 2]])
    faces = torch.tensor([[0, 1, 2]] * 3)
    assert (rasterise(vertices, faces, K, SIZE).faces == 0).all()


def test_nothing_in_view_and_degenerate_triangles():
    behind = torch.tensor([[0.0, 0, -2], [1, 0, -2], [0, 1, -2]])
    flat = torch.tensor([[0.0, 0, 2], [0, 0, 2], [0, 1, 2]])
    bad = torch.tensor([[0.0, float("nan"), 2], [1, 0, 2], [0, 1, float("nan")]])
    faces = torch.tensor([[0, 1, 2]])
    for vertices in (behind, flat, bad):
        fragments = rasterise(vertices, faces, K, SIZE)
        assert len(fragments.pixels) == 0 and (fragments.face_ids() == -1).all()
    assert len(rasterise(behind[:0], faces[:0], K, SIZE).pixels) == 0


@pytest.mark.parametrize(
    "change",
    [{"vertices": torch.zeros(4, 2)}, {"faces": torch.zeros(2, 3)}, {"K": torch.eye(4)}, {"size": (0, 5)}],
)
def test_wrong_shapes_are_named(change):
    arguments = {"vertices": torch.zeros(4, 3), "faces": torch.tensor([[0, 1, 2]]), "K": K, "size": SIZE}
    with pytest.raises(MoroError, match="rasterise"):
        rasterise(**(arguments | change))
