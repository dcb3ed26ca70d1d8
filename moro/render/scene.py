"""Pictures of bodies: over the video image, and in the world on a ground plane (spec: data 10, 9.5)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from moro.errors import MoroError
from moro.render.raster import rasterise

Image = NDArray[np.uint8]  # (H, W, 3) RGB

COLOURS: dict[str, tuple[float, float, float]] = {
    "skin": (0.5, 0.7, 1.0),
    "blue": (0.2, 0.3, 1.0),
    "red": (0.8, 0.2, 0.2),
    "green": (0.2, 0.7, 0.3),
    "yellow": (0.9, 0.8, 0.2),
    "purple": (0.6, 0.2, 0.8),
    "orange": (0.9, 0.5, 0.1),
    "pink": (0.9, 0.4, 0.6),
    "cyan": (0.2, 0.7, 0.8),
    "lime": (0.5, 0.9, 0.2),
    "magenta": (0.8, 0.2, 0.6),
    "teal": (0.2, 0.6, 0.6),
    "white": (1.0, 1.0, 1.0),
}
# neighbours in this list are easy to tell apart
PERSON_COLOURS = (
    "skin",
    "orange",
    "green",
    "pink",
    "yellow",
    "purple",
    "cyan",
    "red",
    "lime",
    "blue",
    "magenta",
    "teal",
)

Colour = str | Sequence[float]


class Mesh(NamedTuple):
    """One body in a picture.

    vertices (V, 3) and faces (F, 3) int64: tensors or arrays; colour: a name of COLOURS or RGB in [0, 1];
    alpha: its opacity, times that of the whole picture
    """

    vertices: Tensor
    faces: Tensor
    colour: Colour = "skin"
    alpha: float = 1.0


@dataclass(frozen=True)
class Light:
    """Directional light and its weights; `direction` is where it travels, camera frame (x right, y down)."""

    direction: tuple[float, float, float] = (0.2, 0.45, 1.0)
    ambient: float = 0.34
    diffuse: float = 0.66
    specular: float = 0.12
    shininess: float = 24.0


def colour_of(colour: Colour) -> tuple[float, float, float]:
    """RGB in [0, 1] of a colour name or triple. Raises MoroError for an unknown name."""
    if isinstance(colour, str):
        if colour not in COLOURS:
            raise MoroError(f"Unknown colour '{colour}'; choose {', '.join(COLOURS)} or give RGB in [0, 1].")
        return COLOURS[colour]
    r, g, b = colour
    return float(r), float(g), float(b)


def person_colour(number: int) -> str:
    """The colour of the `number`-th person (from 0)."""
    return PERSON_COLOURS[number % len(PERSON_COLOURS)]


# ---------------------------------------------------------------------------------------------- camera view


def render_overlay(
    image: Image,
    meshes: Sequence[Mesh | tuple],
    K: NDArray | Tensor,
    alpha: float = 1.0,
    *,
    light: Light | None = None,
    cull_back: bool = True,
    supersample: int = 2,
) -> Image:
    """The image with bodies drawn over it, smooth-shaded and anti-aliased (spec: data 10, camera view).

    image   (H, W, 3) uint8 RGB, not changed
    meshes  (vertices (V, 3) camera frame in metres, faces (F, 3), colour[, alpha]) of each body; frames may
            be empty, vertices that are not finite raise MoroError
    K       (3, 3) pixels
    alpha   opacity of all bodies
    cull_back  set False for surfaces with holes
    returns (H, W, 3) uint8
    """
    meshes = [Mesh(*mesh) for mesh in meshes]
    canvas = np.ascontiguousarray(image)
    if canvas.ndim != 3 or canvas.shape[2] != 3 or canvas.dtype != np.uint8:
        raise MoroError(
            f"render_overlay: the image must be (H, W, 3) uint8, got {canvas.shape} {canvas.dtype}."
        )
    canvas = canvas.copy()
    _draw_meshes(canvas, meshes, _intrinsics(K), alpha, light or Light(), cull_back, supersample)
    return canvas


def _intrinsics(K: NDArray | Tensor) -> Tensor:
    return torch.as_tensor(np.asarray(K, dtype=np.float32)).reshape(3, 3)


def _draw_meshes(
    canvas: Image,
    meshes: list[Mesh],
    K: Tensor,
    alpha: float,
    light: Light,
    cull_back: bool,
    supersample: int,
) -> None:
    """Draw into `canvas`, in place; only the rectangle that the bodies cover is touched."""
    if not meshes:
        return
    vertices, faces, rgba = _join(meshes, light)
    if not bool(vertices.isfinite().all()):
        raise MoroError(
            "render: a mesh has vertices that are not finite numbers; leave such a person out of the frame."
        )
    box = _covered_box(vertices, K, canvas.shape[:2])
    if box is None:
        return
    x0, y0, x1, y1 = box
    s = supersample
    K = K.clone()
    K[0, 2] -= x0
    K[1, 2] -= y0
    K[:2] *= s
    h, w = (y1 - y0) * s, (x1 - x0) * s
    fragments = rasterise(vertices, faces, K.to(vertices.device), (h, w), cull_back=cull_back)
    colour = fragments.interpolate(rgba, faces)  # (N, 4) premultiplied
    colour *= 255 * alpha
    colour = colour.add_(0.5).clamp_(0, 255).byte().view(torch.int32)  # (N, 1): four bytes as one number
    layer = colour.new_zeros(h * w).scatter_(0, fragments.pixels, colour[:, 0])
    layer = layer.cpu().numpy().view(np.uint8).reshape(h, w, 4)  # (h*w,) -> (h, w, 4)
    if s > 1:
        layer = cv2.resize(layer, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    region = canvas[y0:y1, x0:x1]
    region[:] = cv2.add(_attenuated(region, 255 - layer[..., 3]), layer[..., :3])


def _attenuated(image: Image, light: NDArray) -> Image:
    """The image (H, W, 3) times `light` (H, W) / 255, both uint8: seventy times faster than in floats."""
    return cv2.multiply(image, cv2.cvtColor(light, cv2.COLOR_GRAY2RGB), scale=1 / 255)


def _join(meshes: list[Mesh], light: Light) -> tuple[Tensor, Tensor, Tensor]:
    """All bodies as one mesh: vertices (V, 3), faces (F, 3), shaded premultiplied colours (V, 4)."""
    vertices, faces, colours = [], [], []
    first = 0
    for mesh in meshes:
        v = torch.as_tensor(mesh.vertices, dtype=torch.float32)
        f = torch.as_tensor(mesh.faces, dtype=torch.int64, device=v.device)
        colours.append(shade(v, f, mesh.colour, light) * mesh.alpha)
        vertices.append(v)
        faces.append(f + first)
        first += len(v)
    return torch.cat(vertices), torch.cat(faces), torch.cat(colours)


def shade(vertices: Tensor, faces: Tensor, colour: Colour, light: Light) -> Tensor:
    """Colour and opacity 1 at each vertex, (V, 4) in [0, 1]: ambient + diffuse + a soft highlight."""
    normals = vertex_normals(vertices, faces)
    towards_light = -F.normalize(vertices.new_tensor(light.direction), dim=0)
    towards_camera = -F.normalize(vertices, dim=1)
    # wrapped diffuse: falls off gently past the terminator, which keeps form in the parts turned away
    diffuse = ((normals @ towards_light + 0.25) / 1.25).clamp_(min=0)
    half_way = F.normalize(towards_light + towards_camera, dim=1)
    highlight = (normals * half_way).sum(1).clamp_(min=0).pow_(light.shininess)
    base = vertices.new_tensor(colour_of(colour))
    shaded = (light.ambient + light.diffuse * diffuse)[:, None] * base + light.specular * highlight[:, None]
    return F.pad(shaded.clamp_(0, 1), (0, 1), value=1.0)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals (V, 3), area-weighted, outward for counter-clockwise faces; zero at unused vertices."""
    a, b, c = (vertices.index_select(0, faces[:, k]) for k in range(3))
    normals = torch.linalg.cross(b - a, c - a)  # length = twice the area
    total = torch.zeros_like(vertices)
    for k in range(3):
        total.index_add_(0, faces[:, k], normals)
    return F.normalize(total, dim=1)


