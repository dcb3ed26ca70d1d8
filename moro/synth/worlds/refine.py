"""More vertices on the same surface, for stand-ins of the size of the official bodies."""

from collections.abc import Mapping

import numpy as np

from moro.errors import MoroError

_PER_VERTEX = ("v_template", "weights", "shapedirs", "posedirs")  # of the arrays of a body model


def refined(arrays: Mapping[str, np.ndarray], num_vertices: int) -> dict[str, np.ndarray]:
    """A body model with `num_vertices` vertices: edges are cut in the middle, the longest first.

    Old vertices keep their numbers; what a new one has is the mean of the edge's ends. Regressors of joints
    go on reading the old ones alone. Raises MoroError if the body has more vertices already.
    """
    body = dict(arrays)
    if len(body["v_template"]) > num_vertices:
        raise MoroError(f"a body of {len(body['v_template'])} vertices cannot be refined to {num_vertices}")
    while (missing := num_vertices - len(body["v_template"])) > 0:
        edges, faces = _edges_to_cut(body["v_template"], body["f"].astype(np.int64), missing)
        for key in _PER_VERTEX:
            middle = body[key][edges].mean(1).astype(body[key].dtype)  # (E, 2, ...) -> (E, ...)
            body[key] = np.concatenate([body[key], middle])
        body["f"] = faces.astype(body["f"].dtype)
    added = num_vertices - body["J_regressor"].shape[1]
    body["J_regressor"] = np.pad(body["J_regressor"], ((0, 0), (0, added)))
    return body


def _edges_to_cut(vertices: np.ndarray, faces: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends (E, 2) of the longest edges of which no two share a face, at most `limit`; faces after that."""
    # each face from each of its sides: start, end, tip; (F, 3, 3) -> (3F, 3)
    sides = np.stack([np.roll(faces, -turn, axis=1) for turn in range(3)], 1).reshape(-1, 3)
    edges, number = np.unique(np.sort(sides[:, :2], axis=1), axis=0, return_inverse=True)
    order = np.argsort(number, kind="stable")  # sides by edge
    sides_of = np.split(order, np.cumsum(np.bincount(number))[:-1])
    length = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
    cut, taken, new_faces = [], np.zeros(len(faces), bool), []
    for edge in np.argsort(-length, kind="stable"):
        beside = sides_of[edge] // 3
        if taken[beside].any() or len(cut) == limit:
            continue
        middle = len(vertices) + len(cut)
        for start, end, tip in sides[sides_of[edge]]:
            new_faces += [(start, middle, tip), (middle, end, tip)]
        taken[beside] = True
        cut.append(edge)
    return edges[cut], np.concatenate([faces[~taken], np.array(new_faces)])
