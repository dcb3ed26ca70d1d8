"""Connection matrices: the multi-resolution graph the mesh tokenizer works on (spec: models 1.1).

A level is a graph of points; level 0 is the mesh itself. Between levels stand two tables: `_pool{2l}` joins
each point with its direct neighbours (same point count), `_pool{2l+1}` gathers the points within two hops
of each of the next level's centres. `_unpool{i}` is the transpose of `_pool{i}`.

In the original tables (found by comparing them) the centres are a maximal set of points no two of which are
neighbours, kept in id order, and two centres are neighbours on the coarser graph when at most three hops
apart: 10.6, 14.2 and 14.0 points per neighbourhood, centre included. That set follows the density of the
mesh. Meshes are densest at face, fingers and toes, which hardly deform; on the open body those would own
more than half of the tokens with a fifth of the surface. Here centres are spread evenly over the surface
instead, and neighbourhoods follow their cells (the points nearest to a centre): two centres are neighbours
when their cells touch or when they have two touching neighbours in common, i.e. face each other across an
edge of the triangulation the cells form. On evenly spread points that is 1 + 6 + 6 points: the
neighbourhood size of the original, whatever the density.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

from moro.errors import MoroError
from moro.io.atomic import atomic_path

POOL_HOPS = 2  # a centre gathers the points within this many hops
_TABLE_NAME = re.compile(r"^(_(?:un)?pool)(\d+)\.(npy|npz)$")

Tables = dict[str, np.ndarray]


def build_connection_matrices(
    faces: np.ndarray,
    num_vertices: int,
    level_sizes: Sequence[int],
    seed: int = 0,
    *,
    vertices: np.ndarray | None = None,
    mirror: np.ndarray | None = None,
) -> Tables:
    """Tables `_pool0 … _pool{2L-1}` and `_unpool0 … ` for L coarser levels (spec: models 1.1).

    faces        (F, 3) vertex ids; num_vertices = P_0
    level_sizes  (L,) point counts of the coarser levels, finest first, e.g. (750, 190, 54, 8)
    seed         chooses the point from which the spreading starts; same input and seed, same tables
    vertices     (P_0, 3) rest positions. With them, centres are spread evenly over the surface (in metres
                 along it), without them evenly in hops on the mesh
    mirror       (P_0,) left-right permutation of the vertices; with it, centres are chosen in mirrored pairs
    returns      name → (P_out, 1 + 2M) int32: count, then (id, hops) pairs, padded with (P_in, -1)

    Each level is a farthest-point sampling among the points of the level before, repaired where it leaves
    points more than POOL_HOPS hops from every centre; the size is met exactly.
    MoroError: faces out of range, unused vertices, sizes that do not fall or are too small for the surface.
    """
    adjacency = _mesh_adjacency(faces, num_vertices)
    sizes = [num_vertices, *level_sizes]
    if any(coarse >= fine or coarse < 1 for fine, coarse in zip(sizes, sizes[1:], strict=False)):
        raise MoroError(f"Level sizes {sizes} must fall from level to level and stay positive.")
    surface = _Surface.create(adjacency, vertices, mirror, np.random.default_rng(seed))

    tables: Tables = {}
    points = np.arange(num_vertices)  # the level's points as vertex ids
    for level, size in enumerate(level_sizes):
        same = _hops(adjacency, np.arange(len(points)), 1)
        centres = _choose_centres(adjacency, points, size, surface)
        for index, hops in ((2 * level, same), (2 * level + 1, _hops(adjacency, centres, POOL_HOPS))):
            tables[f"_pool{index}"] = _table(hops, by_distance=True)
            tables[f"_unpool{index}"] = _table(hops.T.tocsr(), by_distance=False)
        points = points[centres]
        adjacency = _coarser_adjacency(points, surface.edges)
    return tables


def save_connection_matrices(folder: str | Path, tables: Tables) -> None:
    """Write each table as `<folder>/<name>.npy` (int32, C order). MoroError if inconsistent."""
    validate_connection_matrices(tables)
    for name, table in tables.items():
        with atomic_path(Path(folder) / f"{name}.npy") as path:
            np.save(path, np.ascontiguousarray(table, dtype=np.int32), allow_pickle=False)


def load_connection_matrices(folder: str | Path) -> Tables:
    """All tables of a folder, validated: files `_pool{i}.npy`, `_unpool{i}.npy` (or `.npz` with one array).

    returns  name → (P_out, 1 + 2M) int32, in the order _pool0, _unpool0, _pool1, …
    MoroError: no folder, unreadable file, missing level, wrong dtype or shape, ids out of range, broken chain
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MoroError(f"Connection matrices not found: {folder} is not a folder; check its path.")
    matches = ((_TABLE_NAME.match(path.name), path) for path in sorted(folder.iterdir()))
    found = {(int(match[2]), match[1]): path for match, path in matches if match}
    tables = {f"{kind}{index}": _read_table(found[index, kind]) for index, kind in sorted(found)}
    validate_connection_matrices(tables, str(folder))
    return tables


