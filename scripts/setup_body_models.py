"""Put the body model files you downloaded under licence where this code looks for them (docs/files.md).

    python scripts/setup_body_models.py models_smplx_v1_1.zip smplh.tar.xz SMPL_python_v.1.1.0.zip [...]
    python scripts/setup_body_models.py                 # only say what is there and what is missing

Give the archives as they are distributed (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz), single files, or folders
of either. Files are known by their names, wherever they lie in an archive; each is tried before it is put at
its place below --bm_path (spec: data 1.1). What is there already stays, unless --force is given.
"""

import argparse
import logging
import lzma
import os
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from moro.body.loading import load_body_model
from moro.body.topology import load_connection_matrices
from moro.errors import ExitOnMoroError, MoroError
from moro.io.pickles import load_pickle
from moro.io.regressor_files import read_matrix

logger = logging.getLogger("setup_body_models")

VERTICES = {"smplx": 10475, "smplh": 6890, "smpl": 6890}  # of the official files
MESHED = 9383  # of SMPL-X, without its eyeballs
LIMIT = 4 << 30  # bytes; no official file is as large
MATRICES = "smplx_ConnectionMatrices"
NUM_MATRICES = 8
OTHER_MODELS = re.compile("locked|dmpl")  # other models whose files have the same names
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)

SMPLX = "SMPL-X v1.1, https://smpl-x.is.tue.mpg.de"
SMPLH = "Extended SMPL+H of AMASS (smplh.tar.xz), https://mano.is.tue.mpg.de"
SMPL = "SMPL for Python v1.1.0, https://smpl.is.tue.mpg.de"
PROJECT = "the download folder linked from https://mikeqzy.github.io/MoRo"


@dataclass(frozen=True)
class Part:
    """What belongs together: a body model file, a regressor, or all connection tables.

    names     below --bm_path; the first suits if several would do (npz or pkl)
    patterns  ends of the paths in archives, lower case, for each name in turn
    check     raises MoroError if what lies below the given folder is not it
    purpose   what cannot be done without; source: where it is to be had
    every     all names are needed, not one of them
    """

    names: tuple[str, ...]
    patterns: tuple[str, ...]
    check: Callable[[Path], None]
    purpose: str
    source: str
    every: bool = False

    def present(self, root: Path) -> bool:
        there = [(root / name).is_file() for name in self.names]
        return all(there) if self.every else any(there)


