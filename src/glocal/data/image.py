"""The one place that turns a file into an RGB image.

Whatever can be wrong with a file ends here as an `UnreadableImageError`, which names the file and the reason.
"""

import glob
import io
import logging
import os
import re
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from glocal.data import libtiff
from glocal.data.repair import ended, is_mendable, pixels_only, share_missing
from glocal.data.walk import files_below, is_hidden
from glocal.errors import InvalidValueError, PathError
from glocal.wording import one_line

log = logging.getLogger(__name__)

Check = Callable[[Image.Image], str | None]  # what is against an image that is open, if anything
Convert = Callable[[Image.Image], Any]  # makes the result of an image that may not be loaded yet

# What Pillow may try, by its names, on any file from anywhere. Of the formats that are not here, some run programs
# (EPS), some are decoded before their size is known (ICNS) or by slow code (PPM as text), some have no mark (TGA).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Files with another ending are no images for a folder scan.
IMAGE_ENDINGS = frozenset([".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"])
PHOTOS = "pip install 'glocal[photos]'"
PHOTO_ENDINGS = {".heic": "pi_heif", ".heif": "pi_heif", ".hif": "pi_heif", ".jxl": "pylibjxl"}  # → the package needed
# How files begin that people take for images: what they are, and the format that reads them, or what else helps.
FOREIGN = (
    (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "HEIC", "HEIF"),
    (rb"\xff\x0a|....JXL ", "JPEG XL", "JXL"),
    (rb"%!PS|\xc5\xd0\xd3\xc6|%PDF", "PostScript or PDF", "export the page as PNG"),
    (rb"8BPS", "Photoshop", "export it as PNG"),
    (rb"....jP  |\xff\x4f\xff\x51", "JPEG 2000", "convert it to PNG"),
    (rb"P[1-7fF]\s", "PPM", "convert it to PNG"),
    (rb"\s*<(\?xml|svg)", "SVG", "export it as PNG"),
)
TURNS = {  # by EXIF's orientation: what brings the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
STRICT = "GLOCAL_STRICT"  # in the environment, which processes that read images inherit
MOST_MISSING = 0.05  # of a JPEG's pixels
MOST_NOTES = 20  # of one process, on files that were read in spite of a fault


class UnreadableImageError(PathError):
    """A file that cannot be read as an image: `path` ("" for an image from memory), and `reason` in a few words."""

    def __init__(self, path: str, reason: str):
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason

    def of(self, path: str) -> "UnreadableImageError":
        """The same with the name of the image, where it has none: an annotation need not know its image's name."""
        return self if self.path else UnreadableImageError(path, self.reason)

    def __reduce__(self):
        return type(self), (self.path, self.reason)


FINAL = (UnreadableImageError, Image.DecompressionBombError, MemoryError)  # no mending helps against these


@cache
def formats() -> tuple[str, ...]:
    """The formats that Pillow may try, by its names: `FORMATS` and those of the extra `photos`, if it is installed."""
    found = list(FORMATS)
    libtiff.silence()
    try:
        import pi_heif
    except ImportError:
        pass
    else:
        pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
        found.append("HEIF")
    try:
        import pylibjxl
    except ImportError:
        pass
    else:
        pylibjxl.register_pillow()
        found.append("JXL")
    return tuple(found)


@cache
def image_endings() -> frozenset[str]:
    """The endings of files that a folder scan takes for images, with their point, in lower case."""
    return IMAGE_ENDINGS | {ending for ending, package in PHOTO_ENDINGS.items() if find_spec(package)}


def set_strict(strict: bool) -> None:
    """Choose for this process, and for those that it starts, whether a JPEG that lacks its last bytes is refused."""
    os.environ[STRICT] = "1" if strict else ""


def is_strict() -> bool:
    """What `set_strict` chose."""
    return bool(os.environ.get(STRICT))


def read_image(path: str | Path) -> Image.Image:
    """Read an image file of one of the `formats` as 8-bit RGB, upright.

    The EXIF orientation is applied, transparency is composited on white, 16-bit grey is scaled to 8 bits (65535
    becomes 255), palette and grey images are converted, and CMYK without regard to its profile. Of an animation, the
    first frame is read. Broken metadata is left out. A JPEG that lacks a twentieth of its pixels at most is read with a
    note in the log, unless `set_strict` says otherwise.

    Raises UnreadableImageError for a missing, empty, truncated or over-large file, and for one that is no image.
    """
    return read_as(path, to_rgb)


def read_as(path: str | Path, convert: Convert, check: Check = lambda image: None) -> Any:
    """Read an image file as `read_image` does, but `convert` makes the result of what Pillow opened.

    check: asked once the file is open, says what is against the image.
    """
    path = Path(path)
    try:
        if not path.exists():
            reason = "no file matches" if glob.has_magic(str(path)) else "no such file"
            raise UnreadableImageError(str(path), reason)
        if path.is_dir():
            reason = "a folder, not a file" if images_below(str(path))[0] else "the folder holds no images"
            raise UnreadableImageError(str(path), reason)
        if not path.is_file():
            raise UnreadableImageError(str(path), "not a file")
        if path.stat().st_size == 0:
            raise UnreadableImageError(str(path), "the file is empty")
    except OSError as error:
        raise _unreadable(str(path), error) from None
    return _decode(path, str(path), check, convert)


def decode_as(content: bytes, name: str, convert: Convert, check: Check = lambda image: None) -> Any:
    """Read an image from the content of its file, which errors call `name`; see `read_as`."""
    if not content:
        raise UnreadableImageError(name, "the file is empty")
    return _decode(io.BytesIO(content), name, check, convert)


def decode_image(content: bytes, name: str, check: Check = lambda image: None) -> Image.Image:
    """Read an image from the content of its file, which errors call `name`; see `read_image`.

    check: asked once the file is open, says what is against the image.
    """
    return decode_as(content, name, to_rgb, check)


@dataclass(frozen=True)
class StoredImage:
    """An image in a file of many, decoded when it is needed.

    name: of its place, for people. content: of the image's own file; without it, `path` is read, if there is one.
    reason: what to say where there is neither.
    """

    name: str
    content: bytes | None = None
    path: str | None = None
    reason: str = "no image"

    def __str__(self) -> str:
        return self.name

    def load(self) -> Image.Image:
        """The image as RGB; raises UnreadableImageError."""
        if self.content is None and self.path is None:
            raise UnreadableImageError(self.name, self.reason)
        return read_image(self.path) if self.content is None else decode_image(self.content, self.name)


def convert_image(image: Image.Image) -> Image.Image:
    """Convert an image that Pillow may have opened but not yet read; see `read_image`."""
    try:
        return to_rgb(image)
    except Exception as error:  # as in `_decode`
        raise _unreadable(str(getattr(image, "filename", "")), error) from None


def _decode(file: Path | io.BytesIO, name: str, check: Check, convert: Convert) -> Any:
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 million pixels and refuses from 179 million; the second alone concerns the user.
            warnings.simplefilter("ignore")
            try:
                with _open(file, name, check) as image:
                    return convert(image)
            except FINAL:
                raise
            except Exception as error:
                content = file.getvalue() if isinstance(file, io.BytesIO) else file.read_bytes()
                return _mended(content, name, check, convert, error)
    except Exception as error:  # Pillow's decoders raise nearly anything: OSError, SyntaxError, struct.error, EOFError
        raise _unreadable(name, error) from None


def _open(file: Path | io.BytesIO, name: str, check: Check) -> ImageFile.ImageFile:
    image = Image.open(file, formats=formats())
    reason = check(image)
    if reason is not None:
        image.close()
        raise UnreadableImageError(name, reason)
    return image


def _mended(content: bytes, name: str, check: Check, convert: Convert, error: Exception) -> Any:
    """The image without its metadata, or without its last bytes; raises `error` where these are not what is wrong."""
    if not is_mendable(content):
        unknown = isinstance(error, UnidentifiedImageError)
        raise (_foreign(content, name) if unknown else None) or error
    bare, exif = pixels_only(content)

    def loaded(content: bytes) -> Image.Image:
        image = _open(io.BytesIO(content), name, check)
        image.load()
        image.info["exif"] = exif
        return image

    try:
        return convert(loaded(bare))
    except FINAL:
        raise
    except Exception:
        if is_strict():
            raise error from None
    try:
        with _open(io.BytesIO(bare), name, check) as image:
            files = ended(bare, image.size)
        images = [loaded(file) for file in files or () if file is not None]
        missing = share_missing(*map(np.asarray, images))
    except Exception:  # of a file that is broken elsewhere
        raise error from None
    if missing > MOST_MISSING:
        raise error
    _note(name, "lacks its last bytes; it is read all the same (--strict refuses such files)")
    return convert(images[0])


def _foreign(content: bytes, name: str) -> UnreadableImageError | None:
    """The message for a file that has none of the formats, by its first bytes."""
    for start, kind, helps in FOREIGN:
        if re.match(start, content, re.DOTALL):
            if helps in formats():
                return UnreadableImageError(name, f"broken image (of {kind})")
            helps = PHOTOS if helps in ("HEIF", "JXL") else helps
            return UnreadableImageError(name, f"not an image in a format that is read ({kind}; {helps})")
    return None


_noted: set[str] = set()
_noting = threading.Lock()  # the service and `Predictor` read in threads


def _note(name: str, what: str) -> None:
    """Say something about a file, once in this process."""
    with _noting:
        if name in _noted or len(_noted) > MOST_NOTES:
            return
        _noted.add(name)
        too_many = len(_noted) > MOST_NOTES
    if too_many:
        log.warning("there are more such files")
    else:
        log.warning("%s: %s", name, what)


def _unreadable(name: str, error: Exception) -> UnreadableImageError:
    if isinstance(error, UnreadableImageError):
        return error
    if isinstance(error, UnidentifiedImageError):
        return UnreadableImageError(name, "not an image")
    if isinstance(error, Image.DecompressionBombError):
        return UnreadableImageError(name, "more pixels than Pillow's limit against decompression bombs")
    if isinstance(error, PermissionError):
        return UnreadableImageError(name, "no permission to read it")
    return UnreadableImageError(name, f"broken image ({one_line(error)})")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to upright 8-bit RGB; see `read_image`. ValueError for one without pixels."""
    image = upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """An image of any mode, turned as its EXIF orientation says. ValueError for one without pixels."""
    if 0 in image.size:
        raise InvalidValueError(f"no pixels: {image.width} wide, {image.height} high")
    image.load()
    turn = TURNS.get(orientation_of(image))
    return image if turn is None else image.transpose(turn)


def orientation_of(image: Image.Image) -> int:
    """How a loaded image is to be turned, as EXIF numbers it; 1, as it is, where nothing sound says it."""
    if image.format in ("JXL", "HEIF"):  # upright from their decoders, whatever the EXIF that was kept says
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # of metadata: nearly anything
        return 1
    return orientation if isinstance(orientation, int) else 1


def _to_8_bit(image: Image.Image) -> np.ndarray:
    """Scale a 16-bit, 32-bit or floating-point grey image to 0…255.

    Floating-point pixels count as 0…1 when none is larger than 1, as 0…255 otherwise. Pixels outside the range of
    their kind have no known white: ValueError.
    """
    pixels = np.asarray(image)
    low, high = float(pixels.min()), float(pixels.max())
    white = 65535.0  # also of mode "I", as which Pillow opens some 16-bit files
    if image.mode == "F":
        white = 1.0 if high <= 1 else 255.0
    if not (low >= 0 and high <= white):
        raise InvalidValueError(f"grey values from {low:g} to {high:g}, expected 0 to {white:g}")
    return np.rint(pixels.astype(np.float64) * (255.0 / white)).astype(np.uint8)


def is_image_name(path: str | Path) -> bool:
    """Whether a file's name ends as an image's does and is not hidden."""
    path = Path(path)
    return path.suffix.lower() in image_endings() and not is_hidden(path.name)


def find_images(sources: list[str]) -> list[str]:
    """List the image files that files, folders and glob patterns stand for, in the order given, without doubles.

    A folder stands for all images in it and below, sorted; what else is in it is named in the log. A name that stands
    for nothing is kept as it is, so that reading it reports it.
    """
    found: dict[str, None] = {}
    for source in map(str, sources):
        path = Path(source)
        if path.is_dir():
            images, others = images_below(source)
            found.update(dict.fromkeys(images or [source]))
            if others:
                log.warning("%s: %s", source, left_out(others))
        elif path.exists() or not glob.has_magic(source):
            found[source] = None
        else:
            found.update(dict.fromkeys(_matching(source) or [source]))
    return list(found)


def images_below(folder: str) -> tuple[list[str], list[str]]:
    """The images in a folder and below, sorted, and the other files; see `files_below`."""
    place = str(Path(folder))
    files = files_below([place])[place]
    return [file for file in files if is_image_name(file)], [file for file in files if not is_image_name(file)]


def left_out(files: Iterable[str]) -> str:
    """What to say of files in a folder that are not read as images: how many have which ending."""
    endings = Counter(Path(file).suffix.lower() for file in files)
    shown = []
    for ending, count in endings.most_common(5):
        name = ending if ending[1:].isalnum() else "without an ending" if not ending else repr(ending)
        shown.append(f"{count:,} {name}" + (f" ({PHOTOS} to read them)" if ending in PHOTO_ENDINGS else ""))
    total = sum(endings.values())
    others = total - sum(count for _, count in endings.most_common(5))
    shown += [f"{others:,} with other endings"] if others else []
    return f"left out {total:,} {'file that is no image' if total == 1 else 'files that are no images'}: " + ", ".join(
        shown
    )


def _matching(pattern: str) -> list[str]:
    """The files and folders that a glob pattern stands for, sorted; ** goes through folders as `files_below` does."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return sorted(glob.glob(pattern))
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    base = str(Path(*parts[:first]))
    files = files_below([base])[base] if os.path.isdir(base) else []
    found = (file.removeprefix(f".{os.sep}") for file in files)
    return sorted(file for file in found if _fits(Path(file).parts[first:], parts[first:]))


def _fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[place:], pattern[1:]) for place in range(len(parts) + 1))
    return bool(parts) and fnmatch(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
