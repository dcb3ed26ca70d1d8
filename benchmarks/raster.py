"""The rasteriser beside the plain way, which tests every pixel of each triangle's box; whole pictures."""

from functools import partial

import numpy as np
import torch
import trimesh
from torch import Tensor

from benchmarks.harness import Options, Row, Run, Target
from moro.body.loading import load_body_model
from moro.render.raster import rasterise
from moro.render.scene import Mesh, WorldView, render_overlay

VERTICES = 10_000
EDGES = 2e-5  # share of pixels that may go to the other face of an edge they lie on, by rounding
VIEWS = {(512, 512): (512.0, 30), (720, 1280): (1000.0, 50)}  # height and width: focal length, target in ms


def rows(options: Options) -> list[Row]:
    found = []
    for (H, W), (focal, limit) in VIEWS.items():
        size = (H // 8, W // 8) if options.quick else (H, W)
        view, focal = f"{size[1]}x{size[0]}", focal * size[0] / H
        found += [
            Row(
                f"raster.ids-{W}x{H}", "face ids of a body", f"10 k vertices, {view}",
                partial(face_ids, size, focal), Target(ms=limit), tolerance=EDGES,
            ),
            Row(
                f"raster.overlay-{W}x{H}", "body over the picture, anti-aliased", f"10 k vertices, {view}",
                partial(overlay, size, focal), twin=False,
            ),
            Row(
                f"raster.world-{W}x{H}", "body, shadow and ground, anti-aliased", f"10 k vertices, {view}",
                partial(world, size, focal), Target(ms=limit), twin=False,
            ),
        ]  # fmt: skip
    return found


def standing_body() -> tuple[Tensor, Tensor]:
    """Vertices (V, 3) of the finer open body, y up, feet near 0, and faces; refined to 10 k vertices."""
    body = load_body_model("body_models", "open_fine")
    vertices, faces = body.v_template.double().numpy(), body.full_faces.numpy()
    chosen = np.random.default_rng(0).permutation(len(faces))
    wanted = VERTICES - len(vertices)  # a cut face brings one and a half vertices or more
    while len(vertices) < VERTICES:
        vertices, faces = trimesh.remesh.subdivide(vertices, faces, chosen[: max(1, wanted // 3)])
        chosen = np.random.default_rng(len(vertices)).permutation(len(faces))
        wanted = VERTICES - len(vertices)
    vertices = vertices - [0, vertices[:, 1].min(), 0]
    return torch.from_numpy(vertices).float(), torch.from_numpy(np.ascontiguousarray(faces)).long()


def in_camera(vertices: Tensor) -> Tensor:
    """2.5 m before a camera that looks at the body's middle."""
    middle = (vertices.amin(0) + vertices.amax(0)) / 2
    return (vertices - middle) * torch.tensor([1.0, -1.0, -1.0]) + torch.tensor([0.0, 0.0, 2.5])


def intrinsics(size: tuple[int, int], focal: float) -> Tensor:
    H, W = size
    return torch.tensor([[focal, 0, W / 2], [0, focal, H / 2], [0, 0, 1]])


def face_ids(size: tuple[int, int], focal: float, variant: str) -> Run:
    vertices, faces = standing_body()
    vertices, K = in_camera(vertices), intrinsics(size, focal)

    def run() -> dict[str, Tensor]:
        if variant == "plain":
            return {"ids": plain_face_ids(vertices, faces, K, size)}
        return {"ids": rasterise(vertices, faces, K, size).face_ids()}

    return run


def overlay(size: tuple[int, int], focal: float, variant: str) -> Run:
    vertices, faces = standing_body()
    meshes, K = [Mesh(in_camera(vertices), faces)], intrinsics(size, focal)
    image = np.zeros((*size, 3), np.uint8)
    return lambda: {"image": render_overlay(image, meshes, K)}


def world(size: tuple[int, int], focal: float, variant: str) -> Run:
    """The camera stands still, so the ground is drawn once for a video and copied for each frame."""
    vertices, faces = standing_body()
    low, high = vertices.amin(0).numpy(), vertices.amax(0).numpy()
    view = WorldView(intrinsics(size, focal).numpy(), size, vertices.mean(0).numpy(), low, high)
    return lambda: {"image": view.render([Mesh(vertices, faces)])}


def plain_face_ids(vertices: Tensor, faces: Tensor, K: Tensor, size: tuple[int, int]) -> Tensor:
    """Face ids (H, W), -1 for none, of a mesh in front of the camera; of equal depths the lowest id."""
    H, W = size
    points = (vertices @ K.T)[:, :2] / vertices[:, 2:] - 0.5
    a, b, c = points[faces].unbind(1)
    low = points[faces].amin(1).ceil().clamp(min=0).long()
    high = torch.minimum(points[faces].amax(1).floor(), torch.tensor([W - 1.0, H - 1.0])).long()
    extent = (high - low + 1).clamp(min=0)
    count = extent[:, 0] * extent[:, 1]
    face = torch.repeat_interleave(count)
    offset = torch.arange(len(face)) - (count.cumsum(0) - count)[face]
    x = low[face, 0] + offset % extent[face, 0]
    y = low[face, 1] + torch.div(offset, extent[face, 0], rounding_mode="floor")
    p = torch.stack([x, y], 1).float()

    def cross(u: Tensor, v: Tensor) -> Tensor:
        return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]

    area = cross(b - a, c - a)[face]
    w = torch.stack([cross(b[face] - p, c[face] - p), cross(c[face] - p, a[face] - p)], 1) / area[:, None]
    w = torch.cat([w, 1 - w.sum(1, keepdim=True)], 1)
    inside = (w >= 0).all(1)
    face, pixel = face[inside], (y * W + x)[inside]
    inverse = (w[inside] / vertices[:, 2][faces[face]]).sum(1)
    last = len(faces) - 1
    key = (inverse.view(torch.int32).long() << 32) | (last - face)
    buffer = torch.full((H * W,), -1).scatter_reduce_(0, pixel, key, "amax")
    return torch.where(buffer >= 0, last - (buffer & 0xFFFFFFFF), -1).view(H, W)  # (H*W,) -> (H, W)
