"""The fetch script, with a wheel made here in place of pip's."""

import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from moro.errors import MoroError


@pytest.fixture
def script(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch", repository / "scripts" / "fetch_demo_files.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["fetch"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_takes_checks_and_skips(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("inside/a.bin", b"content")
    asked: list[str] = []
    monkeypatch.setattr(script, "_download", lambda name, folder: asked.append(name) or wheel)
    good = script.Wheel("a==1", "MIT", 1, {"x/a.bin": ("inside/a.bin", script._sha256(b"content"))})
    script.fetch([good, good], tmp_path / "out")
    assert (tmp_path / "out/x/a.bin").read_bytes() == b"content" and asked == ["a==1"]
    script.fetch([good], tmp_path / "out")
    assert asked == ["a==1"] and "present" in capsys.readouterr().out
    (tmp_path / "out/x/a.bin").write_bytes(b"damaged")
    script.fetch([good], tmp_path / "out")
    assert (tmp_path / "out/x/a.bin").read_bytes() == b"content"
    bad = script.Wheel("b==1", "MIT", 1, {"b.bin": ("inside/a.bin", "0" * 64)})
    with pytest.raises(MoroError, match="wrong sha256"):
        script.fetch([bad], tmp_path / "out")
    gone = script.Wheel("c==1", "MIT", 1, {"c.bin": ("inside/c.bin", "0" * 64)})
    with pytest.raises(MoroError, match="holds no inside/c.bin"):
        script.fetch([gone], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.bin")) == ["a.bin"]


def test_pip_failure_is_one_sentence(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(sys, "argv", ["fetch", "--sample", "none", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        script.main()
    assert "error: pip could not download mediapipe==0.10.21" in capsys.readouterr().err
