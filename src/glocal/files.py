"""Atomic writing of files, and checks of output paths."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from glocal.errors import MissingPathError, NotAFileError, NotAFolderError
from glocal.wording import printable

LONGEST = 100  # bytes of an image's name in another file's; file systems allow 255 for all


def write_atomically(
    path: str | Path, content: "bytes | Callable[[BinaryIO], None]", temporary: Path | None = None
) -> None:
    """Write a file under a temporary name beside it, flush it to the disk, and rename it.

    content: the bytes, or a function that writes them to an open file. temporary: another temporary name, if several
    processes may write the same file.
    """
    with written_atomically(path, temporary) as file:
        if callable(content):
            content(file)
        else:
            file.write(content)


@contextmanager
def written_atomically(path: str | Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """An open file that gets its name when the block ends, and is removed if it fails; see `write_atomically`."""
    path = Path(path)
    temporary = temporary or path.with_name(f".{path.name}.tmp")
    raw = _File(temporary, "wb")
    try:
        with io.BufferedWriter(raw) as file:
            yield file
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


def make_folder(option: str, folder: str | Path) -> None:
    """Make a folder for files where there is none; OSError if it is a file, or cannot be made."""
    if Path(folder).exists() and not Path(folder).is_dir():
        raise NotAFolderError(f"{option} {folder} is a file: give a folder")
    Path(folder).mkdir(parents=True, exist_ok=True)


def numbered_name(number: int, source: str, ending: str, digits: int = 5) -> str:
    """The name of a file that belongs to an image: the image's name after its number.

    Images of different folders may have the same name. number: the image's place, from 0.
    """
    name = printable(Path(source).stem).encode()[:LONGEST].decode(errors="ignore")
    return f"{number:0{digits}}-{name}{ending}"
