"""COCO's run-length encoding of masks, compressed: runs down the columns, as text.

Written here because every result holds it, also where no library of COCO is installed.
"""

import numpy as np

from glocal.errors import InvalidValueError


def encode(mask: np.ndarray) -> str:
    """A mask (H, W) of booleans as COCO's compressed text."""
    flat = np.asfortranarray(mask, dtype=bool).ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    starts = np.concatenate([[0], ends, [flat.size]])
    counts = np.diff(starts)
    if flat.size and flat[0]:  # the first run is of pixels outside
        counts = np.concatenate([[0], counts])
    return _text(counts)


def decode(text: str, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) of a text. size: (height, width). ValueError if the text is not of such a mask."""
    counts = _counts(text)
    if (counts < 0).any() or counts.sum() != size[0] * size[1]:
        raise InvalidValueError(f"the runs cover {int(counts.sum()):,} pixels, not those of {size[0]}×{size[1]}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size, order="F")


def _text(counts: np.ndarray) -> str:
    """Each run, from the third on minus the run before the last, in groups of 5 bits from character 48 on."""
    numbers = counts.astype(np.int64)
    numbers[3:] -= counts[1:-2]
    characters = np.zeros((len(numbers), 13), np.uint8)
    left, going = numbers.copy(), np.ones(len(numbers), bool)
    for place in range(13):
        bits = left & 31
        left >>= 5
        last = np.where(bits & 16, left == -1, left == 0)
        characters[going, place] = (bits | np.where(last, 0, 32))[going] + 48
        going &= ~last
        if not going.any():
            break
    return characters[characters > 0].tobytes().decode("ascii")


def _counts(text: str) -> np.ndarray:
    counts: list[int] = []
    number = shift = 0
    for character in text.encode("ascii", "replace"):
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise InvalidValueError("no run-length encoding of COCO")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number |= -1 << shift
        if len(counts) > 2:
            number += counts[-2]
        counts.append(number)
        number = shift = 0
    if shift:
        raise InvalidValueError("a run-length encoding of COCO that ends too early")
    return np.array(counts, np.int64)
