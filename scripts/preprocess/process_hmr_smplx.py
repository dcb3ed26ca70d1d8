"""SMPL labels of real images to SMPL-X (spec: data 5.4).

    python scripts/preprocess/process_hmr_smplx.py

Reads coco/coco.npz, mpii/mpii.npz, h36m_train/h36m_train.npz and mpi-inf-3dhp/mpi_inf_3dhp_train.npz below
`--root`, fits neutral SMPL-X to the neutral SMPL meshes, and writes <name>_smplx.npz beside each: pose
(N, 165), shape (N, 10), global_t (N, 3) if there was one, all other fields as they were. Ten betas are
fitted, as many as training reads. The hand joints of SMPL (22, 23) are left out: nothing reads a hand pose.

Needs <bm_path>/smpl/SMPL_NEUTRAL.{npz,pkl} (or basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl there), SMPL-X
neutral, and smpl2smplx_deftrafo_setup.pkl of SMPL-X's model transfer. Can be interrupted and started again;
what was made from labels that have changed since (the array `state` says so) is made anew.
"""

import argparse
import functools
import logging
import os
import shutil
import sys
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from moro.body.fitting import fit_body
from moro.body.loading import load_body_model
from moro.body.model import BodyModel
from moro.errors import MoroError, run_script
from moro.geometry.rotation import rotvec_to_matrix
from moro.io.array_cache import is_made_from, state_of
from moro.io.atomic import atomic_path
from moro.io.image_files import BETAS, POSE, SETS, ImageSet
from moro.io.pickles import load_pickle
from moro.parallel import parallel_map

logger = logging.getLogger("process_hmr_smplx")

CHUNK = 512  # labels that are fitted, and kept, at once
VERTEX_MAP = "smpl2smplx_deftrafo_setup.pkl"
MAP_FOLDERS = (".", "smplfitter/body_models", "smplfitter", "smplx", "smpl")  # below bm_path
ROUNDS = 4  # of the fit: its error falls below a millimetre


@dataclass(frozen=True)
class Chunk:
    """Some labels: pose (n, 72), betas (n, 10), transl (n, 3) float32; output keeps their conversion."""

    pose: np.ndarray
    betas: np.ndarray
    transl: np.ndarray
    bm_path: Path
    output: Path


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    known = {name: kind.smpl_labels(args.root / kind.folder) for name, kind in SETS.items()}
    names = args.datasets or [name for name, path in known.items() if path.is_file()]
    lacking = [str(known[name]) for name in names if not known[name].is_file()]
    if lacking or not names:
        missing = ", ".join(lacking or map(str, known.values()))
        raise MoroError(f"no SMPL labels at {missing}; see BEDLAM's training instructions, or set --root.")
    for name in names:
        convert_set(SETS[name], args.root / SETS[name].folder, args.bm_path, args.jobs, args.force)


def convert_set(kind: ImageSet, root: Path, bm_path: Path, jobs: int, force: bool = False) -> None:
    """Write <stem>_smplx.npz; finished parts are kept in .<stem>_smplx.parts until it is there."""
    source, target = kind.smpl_labels(root), kind.smplx_labels(root)
    state = state_of(source)
    if not force and is_made_from(target, state):
        logger.info("%s is there already (--force makes it again)", target)
        return
    fields = _read(source)
    parts = root / f".{target.stem}.parts"
    chunks = _chunks(fields, bm_path, parts)
    errors = list(parallel_map(convert_chunk, chunks, jobs, kind.stem, unit="chunk"))
    converted = _join(chunks)
    if "global_t" not in fields:
        del converted["global_t"]
    with atomic_path(target) as temporary:
        np.savez(temporary, state=np.array(state), **(fields | converted))
    shutil.rmtree(parts)
    logger.info("%s: %d labels, vertex error %.1f mm", target, len(fields["pose"]), 1e3 * np.mean(errors))


def convert_chunk(chunk: Chunk) -> float:
    """Fit and keep one chunk, unless an earlier run did; mean vertex error, metres."""
    if not chunk.output.is_file():
        torch.set_num_threads(1)
        with atomic_path(chunk.output) as temporary:
            np.savez(temporary, **convert(chunk.pose, chunk.betas, chunk.transl, *_bodies(chunk.bm_path)))
    with np.load(chunk.output, allow_pickle=False) as file:
        return float(file["vertex_error"].mean())