def _covered_box(vertices: Tensor, K: Tensor, size: tuple[int, int], near: float = 0.05) -> tuple | None:
    """Pixel rectangle (x0, y0, x1, y1) around the projected vertices, inside the image; None if empty."""
    H, W = size
    z = vertices[:, 2]
    ahead = z > near
    if not bool(ahead.any()):
        return None
    if not bool(ahead.all()):
        return 0, 0, W, H
    x = (vertices[:, 0] / z * K[0, 0] + K[0, 2]).aminmax()
    y = (vertices[:, 1] / z * K[1, 1] + K[1, 2]).aminmax()
    x0, x1 = max(0, int(x.min) - 1), min(W, int(x.max) + 2)
    y0, y1 = max(0, int(y.min) - 1), min(H, int(y.max) + 2)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


# ---------------------------------------------------------------------------------------------- marks


def draw_box(
    image: Image, box: Sequence[float], colour: Colour = (0.0, 1.0, 0.0), thickness: int = 3
) -> None:
    """Draw a rectangle (x0, y0, x1, y1 pixels) into the image, clamped to it (spec: data 8.7)."""
    H, W = image.shape[:2]
    x0, y0, x1, y1 = (int(v) for v in box)
    corners = (max(0, x0), max(0, y0)), (min(W - 1, x1), min(H - 1, y1))
    cv2.rectangle(image, *corners, _rgb255(colour), thickness, cv2.LINE_AA)


