"""Connection matrices (spec: models 1.1): the original files, generated ones, bad ones."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components, shortest_path

from moro.body.loading import load_body_model
from moro.body.topology import (
    Tables,
    build_connection_matrices,
    connection_hash,
    load_connection_matrices,
    relation,
    save_connection_matrices,
    validate_connection_matrices,
)
from moro.errors import MoroError

# name: P_in, P_out, M, min and mean neighbours, valid pairs, first 16 hex of the file's sha256
ORIGINAL = {
    "_pool0": (9383, 9383, 31, 4, 6.9925, 65611, "d324d19241f54a6b"),
    "_pool1": (9383, 2618, 41, 10, 19.4347, 50880, "9cc91f76843e542a"),
    "_pool2": (2618, 2618, 24, 4, 10.5775, 27692, "0f73975c0f9b17f6"),
    "_pool3": (2618, 546, 59, 12, 32.5934, 17796, "35380bbf80d086d8"),
    "_pool4": (546, 546, 28, 5, 14.2198, 7764, "b479037f7861d9d0"),
    "_pool5": (546, 87, 84, 14, 42.8851, 3731, "6dd8ec09ecb2d0cf"),
    "_pool6": (87, 87, 34, 4, 14.0345, 1221, "00706fad25efb5ed"),
    "_pool7": (87, 13, 62, 10, 31.3077, 407, "6dc4cbad8c3eb75d"),
    "_unpool7": (13, 87, 8, 1, 4.6782, 407, "8c5f669aed393ec4"),
    "_unpool6": (87, 87, 34, 4, 14.0345, 1221, "5a15a17e4ff28a04"),
    "_unpool5": (87, 546, 17, 1, 6.8333, 3731, "86687b8de58c201c"),
    "_unpool4": (546, 546, 28, 5, 14.2198, 7764, "ec92451ace92151b"),
    "_unpool3": (546, 2618, 15, 2, 6.7976, 17796, "6a391bce6496bba6"),
    "_unpool2": (2618, 2618, 24, 4, 10.5775, 27692, "f154dd483a3618e5"),
    "_unpool1": (2618, 9383, 17, 2, 5.4226, 50880, "11c6cc4acf913b4b"),
    "_unpool0": (9383, 9383, 31, 4, 6.9925, 65611, "0e8a94d9e66215a2"),
}


@pytest.fixture(scope="module")
def original(shared_dir: Path) -> Tables:
    return load_connection_matrices(shared_dir / "reference_data" / "smplx_ConnectionMatrices")


@pytest.fixture(scope="module")
def sphere() -> tuple[np.ndarray, np.ndarray, Tables]:
    mesh = trimesh.creation.icosphere(subdivisions=3)  # 642 vertices
    tables = build_connection_matrices(mesh.faces, len(mesh.vertices), (160, 40, 10), vertices=mesh.vertices)
    return mesh.vertices, mesh.faces, tables


def check_properties(tables: Tables) -> None:
    """What spec: models 1.1 says of every file, checked on the raw numbers."""
    validate_connection_matrices(tables)
    count = len(tables) // 2
    for index in range(count):
        pool, unpool = tables[f"_pool{index}"], tables[f"_unpool{index}"]
        inputs = len(unpool)
        hops = relation(pool, inputs).toarray() - 1  # -1: not connected
        assert np.array_equal(relation(unpool, len(pool)).toarray() - 1, hops.T)
        assert (hops >= 0).any(0).all(), "every input point is gathered"
        assert ((hops == 0).sum(1) == 1).all()
        assert hops.max() == (1 if index % 2 == 0 else 2)
        for row in pool:
            n, ids, distance = row[0], row[1::2], row[2::2]
            assert distance[0] == 0 and (np.diff(distance[:n]) >= 0).all()
            assert (ids[n:] == inputs).all() and (distance[n:] == -1).all()
        for row in unpool:
            assert (np.diff(row[1::2][: row[0]]) > 0).all()
        if index % 2 == 0:
            assert np.array_equal(pool[:, 1], np.arange(len(pool))), "the centre is the point itself"
            graph = hops >= 0
            assert connected_components(graph)[0] == 1
        else:
            exact = shortest_path(graph, unweighted=True)[pool[:, 1]]
            assert np.array_equal(np.where(exact <= 2, exact, -1), hops)
            assert (np.diff(pool[:, 1]) > 0).all(), "centres keep the order of their ids"


def test_original_tables_match_the_specification(original: Tables, shared_dir: Path) -> None:
    for name, (inputs, outputs, width, least, mean, pairs, sha) in ORIGINAL.items():
        table = original[name]
        assert table.dtype == np.int32 and table.shape == (outputs, 1 + 2 * width)
        assert table[:, 0].min() == least and table[:, 0].mean() == pytest.approx(mean, abs=1e-4)
        assert table[:, 0].sum() == pairs and (table[:, 1::2].max() == inputs or (table[:, 0] == width).all())
        file = shared_dir / "reference_data" / "smplx_ConnectionMatrices" / f"{name}.npy"
        assert hashlib.sha256(file.read_bytes()).hexdigest().startswith(sha)


def test_committed_tables_belong_to_the_open_body(repository: Path) -> None:
    tables = load_connection_matrices(repository / "body_models" / "open" / "connection_matrices")
    body = load_body_model(repository / "body_models", "open")
    check_properties(tables)
    assert [len(tables[f"_pool{index}"]) for index in (0, 1, 3, 5)] == [body.num_vertices, 750, 190, 54]
    edges = np.concatenate([body.faces[:, pair].numpy() for pair in ((0, 1), (1, 2), (2, 0))])
    rows, columns = np.nonzero(relation(tables["_pool0"], body.num_vertices).toarray() == 2)
    assert {*zip(rows, columns, strict=True)} == {*map(tuple, edges), *map(tuple, edges[:, ::-1])}
    # Neighbourhoods of the original's size.
    assert 10 < tables["_pool2"][:, 0].mean() < 15 and 9 < tables["_pool6"][:, 0].mean() < 15

    mirror = body.mirror_vertices.numpy()
    points = np.arange(body.num_vertices)
    for index in (1, 3, 5):
        points = points[tables[f"_pool{index}"][:, 1]]
        assert np.isin(mirror[points], points).all(), "centres come in mirrored pairs"
    part = body.weights.argmax(1).numpy()[points]  # the tokens' body parts
    for joint in (0, 1, 2, 4, 5, 15, 16, 17, 18, 19):
        assert (part == joint).any(), f"no token near {body.joint_names[joint]}"
    hands = (part == 20) | (part == 21) | (part >= 25)
    assert 2 <= hands.sum() <= 10 and ((part == 7) | (part == 8) | (part == 10) | (part == 11)).sum() >= 4


def test_sphere(sphere: tuple[np.ndarray, np.ndarray, Tables]) -> None:
    vertices, _, tables = sphere
    check_properties(tables)
    assert [len(tables[f"_pool{2 * level + 1}"]) for level in range(3)] == [160, 40, 10]
    centres = vertices[tables["_pool1"][:, 1]]
    distance = np.linalg.norm(centres[:, None] - centres, axis=-1) + 9 * np.eye(160)
    nearest = distance.min(1)
    assert nearest.min() > 0.5 * nearest.max(), "centres are spread evenly"


def test_same_seed_same_tables(sphere: tuple[np.ndarray, np.ndarray, Tables]) -> None:
    vertices, faces, tables = sphere
    again = build_connection_matrices(faces, len(vertices), (160, 40, 10), vertices=vertices)
    other = build_connection_matrices(faces, len(vertices), (160, 40, 10), seed=1, vertices=vertices)
    assert connection_hash(again) == connection_hash(tables) != connection_hash(other)
    assert connection_hash(dict(reversed(tables.items()))) == connection_hash(tables)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 99), st.sampled_from(["icosphere", "capsule", "torus", "box"]), st.booleans())
def test_other_surfaces(seed: int, shape: str, metric: bool) -> None:
    mesh = {
        "icosphere": lambda: trimesh.creation.icosphere(subdivisions=2),
        "capsule": lambda: trimesh.creation.capsule(count=[12, 12]),
        "torus": lambda: trimesh.creation.torus(1, 0.3, 16, 8),
        "box": lambda: trimesh.creation.box().subdivide().subdivide(),
    }[shape]()
    count = len(mesh.vertices)
    sizes = (count // 3, count // 9)
    tables = build_connection_matrices(
        mesh.faces, count, sizes, seed, vertices=mesh.vertices if metric else None
    )
    check_properties(tables)
    assert (len(tables["_pool1"]), len(tables["_pool3"])) == sizes


def test_separate_parts_are_all_covered() -> None:
    ball = trimesh.creation.icosphere(subdivisions=2)
    faces = np.concatenate([ball.faces, ball.faces + len(ball.vertices)])
    tables = build_connection_matrices(faces, 2 * len(ball.vertices), (80, 20))
    validate_connection_matrices(tables)
    halves = tables["_pool1"][:, 1] < len(ball.vertices)
    assert halves.any() and not halves.all()


def test_files_round_trip(sphere: tuple[np.ndarray, np.ndarray, Tables], tmp_path: Path) -> None:
    tables = sphere[2]
    save_connection_matrices(tmp_path, tables)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.npy" for name in tables)
    (tmp_path / "_pool1.npy").unlink()
    np.savez_compressed(tmp_path / "_pool1.npz", table=tables["_pool1"])
    assert connection_hash(load_connection_matrices(tmp_path)) == connection_hash(tables)


def _spoil(name: str, tables: Tables) -> None:
    pool = tables["_pool1"]
    if name == "missing":
        del tables["_unpool1"]
    elif name == "dtype":
        tables["_pool1"] = pool.astype(np.int64)
    elif name == "shape":
        tables["_pool1"] = pool[:, :-1]
    elif name == "id":
        pool[0, 1] = len(tables["_unpool1"]) + 5
    elif name == "padding":
        pool[pool[:, 0].argmin(), -1] = 0
    elif name == "count":
        pool[0, 0] = 0
    elif name == "chain":
        tables["_pool2"], tables["_unpool2"] = tables["_pool4"], tables["_unpool4"]
    elif name == "transpose":
        tables["_unpool1"][0, 2] += 1
    elif name == "centre":
        pool[:, 2] = 1


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ("missing", "_unpool1 is missing"),
        ("dtype", "_pool1.*int32"),
        ("shape", "_pool1.*int32 of shape"),
        ("id", "_pool1.*ids or padding"),
        ("padding", "_pool1.*ids or padding"),
        ("count", "_pool1.*without neighbours"),
        ("chain", "_pool2|matrices 2"),
        ("transpose", "_unpool1.*transpose"),
        ("centre", "_pool1.*centre"),
    ],
)
def test_bad_tables_are_named(
    sphere: tuple[np.ndarray, np.ndarray, Tables], spoilt: str, message: str
) -> None:
    tables = {name: table.copy() for name, table in sphere[2].items()}
    _spoil(spoilt, tables)
    with pytest.raises(MoroError, match=message):
        validate_connection_matrices(tables)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(MoroError, match="not a folder"):
        load_connection_matrices(tmp_path / "nowhere")
    with pytest.raises(MoroError, match="_pool0 is missing"):
        load_connection_matrices(tmp_path)
    np.save(tmp_path / "_pool0.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(MoroError, match="cannot be read"):
        load_connection_matrices(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_vertices": 100}, "Faces must name"),
        ({"num_vertices": 200}, "in no face"),
        ({"faces": np.zeros((4, 4), int)}, "integer array"),
        ({"level_sizes": (200,)}, "must fall"),
        ({"level_sizes": (2,)}, "cannot cover"),
        ({"vertices": np.full((162, 3), np.nan)}, "finite"),
        ({"mirror": np.roll(np.arange(162), 1)}, "mirror"),
    ],
)
def test_bad_input(change: dict[str, object], message: str) -> None:
    ball = trimesh.creation.icosphere(subdivisions=2)  # 162 vertices
    arguments = {"faces": ball.faces, "num_vertices": 162, "level_sizes": (40,), **change}
    with pytest.raises(MoroError, match=message):
        build_connection_matrices(**arguments)
