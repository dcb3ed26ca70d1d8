"""Connection tables of the release's shapes, for tests that care for shapes only (spec: models 1.1)."""

import numpy as np

POINTS = (9383, 2618, 546, 87, 13)  # of the levels
POOL_SLOTS = (31, 41, 24, 59, 28, 84, 34, 62)  # neighbours a row has room for
UNPOOL_SLOTS = (31, 17, 24, 15, 28, 17, 34, 8)


def stand_in_tables() -> dict[str, np.ndarray]:
    """Every point belongs to one point of the next level: a valid chain, though of no mesh."""
    tables = {}
    for index, slots in enumerate(zip(POOL_SLOTS, UNPOOL_SLOTS)):
        fine, coarse = POINTS[index // 2], POINTS[(index + 1) // 2]
        parent = np.arange(fine) * coarse // fine
        first = np.searchsorted(parent, np.arange(coarse))
        hops = (np.arange(fine) != first[parent]).astype(np.int32)  # the first child is the centre
        tables[f"_pool{index}"] = _table(parent, np.arange(fine), hops, (coarse, fine), slots[0])
        tables[f"_unpool{index}"] = _table(np.arange(fine), parent, hops, (fine, coarse), slots[1])
    return tables


def _table(
    rows: np.ndarray, ids: np.ndarray, hops: np.ndarray, points: tuple[int, int], slots: int
) -> np.ndarray:
    """(P_out, 1 + 2 slots) of pairs sorted by row; points (P_out, P_in)."""
    counts = np.bincount(rows, minlength=points[0])
    place = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    table = np.tile(np.int32([points[1], -1]), (points[0], slots))
    table[rows, 2 * place], table[rows, 2 * place + 1] = ids, hops
    return np.concatenate([counts[:, None], table], axis=1).astype(np.int32)
