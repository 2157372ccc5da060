"""COCO's run-length encoding of masks, compressed: runs down the columns, as text.

Written here because every result holds it, also where no library of COCO is installed.
"""

from collections.abc import Sequence

import numpy as np

from glocal.errors import InvalidValueError

AT_ONCE = 2**24  # pixels that are looked at together, so that a large image needs little memory


def encode(mask: np.ndarray) -> str:
    """A mask (H, W) of booleans as COCO's compressed text."""
    return encode_classes(mask, [True])[0]


def encode_classes(labels: np.ndarray, numbers: Sequence[int]) -> list[str]:
    """The mask of each of some labels in a map (H, W), as COCO's compressed text."""
    height, width = labels.shape
    columns = max(1, AT_ONCE // max(1, height))
    changes: list[list[np.ndarray]] = [[] for _ in numbers]  # where a mask begins or ends
    last = [False] * len(numbers)
    for first in range(0, width, columns):
        flat = labels[:, first : first + columns].ravel(order="F")
        for place, number in enumerate(numbers):
            mask = flat == number
            found = np.flatnonzero(mask[1:] != mask[:-1]) + 1
            if mask[0] != last[place]:
                found = np.concatenate([[0], found])
            last[place] = bool(mask[-1])
            changes[place].append(found + first * height)
    return [_text(np.diff(np.concatenate([[0], *found, [labels.size]]))) for found in changes]


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
