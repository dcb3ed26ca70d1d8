"""Pictures: what is where, in which colour, and what is left alone."""

import cv2
import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from moro.errors import MoroError
from moro.render.scene import (
    COLOURS,
    GroundStyle,
    Mesh,
    WorldView,
    colour_of,
    draw_box,
    draw_label,
    look_at,
    person_colour,
    render_overlay,
    render_world,
    side_by_side,
    vertex_normals,
)

K = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
GREY = np.full((240, 320, 3), 90, np.uint8)


def ball(centre, radius=0.4, detail=3):
    mesh = trimesh.creation.icosphere(detail, radius=radius)
    return torch.tensor(mesh.vertices + centre).float(), torch.tensor(mesh.faces)


def test_overlay_covers_the_projected_disc_and_nothing_else():
    image = GREY.copy()
    picture = render_overlay(image, [(*ball([0.3, -0.2, 3]), "red")], K)
    assert (image == 90).all(), "the input is not to be changed"
    y, x = np.mgrid[:240, :320] + 0.5
    distance = np.hypot(x - (160 + 30), y - (120 - 20))
    changed = (picture != 90).any(2)
    assert changed[distance < 39].all() and not changed[distance > 42].any()
    inside = picture[distance < 35].mean(0)
    assert inside[0] > 2 * inside[1] and inside[0] > 2 * inside[2]


def test_edges_are_smooth_and_centre_is_opaque():
    picture = render_overlay(np.zeros_like(GREY), [(*ball([0, 0, 3], detail=4), "white")], K)[120, :, 0]
    edge = picture[(picture > 10) & (picture < 0.3 * picture.max())]
    assert len(edge) >= 1 and picture[160] > 150


def test_alpha_blends():
    full = render_overlay(GREY, [(*ball([0, 0, 3]), "green")], K).astype(float)
    half = render_overlay(GREY, [(*ball([0, 0, 3]), "green")], K, alpha=0.5).astype(float)
    faint = render_overlay(GREY, [Mesh(*ball([0, 0, 3]), "green", 0.5)], K).astype(float)
    np.testing.assert_allclose(half, (full + 90) / 2, atol=2)
    np.testing.assert_array_equal(half, faint)


def test_the_nearer_body_hides_the_farther_in_any_order():
    near, far = (*ball([0, 0, 2]), "blue"), (*ball([0.1, 0, 3]), "red")
    one, other = render_overlay(GREY, [near, far], K), render_overlay(GREY, [far, near], K)
    np.testing.assert_array_equal(one, other)
    assert one[120, 160, 2] > one[120, 160, 0]


def test_body_partly_behind_the_camera_or_outside_is_drawn_or_left_out():
    around = render_overlay(GREY, [(*ball([0, 0, 0.2], radius=1.0), "red")], K, cull_back=False)
    assert (around != 90).any(2).all()
    for centre in ([0, 0, -3], [50, 0, 3]):
        np.testing.assert_array_equal(render_overlay(GREY, [(*ball(centre), "red")], K), GREY)
    np.testing.assert_array_equal(render_overlay(GREY, [], K), GREY)


@settings(max_examples=20, deadline=None)
@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(1, 6))
def test_pixels_outside_the_body_never_change(x, y, z):
    picture = render_overlay(GREY, [(*ball([x, y, z], detail=1), "pink")], K)
    changed = np.argwhere((picture != 90).any(2))
    vertices = ball([x, y, z], detail=1)[0].numpy() @ K.T
    points = vertices[:, :2] / vertices[:, 2:]
    if len(changed):
        assert (changed[:, ::-1] >= points.min(0) - 1.6).all() and (
            changed[:, ::-1] <= points.max(0) + 0.6
        ).all()