def convert(
    pose: np.ndarray,
    betas: np.ndarray,
    transl: np.ndarray,
    smpl: BodyModel,
    smplx: BodyModel,
    to_smplx: Tensor,
) -> dict[str, np.ndarray]:
    """Neutral SMPL parameters to neutral SMPL-X.

    pose (n, 72), betas (n, 10), transl (n, 3) float32
    to_smplx  sparse (V of the SMPL-X body, V of SMPL)
    returns   pose (n, 165), shape (n, 10), global_t (n, 3), vertex_error (n,) metres
    """
    count = len(pose)
    rotations = rotvec_to_matrix(torch.from_numpy(pose[:, :POSE]).reshape(count, POSE // 3, 3))
    with torch.no_grad():
        output = smpl(rotations[:, 1:], torch.from_numpy(betas), rotations[:, 0], torch.from_numpy(transl))
    flat = output.full_vertices.transpose(0, 1).flatten(1)  # (n, V, 3) -> (V, n * 3)
    vertices = (to_smplx @ flat).unflatten(1, (count, 3)).transpose(0, 1)  # (V', n * 3) -> (n, V', 3)
    fit = fit_body(
        smplx,
        vertices.contiguous(),
        num_iter=1,
        shape_iter=ROUNDS,
        share_beta=False,
        beta_regularizer=0.0,
    )
    return {
        "pose": fit.full_pose.flatten(1).numpy(),  # (n, 55, 3) -> (n, 165)
        "shape": fit.betas.numpy(),
        "global_t": fit.transl.numpy(),
        "vertex_error": fit.vertex_error.numpy(),
    }


@functools.lru_cache(maxsize=1)
def _bodies(bm_path: Path) -> tuple[BodyModel, BodyModel, Tensor]:
    """SMPL, SMPL-X and the vertex map; once per process."""
    smpl, smplx = (load_body_model(bm_path, kind, "neutral", BETAS) for kind in ("smpl", "smplx"))
    path = next((path for f in MAP_FOLDERS if (path := bm_path / f / VERTEX_MAP).is_file()), None)
    if path is None:
        raise MoroError(
            f"{bm_path / VERTEX_MAP} not found; it comes with SMPL-X's model transfer, which smplfitter's "
            "download script fetches (see docs/files.md)."
        )
    content = load_pickle(path)
    matrix = content.get("mtx") if isinstance(content, dict) else None
    V = smpl.num_full_vertices
    if getattr(matrix, "shape", None) != (smplx.num_full_vertices, 2 * V):
        raise MoroError(f"{path} does not map SMPL's {V} vertices to SMPL-X; fetch it again.")
    matrix = matrix.tocsr()[smplx.body_vertices.numpy()][:, :V].tocoo()  # the rest is for normals
    index = torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64))
    sparse = torch.sparse_coo_tensor(
        index, torch.from_numpy(matrix.data).float(), matrix.shape, check_invariants=True
    )
    return smpl, smplx, sparse.coalesce()


def _read(path: Path) -> dict[str, np.ndarray]:
    """All fields but those that only a pickle could hold."""
    fields: dict[str, np.ndarray] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                try:
                    fields[key] = file[key]
                except ValueError:
                    logger.warning("%s: %s is left out, it holds Python objects", path, key)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise MoroError(f"cannot read {path} ({error}); fetch it again.") from error
    missing = [key for key in ("imgname", "pose", "shape") if key not in fields]
    if missing:
        raise MoroError(f"{path} lacks {', '.join(missing)}; it holds no SMPL labels of images.")
    N = len(fields["pose"])
    if not N:
        raise MoroError(f"{path} holds no labels; fetch it again.")
    widths = {"pose": 72, "shape": BETAS, "global_t": 3}
    wrong = [key for key, width in widths.items() if key in fields and fields[key].shape != (N, width)]
    if wrong:
        raise MoroError(f"{path}: {', '.join(wrong)} should be (N, 72), (N, 10), (N, 3); fetch it again.")
    return fields


def _chunks(fields: dict[str, np.ndarray], bm_path: Path, folder: Path) -> list[Chunk]:
    """The name of a part says what it was made from."""
    N = len(fields["pose"])
    arrays = [fields["pose"], fields["shape"], fields.get("global_t", np.zeros((N, 3)))]
    chunks = []
    for start in range(0, N, CHUNK):
        rows = [np.ascontiguousarray(array[start : start + CHUNK], np.float32) for array in arrays]
        key = sha256(b"".join(row.tobytes() for row in rows) + str(bm_path.resolve()).encode()).hexdigest()
        chunks.append(Chunk(*rows, bm_path, folder / f"{start:07d}-{key[:16]}.npz"))
    return chunks


def _join(chunks: list[Chunk]) -> dict[str, np.ndarray]:
    columns: dict[str, list[np.ndarray]] = {"pose": [], "shape": [], "global_t": []}
    for chunk in chunks:
        with np.load(chunk.output, allow_pickle=False) as file:
            for key, parts in columns.items():
                parts.append(file[key])
    return {key: np.concatenate(parts) for key, parts in columns.items()}


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=Path("datasets/mask_transformer"), help="folder of the four data sets"
    )
    parser.add_argument("--bm_path", type=Path, default=Path("body_models"))
    parser.add_argument(
        "--datasets", nargs="*", choices=list(SETS), help="only these (default: those that are there)"
    )
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), help="processes")
    parser.add_argument("--force", action="store_true", help="make files again that are there already")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
