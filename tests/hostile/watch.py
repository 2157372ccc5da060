"""Notes what a process does to the outside while it reads a stranger's file: Python reports it as audit events."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pty.spawn")
CALLS = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "urllib.Request")
REMOVES = ("os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.mkdir", "shutil.rmtree")

_notes: list[str] | None = None
_allowed: tuple[str, ...] = ()


def _writes(args: tuple) -> bool:
    path, mode, flags = args
    if isinstance(path, int):
        return False
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _note(event: str, args: tuple) -> None:
    if _notes is None:
        return
    if event in STARTS or event in CALLS:
        _notes.append(f"{event} {args!r}"[:300])
    elif event == "os.truncate" and isinstance(args[0], int):
        return  # a file that is open already: opening it was noted
    elif event in REMOVES or (event == "open" and _writes(args)):
        path = os.fsdecode(args[0]) if isinstance(args[0], (str, bytes, os.PathLike)) else ""
        if not os.path.abspath(path).startswith(_allowed):
            _notes.append(f"{event} {path}")


sys.addaudithook(_note)  # for the rest of the process: it costs nothing while nobody watches


@contextmanager
def watching(*folders: Path):
    """A list of what was done outside of `folders`: files written or removed, connections, programs started."""
    global _notes, _allowed
    notes: list[str] = []
    compiles, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # of modules that are imported meanwhile
    _notes, _allowed = notes, (*map(os.path.abspath, folders), "/dev/null", "/dev/shm/")  # the last is memory
    try:
        yield notes
    finally:
        _notes, sys.dont_write_bytecode = None, compiles
