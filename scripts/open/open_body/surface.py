"""One closed, exactly symmetric surface of the exterior, at a chosen number of vertices."""

from dataclasses import dataclass

import numpy as np
import pyfqmr
import scipy.sparse as sp
import trimesh
from scipy.spatial import cKDTree

from scripts.open.open_body.source import MIRROR, REFLECT, Source


@dataclass
class Surface:
    """A mesh whose vertices are fixed affine combinations of the source's vertices.

    operator (V, V_source) sparse · faces (F, 3) · mirror (V,) · weights (V, 55) skinning, symmetric
    loops: the holes that were closed (eyes and mouth) as vertex ids; empty once decimated
    """

    operator: sp.csr_matrix
    faces: np.ndarray
    mirror: np.ndarray
    weights: np.ndarray
    loops: list[np.ndarray]

    def apply(self, field: np.ndarray) -> np.ndarray:
        """Carry points (V_source, 3), or blend shapes (S, V_source, 3), to this surface."""
        if field.ndim == 2:
            return self.operator @ field
        return np.stack([self.operator @ shape for shape in field])


def exterior_surface(source: Source) -> Surface:
    """Drop eyeballs, tongue and mouth cavity, close the three holes with a fan: watertight, genus 0."""
    count, faces = len(source.vertices), source.faces
    body = _component_of_faces(faces, count)
    faces = faces[~source.internal[faces].any(1) & body]
    faces = faces[_component_of_faces(faces, count)]
    operator, loops = [sp.identity(count, format="csr")], boundary_loops(faces)
    for centre, loop in enumerate(loops, start=count):
        fan = [[loop[(i + 1) % len(loop)], loop[i], centre] for i in range(len(loop))]
        faces = np.concatenate([faces, fan])
        row = np.zeros((1, count))
        row[0, loop] = 1 / len(loop)
        operator.append(sp.csr_matrix(row))
    used = np.unique(faces)
    renumber = np.full(count + len(loops), -1)
    renumber[used] = np.arange(len(used))
    stacked = sp.vstack(operator).tocsr()[used]
    return _finish(source, stacked, renumber[faces], [renumber[np.array(loop)] for loop in loops])


def _component_of_faces(faces: np.ndarray, num_vertices: int) -> np.ndarray:
    """Mask of the faces in the connected piece with most vertices."""
    ends = faces[:, [1, 2, 0]].ravel()
    graph = sp.coo_matrix((np.ones(faces.size), (faces.ravel(), ends)), shape=(num_vertices,) * 2)
    label = sp.csgraph.connected_components(graph, directed=False)[1]
    return label[faces[:, 0]] == np.bincount(label).argmax()


def boundary_loops(faces: np.ndarray) -> list[list[int]]:
    """The closed chains of edges that belong to one face only."""
    edges = {
        (int(a), int(b)) for a, b in np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    }
    following = {a: b for a, b in sorted(edges) if (b, a) not in edges}
    loops = []
    while following:
        start = next(iter(following))
        loop = [start]
        while (vertex := following.pop(loop[-1])) != start:
            loop.append(vertex)
        loops.append(loop)
    return loops


def decimate(source: Source, exterior: Surface, target: int, neutral: np.ndarray) -> Surface:
    """Quadric decimation to about `target` vertices of the left half, then mirrored.

    neutral  (V_source, 3) the shape whose geometry decides which edges go
    The mid line is a border of the half, and kept whole, so both halves meet exactly.
    """
    template, shape = exterior.apply(source.vertices), exterior.apply(neutral)
    half = exterior.faces[(template[exterior.faces][..., 0] >= -1e-9).all(1)]
    used = np.unique(half)
    renumber = np.full(len(template), -1)
    renumber[used] = np.arange(len(used))
    points, half = shape[used], renumber[half]
    reduced, faces = _decimate_half(points, half, target)

    attach, _ = closest_on_surface(reduced, points, half)
    select = sp.csr_matrix(
        (np.ones(len(used)), (np.arange(len(used)), used)), shape=(len(used), len(template))
    )
    left = attach @ select
    swap = sp.identity(len(template), format="csr")[exterior.mirror]
    middle = np.abs(reduced[:, 0]) < 1e-7
    on_middle = sp.diags(middle.astype(float))
    left = left - 0.5 * on_middle @ left + 0.5 * on_middle @ (left @ swap)
    right = (left @ swap)[~middle]
    twin = np.arange(len(reduced))
    twin[~middle] = len(reduced) + np.arange((~middle).sum())
    both = np.concatenate([faces, twin[faces][:, [0, 2, 1]]])
    return _finish(source, sp.vstack([left, right]).tocsr() @ exterior.operator, both, [])


def _decimate_half(points: np.ndarray, faces: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Half mesh that gives about `target` vertices once mirrored; the face budget is found by trial."""
    budget = float(target)
    for _ in range(12):
        simplifier = pyfqmr.Simplify()
        simplifier.setMesh(points, faces)
        simplifier.simplify_mesh(
            target_count=int(budget), aggressiveness=4, preserve_border=True, verbose=False
        )
        reduced, reduced_faces = simplifier.getMesh()[:2]
        total = 2 * len(reduced) - (np.abs(reduced[:, 0]) < 1e-7).sum()
        if abs(total - target) < 6:
            break
        budget *= target / total
    return reduced, reduced_faces


def closest_on_surface(
    points: np.ndarray, vertices: np.ndarray, faces: np.ndarray, candidates: int = 40
) -> tuple[sp.csr_matrix, np.ndarray]:
    """Closest surface points as barycentric rows (N, V), and their distances (N,)."""
    triangles = vertices[faces]
    _, near = cKDTree(triangles.mean(1)).query(points, k=candidates)
    best, best_face = np.full(len(points), np.inf), np.zeros(len(points), int)
    for k in range(candidates):
        foot = trimesh.triangles.closest_point(triangles[near[:, k]], points)
        distance = ((foot - points) ** 2).sum(1)
        closer = distance < best
        best[closer], best_face[closer] = distance[closer], near[closer, k]
    foot = trimesh.triangles.closest_point(triangles[best_face], points)
    weights = np.clip(trimesh.triangles.points_to_barycentric(triangles[best_face], foot), 0, 1)
    weights /= weights.sum(1, keepdims=True)
    rows = np.repeat(np.arange(len(points)), 3)
    matrix = sp.csr_matrix(
        (weights.ravel(), (rows, faces[best_face].ravel())), shape=(len(points), len(vertices))
    )
    return matrix, np.sqrt(best)


def _finish(source: Source, operator: sp.csr_matrix, faces: np.ndarray, loops: list[np.ndarray]) -> Surface:
    """Check the surface, find its mirror permutation, and make the skinning weights sparse and symmetric."""
    vertices = operator @ source.vertices
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    if not mesh.is_watertight or mesh.euler_number != 2 or mesh.body_count != 1:
        raise ValueError("the body surface is not one closed surface of genus 0")
    distance, mirror = cKDTree(vertices).query(vertices * REFLECT)
    if distance.max() > 1e-9 or (mirror[mirror] != np.arange(len(vertices))).any():
        raise ValueError("the body surface is not symmetric")
    weights = operator @ source.weights
    weights[weights < 1e-3] = 0
    weights /= weights.sum(1, keepdims=True)
    weights = 0.5 * (weights + weights[mirror][:, MIRROR])
    return Surface(operator, faces, mirror, weights, loops)
