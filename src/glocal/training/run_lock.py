"""A lock for one run at a time in an output folder. The system frees it when the process ends, even by kill -9."""

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glocal.errors import ExistingPathError, PathError, WorkError

LOCK = ".lock"  # in the output folder, while a run writes to it; the file that a killed run leaves locks nothing
NO_LOCKS = {getattr(errno, name) for name in ("ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP") if hasattr(errno, name)}

log = logging.getLogger(__name__)


def refuse_if_held(folder: Path) -> None:
    """Raise FileExistsError if another run is writing to the folder."""
    if (folder / LOCK).exists():
        with hold(folder):
            pass


@contextmanager
def hold(folder: Path) -> Iterator[Callable[[], None]]:
    """Lock an existing folder for this process; FileExistsError if another process has locked it.

    Yields a function that raises RuntimeError if the folder is no longer the folder that was locked. If the drive has
    no locks, a warning says so, and nothing is refused.
    """
    from filelock import FileLock, Timeout

    path = folder / LOCK
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ExistingPathError(
            f"another run is writing to {folder}: wait for its end, or give another --output"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise PathError(f"--output {folder} cannot be written to: {error.strerror}") from None
        log.warning("%s lies on a drive without file locks: start no second run there", folder)
        path.touch()
    own = _identity(path)

    def check() -> None:
        if _identity(path) != own:
            raise WorkError(
                f"{folder} was deleted, moved or emptied while the run was writing to it: the same command starts "
                "anew; if it was moved, --output NEW_PLACE --resume goes on"
            )

    try:
        yield check
    finally:
        if _identity(path) == own:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        lock.release()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
