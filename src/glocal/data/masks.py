"""Label maps: a class for every pixel of an image."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from glocal.data.image import Check, Convert, UnreadableImageError, decode_as, read_as, upright
from glocal.wording import counted

IGNORE = -1  # the label of pixels that count nowhere
VOID = 255  # the value of 8-bit masks that by custom counts nowhere
LOSSLESS = ("PNG", "GIF", "BMP", "TIFF")  # Pillow's names; other formats may change values
CHANGING = ("jpeg", "webp")  # compressions of TIFF that change values
MODES = ("1", "L", "P", "LA", "I", "RGB", "RGBA")
GREY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow spreads grey of 2 and 4 bits over 0…255, by its raw modes
GDAL_NODATA = 42113  # tag of TIFF
UNKNOWN = -2  # in tables: a value that is no class


class LabelMap(Protocol):
    """The annotation of an image for segmentation, read when it is needed."""

    def load(self, size: tuple[int, int]) -> np.ndarray:
        """The class of every pixel, (H, W) int32, with IGNORE where a pixel counts nowhere.

        size: (height, width) of the image. Raises UnreadableImageError, which names the file, if there is no such map.
        """

    def content(self) -> str:
        """A text that tells the map from others, wherever its file lies."""


@dataclass(frozen=True, eq=False)
class ArrayMap:
    """A label map in memory. labels: (H, W), integers with IGNORE."""

    labels: np.ndarray
    name: str = ""

    def load(self, size: tuple[int, int]) -> np.ndarray:
        check_size(self.name, self.labels.shape, size)
        return self.labels.astype(np.int32)

    def content(self) -> str:
        return sha256(np.ascontiguousarray(self.labels, dtype=np.int32).tobytes()).hexdigest()


@dataclass(frozen=True)
class Coding:
    """How the values of a mask become classes.

    values: pairs of a value and its class, or IGNORE. Where `by_color`, a value is a colour, as `pack` has it.
    hint: for the error on a value that is none of them.
    """

    values: tuple[tuple[int, int], ...]
    by_color: bool = False
    hint: str = ""

    @classmethod
    def of_indices(cls, ids: Sequence[int], ignored: Iterable[int] = (), hint: str = "") -> "Coding":
        """Of masks of one channel. ids: the value of each class. ignored: the values that count nowhere."""
        return cls(_pairs(ids, ignored), hint=hint)

    @classmethod
    def of_colors(cls, colors: Sequence, ignored: Iterable = (), hint: str = "") -> "Coding":
        """Of colour masks. colors: [red, green, blue] of each class. ignored: the colours that count nowhere."""
        return cls(_pairs(map(pack_color, colors), map(pack_color, ignored)), True, hint)

    def decode(self, raw: np.ndarray, name: str) -> np.ndarray:
        """The class of every pixel, (H, W) int32, with IGNORE. raw: of `read_mask`, of the file `name`.

        A mask of three equal channels is one of one channel. Raises UnreadableImageError for values that are no class.
        """
        if self.by_color and raw.ndim == 2:
            raise UnreadableImageError(name, "the mask has 16-bit values, but the class list has colours")
        values = pack(raw) if self.by_color else raw if raw.ndim == 2 else equal_channel(raw, name)
        table = _table(self)
        if self.by_color or values.dtype.kind == "u":
            labels = table[values] - 2
        else:
            inside = np.clip(values, 0, len(table) - 1)
            labels = np.where(inside == values, table[inside], 0) - 2
        unknown = labels == UNKNOWN
        if unknown.any():
            raise UnreadableImageError(name, self._unknown(values[unknown]))
        return labels

    def _unknown(self, values: np.ndarray) -> str:
        """The reason to refuse a mask that holds `values`."""
        found, counts = np.unique(values, return_counts=True)
        what = "colour" if self.by_color else "value"
        first = "{} {} {}".format(*unpack(int(found[0]))) if self.by_color else f"{found[0]:,}"
        more = f", and {counted(len(found) - 1, f'further {what}')} too" if len(found) > 1 else ""
        hint = f" ({self.hint})" if self.hint else ""
        pixels = counted(int(counts[0]), "pixel")
        return f"the mask has the {what} {first} on {pixels}, which is no class{more}{hint}"


class StoredMask(Protocol):
    """A mask in a file of many. Its `str` is its name, for people."""

    def read(self) -> bytes | str:
        """The content of the mask's own file, or the path of that file."""


@dataclass(frozen=True)
class MaskFile:
    """The label map of a mask file. path: of the file, or the mask in a file of many."""

    path: str | StoredMask
    coding: Coding

    def load(self, size: tuple[int, int]) -> np.ndarray:
        raw = read_mask(self.path, self.coding.by_color)
        check_size(str(self.path), raw.shape[:2], size)
        return self.coding.decode(raw, str(self.path))

    def content(self) -> str:
        return Path(str(self.path)).name


