"""Stitching of windows and results.pkl (spec: models 6.3, 6.4)."""

import pickle
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.mask_transformer.data.windows import windows_of
from models.mask_transformer.results import ResultsWriter, result_folder, stitch_windows
from moro.config import compose_config
from moro.errors import MoroError
from moro.io.results import read_results, write_results
from moro.io.row_file import RowFile


def windows(length: int, clip: int, overlap: int) -> list[np.ndarray]:
    """(F, 2) windows of frame number and window number, cut as the data sets do."""
    cut = enumerate(windows_of(length, clip, overlap))
    return [
        np.stack((np.arange(start, stop), np.full(stop - start, number)), axis=1)
        for number, (start, stop) in cut
    ]


def egobody_windows(length: int, clip: int, overlap: int) -> list[np.ndarray]:
    """Frame numbers of windows by the reference's rule for EgoBody (spec: data 4.4): after the whole clips
    all that is left from the next start on, though it may hold the overlap alone."""
    starts = [start for start in range(0, length, clip - overlap) if start + clip <= length]
    rest = starts[-1] + clip - overlap if starts else 0
    return [*(np.arange(start, start + clip) for start in starts), np.arange(rest, length)]


def appended(parts: list[np.ndarray], half: int) -> np.ndarray:
    """The reference's way: drop the last half of what is there, append from the half on."""
    whole = parts[0]
    for part in parts[1:]:
        whole = np.concatenate((whole[: len(whole) - half] if half else whole, part[half:]))
    return whole


@pytest.mark.parametrize("length", [1, 119, 500, 501, 880, 881, 1300])
@pytest.mark.parametrize(("clip", "overlap"), [(500, 120), (32, 16)])
def test_stitching(length: int, clip: int, overlap: int) -> None:
    parts = windows(length, clip, overlap)
    whole = stitch_windows(parts, overlap)
    assert whole[:, 0].tolist() == list(range(length))
    np.testing.assert_array_equal(whole, appended(parts, overlap // 2))
    for frame, window in whole:  # taken from a window in which it is at least half an overlap from a cut
        first, last = parts[window][0, 0], parts[window][-1, 0]
        assert first == 0 or frame - first >= overlap // 2
        assert last == length - 1 or last - frame >= overlap // 2 - 1


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 39))
def test_stitching_gives_every_frame_once(length: int, clip: int, overlap: int) -> None:
    overlap = min(overlap, clip - 1)
    assert stitch_windows(windows(length, clip, overlap), overlap)[:, 0].tolist() == list(range(length))


def test_redundant_windows_of_egobody_change_nothing() -> None:
    """Spec: data 12.1, check 7."""
    redundant = []
    for length in range(1, 1301):
        reference = egobody_windows(length, 500, 120)
        assert stitch_windows(reference, 120).tolist() == list(range(length))
        ours = [part[:, 0] for part in windows(length, 500, 120)]
        if len(ours) < len(reference):
            redundant.append(length)
            assert len(reference.pop()) == 120
        assert all(np.array_equal(*pair) for pair in zip(ours, reference, strict=True))
    assert redundant == [500, 880, 1260]


def test_redundant_last_window_is_left_out() -> None:
    parts = [np.arange(10), np.arange(6, 10)]  # nothing beyond the overlap of 4 (spec: models 8.1, 17)
    assert stitch_windows(parts, 4).tolist() == list(range(10))
    assert stitch_windows([np.array(["a"]), np.array(["long name"])], 0).tolist() == ["a", "long name"]


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a" / "results.pkl"
    verts, contact = np.random.default_rng(0).normal(size=(5, 7, 3)), np.ones((5, 6))
    write_results(path, [f"frame_{i}.jpg" for i in range(5)], verts, contact)
    for content in (read_results(path), joblib.load(path)):
        assert content["verts"].dtype == np.float32 and content["verts"].shape == (1, 5, 7, 3)
        np.testing.assert_allclose(content["verts"][0], verts, rtol=1e-6)
        assert content["frame_name"].shape == (1, 5) and content["frame_name"][0, 4] == "frame_4.jpg"
        assert content["contact"].shape == (1, 5, 6)


