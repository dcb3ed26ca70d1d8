"""Reading of images by the processes of a loader; what cannot be read is counted over all of them."""

import logging
import os
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import get_worker_info

from moro.errors import MoroError
from moro.io.scenes import read_image

_log = logging.getLogger(__name__)

GRACE = 32  # unreadable images that say nothing yet about their share
READ, UNREADABLE = 0, 1


class ImageReader:
    """Reads images and fails the run if too many of them cannot be read.

    max_unreadable  share of the images read so far that may be missing or damaged, once there are more than
                    32 of those; 0: the first one is an error

    Whoever reads puts black in the place of an image that cannot be read. The counts are those of all worker
    processes together; every doubling of the unreadable ones is logged.
    """

    def __init__(self, max_unreadable: float = 0.05) -> None:
        self.max_unreadable = float(max_unreadable)
        # A row for each worker, so that none writes where another does; in memory that all of them see.
        self._counts = torch.zeros(2 + (os.cpu_count() or 1), 2, dtype=torch.int64).share_memory_()

    @property
    def read_so_far(self) -> int:
        """Images asked for."""
        return int(self._counts[:, READ].sum())

    @property
    def unreadable(self) -> int:
        """Those among them that could not be read."""
        return int(self._counts[:, UNREADABLE].sum())

    def load(self, path: Path) -> np.ndarray | None:
        """(H, W, 3) uint8 RGB; None if the image cannot be read.

        Raises MoroError if `max_unreadable` is exceeded.
        """
        image = read_image(path)
        row = self._row()
        row[READ] += 1
        if image is None:
            row[UNREADABLE] += 1
            self._check(path)
        return image

    def report(self) -> str | None:
        """One sentence about the images that could not be read; None if there were none."""
        if not self.unreadable:
            return None
        return f"{self.unreadable} of {self.read_so_far} images could not be read and became black crops"

    def _row(self) -> np.ndarray:
        """This process's counts: row 0 outside of workers."""
        worker = get_worker_info()
        return self._counts[0 if worker is None else 1 + worker.id % (len(self._counts) - 1)].numpy()

    def _check(self, path: Path) -> None:
        if self.max_unreadable <= 0:
            raise MoroError(f"cannot read the image {path}; it is missing or damaged, unpack it again.")
        unreadable, total = self.unreadable, self.read_so_far
        if unreadable > max(GRACE, self.max_unreadable * total):
            raise MoroError(
                f"{unreadable} of {total} images could not be read, the last is {path}; unpack them again, "
                "or allow a larger share of black crops with dataset.max_unreadable."
            )
        if unreadable & (unreadable - 1) == 0:
            _log.warning(
                "%d unreadable image(s) so far, replaced by black crops; the last: %s", unreadable, path
            )
