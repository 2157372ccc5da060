"""Atomic writing of files, and checks of output paths."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from glocal.errors import MissingPathError, NotAFileError


def write_atomically(
    path: str | Path, content: "bytes | Callable[[BinaryIO], None]", temporary: Path | None = None
) -> None:
    """Write a file under a temporary name beside it, flush it to the disk, and rename it.

    content: the bytes, or a function that writes them to an open file. temporary: another temporary name, if several
    processes may write the same file.
    """
    path = Path(path)
    temporary = temporary or path.with_name(f".{path.name}.tmp")
    raw = _File(temporary, "wb")
    try:
        with io.BufferedWriter(raw) as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        failure = raw.failure if isinstance(error, Exception) else None
        if failure is None and isinstance(error, OSError) and error.filename is None:
            failure = error
        if failure is not None:  # the error of a full disk does not name the file
            raise OSError(failure.errno, failure.strerror, str(path)) from None
        raise
    if os.name == "posix":  # the folder holds the new name, so it must be flushed to the disk, too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class _File(io.FileIO):
    """A file that keeps the error of a failed write: torch's zip writer raises another error instead."""

    failure: OSError | None = None

    def write(self, content) -> int | None:
        try:
            return super().write(content)
        except OSError as error:
            self.failure = error
            raise


def check_target(option: str, file: str | Path) -> None:
    """Raise OSError if the file cannot be written; to be called before the work whose result it will hold."""
    if Path(file).is_dir():
        raise NotAFileError(f"{option} {file}: this is a folder, not a file")
    if not Path(file).parent.is_dir():
        raise MissingPathError(f"{option} {file}: there is no such folder")
