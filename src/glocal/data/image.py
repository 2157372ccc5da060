"""The one place that turns a file into an RGB image.

Whatever can be wrong with a file ends here as an `UnreadableImageError`, which names the file and the reason.
"""

import glob
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Endings that Pillow reads without external programs; files with another ending are no images for a folder scan.
# fmt: off
IMAGE_ENDINGS = frozenset([
    ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
])
# fmt: on


class UnreadableImageError(OSError):
    """A file that cannot be read as an image: `path` ("" for an image from memory), and `reason` in a few words."""

    def __init__(self, path: str, reason: str):
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


def read_image(path: str | Path) -> Image.Image:
    """Read an image file of any kind as 8-bit RGB, upright.

    The EXIF orientation is applied, transparency is composited on white, 16-bit grey is scaled to 8 bits (65535
    becomes 255), CMYK, palette and grey images are converted. Of an animation, the first frame is read.

    Raises UnreadableImageError for a missing, empty, truncated or over-large file, and for one that is no image.
    """
    path = Path(path)
    try:
        if not path.exists():
            reason = "no file matches" if glob.has_magic(str(path)) else "no such file"
            raise UnreadableImageError(str(path), reason)
        if path.is_dir():
            reason = "a folder, not a file" if _images_below(path) else "the folder holds no images"
            raise UnreadableImageError(str(path), reason)
        if not path.is_file():
            raise UnreadableImageError(str(path), "not a file")
        if path.stat().st_size == 0:
            raise UnreadableImageError(str(path), "the file is empty")
    except OSError as error:
        raise _unreadable(str(path), error) from None
    return _decode(path, str(path))


def decode_image(
    content: bytes,
    name: str,
    check: Callable[[Image.Image], str | None] = lambda image: None,
    formats: Sequence[str] | None = None,
) -> Image.Image:
    """Read an image from the content of its file, which errors call `name`; see `read_image`.

    check: asked once the file is open, says what is against the image. formats: those that Pillow may try, by its
    names, all by default; it opens some of them by decoding them.
    """
    if not content:
        raise UnreadableImageError(name, "the file is empty")
    return _decode(io.BytesIO(content), name, check, formats)


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


def _decode(
    file: Path | io.BytesIO,
    name: str,
    check: Callable[[Image.Image], str | None] = lambda image: None,
    formats: Sequence[str] | None = None,
) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 million pixels and refuses from 179 million; the second alone concerns the user.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=formats) as image:
                reason = check(image)
                if reason is not None:
                    raise UnreadableImageError(name, reason)
                return to_rgb(image)
    except Exception as error:  # Pillow's decoders raise nearly anything: OSError, SyntaxError, struct.error, EOFError
        raise _unreadable(name, error) from None


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


def one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to upright 8-bit RGB; see `read_image`. ValueError for one without pixels."""
    if 0 in image.size:
        raise ValueError(f"no pixels: {image.width} wide, {image.height} high")
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


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
        raise ValueError(f"grey values from {low:g} to {high:g}, expected 0 to {white:g}")
    return np.rint(pixels.astype(np.float64) * (255.0 / white)).astype(np.uint8)


def is_image_name(path: str | Path) -> bool:
    """Whether a file's name ends as an image's does and is not hidden."""
    path = Path(path)
    return path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".")


def find_images(sources: list[str]) -> list[str]:
    """List the image files that files, folders and glob patterns stand for, in the order given, without doubles.

    A folder stands for all images in it and below, sorted. A name that stands for nothing is kept as it is, so that
    reading it reports it.
    """
    found: dict[str, None] = {}
    for source in map(str, sources):
        path = Path(source)
        if path.is_dir():
            found.update(dict.fromkeys(_images_below(path) or [source]))
        elif path.exists() or not glob.has_magic(source):
            found[source] = None
        else:
            found.update(dict.fromkeys(sorted(glob.glob(source, recursive=True)) or [source]))
    return list(found)


def _images_below(folder: Path) -> list[str]:
    return sorted(str(file) for file in folder.rglob("*") if is_image_name(file) and file.is_file())
