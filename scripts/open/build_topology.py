"""Build the open body's connection matrices: body_models/open/connection_matrices (spec: models 1.1).

    python -m scripts.open.build_topology [--model_type open] [--level_sizes 750 190 54 8] [--seed 0]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from moro.body.loading import load_body_model
from moro.body.topology import build_connection_matrices, connection_hash, save_connection_matrices
from moro.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bm_path", type=Path, default=Path("body_models"))
    parser.add_argument("--model_type", default="open")
    parser.add_argument("--level_sizes", type=int, nargs="+", default=[750, 190, 54, 8])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("body_models/open/connection_matrices"))
    options = parser.parse_args()

    body = load_body_model(options.bm_path, options.model_type)
    rest = body.v_template[body.body_vertices].numpy()
    mirror = None if body.mirror_vertices is None else body.mirror_vertices.numpy()
    tables = build_connection_matrices(body.faces.numpy(), body.num_vertices, options.level_sizes,
                                       options.seed, vertices=rest, mirror=mirror)
    save_connection_matrices(options.out, tables)
    sizes = [len(tables[f"_pool{2 * level + 1}"]) for level in range(len(options.level_sizes))]
    print(f"{body.body_id}: {body.num_vertices} -> {' -> '.join(map(str, sizes))}, {connection_hash(tables)}")


if __name__ == "__main__":
    run_script(main)