def validate_connection_matrices(tables: Tables, where: str = "the given tables") -> None:
    """Raise MoroError unless the tables have the format of spec: models 1.1 and form one chain of levels."""
    count = 1 + max((int(re.sub(r"\D", "", name)) for name in tables), default=0)
    wanted = [f"{kind}{index}" for index in range(count) for kind in ("_pool", "_unpool")]
    missing = [name for name in wanted if name not in tables]
    if missing:
        raise MoroError(f"Connection matrix {missing[0]} is missing in {where}; pool and unpool tables 0 to "
                        f"{count - 1} are needed.")
    points = len(tables["_pool0"])
    for index in range(count):
        pool, unpool = tables[f"_pool{index}"], tables[f"_unpool{index}"]
        _check_format(f"_pool{index}", pool, points, where)
        _check_format(f"_unpool{index}", unpool, len(pool), where)
        if (index % 2 == 0 and len(pool) != points) or len(unpool) != points:
            raise MoroError(f"Connection matrices {index} in {where} do not fit the level before "
                            f"({len(pool)}, {len(unpool)} points, not {points}); take all from one body.")
        hops = pool[:, 2::2]
        if (hops[:, 0] != 0).any() or (hops[:, 1:] == 0).any():
            raise MoroError(f"_pool{index} in {where} must list each centre (distance 0) first and "
                            "only once; build it again.")
        difference = relation(pool, points) != relation(unpool, len(pool)).T
        if difference.nnz:
            raise MoroError(f"_unpool{index} in {where} is not the transpose of _pool{index}; "
                            "take all from one body.")
        points = len(pool)


def connection_hash(tables: Tables) -> str:
    """SHA-256 (hex) over names, shapes and contents, independent of the order of the dictionary."""
    digest = hashlib.sha256()
    for name in sorted(tables):
        table = np.ascontiguousarray(tables[name], dtype="<i4")
        digest.update(f"{name}{table.shape}".encode())
        digest.update(table.tobytes())
    return digest.hexdigest()


def relation(table: np.ndarray, num_inputs: int) -> sparse.csr_array:
    """The table as a sparse (P_out, P_in) array holding hops + 1 (a zero would not be stored)."""
    valid = np.arange(table.shape[1] // 2) < table[:, :1]  # (P_out, M)
    rows = np.nonzero(valid)[0]
    ids, hops = table[:, 1::2][valid], table[:, 2::2][valid]
    return sparse.csr_array((hops + 1, (rows, ids)), shape=(len(table), num_inputs))


# ------------------------------------------------------------------------------------ graphs


def _mesh_adjacency(faces: np.ndarray, num_vertices: int) -> sparse.csr_array:
    """Symmetric boolean (V, V) array of the mesh's edges."""
    faces = np.asarray(faces)
    if faces.ndim != 2 or faces.shape[1] != 3 or not np.issubdtype(faces.dtype, np.integer):
        raise MoroError(f"Faces must be an integer array (F, 3), got {faces.dtype} {faces.shape}.")
    faces = faces.astype(np.int64)  # (F, 3)
    if faces.size == 0 or faces.min() < 0 or faces.max() >= num_vertices:
        raise MoroError(f"Faces must name vertices 0 to {num_vertices - 1}; check the number of vertices.")
    unused = num_vertices - len(np.unique(faces))
    if unused:
        raise MoroError(f"{unused} of {num_vertices} vertices are in no face; remove them first.")
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])  # (3F, 2)
    edges = np.concatenate([edges, edges[:, ::-1]])  # both directions
    shape = (num_vertices, num_vertices)
    return _without_diagonal(sparse.csr_array((np.ones(len(edges), bool), edges.T), shape=shape))


def _hops(adjacency: sparse.csr_array, centres: np.ndarray, limit: int) -> sparse.csr_array:
    """Hops + 1 from each centre (row) to each point (column) within `limit` hops; nothing stored beyond."""
    step = (adjacency + sparse.eye_array(adjacency.shape[0], dtype=bool)).astype(np.int32).tocsr()
    ball = sparse.eye_array(adjacency.shape[0], dtype=np.int32).tocsr()[centres]
    balls = ball.copy()
    for _ in range(limit):
        ball = ((ball @ step) > 0).astype(np.int32)
        balls = balls + ball
    # A point h hops away lies in the balls of radius h … limit: limit + 1 - h of them.
    balls.data = limit + 2 - balls.data
    return balls.tocsr()


