"""Segments as COCO writes them: run lengths, as numbers or as a text, and polygons."""

from collections.abc import Sequence

import numpy as np

from glocal.errors import InvalidValueError

MOST_BITS = 35  # of a run length, read from a text
LETTERS = 8  # of a run length, at most: 2 ** 35 pixels and a sign
AT_ONCE = 2**24  # pixels that are looked at together
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


def text_of_runs(runs: Sequence[int] | np.ndarray) -> str:
    """The text that COCO writes for run lengths; see `runs_of_text`."""
    left = np.array(runs, np.int64)
    left[3:] -= np.asarray(runs, np.int64)[1:-2]
    letters = np.zeros((len(left), LETTERS), np.uint8)
    going = np.ones(len(left), bool)
    for place in range(LETTERS):
        bits = left & 31
        left >>= 5
        last = np.where(bits & 16, left == -1, left == 0)
        letters[going, place] = (48 + bits + np.where(last, 0, 32))[going]
        going &= ~last
    return letters[letters > 0].tobytes().decode("ascii")


def texts_of_labels(labels: np.ndarray, numbers: Sequence[int]) -> list[str]:
    """COCO's text of the mask of each of some labels in a map (H, W)."""
    return [text_of_runs(runs) for runs in runs_of_labels(labels, numbers)]


def mask_of_text(text: str, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of a text of COCO. size: (height, width). Raises ValueError if it is not of such a mask."""
    return mask_of_runs(runs_of_text(text), size)


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
    return runs_of_labels(np.asarray(mask, bool), [True])[0].tolist()


def runs_of_labels(labels: np.ndarray, numbers: Sequence[int]) -> list[np.ndarray]:
    """The run lengths of the mask of each of some labels in a map (H, W); a large map is read in strips of columns."""
    height, width = labels.shape
    columns = max(1, AT_ONCE // max(1, height))
    changes: list[list[np.ndarray]] = [[] for _ in numbers]  # where a mask begins or ends
    inside = [False] * len(numbers)
    for first in range(0, width, columns):
        flat = labels[:, first : first + columns].ravel(order="F")
        for place, number in enumerate(numbers):
            mask = flat == number
            found = np.flatnonzero(mask[1:] != mask[:-1]) + 1
            if mask[0] != inside[place]:
                found = np.concatenate([[0], found])
            inside[place] = bool(mask[-1])
            changes[place].append(found + first * height)
    return [np.diff(np.concatenate([[0], *found, [labels.size]])) for found in changes]


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


def areas_of_polygons(polygons: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """The pixels of the mask of each polygon (P,) float64, as `mask_of_polygons` has it, all of them at once.

    polygons: each [x1, y1, x2, y2, …], of three corners at least. sizes: (height, width) of the image of each.
    """
    if not len(polygons):
        return np.zeros(0)
    lengths = np.array([len(polygon) // 2 for polygon in polygons])
    ends = lengths.cumsum()
    corners = np.concatenate([np.asarray(polygon, np.float64) for polygon in polygons]).reshape(-1, 2)
    following = np.arange(1, len(corners) + 1)
    following[ends - 1] = ends - lengths
    owners = np.repeat(np.arange(len(lengths)), lengths)
    heights, widths = np.asarray(sizes).reshape(-1, 2).T
    rows = np.abs(np.diff(np.clip(np.stack([corners[:, 1], corners[following, 1]]), 0, heights[owners]), axis=0))[0]
    parts = np.bincount(owners, rows + 1).cumsum() // AT_ONCE  # which polygons to take together
    areas = np.zeros(len(lengths))
    for part in np.unique(parts):
        chosen = slice(*(np.searchsorted(parts, part, side) for side in ("left", "right")))
        of_part = slice(ends[chosen][0] - lengths[chosen][0], ends[chosen][-1])
        owner = owners[of_part]
        edges, rows, columns = _crossings(corners[of_part], corners[following[of_part]], heights[owner], widths[owner])
        # In every row of a polygon, what is behind an odd number of crossings is inside.
        order = np.lexsort((columns, rows, owner[edges]))
        columns = columns[order]
        areas += np.bincount(owner[edges[order]][::2], columns[1::2] - columns[::2], len(lengths))
    return areas


def _crossings(
    corners: np.ndarray, following: np.ndarray, height: np.ndarray | int, width: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where edges cross the middles of rows: the place of the edge, the row, and the first column behind the crossing.

    corners, following: (E, 2), the ends of each edge. height, width: of the image, or of the image of each edge.
    """
    (x, y), (next_x, next_y) = corners.T, following.T
    first, last = (  # the first row that an edge meets, and the first behind it
        np.ceil(np.clip(side, 0, height) - 0.5).astype(np.int64)
        for side in (np.minimum(y, next_y), np.maximum(y, next_y))
    )
    counts = last - first
    edges = np.repeat(np.arange(len(corners)), counts)
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
    slope = (next_x - x)[edges] / (next_y - y)[edges]
    columns = np.ceil(x[edges] + (rows + 0.5 - y[edges]) * slope - 0.5)
    return edges, rows, np.clip(columns, 0, np.broadcast_to(width, len(corners))[edges]).astype(np.int64)


def _filled(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels inside a polygon (N, 2): in each row, those with an odd number of edges to their left."""
    _, rows, columns = _crossings(corners, np.roll(corners, -1, axis=0), *size)
    mask = np.zeros(size, bool)
    if len(rows):
        top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max()
        crossings = np.zeros((bottom - top, right - left + 1), np.uint8)
        np.add.at(crossings, (rows - top, columns - left), 1)
        mask[top:bottom, left:right] = crossings.cumsum(1, dtype=np.uint8)[:, :-1] & 1  # it may pass 255
    return mask