def test_meshes_in_a_file_are_written_like_an_array(tmp_path: Path) -> None:
    """The same stream as that of joblib.dump, which the original writes with."""
    verts = np.random.default_rng(0).normal(size=(150, 7, 3)).astype(np.float32)
    rows = RowFile.create(tmp_path / "verts.npy", verts.shape, np.float32)
    rows[:] = verts
    names, contact = [f"{i}.jpg" for i in range(150)], np.ones((150, 4))
    write_results(tmp_path / "a.pkl", names, rows, contact)
    content = {"frame_name": np.array(names)[None], "verts": verts[None]}
    content["contact"] = contact.astype(np.float32)[None]
    joblib.dump(content, tmp_path / "b.pkl", compress=3)
    write_results(tmp_path / "c.pkl", names, verts, contact)
    a, b, c = (zlib.decompress((tmp_path / f"{name}.pkl").read_bytes()) for name in "abc")
    assert a == b == c


def test_uncompressed_and_plain_values_are_read(tmp_path: Path) -> None:
    joblib.dump({"pa_mpjpe": np.float64(3.5), "note": "x", "ids": [1, 2]}, tmp_path / "metrics.pkl")
    assert read_results(tmp_path / "metrics.pkl")["pa_mpjpe"] == 3.5


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("run",))


@pytest.mark.parametrize(
    "content",
    [
        {"verts": Evil()},
        {"verts": np.array([Evil()], dtype=object)},
        {"verts": np.ma.masked_array([1.0])},
    ],
    ids=["reduce", "objects", "subclass"],
)
@pytest.mark.parametrize("compress", [0, 3])
def test_nothing_is_run(
    tmp_path: Path, content: object, compress: int, capsys: pytest.CaptureFixture
) -> None:
    joblib.dump(content, tmp_path / "r.pkl", compress=compress)
    with pytest.raises(MoroError, match="not a readable result file"):
        read_results(tmp_path / "r.pkl")
    assert capsys.readouterr().out == ""


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "r.pkl"
    with pytest.raises(MoroError, match="not found"):
        read_results(path)
    write_results(path, ["a"], np.zeros((1, 4, 3)), None)
    good = path.read_bytes()
    for bad in (b"", good[: len(good) // 2], b"text", pickle.dumps([1])):
        path.write_bytes(bad)
        with pytest.raises(MoroError):
            read_results(path)


def test_result_folder() -> None:
    cfg = compose_config("config", ["option=[inference,video_train]", "tag=release", "data=egobody"])
    assert str(result_folder(Path("s"), cfg)) == "s/result_egobody/inference_5_1"
    assert str(result_folder(Path("s"), cfg, "demo_x")) == "s/result_demo_x/inference_5_1"
    cfg.model.test.generate.topk = 3
    assert "inference_5_3_" in str(result_folder(Path("s"), cfg))


def test_writer_keeps_sequences_apart_whatever_the_batch(tmp_path: Path) -> None:
    writer = ResultsWriter(tmp_path, overlap=2)
    for name, length in (("a/b", 9), ("a/c", 5)):
        for part in windows(length, 5, 2):
            frames = torch.from_numpy(part[:, :1]).float()
            window = {
                "verts": frames[:, None].expand(-1, 4, 3).numpy(),
                "contact": None,
                "names": np.array([f"{int(frame):03d}.png" for frame in part[:, 0]]),
            }
            writer.add(name, window)
    writer.flush()
    assert [path.relative_to(tmp_path).as_posix() for path in writer.written] == [
        "a/b/results.pkl",
        "a/c/results.pkl",
    ]
    content = read_results(writer.written[0])
    assert content["verts"][0, :, 0, 0].tolist() == list(range(9))
    assert content["frame_name"][0, -1] == "008.png" and content["contact"].shape == (1, 9, 4)
