"""The one walk through folders: hidden files and folders are left out, and every real folder is visited once."""

import os
from collections import deque
from collections.abc import Iterable

from glocal.errors import path_error

# What systems and archives lay beside photos, by names in lower case: thumbnails, a Mac's second files, waste.
# fmt: off
SYSTEM = frozenset([
    "#recycle", "$recycle.bin", "@eadir", "__macosx", "__pycache__", "desktop.ini", "lost+found",
    "system volume information", "thumbs.db",
])
# fmt: on


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out wherever it lies: it begins with a point, or is a system's."""
    return name.startswith(".") or name.lower() in SYSTEM


def entries(folder: str | os.PathLike) -> list[os.DirEntry]:
    """What is in a folder and not hidden, sorted by name; PermissionError and FileNotFoundError name the folder."""
    try:
        with os.scandir(folder) as inside:
            return sorted((entry for entry in inside if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise path_error(error, f"the folder {str(folder)!r} cannot be read: {error.strerror}") from None


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder, or a link to one; a link that leads to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def files_below(folders: Iterable[str]) -> dict[str, list[str]]:
    """The files in each of `folders` and below, sorted, those of each real folder once.

    Folders proper are visited before those that a link leads to, so a link to one of them adds nothing; nor does a link
    to a folder that holds one of `folders`.
    """
    found: dict[str, list[str]] = {folder: [] for folder in folders}
    seen = {parent for folder in found for parent in parents(folder)}
    proper = deque((folder, folder) for folder in found if not os.path.islink(folder))
    links = deque((folder, folder) for folder in found if os.path.islink(folder))
    while proper or links:
        owner, place = (proper or links).popleft()
        target = os.path.realpath(place)
        if target in seen:
            continue
        seen.add(target)
        for entry in entries(place):
            if is_folder(entry):
                (links if entry.is_symlink() else proper).append((owner, entry.path))
            else:
                found[owner].append(entry.path)
    return {folder: sorted(files) for folder, files in found.items()}


def parents(folder: str) -> list[str]:
    """The real folders that hold a folder, from the nearest to the root."""
    place, above = os.path.realpath(folder), []
    while (parent := os.path.dirname(place)) != place:
        above.append(parent)
        place = parent
    return above
