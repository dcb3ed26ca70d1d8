"""The same work on many files, by several processes, with a progress bar."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")


def parallel_map(
    work: Callable[[Job], Result], jobs: Sequence[Job], processes: int, title: str, unit: str = "file"
) -> Iterator[Result]:
    """work(job) for each job, in order, as they are finished.

    work       a function of a module (it is sent to the processes), which keeps what it makes on disk itself
    processes  1: everything in this process
    """
    bar = {"desc": title, "unit": unit, "total": len(jobs), "file": sys.stderr, "disable": None}
    if processes <= 1 or len(jobs) <= 1:
        yield from tqdm(map(work, jobs), **bar)
        return
    with ProcessPoolExecutor(min(processes, len(jobs))) as pool:
        try:
            yield from tqdm(pool.map(work, jobs), **bar)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
