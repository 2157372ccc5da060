"""Segments as COCO writes them: run lengths, as numbers or as a text, and polygons."""

from collections.abc import Sequence

import numpy as np

from glocal.errors import InvalidValueError

MOST_BITS = 35  # of a run length, read from a text
FARTHEST = 1e7  # pixels of a corner from the image


def runs_of_text(text: str) -> list[int]:
    """The run lengths in a text of COCO.

    A letter holds 5 bits of a number; the numbers from the fourth on are differences to the one before the last. Raises
    ValueError for a text that is none.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > MOST_BITS:
            raise InvalidValueError("the run lengths of a segment are no text of COCO")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise InvalidValueError("the run lengths of a segment end within a number")
    return runs


def text_of_runs(runs: Sequence[int]) -> str:
    """The text that COCO writes for run lengths; see `runs_of_text`."""
    letters = []
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            letters.append(chr(48 + bits + 32 * more))
    return "".join(letters)


def mask_of_runs(runs: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of run lengths: columns one after the other, the first run outside. size: (height, width).

    Raises ValueError if the runs do not fill the mask.
    """
    height, width = size
    if any(not 0 <= run <= height * width for run in runs) or sum(runs) != height * width:
        raise InvalidValueError(f"the run lengths of a segment do not fill {width}×{height} pixels")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def runs_of_mask(mask: np.ndarray) -> list[int]:
    """The run lengths of a mask (H, W) bool; see `mask_of_runs`."""
    flat = np.asarray(mask, bool).T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    borders = np.concatenate([[0], changes, [len(flat)]])
    runs = np.diff(borders).tolist()
    return [0, *runs] if len(flat) and flat[0] else runs


def mask_of_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """The pixels (H, W) bool whose middles lie in one of the polygons, each [x1, y1, x2, y2, …]. size: (height, width).

    Where a polygon crosses itself, what an even number of edges separate from outside is outside. The first pixel's
    middle is at (0.5, 0.5). Raises ValueError for less than three corners, and for corners that are nowhere.
    """
    mask = np.zeros(size, bool)
    for polygon in polygons:
        corners = np.asarray(polygon, np.float64)
        if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not (abs(corners) < FARTHEST).all():
            raise InvalidValueError(
                "a polygon of a segment must have x and y of three corners at least, near the image"
            )
        mask |= _filled(corners.reshape(-1, 2), size)
    return mask


def _filled(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels inside a polygon (N, 2): in each row, those with an odd number of edges to their left."""
    height, width = size
    x, y = corners.T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    first = np.ceil(np.clip(np.minimum(y, next_y), 0, height) - 0.5).astype(
        np.int64
    )  # the first row that an edge meets
    last = np.ceil(np.clip(np.maximum(y, next_y), 0, height) - 0.5).astype(np.int64)  # behind the last one
    counts = last - first
    edges = np.repeat(np.arange(len(corners)), counts)
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
    slope = (next_x - x)[edges] / (next_y - y)[edges]
    columns = np.ceil(x[edges] + (rows + 0.5 - y[edges]) * slope - 0.5)
    columns = np.clip(columns, 0, width).astype(np.int64)
    mask = np.zeros(size, bool)
    if len(rows):
        top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max()
        crossings = np.zeros((bottom - top, right - left + 1), np.uint8)
        np.add.at(crossings, (rows - top, columns - left), 1)
        mask[top:bottom, left:right] = crossings.cumsum(1, dtype=np.uint8)[:, :-1] & 1  # it may pass 255
    return mask