def _coarser_adjacency(centres: np.ndarray, edges: sparse.csr_array) -> sparse.csr_array:
    """Neighbourhood of the centres (vertex ids): touching cells, or two common neighbours (see top)."""
    count, points = len(centres), edges.shape[0]
    nearest = dijkstra(edges, indices=centres, min_only=True, return_predecessors=True)[2]  # (V,) vertex id
    cell = np.full(points, -1)
    cell[centres] = np.arange(count)
    cell = cell[nearest]  # (V,) which centre's cell a vertex lies in
    crossing = edges.tocoo()
    pairs = np.unique(np.stack([cell[crossing.row], cell[crossing.col]], axis=1), axis=0)  # (N, 2)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    touch = sparse.csr_array((np.ones(len(pairs), np.int32), pairs.T), shape=(count, count))
    return _without_diagonal((touch > 0) + (touch @ touch > 1))


def _without_diagonal(graph: sparse.csr_array) -> sparse.csr_array:
    entries = graph.tocoo()
    keep = entries.row != entries.col
    ends = (entries.row[keep], entries.col[keep])
    return sparse.csr_array((np.ones(keep.sum(), bool), ends), shape=graph.shape)


def _table(hops: sparse.csr_array, by_distance: bool) -> np.ndarray:
    """Rows of (id, hops) pairs, ascending by distance then id, or by id alone."""
    outputs, inputs = hops.shape
    entries = hops.tocoo()
    keys = (entries.col, entries.data, entries.row) if by_distance else (entries.col, entries.row)
    order = np.lexsort(keys)
    rows, ids, distance = entries.row[order], entries.col[order], entries.data[order] - 1
    counts = np.bincount(rows, minlength=outputs)
    slot = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.tile(np.array([inputs, -1], np.int32), (outputs, counts.max()))  # (P_out, 2M), all padding
    table[rows, 2 * slot], table[rows, 2 * slot + 1] = ids, distance
    return np.concatenate([counts[:, None], table], axis=1).astype(np.int32)


# ------------------------------------------------------------------------------------ choice of centres


@dataclass(frozen=True)
class _Surface:
    """Distances on the finest level, and its symmetry."""

    edges: sparse.csr_array  # (V, V) edge lengths
    start: int  # vertex the spreading starts from
    mirror: np.ndarray  # (V,) identity when the body has no symmetry
    gap: np.ndarray  # (V,) distance of a vertex from its mirror image; inf on the midline or without symmetry

    @classmethod
    def create(cls, adjacency: sparse.csr_array, vertices: np.ndarray | None, mirror: np.ndarray | None,
               random: np.random.Generator) -> "_Surface":
        count = adjacency.shape[0]
        edges = adjacency.tocoo()
        length = np.ones(len(edges.row))
        if vertices is not None:
            vertices = np.asarray(vertices, np.float64)
            if vertices.shape != (count, 3) or not np.isfinite(vertices).all():
                raise MoroError(f"Rest vertices must be finite and ({count}, 3), got {vertices.shape}.")
            length = np.linalg.norm(vertices[edges.row] - vertices[edges.col], axis=1)
            length = np.maximum(length, 1e-9)  # a zero would mean "no edge"
        edges = sparse.csr_array((length, (edges.row, edges.col)), shape=adjacency.shape)
        identity = np.arange(count)
        if mirror is None:
            return cls(edges, int(random.integers(count)), identity, np.full(count, np.inf))
        mirror = np.asarray(mirror, np.int64)
        if mirror.shape != (count,) or not np.array_equal(np.sort(mirror), identity) \
                or not np.array_equal(mirror[mirror], identity):
            raise MoroError(f"The mirror permutation must swap all {count} vertices in pairs; check it.")
        midline = np.flatnonzero(mirror == identity)
        gap = np.full(count, np.inf)
        if len(midline):
            gap = 2 * dijkstra(edges, indices=midline, min_only=True)
            gap[midline] = np.inf
        start = int(random.choice(midline)) if len(midline) else int(random.integers(count))
        return cls(edges, start, mirror, gap)