def read_mask(path: str | Path | StoredMask, by_color: bool = False) -> np.ndarray:
    """The values of a mask file: (H, W) integers where it has one channel, (H, W, 3) uint8 where it has colours.

    A palette image gives its indices, 16-bit values are kept exactly. If `by_color`, all but 16-bit values are colours,
    those of the palette too. The mask is turned as its EXIF orientation says.

    Raises UnreadableImageError as `read_image` does, and for a file whose format or kind does not keep values: JPEG
    and its like, floating-point numbers, transparent pixels, 16-bit colours.
    """
    raw_mode = ""

    def check(image: Image.Image) -> str | None:
        nonlocal raw_mode
        raw_mode = _raw_mode(image)
        return _refused(image, raw_mode)

    def convert(image: Image.Image) -> np.ndarray:
        image = upright(image)
        if image.mode in ("LA", "RGBA"):
            if image.getchannel("A").getextrema()[0] < 255:
                raise UnreadableImageError(
                    str(path), "the mask has transparent pixels: save masks without transparency"
                )
            image = image.convert(image.mode.removesuffix("A"))
        if by_color and not image.mode.startswith("I"):
            image = image.convert("RGB")
        values = np.asarray(image)
        if image.mode == "1":
            return values.astype(np.uint8)
        if image.mode.startswith("I;16"):
            return values.astype(np.uint16)
        return values // GREY_STEPS[raw_mode] if image.mode == "L" and raw_mode in GREY_STEPS else values

    return _read(path, convert, check)


def mask_kind(path: str | Path | StoredMask) -> tuple[str, tuple[int, int]]:
    """Pillow's mode of a mask file, and its (width, height) as stored; only its head is read.

    Raises UnreadableImageError as `read_mask` does, apart from what the pixels tell.
    """
    return _read(path, lambda image: (image.mode, image.size), lambda image: _refused(image, _raw_mode(image)))


def palette_of(path: str | Path | StoredMask) -> list[list[int]] | None:
    """[red, green, blue] of the entries of a mask's palette; None if it has none."""
    flat = _read(path, lambda image: image.getpalette("RGB") if image.mode == "P" else None)
    return None if flat is None else [flat[place : place + 3] for place in range(0, len(flat), 3)]


def nodata_of(path: str | Path | StoredMask) -> int | None:
    """The value that a TIFF mask declares to stand for no data (GDAL's tag), if it declares a whole number."""
    text = _read(path, lambda image: getattr(image, "tag_v2", {}).get(GDAL_NODATA))
    try:
        value = float(str(text).strip("\x00 "))
    except ValueError:
        return None
    return int(value) if value.is_integer() and 0 <= value < 1 << 24 else None


def equal_channel(raw: np.ndarray, name: str) -> np.ndarray:
    """The values of a mask of three channels that are equal."""
    first = raw[..., 0]
    if not (np.array_equal(first, raw[..., 1]) and np.array_equal(first, raw[..., 2])):
        raise UnreadableImageError(name, "the mask has colours, but the class list has none: give a palette of them")
    return first


def check_size(name: str, found: tuple[int, ...], size: tuple[int, int]) -> None:
    """Raise UnreadableImageError if a mask has another size than its image: (height, width) each."""
    if tuple(found) != tuple(size):
        raise UnreadableImageError(
            name, f"the mask is {found[1]}×{found[0]} pixels, its image {size[1]}×{size[0]} (width × height)"
        )


def pack(colors: np.ndarray) -> np.ndarray:
    """Colours (…, 3) uint8 as numbers of 24 bits (…) int32."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def pack_color(color: Sequence[int]) -> int:
    red, green, blue = color
    return red << 16 | green << 8 | blue


def unpack(value: int) -> list[int]:
    """[red, green, blue] of a number of 24 bits."""
    return [value >> 16, value >> 8 & 255, value & 255]


def distinct_colors(count: int) -> list[list[int]]:
    """[red, green, blue] of each of `count` classes, none like another: PASCAL VOC's colours, which begin with black.

    The bits of the class's number are dealt out to the three channels, the lowest to their highest bits.
    """
    colors = []
    for number in range(count):
        color = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                color[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append(color)
    return colors


def _read(path: str | Path | StoredMask, convert: Convert, check: Check = lambda image: None) -> Any:
    found = path if isinstance(path, (str, Path)) else path.read()
    return decode_as(found, str(path), convert, check) if isinstance(found, bytes) else read_as(found, convert, check)


def _pairs(values: Iterable[int], ignored: Iterable[int]) -> tuple[tuple[int, int], ...]:
    classes = {value: label for label, value in enumerate(values)}
    return (*classes.items(), *((value, IGNORE) for value in ignored if value not in classes))


@lru_cache(maxsize=8)
def _table(coding: Coding) -> np.ndarray:
    """The class + 2 of each value, so that what was never written, 0, is UNKNOWN + 2.

    It is as long as there are colours, or values of 16 bits; only the pages of it that are used take memory.
    """
    size = 1 << 24 if coding.by_color else max(1 << 16, *(value + 1 for value, _ in coding.values))
    table = np.zeros(size, np.int32)
    for value, label in coding.values:
        table[value] = label + 2
    return table


def _refused(image: Image.Image, raw_mode: str) -> str | None:
    """Why the values of a mask would not be those that were meant, if its format or kind says so."""
    if image.format not in LOSSLESS or image.info.get("compression") in CHANGING:
        kind = image.format if image.format not in LOSSLESS else f"{image.format} with JPEG inside"
        return f"a mask must not be {kind}, whose compression may change labels: save masks as PNG"
    if image.mode not in MODES and not image.mode.startswith("I;16"):
        return f"a mask of the kind {image.mode}: save masks as PNG of whole numbers, a palette, or RGB"
    if ";16" in raw_mode and not image.mode.startswith("I"):
        return "a mask with 16 bits in each of several channels: save masks as PNG of one channel, or 8-bit RGB"
    return None


def _raw_mode(image: Image.Image) -> str:
    """How the file holds the pixels, as Pillow's decoder is told; "" if it is not."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) else args or "")