def test_bad_input():
    vertices, faces = ball([0, 0, 3])
    with pytest.raises(MoroError, match="finite"):
        render_overlay(GREY, [(vertices * torch.nan, faces)], K)
    with pytest.raises(MoroError, match="uint8"):
        render_overlay(GREY / 255, [(vertices, faces)], K)
    with pytest.raises(MoroError, match="chartreuse"):
        render_overlay(GREY, [(vertices, faces, "chartreuse")], K)
    with pytest.raises(MoroError, match="no body"):
        render_world([], K, (240, 320))


def test_normals_point_outwards():
    vertices, faces = ball([0, 0, 0], radius=1)
    np.testing.assert_allclose(vertex_normals(vertices, faces), vertices, atol=0.02)


def test_colours():
    assert COLOURS["skin"] == (0.5, 0.7, 1.0) and colour_of((1, 0, 0.5)) == (1.0, 0.0, 0.5)
    first = [person_colour(i) for i in range(12)]
    assert len(set(first)) == 12 and person_colour(12) == first[0]


def test_look_at_puts_the_target_in_the_middle_and_up_on_top():
    world2cam = look_at(np.array([1.0, 2, 5]), np.array([0.0, 1, 0]))
    assert np.linalg.det(world2cam[:3, :3]) == pytest.approx(1)
    np.testing.assert_allclose(world2cam @ [0, 1, 0, 1], [0, 0, np.sqrt(27), 1], atol=1e-12)
    assert (world2cam[:3, :3] @ [0, 1, 0])[1] < 0
    np.testing.assert_allclose(world2cam @ [1, 2, 5, 1], [0, 0, 0, 1], atol=1e-12)


def world_view(low=(-0.5, 0, -0.5), high=(0.5, 1.8, 0.5), **options):
    low, high = np.array(low, float), np.array(high, float)
    return WorldView(K, (240, 320), (low + high) / 2, low, high, **options)


def test_world_camera_stands_where_the_specification_says():
    view = world_view(low=(-1, 0, -7), high=(1, 1.8, 7))
    eye = -view.world2cam[:3, :3].T @ view.world2cam[:3, 3]
    away = eye - view.centre
    assert away[0] == pytest.approx(0) and away[1] / away[2] == pytest.approx(2 / 7)
    assert np.linalg.norm(away) >= np.hypot(2, 7) - 1e-9


def test_world_camera_sees_everything():
    low, high = np.array([-6.0, 0, -1]), np.array([6.0, 1.9, 1])
    view = world_view(low, high)
    corners = np.array([[x, y, z] for x in (-6, 6) for y in (0, 1.9) for z in (-1, 1)])
    pixels = view._project(corners)
    assert len(pixels) == 8 and (pixels > 0).all() and (pixels < (320, 240)).all()


def test_checkerboard_is_where_it_should_be():
    """Tile centres of both kinds, projected, show the two greys."""
    view = world_view(style=GroundStyle(light=0.9, dark=0.3, fade=0.5, min_side=6))
    for i in range(4, 8):
        for j in range(4, 8):
            centre = np.array([[-3 + 0.5 * (i + 0.5), 0, -3 + 0.5 * (j + 0.5)]])
            x, y = view._project(centre)[0].astype(int)
            grey = view.background[y, x, 2] / 255
            assert grey == pytest.approx(0.9 if (i + j) % 2 == 0 else 0.3, abs=0.02)


def test_far_tiles_are_averaged_not_aliased():
    K_low = np.array([[300.0, 0, 160], [0, 300, 60], [0, 0, 1]])
    low, high = np.array([-200.0, 0, -200]), np.array([200.0, 1.8, 200])
    view = WorldView(
        K_low, (240, 320), np.array([0, 0.9, 0]), low, high, GroundStyle(light=0.9, dark=0.3, fade=1)
    )
    rows = view.background[..., 2].astype(float) / 255
    horizon = 60 - 300 * 2 / 200
    far = rows[int(horizon) + 4 : int(horizon) + 7, 100:220]
    assert far.std() < 0.05 and abs(far.mean() - 0.6) < 0.1


