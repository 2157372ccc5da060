"""Keeps libtiff, with which Pillow reads TIFF files, from writing to stderr what is wrong with a file."""

import ctypes
from pathlib import Path

import PIL

PLACES = ("../pillow.libs/libtiff*", ".dylibs/libtiff*")  # in Pillow's own packages, for Linux and macOS


def silence() -> None:
    """Take away libtiff's handlers of errors and warnings: Pillow's exception says that a file is broken.

    They write lines of their own, past every log and limit: a stranger could fill a service's log with them. A Pillow
    that uses the system's libtiff is left as it is.
    """
    folder = Path(PIL.__file__).parent
    for file in (file for place in PLACES for file in folder.parent.glob(f"{folder.name}/{place}")):
        library = ctypes.CDLL(str(file.resolve()))  # the one that Pillow has loaded
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            setter = getattr(library, name)
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)