@dataclass(frozen=True)
class Entry:
    """A file in an archive or folder; `open` gives its bytes, while the archive is open.

    name  with the archive's own in front
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]]


# ------------------------------------------------------------------------------------------ what is wanted


def parts() -> list[Part]:
    """Everything of spec: data 1.1, the files most needed first."""
    found = [_body("smplx", gender, (f"smplx_{gender}",), SMPLX) for gender in ("neutral", "male", "female")]
    tables = [f"_{kind}{n}.npy" for n in range(NUM_MATRICES) for kind in ("pool", "unpool")]
    names = tuple(f"{MATRICES}/{name}" for name in tables)
    patterns = tuple(re.escape(name.lower()) for name in names)
    found.append(Part(names, patterns, _check_matrices, "every network of the release", PROJECT, every=True))
    both = (VERTICES["smpl"], VERTICES["smplx"])
    found += [
        _array("smplx2smpl_sparse.pt", both, "evaluation, image pretraining"),
        _array("smpl_neutral_J_regressor.pt", (24, VERTICES["smpl"]), "evaluation"),
        _array("J_regressor_h36m.npy", (17, VERTICES["smpl"]), "image pretraining"),
    ]
    for gender in ("male", "female", "neutral"):
        found.append(_body("smplh", gender, (f"{gender}/model", f"smplh_{gender}"), SMPLH))
    basic = r"basicmodel_neutral_lbs_10_207_0_v1\.[01]\.0"
    found.append(_body("smpl", "neutral", (basic, "smpl_neutral"), SMPL))
    transfer = "smpl2smplx_deftrafo_setup.pkl"
    source = "SMPL-X model transfer, https://smpl-x.is.tue.mpg.de"
    purpose = "labels of image data (process_hmr_smplx.py)"
    found.append(Part((transfer,), (re.escape(transfer),), _check_transfer, purpose, source))
    return found


PURPOSES = {
    "smplx": "training, inference and evaluation of the release",
    "smplh": "evaluation on EgoBody, pictures of RICH and PROX",
    "smpl": "evaluation of WHAM, labels of image data",
}


def _body(model_type: str, gender: str, stems: tuple[str, ...], source: str) -> Part:
    target = f"{model_type}/{model_type.upper()}_{gender.upper()}"

    def check(root: Path) -> None:
        body = load_body_model(root, model_type, gender)
        if body.num_full_vertices != VERTICES[model_type]:
            raise MoroError(
                f"{target} has {body.num_full_vertices} vertices, the official model {VERTICES[model_type]}"
            )

    either = "|".join(stems)
    patterns = tuple(rf"(?:{either})\.{suffix}" for suffix in ("npz", "pkl"))
    return Part((f"{target}.npz", f"{target}.pkl"), patterns, check, PURPOSES[model_type], source)


def _array(name: str, shape: tuple[int, int], purpose: str) -> Part:
    """A regressor whose rows sum to 1."""

    def check(root: Path) -> None:
        matrix = read_matrix(root / name)
        sums = matrix.sum(1)
        sums = sums.to_dense() if sums.is_sparse else sums
        if tuple(matrix.shape) != shape or (sums - 1).abs().max() > 0.01:
            raise MoroError(f"{name} is {tuple(matrix.shape)}, expected {shape} with rows of sum 1")

    return Part((name,), (re.escape(name.lower()),), check, purpose, PROJECT)


def _check_matrices(root: Path) -> None:
    points = len(load_connection_matrices(root / MATRICES)["_pool0"])
    if points != MESHED:
        raise MoroError(f"{MATRICES} are for {points} vertices, those of SMPL-X for {MESHED}")


def _check_transfer(root: Path) -> None:
    content = load_pickle(root / "smpl2smplx_deftrafo_setup.pkl")
    if not isinstance(content, dict) or "mtx" not in content:
        raise MoroError("smpl2smplx_deftrafo_setup.pkl holds no matrix; take it from the model transfer data")


# ------------------------------------------------------------------------------------------------ the work


def main(argv: list[str] | None = None) -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("sources", type=Path, nargs="*", help="archives, files, or folders of them")
    parser.add_argument("--bm_path", type=Path, default=Path("body_models"))
    parser.add_argument("--force", action="store_true", help="put files in the place of those that are there")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with ExitOnMoroError():
        set_up(args.sources, args.bm_path, args.force)


def set_up(sources: list[Path], root: Path, force: bool = False) -> None:
    """Take every wanted file out of `sources`, check it, put it below `root`; then list what is missing.

    Files that do not pass are listed and left out, and a MoroError ends the run; so does a broken archive.
    """
    known = parts()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".setup-", dir=root) as folder:
        staging = Path(folder)
        wanted = [part for part in known if force or not part.present(root)]
        for source in sources:
            take(source, wanted, staging)
        refused = [part for part in wanted if not place(part, staging, root)]
    report(known, root)
    if refused:
        names = ", ".join(part.names[0] for part in refused)
        raise MoroError(f"{len(refused)} files were refused (see above): {names}")


def take(source: Path, wanted: list[Part], staging: Path) -> None:
    """Stage what is wanted of an archive, file or folder. Raises MoroError if it cannot be read."""
    if not source.exists():
        raise MoroError(f"{source} does not exist")
    for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
        if path.is_file():
            try:
                for entry in entries_of(path):
                    stage(entry, wanted, staging)
            except BROKEN as error:
                raise MoroError(f"cannot read {path} ({error}); download it again, or unpack it") from error


def stage(entry: Entry, wanted: list[Part], staging: Path) -> None:
    """Write an entry under the name it is wanted by, if it is; the first or better one of several wins."""
    name, as_good = _target(entry.name, wanted)
    if name is None or any((staging / other).exists() for other in as_good):
        return
    if entry.size > LIMIT:
        raise MoroError(f"{entry.name} has {entry.size} bytes; no body model file is as large")
    target = staging / name  # `name` is one of ours, never a path out of an archive
    target.parent.mkdir(parents=True, exist_ok=True)
    with entry.open() as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    logger.info("%s: %s", name, entry.name)


def _target(path: str, wanted: list[Part]) -> tuple[str | None, tuple[str, ...]]:
    """The name by which a file is wanted, and the names that would do as well or better."""
    lower = path.lower()
    for part in [] if OTHER_MODELS.search(lower) else wanted:
        for place, (name, pattern) in enumerate(zip(part.names, part.patterns, strict=True)):
            if re.search(rf"(?:^|/){pattern}$", lower):
                return name, (name,) if part.every else part.names[: place + 1]
    return None, ()


def place(part: Part, staging: Path, root: Path) -> bool:
    """Check what was staged of a part and move it to its place; false if it is not what it should be."""
    staged = [name for name in part.names if (staging / name).exists()]
    if not part.every:
        staged = staged[:1]
    if not staged:
        return True
    try:
        part.check(staging)
    except MoroError as error:
        logger.error("refused: %s", " ".join(str(error).split()).replace(f"{staging}{os.sep}", ""))
        return False
    for name in staged:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, root / name)
    return True


def report(known: list[Part], root: Path) -> None:
    """What is there; what is missing, what for, and where it is to be had."""
    missing = [part for part in known if not part.present(root)]
    logger.info("%d of %d parts are in %s", len(known) - len(missing), len(known), root)
    for part in missing:
        name = f"{MATRICES}/*.npy" if part.every else part.names[0]
        logger.info("missing: %s\n    for %s; from %s", root / name, part.purpose, part.source)


# -------------------------------------------------------------------------------------------- the archives


def entries_of(source: Path) -> Iterator[Entry]:
    """The regular files of an archive, or the file itself."""
    if not source.name.lower().endswith(ARCHIVES):
        yield Entry(source.resolve().as_posix(), source.stat().st_size, lambda: source.open("rb"))
    elif source.suffix.lower() == ".zip":
        with zipfile.ZipFile(source) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    name = f"{source.name}/{info.filename}"
                    yield Entry(name, info.file_size, lambda info=info: archive.open(info))
    else:
        with tarfile.open(source) as archive:
            for member in archive:
                if member.isreg():
                    name = f"{source.name}/{member.name}"
                    yield Entry(name, member.size, lambda member=member: archive.extractfile(member))


if __name__ == "__main__":
    main()
