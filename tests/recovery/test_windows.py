"""Windows of the demo: what they keep, and tokens made once per frame."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.recovery.condition import PersonCondition, condition_of_track
from models.recovery.windows import DemoDataset, FrameTokens, windows_over
from moro.video.tracks import Track


@pytest.mark.parametrize("overlap", [0, 4, 5])
@pytest.mark.parametrize("length", [1, 7, 10, 11, 23, 40])
def test_kept_frames_add_up(length: int, overlap: int) -> None:
    windows = windows_over(0, length, 10, overlap)
    kept = [frame for window in windows for frame in range(window.start, window.stop)[window.kept]]
    assert kept == list(range(length))
    for window in windows[1:]:
        assert window.kept.start == overlap // 2  # the border of a window is left to its neighbour


class Counting(nn.Module):
    """Tokens that say which frame they were made of; counts the frames it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[float] = []

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        self.shown += batch["landmarks"][0, :, 0, 0].tolist()
        return batch["landmarks"][:, :, :1]


def person(name: str, frames: int, first: int) -> PersonCondition:
    landmarks = torch.zeros(frames, 33, 4)
    landmarks[:, 0, 0] = torch.arange(first, first + frames)
    return PersonCondition(
        name, torch.zeros(frames, 2), torch.ones(frames), np.ones(frames, bool), landmarks
    )


@pytest.mark.parametrize("overlap", [0, 4, 8])
def test_the_backbone_sees_each_frame_once(overlap: int) -> None:
    people, backbone = [person("id0", 35, 0), person("id1", 35, 100)], Counting()
    data = DemoDataset(people, torch.eye(3), 10, overlap)
    tokens = FrameTokens(backbone, data, torch.device("cpu"))
    for window in data.windows:
        expected = 100 * window.person + torch.arange(window.start, window.stop)
        assert torch.equal(tokens.of(window)[0, :, 0, 0], expected.float())
    assert backbone.shown == [*range(35), *range(100, 135)]


def test_crops_are_normalised_part_by_part() -> None:
    shown = person("id0", 6, 0)
    shown.crops = np.full((6, 8, 8, 3), 255, np.uint8)
    images = DemoDataset([shown], torch.eye(3), 6, 0).images(0, slice(2, 5))
    assert images["crop_imgs"].shape == (3, 3, 8, 8) and images["landmarks"].shape == (3, 33, 4)
    assert images["crop_imgs"][0, 0, 0, 0] == pytest.approx((1 - 0.485) / 0.229)


def test_frames_see_beyond_their_window() -> None:
    """Neighbours come from the whole video, not from the window."""
    data = DemoDataset([person("id0", 20, 1)], torch.eye(3), 10, 4, neighbours=[-3, 5])
    seen = data.images(0, slice(6, 8))["neighbours"]
    assert seen.shape == (2, 2, 33, 4)
    assert seen[0, :, 0, 0].tolist() == [4, 4]  # number 4 in frame 3; 12 in frame 11, bounded
    assert not data.images(0, slice(0, 1))["neighbours"][0, 0].any()


def test_boxes_of_the_tracker() -> None:
    """Interpolated over gaps, held at the ends, not smoothed (spec: data 9.2)."""
    track = Track.unseen(6)
    track.seen[[1, 3, 4]] = True
    track.boxes[[1, 3, 4]] = [[0, 0, 40, 100], [20, 0, 60, 200], [20, 0, 80, 50]]
    condition = condition_of_track(track, "id0", (640, 480), tracker_boxes=True)
    assert condition.center.tolist() == [[20, 50], [20, 50], [30, 75], [40, 100], [50, 25], [50, 25]]
    sides = torch.tensor([100.0, 100, 150, 200, 60, 60])
    torch.testing.assert_close(condition.scale, sides / 200 * 1.2)
    assert condition.seen.tolist() == track.seen.tolist()
