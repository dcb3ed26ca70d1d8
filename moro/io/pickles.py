"""Reading of other people's pickles without letting them run code.

Pickle files can name any function to be called on loading. Here only plain containers and array types may be
named; everything else is refused with its name. Chumpy arrays and scipy matrices of old body model files are
read through stand-ins, so neither chumpy nor an old scipy is needed.
"""

import collections
import copyreg
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse

from moro.errors import MoroError


class _StandIn:
    """Keeps the state of an object whose class is not wanted."""

    def __new__(cls, *args: object) -> "_StandIn":
        self = super().__new__(cls)  # unpickling need not call __init__
        self.state: dict[str, Any] = {}
        return self

    def __init__(self, *args: object) -> None:
        """Accept the arguments of whatever is stood in for."""

    def __setstate__(self, state: object) -> None:
        self.state = dict(state) if isinstance(state, dict) else {}


class _ChumpyArray(_StandIn):
    """chumpy.ch.Ch and its relatives: the values are in `x`, or selected from another array's."""

    def resolve(self) -> np.ndarray | None:
        if "x" in self.state:
            return np.asarray(_resolve(self.state["x"]))
        if "a" not in self.state or "idxs" not in self.state:
            return None  # an expression we cannot evaluate, e.g. derived joints; nobody reads those
        base = _resolve(self.state["a"])
        values = None if base is None else np.asarray(base).ravel()[self.state["idxs"]]
        shape = self.state.get("preferred_shape")
        return values if values is None or shape is None else values.reshape(shape)


class _SparseMatrix(_StandIn):
    """scipy.sparse matrices, whose private fields change between scipy versions."""

    make = scipy.sparse.csc_matrix

    def resolve(self) -> scipy.sparse.spmatrix:
        fields = {key.lstrip("_"): value for key, value in self.state.items()}
        return type(self).make((fields["data"], fields["indices"], fields["indptr"]), shape=fields["shape"])


class _CscMatrix(_SparseMatrix):
    make = scipy.sparse.csc_matrix


class _CsrMatrix(_SparseMatrix):
    make = scipy.sparse.csr_matrix


def _allowed() -> dict[tuple[str, str], Any]:
    """The classes and functions a pickle may name; Python 2, numpy 1 and numpy 2 spell some differently."""
    reconstruct = np.array(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    allowed: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode_latin1,
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("copy_reg", "_reconstructor"): copyreg._reconstructor,
        ("copyreg", "_reconstructor"): copyreg._reconstructor,
    }
    for core in ("numpy.core", "numpy._core"):
        allowed[core + ".multiarray", "_reconstruct"] = reconstruct
        allowed[core + ".multiarray", "scalar"] = scalar
        allowed[core + ".numeric", "_frombuffer"] = _frombuffer
    for builtins in ("builtins", "__builtin__"):
        for kind in (object, set, frozenset, list, dict, tuple, bytearray, complex, int, float, bool, str):
            allowed[builtins, kind.__name__] = kind
        allowed[builtins, "unicode"] = str
        allowed[builtins, "long"] = int
    for kind, stand_in in (("csc", _CscMatrix), ("csr", _CsrMatrix)):
        for suffix in ("matrix", "array"):
            for module in ("scipy.sparse", f"scipy.sparse.{kind}", f"scipy.sparse._{kind}"):
                allowed[module, f"{kind}_{suffix}"] = stand_in
    return allowed


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes in protocol 2; other codecs have no business here."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding!r}")
    return text.encode("latin1")


def _frombuffer(
    buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str, axis_order: Any = None
) -> np.ndarray:
    """Numpy's own helper for protocol 5 arrays."""
    if order == "K" and axis_order is not None:
        return np.frombuffer(buffer, dtype=dtype).reshape(shape, order="C").transpose(axis_order)
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, source: str) -> None:
        super().__init__(file, encoding="latin1")  # latin1: what Python 2 pickles of arrays need
        self._allowed = _allowed()
        self._source = source

    def find_class(self, module: str, name: str) -> Any:
        if module == "chumpy" or module.startswith("chumpy."):
            return _ChumpyArray
        if (module, name) in self._allowed:
            return self._allowed[module, name]
        raise MoroError(
            f"{self._source} names {module}.{name}, which may not be loaded from a pickle; "
            "only plain Python values and arrays are read"
        )

    def persistent_load(self, pid: object) -> Any:
        raise MoroError(f"{self._source} refers to objects outside the file and cannot be read")


def _resolve(value: Any) -> Any:
    """Replace stand-ins by the arrays they stand for, inside containers too."""
    if isinstance(value, (_ChumpyArray, _SparseMatrix)):
        return value.resolve()
    if isinstance(value, dict):
        return type(value)((_resolve(key), _resolve(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_resolve(item) for item in value)
    return value


def load_pickle(path: str | Path) -> Any:
    """Read a pickle of plain Python containers, numpy arrays, scipy CSC / CSR matrices and chumpy arrays.

    Files written by Python 2 are read as latin1. Chumpy values come back as numpy arrays (None where the
    value is an expression that was never evaluated).

    raises MoroError if the file is missing, damaged, or names any other class or function
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _resolve(_RestrictedUnpickler(file, str(path)).load())
    except MoroError:
        raise
    except FileNotFoundError as error:
        raise MoroError(f"file not found: {path}") from error
    except OSError as error:
        raise MoroError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise MoroError(
            f"{path} is not a readable pickle ({error}); it may be damaged or incomplete"
        ) from error
