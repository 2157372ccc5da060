"""Files that Pillow refuses though their pixels are there: odd metadata, and JPEGs that lack their last bytes."""

import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2  # frames of JPEGs with Huffman codes
# Of a segment with a length, or the end. A pattern that took all filling bytes before it would be quadratic in them.
MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")
JFIF = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"  # says that the colours are YCbCr
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # the chunks of a PNG that its pixels are made from


def is_mendable(content: bytes) -> bool:
    """Whether `pixels_only` knows the kind of a file."""
    return content.startswith((JPEG, PNG))


def pixels_only(content: bytes) -> tuple[bytes, bytes]:
    """A JPEG or PNG without its metadata, and its EXIF block (empty if it has none)."""
    return _jpeg_pixels(content) if content.startswith(JPEG) else _png_pixels(content)


def _jpeg_pixels(content: bytes) -> tuple[bytes, bytes]:
    kept, exif = [content[:2]], b""
    for marker, start, end in segments(content):
        payload = content[start:end]
        if marker == START_OF_SCAN:
            return b"".join([*kept, b"\xff\xda", content[start - 2 :]]), exif
        if marker == 0xE1 and payload.startswith(b"Exif\0\0"):
            exif = exif or payload
        elif marker == 0xE0 and payload.startswith(b"JFIF"):
            kept.append(JFIF)
        elif (marker == 0xEE and len(payload) >= 12) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(b"\xff" + bytes([marker]) + content[start - 2 : end])
    return content, exif


def _png_pixels(content: bytes) -> tuple[bytes, bytes]:
    kept, exif, place = [content[:8]], b"", 8
    while place + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        chunk = content[place : place + length + 12]
        if kind in PIXELS:
            kept.append(chunk)
        elif kind == b"eXIf" and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big"):
            exif = b"Exif\0\0" + chunk[8:-4]
        place += length + 12
    return b"".join(kept), exif


def segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """The segments of a JPEG that have a length: marker, begin and end of the content."""
    place = 2
    while (found := MARKER.search(jpeg, place)) and found[1][0] != END_OF_IMAGE:
        start = found.end() + 2
        place = found.end() + max(2, int.from_bytes(jpeg[found.end() : start], "big"))
        yield found[1][0], start, place


def ended(jpeg: bytes, size: tuple[int, int]) -> tuple[bytes, bytes | None] | None:
    """A JPEG that stops early, brought to an end; None where more is missing than the end of its last scan.

    size: (width, height) as the decoder has it, whose limits were asked; a file may name others, too.

    The missing part of a sequential JPEG is mid-grey in the first of the two files. Of a progressive one every pixel is
    there, less fine in places: those that differ from the second file, where other pixels stand in for them.
    """
    frame, layers, scans, restarts = 0, {}, 0, False
    for marker, start, end in segments(jpeg):
        payload = jpeg[start:end]
        if marker in (*SEQUENTIAL, PROGRESSIVE):
            frame, width, height = marker, *struct.unpack(">xHH", payload[:5])[::-1]
            layers = {payload[place]: np.full(64, -1) for place in range(6, len(payload), 3)}
        elif marker == START_OF_SCAN:
            scans += 1
            first, last, precision = payload[-3], payload[-2], payload[-1] & 15
            for place in range(1, len(payload) - 3, 2):
                layers[payload[place]][first : last + 1] = precision
        elif marker == 0xDD:
            restarts = int.from_bytes(payload, "big") > 0
    if not frame or (width, height) != size or not layers or any(bits.any() for bits in layers.values()):
        return None
    jpeg = jpeg.rstrip(b"\xff")  # half a marker
    end = b"\xff\xd9"
    if frame != PROGRESSIVE:
        return (jpeg + end, None) if scans == 1 else None
    if restarts:
        return None
    noise = np.random.RandomState(0).randint(0, 255, width * height, np.uint8).tobytes()  # never 255
    return jpeg + end, jpeg + noise + end


def share_missing(image: np.ndarray, other: np.ndarray | None = None) -> float:
    """The share of the pixels that is missing, from the pixels (H, W) or (H, W, C) of the two files of `ended`."""
    pixels = image.reshape(*image.shape[:2], -1)
    if other is None:
        return float(((pixels == 127) | (pixels == 128)).all(-1).mean())
    return float((pixels != other.reshape(pixels.shape)).any(-1).mean())