def test_shadow_is_darkest_under_the_body_and_scales_with_opacity():
    view = world_view()
    vertices, faces = ball([0, 0.15, 0], radius=0.15)
    plain, cast = view.background, view.background.copy()
    view._cast_shadow(cast, vertices, faces, 1.0)
    faint = plain.copy()
    view._cast_shadow(faint, vertices, faces, 0.5)
    x, y = view._project(np.array([[0.04, 0, -0.03]]))[0].astype(int)
    drop = plain[y, x, 0].astype(int) - cast[y, x, 0]
    assert drop > 30 and 0.3 * drop < int(plain[y, x, 0]) - int(faint[y, x, 0]) < 0.7 * drop
    assert (cast <= plain).all()
    far = view._project(np.array([[1.5, 0, 0]]))[0].astype(int)
    assert (cast[far[1], far[0]] == plain[far[1], far[0]]).all()


@pytest.mark.parametrize("corner", [(-2.0, -2.0), (-2.7, -1.2)])
def test_shadow_equals_the_whole_map_laid_down_in_floats(corner):
    """Bytes, and only the rectangle of the shadow: no pixel differs by more than one level."""
    view, cells, cell = world_view(), 128, 4 / 128
    y, x = np.mgrid[:cells, :cells]
    light = 1 - 0.5 * np.exp(-(((x - 60) / 9) ** 2) - ((y - 70) / 14) ** 2)
    light = np.rint(light * 255).astype(np.uint8)
    canvas = view.background.copy()
    view._darken_floor(canvas, light, np.array(corner), cell)

    i, j = np.mgrid[:240, :320] + 0.5
    rays = np.stack([j, i, np.ones_like(i)], -1) @ np.linalg.inv(K).T @ view.world2cam[:3, :3]
    eye = -view.world2cam[:3, :3].T @ view.world2cam[:3, 3]
    floor = eye - rays * (eye[1] / rays[..., 1:2])
    at = ((floor[..., [0, 2]] - corner) / cell - 0.5).astype(np.float32)
    expected = cv2.remap(light.astype(np.float32), at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderValue=255)
    expected = np.rint(view.background * (expected[..., None] / 255))
    assert (canvas < view.background).any()
    assert np.abs(canvas - expected).max() <= 1


def test_a_map_full_of_light_changes_nothing():
    view = world_view()
    canvas = view.background.copy()
    view._darken_floor(canvas, np.full((128, 128), 255, np.uint8), np.array([-2.0, -2.0]), 4 / 128)
    assert (canvas == view.background).all()


def test_world_view_draws_bodies_and_path():
    view = world_view()
    picture = view.render([(*ball([0, 0.4, 0]), "red"), (*ball([0.5, 0.4, -0.4], 0.2), "blue")])
    x, y = view._project(np.array([[0, 0.4, 0.3]]))[0].astype(int)
    assert picture[y, x, 0] > 1.5 * picture[y, x, 2]
    before = picture.copy()
    view.draw_path(picture, np.array([[-0.9, 1, 0], [-0.9, 1, 1.0], [np.nan, 0, 0]]), "green")
    assert (picture != before).any() and (view.background == world_view().background).all()
    assert render_world([(*ball([0, 0.4, 0]), "red")], K, (240, 320)).shape == (240, 320, 3)


def test_marks_stay_inside_the_image():
    image = GREY.copy()
    draw_box(image, (-50, 10.7, 5000, 100), "green", 3)
    assert tuple(image[10, 160]) == (51, 178, 76) and tuple(image[50, 160]) == (90, 90, 90)
    for position in ((-100, -100), (1000, 1000), (160, 120)):
        before = image.copy()
        draw_label(image, "12", position, "yellow")
        assert (image != before).any()


def test_side_by_side():
    left, right = np.zeros((100, 50, 3), np.uint8), np.full((50, 60, 3), 200, np.uint8)
    picture = side_by_side(left, right, gap=4)
    assert picture.shape == (100, 50 + 4 + 120, 3)
    assert (
        (picture[:, 50:54] == 255).all() and (picture[:, 54:] == 200).all() and (picture[:, :50] == 0).all()
    )
