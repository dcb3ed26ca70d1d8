"""The one exception a user is meant to read, and how programs end with it."""

import logging
import sys
from collections.abc import Callable


class MoroError(Exception):
    """Bad input, said in one sentence: what was wrong, where, and what to do.

    The top-level scripts print the message alone (no traceback) and exit with status 1.
    """


class ExitOnMoroError:
    """Context in which a MoroError, or an OSError that names a file, becomes one line on stderr and, if
    `leave`, exit status 1."""

    def __init__(self, leave: bool = True) -> None:
        self.leave = leave

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, MoroError) or isinstance(error, OSError) and error.filename is not None:
            sys.stderr.write(f"error: {one_line(error)}\n")
            sys.stderr.flush()
            if self.leave:
                sys.exit(1)


def one_line(error: BaseException) -> str:
    """Its sentence; one that comes from a process of a loader is wrapped in that process's traceback."""
    return " ".join(str(error).rsplit("MoroError: ", 1)[-1].split())


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main: what is logged is shown, a MoroError is one line and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with ExitOnMoroError():
        main()
