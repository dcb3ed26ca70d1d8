"""Pictures of what a run has logged."""

from pathlib import Path

import cv2
import pytest

from moro.errors import MoroError
from scripts.plot_losses import PACE, find_log, over_hours, plot, read_log

ROWS = ("100,1.0,2.0,", "200,0.5,4.0,", "200,,,60.0")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "stage" / "logs" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("\n".join((f"step,train/loss,{PACE},val/pa_mpjpe", *ROWS)))
    return tmp_path / "stage"


def test_values_lie_at_the_time_their_steps_took(run: Path) -> None:
    log = over_hours(read_log(find_log(run)), run)
    assert log["train/loss"][0] == pytest.approx([200 / 3600, 600 / 3600])
    assert log["val/pa_mpjpe"] == ([pytest.approx(600 / 3600)], [60.0])


@pytest.mark.parametrize("hours", [False, True])
def test_a_picture_is_drawn(run: Path, tmp_path: Path, hours: bool) -> None:
    plot([run], tmp_path / "losses.png", "loss|pa_mpjpe", hours)
    picture = cv2.imread(str(tmp_path / "losses.png"))
    assert picture.std() > 1


def test_runs_without_values_are_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(MoroError, match=r"no metrics\.csv below"):
        find_log(tmp_path / "nothing")
    with pytest.raises(MoroError, match="no logged quantity matches"):
        plot([run], tmp_path / "losses.png", "accuracy")
    with pytest.raises(MoroError, match="without --hours"):
        over_hours({"val/loss": ([1], [2.0])}, run)