def _choose_centres(adjacency: sparse.csr_array, points: np.ndarray, size: int,
                    surface: _Surface) -> np.ndarray:
    """Exactly `size` centres, as sorted point ids of this level, covering it within POOL_HOPS hops.

    Farthest points first; the longest run of them is kept that leaves room for the repair of what they miss,
    and what room the repair leaves goes to farthest points again.
    """
    cover = _hops(adjacency, np.arange(len(points)), POOL_HOPS) > 0  # (P, P)
    mirror = np.searchsorted(points, surface.mirror[points])
    if not np.array_equal(points[np.minimum(mirror, len(points) - 1)], surface.mirror[points]):
        mirror = np.arange(len(points))  # the level before could not be symmetric
    first = _farthest(points, mirror, [], size, surface)
    low, high, best = 0, len(first), None
    while low <= high:
        keep = (low + high) // 2
        chosen = _repair(cover, mirror, first[:keep])
        if len(chosen) <= size:
            best, low = chosen, keep + 1
        else:
            high = keep - 1
    if best is None:
        raise MoroError(f"{size} points cannot cover a level of {len(points)} within {POOL_HOPS} hops; "
                        "ask for a larger level (about a quarter of the level before).")
    return np.sort(_farthest(points, mirror, best, size, surface))


def _farthest(points: np.ndarray, mirror: np.ndarray, chosen: Sequence[int], size: int,
              surface: _Surface) -> list[int]:
    """Add points to `chosen`, each the farthest from all chosen, in mirrored pairs, up to `size`."""
    chosen = list(chosen)
    alone = mirror == np.arange(len(points))
    if chosen:
        distance = dijkstra(surface.edges, indices=points[chosen], min_only=True)
    else:
        distance = np.full(len(surface.mirror), np.inf)
        begin = int(np.argmin(dijkstra(surface.edges, indices=surface.start)[points]))
        chosen = [begin] if alone[begin] or size < 2 else [begin, int(mirror[begin])]
        _shorten(distance, points[chosen], surface)
    while len(chosen) < size:
        # A pair is only as far from all others as its two halves are from each other.
        score = np.minimum(distance[points], np.where(alone, np.inf, surface.gap[points]))
        if len(chosen) == size - 1:
            score = np.where(alone, score, 0.0) if (alone & (score > 0)).any() else distance[points]
        score[chosen] = -1.0
        pick = int(np.argmax(score))
        pair = [pick] if alone[pick] or len(chosen) == size - 1 else [pick, int(mirror[pick])]
        chosen += pair
        _shorten(distance, points[pair], surface)
    return chosen


def _shorten(distance: np.ndarray, sources: np.ndarray, surface: _Surface) -> None:
    """Lower `distance` (V,) in place by the distances from new sources."""
    reach = distance.max()  # nothing farther than this can become shorter
    np.minimum(distance, dijkstra(surface.edges, indices=sources, min_only=True, limit=reach), out=distance)


def _repair(cover: sparse.csr_array, mirror: np.ndarray, chosen: Sequence[int]) -> list[int]:
    """Add centres greedily, those covering most uncovered points first, until every point is covered."""
    chosen = list(dict.fromkeys([*chosen, *mirror[list(chosen)].tolist()]))  # whole pairs, each once
    covered = np.zeros(cover.shape[0], bool)
    covered[cover[chosen].indices] = True
    cover_number = cover.astype(np.int32)
    while not covered.all():
        pick = int(np.argmax(cover_number @ (~covered).astype(np.int32)))
        pair = [pick] if mirror[pick] == pick else [pick, int(mirror[pick])]
        chosen += pair
        covered[cover[pair].indices] = True
    return chosen


# ------------------------------------------------------------------------------------ files


def _read_table(path: Path) -> np.ndarray:
    try:
        content = np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            with content:
                (name,) = content.files
                content = content[name]
    except (OSError, ValueError, EOFError) as error:
        raise MoroError(f"Connection matrix {path} cannot be read ({error}); build it again.") from error
    return content


def _check_format(name: str, table: np.ndarray, num_inputs: int, where: str) -> None:
    """One table: int32 (P_out, 1 + 2M), counts, valid pairs, then padding (P_in, -1), ids in range."""
    if table.dtype != np.int32 or table.ndim != 2 or table.shape[1] < 3 or table.shape[1] % 2 == 0:
        raise MoroError(f"{name} in {where} must be int32 of shape (P_out, 1 + 2M), "
                        f"got {table.dtype} {table.shape}; build it again.")
    count, ids, hops = table[:, 0], table[:, 1::2], table[:, 2::2]
    if (count < 1).any() or (count > ids.shape[1]).any():
        raise MoroError(f"{name} in {where} has a row without neighbours or with too many; build it again.")
    valid = np.arange(ids.shape[1]) < count[:, None]
    ids_good = np.where(valid, (ids >= 0) & (ids < num_inputs), ids == num_inputs).all()
    if not ids_good or not np.where(valid, hops >= 0, hops == -1).all():
        raise MoroError(f"{name} in {where} has ids or padding that do not fit {num_inputs} input points; "
                        "take all from one body.")
