"""Animated bodies as a GLB file: skinned mesh, named skeleton, one animation; opens in any 3D program."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pygltflib as gltf
import roma
import torch
from numpy.typing import NDArray

from moro.body.model import BodyModel
from moro.errors import MoroError
from moro.export.amass import Fit, fit_arrays, rest_joints, to_world
from moro.geometry.ground import Ground
from moro.io.atomic import atomic_path
from moro.render.scene import Colour, colour_of, person_colour, vertex_normals

MAX_INFLUENCES = 4  # what glTF guarantees per vertex


@dataclass(frozen=True)
class GlbReport:
    """What the file cannot carry, measured over a sample of frames, metres.

    weight_deviation  largest distance of a vertex caused by keeping 4 skinning weights per vertex
    pose_deviation    the same against the whole body model, that is including the missing pose correctives
    """

    weight_deviation: float
    pose_deviation: float


def write_motion_glb(
    path: str | Path,
    body: BodyModel,
    fits: Fit | Sequence[Fit],
    ground: Ground,
    *,
    fps: float = 30.0,
    colours: Sequence[Colour] | None = None,
) -> GlbReport:
    """Write one or several people, y up, metres, floor y = 0, one skin and skeleton per person.

    fits     parameters in the camera frame; all people share the time axis (frame 0 is the same moment)
    colours  one per person (the renderer's colours if None)

    The betas are baked into the rest pose. Pose-dependent correctives have no place in a glTF skin and are
    left out; joints are exact, the surface differs at bent joints by the `pose_deviation` reported.
    Raises MoroError for parameters that do not fit the body.
    """
    fits = list(fits) if isinstance(fits, Sequence) else [fits]
    if not fits:
        raise MoroError(f"cannot write {path}: no person to export.")
    colours = [person_colour(i) for i in range(len(fits))] if colours is None else list(colours)
    if len(colours) != len(fits):
        raise MoroError(f"cannot write {path}: {len(colours)} colours for {len(fits)} people.")
    writer = _Writer()
    weights, joints = _strongest_weights(body.weights.cpu().numpy())
    weight_deviation = pose_deviation = 0.0
    for number, (fit, colour) in enumerate(zip(fits, colours, strict=True), start=1):
        pose, betas, transl = fit_arrays(body, fit)
        orient, trans = to_world(body, pose, betas, transl, ground.cam2world(y_up=True))
        pose = np.concatenate([orient[:, None], pose[:, 1:]], 1)  # (T, J, 3)
        rest = rest_joints(body, betas)
        writer.add_person(f"person_{number}", body, betas, rest, weights, joints, colour)
        writer.add_motion(pose, rest[0] + trans, fps)
        deviation = _deviations(body, pose, betas, rest, weights, joints)
        weight_deviation = max(weight_deviation, deviation[0])
        pose_deviation = max(pose_deviation, deviation[1])
    with atomic_path(path) as temporary:
        writer.finish().save_binary(str(temporary))
    return GlbReport(weight_deviation, pose_deviation)


def _strongest_weights(weights: NDArray) -> tuple[NDArray, NDArray]:
    """The largest weights of each vertex (V, 4), summing to 1, and their joints (V, 4); 0 where unused."""
    count = min(MAX_INFLUENCES, weights.shape[1])
    joints = np.argsort(-weights, axis=1, kind="stable")[:, :count]
    strongest = np.take_along_axis(weights, joints, 1).astype(np.float64)
    strongest = strongest / strongest.sum(1, keepdims=True)
    joints = np.where(strongest > 0, joints, 0)
    pad = ((0, 0), (0, MAX_INFLUENCES - count))
    return np.pad(strongest, pad).astype(np.float32), np.pad(joints, pad)


def _deviations(
    body: BodyModel,
    pose: NDArray,
    betas: NDArray,
    rest: NDArray,
    weights: NDArray,
    joints: NDArray,
    frames: int = 12,
) -> tuple[float, float]:
    """Largest distance (metres) of the exported surface from full skinning, and from the body model."""
    chosen = np.unique(np.linspace(0, len(pose) - 1, frames).astype(int))
    rotations = roma.rotvec_to_rotmat(torch.as_tensor(pose[chosen], dtype=torch.float32)).to(
        body.weights.device
    )
    shape = torch.as_tensor(betas, dtype=torch.float32, device=body.weights.device)
    vertices = body.v_template + body.shapedirs @ shape  # (V, 3)
    _, transforms = forward_kinematics(rotations.double().cpu().numpy(), rest, body.parents)
    transforms = torch.as_tensor(transforms, dtype=torch.float32, device=vertices.device)  # (N, J, 3, 4)
    few = torch.zeros_like(body.weights).scatter_add_(
        1, torch.as_tensor(joints, device=vertices.device), torch.as_tensor(weights, device=vertices.device)
    )
    homogeneous = torch.nn.functional.pad(vertices, (0, 1), value=1.0)
    reduced, full = (torch.einsum("vj,njab,vb->nva", w, transforms, homogeneous) for w in (few, body.weights))
    hands = rotations[:, -30:] if rotations.shape[1] >= 52 else None  # fingers are the last 30 joints
    posed = body(
        rotations[:, 1:22], shape.expand(len(chosen), -1), rotations[:, 0], hand_pose=hands
    ).full_vertices
    weight_deviation = float((reduced - full).norm(dim=-1).max())
    return weight_deviation, float((reduced - posed).norm(dim=-1).max())


def forward_kinematics(rotations: NDArray, rest: NDArray, parents: Sequence[int]) -> tuple[NDArray, NDArray]:
    """Joints (N, J, 3) and rest-to-posed transforms (N, J, 3, 4); rotations (N, J, 3, 3) parent-relative."""
    world, joints = [], []
    for joint, parent in enumerate(parents):
        local = rotations[:, joint]
        world.append(local if parent < 0 else world[parent] @ local)
        bone = rest[joint] if parent < 0 else rest[joint] - rest[parent]
        joints.append(
            np.broadcast_to(bone, (len(rotations), 3))
            if parent < 0
            else joints[parent] + world[parent] @ bone
        )
    R, posed = np.stack(world, 1), np.stack(joints, 1)
    shift = posed - np.einsum("njab,jb->nja", R, rest)
    return posed, np.concatenate([R, shift[..., None]], -1)


class _Writer:
    """Collects nodes, meshes and binary data of one file."""

    def __init__(self) -> None:
        self.file = gltf.GLTF2(asset=gltf.Asset(version="2.0", generator="MoRo"))
        self.scene = gltf.Scene(nodes=[])
        self.animation = gltf.Animation(name="motion")
        self.blob = bytearray()
        self.pelvis = 0  # node of the last person's root joint

    def add_person(
        self,
        name: str,
        body: BodyModel,
        betas: NDArray,
        rest: NDArray,
        weights: NDArray,
        joints: NDArray,
        colour: Colour,
    ) -> None:
        """Skeleton nodes, skin and mesh in the rest pose."""
        file = self.file
        self.pelvis = first = len(file.nodes)
        for joint, parent in enumerate(body.parents):
            offset = rest[joint] - (rest[parent] if parent >= 0 else 0)
            children = [first + k for k, p in enumerate(body.parents) if p == joint]
            file.nodes.append(
                gltf.Node(name=body.joint_names[joint], translation=offset.tolist(), children=children)
            )
        inverse_bind = np.repeat(np.eye(4)[None], len(rest), 0)
        inverse_bind[:, :3, 3] = -rest
        skin = gltf.Skin(
            name=name,
            joints=list(range(first, first + len(rest))),
            skeleton=first,
            inverseBindMatrices=self._accessor(inverse_bind.transpose(0, 2, 1), gltf.MAT4),  # column-major
        )
        file.skins.append(skin)
        file.meshes.append(self._mesh(name, body, betas, weights, joints, colour))
        file.nodes.append(gltf.Node(name=f"{name}_mesh", mesh=len(file.meshes) - 1, skin=len(file.skins) - 1))
        file.nodes.append(gltf.Node(name=name, children=[first, len(file.nodes) - 1]))
        self.scene.nodes.append(len(file.nodes) - 1)

    def _mesh(
        self, name: str, body: BodyModel, betas: NDArray, weights: NDArray, joints: NDArray, colour: Colour
    ) -> gltf.Mesh:
        vertices = (body.v_template + body.shapedirs @ torch.as_tensor(betas).to(body.shapedirs)).cpu()
        faces = body.full_faces.cpu()
        rgb = np.asarray(colour_of(colour))
        linear = np.where(
            rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4
        )  # glTF colours are linear
        surface = gltf.PbrMetallicRoughness(
            baseColorFactor=[*linear.tolist(), 1.0], metallicFactor=0.0, roughnessFactor=0.65
        )
        self.file.materials.append(gltf.Material(name=name, pbrMetallicRoughness=surface))
        array, element = gltf.ARRAY_BUFFER, gltf.ELEMENT_ARRAY_BUFFER
        kind = np.uint8 if len(body.parents) <= 256 else np.uint16
        attributes = gltf.Attributes(
            POSITION=self._accessor(vertices.numpy(), gltf.VEC3, array, bounds=True),
            NORMAL=self._accessor(vertex_normals(vertices, faces).numpy(), gltf.VEC3, array),
            JOINTS_0=self._accessor(joints.astype(kind), gltf.VEC4, array),
            WEIGHTS_0=self._accessor(weights, gltf.VEC4, array),
        )
        corners = faces.numpy().reshape(-1).astype(np.uint32)  # (F, 3) -> (3F,)
        indices = self._accessor(corners, gltf.SCALAR, element)
        primitive = gltf.Primitive(
            attributes=attributes, indices=indices, material=len(self.file.materials) - 1
        )
        return gltf.Mesh(name=name, primitives=[primitive])

    def add_motion(self, pose: NDArray, pelvis: NDArray, fps: float) -> None:
        """Rotations of all joints that turn, and the way of the root joint, of the last person added.

        pose (T, J, 3) axis-angle, pelvis (T, 3) world metres
        """
        times = self._accessor(np.arange(len(pose)) / fps, gltf.SCALAR, bounds=True)
        self._channel(self.pelvis, "translation", times, pelvis, gltf.VEC3)
        turning = np.flatnonzero(np.abs(pose).max((0, 2)) > 1e-7)
        for joint in turning:
            self._channel(
                self.pelvis + int(joint), "rotation", times, continuous_quaternions(pose[:, joint]), gltf.VEC4
            )

    def _channel(self, node: int, path: str, times: int, values: NDArray, kind: str) -> None:
        sampler = gltf.AnimationSampler(
            input=times, output=self._accessor(values, kind), interpolation=gltf.ANIM_LINEAR
        )
        self.animation.samplers.append(sampler)
        target = gltf.AnimationChannelTarget(node=node, path=path)
        self.animation.channels.append(
            gltf.AnimationChannel(sampler=len(self.animation.samplers) - 1, target=target)
        )

    def _accessor(self, array: NDArray, kind: str, target: int | None = None, bounds: bool = False) -> int:
        """Append an array (N, ...) to the binary data; returns its accessor. Floats become float32."""
        array = np.ascontiguousarray(array.astype(np.float32) if array.dtype.kind == "f" else array)
        self.blob.extend(b"\0" * (-len(self.blob) % 4))
        view = gltf.BufferView(buffer=0, byteOffset=len(self.blob), byteLength=array.nbytes, target=target)
        self.blob.extend(array.tobytes())
        self.file.bufferViews.append(view)
        accessor = gltf.Accessor(
            bufferView=len(self.file.bufferViews) - 1,
            componentType=_COMPONENT[array.dtype.type],
            count=len(array),
            type=kind,
        )
        if bounds:
            flat = array.reshape(len(array), -1)
            accessor.min, accessor.max = flat.min(0).tolist(), flat.max(0).tolist()
        self.file.accessors.append(accessor)
        return len(self.file.accessors) - 1

    def finish(self) -> gltf.GLTF2:
        self.blob.extend(b"\0" * (-len(self.blob) % 4))
        self.file.scenes, self.file.scene = [self.scene], 0
        self.file.animations = [self.animation]
        self.file.buffers = [gltf.Buffer(byteLength=len(self.blob))]
        self.file.set_binary_blob(bytes(self.blob))
        return self.file


_COMPONENT = {
    np.float32: gltf.FLOAT,
    np.uint8: gltf.UNSIGNED_BYTE,
    np.uint16: gltf.UNSIGNED_SHORT,
    np.uint32: gltf.UNSIGNED_INT,
}


def continuous_quaternions(rotvec: NDArray) -> NDArray:
    """Quaternions (T, 4), x y z w, of rotation vectors (T, 3), each in the half-space of the one before:
    linear interpolation between frames then takes the short way."""
    quaternions = roma.rotvec_to_unitquat(torch.as_tensor(rotvec, dtype=torch.float64)).numpy()
    flips = np.cumprod(np.where((quaternions[1:] * quaternions[:-1]).sum(1) < 0, -1.0, 1.0))
    quaternions[1:] *= flips[:, None]
    return quaternions