def draw_label(image: Image, text: str, position: Sequence[float], colour: Colour) -> None:
    """Draw a small badge with `text`, centred on `position` (x, y pixels) and kept inside the image."""
    H, W = image.shape[:2]
    scale = max(H, W) / 1600
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, scale, 1)
    radius = int(0.5 * height + 7 * scale + 2)
    half = max(radius, width // 2 + radius // 2)
    x = int(np.clip(position[0], half, max(half, W - 1 - half)))
    y = int(np.clip(position[1], radius, max(radius, H - 1 - radius)))
    rgb = _rgb255(colour)
    for border, paint in ((2, (255, 255, 255)), (0, rgb)):
        _pill(image, (x, y), half + border, radius + border, paint)
    ink = (20, 20, 20) if np.dot(rgb, (0.299, 0.587, 0.114)) > 120 else (255, 255, 255)
    corner = (x - width // 2, y + height // 2)
    cv2.putText(image, text, corner, cv2.FONT_HERSHEY_DUPLEX, scale, ink, 1, cv2.LINE_AA)


def _pill(image: Image, centre: tuple[int, int], half: int, radius: int, rgb: tuple[int, int, int]) -> None:
    x, y = centre
    reach = half - radius
    cv2.rectangle(image, (x - reach, y - radius), (x + reach, y + radius), rgb, -1)
    for end in (x - reach, x + reach):
        cv2.circle(image, (end, y), radius, rgb, -1, cv2.LINE_AA)


def _rgb255(colour: Colour) -> tuple[int, int, int]:
    r, g, b = (int(round(255 * c)) for c in colour_of(colour))
    return r, g, b


def side_by_side(left: Image, right: Image, gap: int = 4) -> Image:
    """Two pictures beside each other, the right one scaled to the height of the left: (H, W', 3)."""
    H = left.shape[0]
    if right.shape[0] != H:
        right = cv2.resize(
            right, (max(1, round(right.shape[1] * H / right.shape[0])), H), interpolation=cv2.INTER_AREA
        )
    return np.concatenate([left, np.full((H, gap, 3), 255, np.uint8), right], axis=1)


# ---------------------------------------------------------------------------------------------- world view


@dataclass(frozen=True)
class GroundStyle:
    """Checkerboard of the world view. Greys in [0, 1]; tile in metres; padding relative to the span."""

    tile: float = 0.5
    padding: float = 0.2
    light: float = 0.93
    dark: float = 0.80
    min_side: float = 5.0
    fade: float = 1.2  # metres over which the border melts into the background
    shadow: float = 0.5


def look_at(eye: NDArray, target: NDArray) -> NDArray:
    """(4, 4) world (y up) → camera (OpenCV axes) of a level camera at `eye` (3,) looking at `target` (3,)."""
    forward = np.asarray(target, float) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    world2cam = np.eye(4)
    world2cam[:3, :3], world2cam[:3, 3] = rotation, -rotation @ eye
    return world2cam


@dataclass
class WorldView:
    """A fixed camera over a checkerboard, for bodies in a y-up world (spec: data 9.5, 10 "global view").

    low, high  (3,) bounds over the whole motion, metres, y up, floor at y = 0
    centre     (3,) what the camera looks at: the mean of all vertices
    K, size    pixels; as in the camera view

    The camera stands 2 m above the centre and max(4 m, half the larger horizontal span) behind it on the +z
    side, further if the bounds would not fit the picture. The ground is drawn once, here.
    """

    K: NDArray
    size: tuple[int, int]
    centre: NDArray
    low: NDArray
    high: NDArray
    style: GroundStyle = field(default_factory=GroundStyle)
    light: Light = field(
        default_factory=lambda: Light((0.35, 0.8, 0.75), ambient=0.46, diffuse=0.54, specular=0.08)
    )

    def __post_init__(self) -> None:
        self.K = np.asarray(self.K, float).reshape(3, 3)
        self.world2cam = self._place_camera()
        self.background = self._draw_ground()

    @classmethod
    def around(cls, bodies: Sequence[Tensor], size: tuple[int, int]) -> "WorldView":
        """A view of whole motions, (T, V, 3) each, whose focal length is the width of the picture."""
        H, W = size
        K = np.array([[W, 0, W / 2], [0, W, H / 2], [0, 0, 1]], float)
        centre = torch.stack([vertices.mean((0, 1)) for vertices in bodies]).mean(0)
        low = torch.stack([vertices.amin((0, 1)) for vertices in bodies]).amin(0)
        high = torch.stack([vertices.amax((0, 1)) for vertices in bodies]).amax(0)
        return cls(K, size, *(value.double().cpu().numpy() for value in (centre, low, high)))

    def render(self, meshes: Sequence[Mesh | tuple], *, supersample: int = 2) -> Image:
        """(H, W, 3) uint8: bodies (vertices in the y-up world, metres) on the ground, with soft shadows."""
        rotation = torch.as_tensor(self.world2cam[:3, :3], dtype=torch.float32)
        translation = torch.as_tensor(self.world2cam[:3, 3], dtype=torch.float32)
        canvas = self.background.copy()
        in_camera = []
        for mesh in (Mesh(*mesh) for mesh in meshes):
            vertices = torch.as_tensor(mesh.vertices, dtype=torch.float32)
            self._cast_shadow(canvas, vertices.cpu(), torch.as_tensor(mesh.faces).cpu(), mesh.alpha)
            seen = vertices @ rotation.T.to(vertices.device) + translation.to(vertices.device)
            in_camera.append(mesh._replace(vertices=seen))
        _draw_meshes(canvas, in_camera, _intrinsics(self.K), 1.0, self.light, True, supersample)
        return canvas

    def draw_path(self, image: Image, points: NDArray, colour: Colour) -> None:
        """Draw the way walked, (T, 3) world points dropped to the floor, as a thin line into the image."""
        points = np.asarray(points, float) * (1, 0, 1)
        pixels = self._project(points[np.isfinite(points).all(1)])
        if len(pixels) > 1:
            line = np.round(pixels * 16).astype(np.int32)[:, None]  # (T, 2) -> (T, 1, 2), 4 fractional bits
            cv2.polylines(image, [line], False, _rgb255(colour), 2, cv2.LINE_AA, shift=4)

    def _place_camera(self) -> NDArray:
        span = max(self.high[0] - self.low[0], self.high[2] - self.low[2])
        away = np.array([0.0, 2.0, max(4.0, 0.5 * span)])
        corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
        corners = self.low + corners * (np.asarray(self.high) - self.low)
        H, W = self.size
        for _ in range(40):
            world2cam = look_at(self.centre + away, self.centre)
            seen = corners @ world2cam[:3, :3].T + world2cam[:3, 3]
            if seen[:, 2].min() > 0.1:
                p = seen @ self.K.T
                p = p[:, :2] / p[:, 2:]
                if (p > 0).all() and (p < (W, H)).all():
                    break
            away = away * 1.08
        return world2cam

    def _project(self, points: NDArray) -> NDArray:
        seen = points @ self.world2cam[:3, :3].T + self.world2cam[:3, 3]
        p = seen[seen[:, 2] > 0.05] @ self.K.T
        return p[:, :2] / p[:, 2:]

    def _draw_ground(self) -> Image:
        """Background and checkerboard, by meeting every pixel's ray with the plane y = 0."""
        H, W = self.size
        style = self.style
        y, x = np.mgrid[:H, :W].astype(np.float32) + 0.5
        to_world = (self.world2cam[:3, :3].T @ np.linalg.inv(self.K)).astype(np.float32)
        rays = np.stack([x, y, np.ones_like(x)], -1) @ to_world.T  # (H, W, 3)
        eye = (-self.world2cam[:3, :3].T @ self.world2cam[:3, 3]).astype(np.float32)
        on_floor = rays[..., 1] < -1e-6
        distance = np.where(on_floor, -eye[1] / np.minimum(rays[..., 1], -1e-6), 0)
        point = eye[[0, 2]] + distance[..., None] * rays[..., [0, 2]]  # (H, W, 2) world x, z

        low, high = np.asarray(self.low, np.float32)[[0, 2]], np.asarray(self.high, np.float32)[[0, 2]]
        half = max(style.min_side, float((high - low).max()) * (1 + 2 * style.padding)) / 2
        point -= (low + high) / 2
        board = _smooth_stripes(point[..., 0] + half, style.tile) * _smooth_stripes(
            point[..., 1] + half, style.tile
        )
        grey = (style.light + style.dark) / 2 + board * (style.light - style.dark) / 2
        beyond = np.maximum(np.abs(point) - (half - style.fade), 0)
        cover = np.clip(1 - np.hypot(beyond[..., 0], beyond[..., 1]) / style.fade, 0, 1) * on_floor
        cover = cover * cover * (3 - 2 * cover)  # smooth at both ends
        backdrop = np.linspace(0.995, 0.965, H, dtype=np.float32)[:, None]
        image = grey * cover + backdrop * (1 - cover)
        tint = np.array([0.985, 0.995, 1.0], np.float32)
        return np.round(255 * image[..., None] * tint).clip(0, 255).astype(np.uint8)

    def _cast_shadow(self, canvas: Image, vertices: Tensor, faces: Tensor, alpha: float) -> None:
        """Darken the floor under a body: its faces dropped along the light into a small blurred map, which a
        homography lays onto the floor. Parts near the floor add a darker, contact-like core."""
        cells, side = 128, 4.0
        cell = side / cells
        a, b, c = (vertices.index_select(0, faces[:, k]) for k in range(3))
        area = (torch.linalg.cross(b - a, c - a).norm(dim=1) / (2 * cell**2)).numpy()  # (F,) in cells
        middle = ((a + b + c) / 3).numpy()
        height = np.maximum(middle[:, 1], 0)
        ground = middle[:, [0, 2]] + height[:, None] * np.array([0.3, -0.25], np.float32)
        corner = ground.mean(0) - side / 2
        index = np.floor((ground - corner) / cell).astype(int)
        inside = ((index >= 0) & (index < cells)).all(1)
        flat = index[inside, 1] * cells + index[inside, 0]

        def spread(weight: NDArray, sigma: float) -> NDArray:
            amount = np.bincount(flat, weight[inside], minlength=cells * cells).reshape(cells, cells)
            return cv2.GaussianBlur(amount.astype(np.float32), (0, 0), sigma / cell)

        soft = 1 - np.exp(-spread(area, 0.06))
        core = 1 - np.exp(-1.5 * spread(area * np.exp(-height / 0.06), 0.03))
        dark = np.float32(alpha * self.style.shadow) * (1 - (1 - 0.6 * soft) * (1 - core))

        self._darken_floor(canvas, np.rint(255 * (1 - dark)).astype(np.uint8), corner, cell)

    def _darken_floor(self, canvas: Image, light: NDArray, corner: NDArray, cell: float) -> None:
        """Multiply the floor by a map (cells, cells) uint8 of light (255: all of it), where some is missing.

        corner  (2,) world x, z of the map's first corner;  cell: side of one of its cells, metres
        """
        x, y, width, height = cv2.boundingRect((light < 255).astype(np.uint8))
        if not width:
            return
        low, high = (x - 1, y - 1), (x + width, y + height)  # light is full in the cells around
        to_world = np.array(
            [[cell, 0, corner[0] + cell / 2], [0, 0, 0], [0, cell, corner[1] + cell / 2], [0, 0, 1]]
        )
        to_pixel = self.K @ self.world2cam[:3] @ to_world
        border = to_pixel @ np.array([[i, j, 1] for i in (low[0], high[0]) for j in (low[1], high[1])]).T
        if border[2].min() <= 0.1:  # the shadow reaches behind the camera
            return
        (x0, y0), (x1, y1) = (
            np.floor((border[:2] / border[2]).min(1)),
            np.ceil((border[:2] / border[2]).max(1)),
        )
        H, W = canvas.shape[:2]
        x0, y0, x1, y1 = int(max(0, x0)), int(max(0, y0)), int(min(W, x1)), int(min(H, y1))
        if x0 >= x1 or y0 >= y1:
            return
        shift = np.array([[1, 0, -x0 - 0.5], [0, 1, -y0 - 0.5], [0, 0, 1]])
        light = cv2.warpPerspective(
            light, shift @ to_pixel, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR, borderValue=255
        )
        region = canvas[y0:y1, x0:x1]
        region[:] = _attenuated(region, light)


def _smooth_stripes(position: NDArray, width: float) -> NDArray:
    """Stripes of +1 and -1, averaged over the extent of a pixel so that far ones neither flicker nor alias.

    position (H, W) metres at the pixels; the integral of the stripes is a triangle wave
    """
    position = position / width
    extent = np.maximum(np.hypot(*np.gradient(position)), 1e-4)

    def integral(p: NDArray) -> NDArray:
        return 1 - np.abs(p % 2 - 1)

    return (integral(position + extent / 2) - integral(position - extent / 2)) / extent


def render_world(
    meshes: Sequence[Mesh | tuple], K: NDArray, size: tuple[int, int], *, style: GroundStyle | None = None
) -> Image:
    """One picture (H, W, 3) of bodies in a y-up world, metres, floor y = 0; a video wants one WorldView."""
    meshes = [Mesh(*mesh) for mesh in meshes]
    if not meshes:
        raise MoroError("render_world: no body to draw; give at least one mesh.")
    vertices = np.concatenate([np.asarray(mesh.vertices) for mesh in meshes])
    view = WorldView(K, size, vertices.mean(0), vertices.min(0), vertices.max(0), style or GroundStyle())
    return view.render(meshes)
