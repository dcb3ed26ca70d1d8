import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from moro.errors import MoroError
from moro.io.pickles import load_pickle


def dump(path: Path, value: object, protocol: int = pickle.DEFAULT_PROTOCOL) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return type(a) is type(b) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_and_arrays_come_back(tmp_path: Path, protocol: int) -> None:
    value = {
        "transl": np.zeros((1, 3), np.float32),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "names": np.array(["a", "bc"]),
        "objects": np.array([None, {"x": 1}], dtype=object),
        "scalar": np.float64(1.5),
        "list": [1, 2.5, "text", b"bytes", None, True, 1j],
        "set": {1, 2},
        "ordered": collections.OrderedDict(a=1),
        "tuple": (1, (2, 3)),
    }
    back = load_pickle(dump(tmp_path / "x.pkl", value, protocol))
    objects, expected = back.pop("objects"), value.pop("objects")
    assert objects.tolist() == expected.tolist()
    assert same(back, value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


@settings(max_examples=30, deadline=None)
@given(value=plain)
def test_any_plain_value_comes_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = dump(tmp_path_factory.getbasetemp() / "any.pkl", value)
    assert same(load_pickle(path), value)


def test_sparse_matrices_come_back(tmp_path: Path) -> None:
    dense = np.array([[0, 1.5, 0], [2, 0, 0]])
    for kind in (scipy.sparse.csc_matrix, scipy.sparse.csr_matrix, scipy.sparse.csr_array):
        back = load_pickle(dump(tmp_path / "x.pkl", {"m": kind(dense)}))["m"]
        np.testing.assert_array_equal(back.toarray(), dense)


def test_python2_pickle_of_an_array(tmp_path: Path) -> None:
    """Protocol 0 text as Python 2 wrote it: module names and byte strings of that time."""
    path = tmp_path / "old.pkl"
    path.write_bytes(
        b"(dp0\nS'pose'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\n"
        b"tp6\nRp7\n(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'f8'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\n"
        b"I-1\nI0\ntp14\nbI00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\xf0?\\x00\\x00\\x00\\x00\\x00\\x00\\x00@'\np15\n"
        b"tp16\nbs."
    )
    np.testing.assert_array_equal(load_pickle(path)["pose"], [1.0, 2.0])


class Attack:
    """Runs a command when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_code_is_refused_and_named(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "attacked"
    hidden = {"poses": np.array([Attack(marker)], dtype=object)}
    for value in (Attack(marker), {"betas": [Attack(marker)]}, hidden):
        path = dump(tmp_path / "evil.pkl", value, protocol)
        with pytest.raises(MoroError, match=r"evil\.pkl names (posix|nt)\.system"):
            load_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("__builtin__", "exec"),
        ("numpy", "load"),
        ("numpy", "ndarray.tofile"),
        ("copyreg", "__builtins__"),
        ("scipy.sparse", "load_npz"),
        ("functools", "partial"),
        ("pathlib", "PosixPath"),
    ],
)
def test_other_names_are_refused(tmp_path: Path, module: str, name: str) -> None:
    path = tmp_path / "evil.pkl"
    encoded = [bytes([len(text)]) + text.encode() for text in (module, name)]
    path.write_bytes(b"\x80\x04\x8c" + encoded[0] + b"\x8c" + encoded[1] + b"\x93.")
    with pytest.raises(MoroError, match="may not be loaded"):
        load_pickle(path)


def test_other_codecs_and_persistent_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(b"c_codecs\nencode\n(Vtext\nVrot13\ntR.")
    with pytest.raises(MoroError, match="rot13"):
        load_pickle(path)
    path.write_bytes(b"Pelsewhere\n.")
    with pytest.raises(MoroError, match="outside the file"):
        load_pickle(path)


def test_chumpy_expressions_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"(dp0\nS'J'\ncchumpy.ch\nMatVecMult\n)\x81}b.".replace(b"}b.", b"(dS'mtx'\nNsbs."))
    assert load_pickle(path) == {"J": None}


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(MoroError, match="file not found"):
        load_pickle(tmp_path / "absent.pkl")
    with pytest.raises(MoroError, match="cannot read"):
        load_pickle(tmp_path)
    whole = pickle.dumps({"poses": np.arange(100.0)})
    path = tmp_path / "cut.pkl"
    for content in (b"", whole[:50], whole[:-10], b"\x00" * 20, b"garbage"):
        path.write_bytes(content)
        with pytest.raises(MoroError, match="damaged or incomplete"):
            load_pickle(path)
