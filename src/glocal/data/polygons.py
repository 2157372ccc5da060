"""Polygons of label maps, along the edges of pixels, so that a polygon holds exactly the pixels of its part.

docs/decisions/segmentation-polygons.md says why they are traced here.
"""

from collections.abc import Iterator

import numpy as np

STRIP = 2**22  # pixels that are looked at together

Ring = list[list[int]]  # corners [x, y], the first once more at the end
Polygon = list[Ring]  # the outer ring, then those of the holes


def polygons_of(labels: np.ndarray) -> Iterator[tuple[int, list[Polygon]]]:
    """Each value of a label map, in ascending order, with the polygons of its parts.

    labels: (H, W), whole numbers from 0 on. A part is what hangs together across the pixels' edges; parts that touch in
    a corner only are separate. Pixel (row, column) is the square from (column, row) to (column + 1, row + 1). Outer
    rings have a positive area by the shoelace formula, holes a negative one. No ring crosses or touches itself.

    Memory grows with the borders, not with the pixels.
    """
    parts = _Parts(labels)
    corners = [_corners(strip, y) for strip, y in parts.strips()]
    by_part = list(_polygons(*(np.concatenate(column) for column in zip(*corners, strict=True))))
    order = np.argsort(parts.values, kind="stable")
    first = 0
    for value, count in zip(*np.unique(parts.values, return_counts=True), strict=True):
        yield int(value), [by_part[part] for part in order[first : first + count].tolist()]
        first += count


class _Parts:
    """The parts of a label map, numbered by their first pixels from 0 on. values: of each part, (parts,).

    Runs of equal pixels in a row are joined with the runs below that they touch, by a union-find.
    """

    def __init__(self, labels: np.ndarray):
        self.labels = labels
        parent: list[int] = []
        values, self.first_runs = [], []
        for first, rows in self._rows():
            begins, runs = _runs(rows)
            above = int(begins[0].sum()) if first else 0  # runs of the row that the strip before has, too
            self.first_runs.append(len(parent) - above)
            runs += len(parent) - above
            values.append(rows[begins][above:])
            parent += range(len(parent), len(parent) + len(values[-1]))
            # Two runs touch first where one of them begins.
            touching = (begins[1:] | begins[:-1]) & (rows[1:] == rows[:-1])
            _join(parent, runs[:-1][touching], runs[1:][touching])
        roots = np.array([_root(parent, run) for run in range(len(parent))], np.int64)
        kept, numbers = np.unique(roots, return_inverse=True)
        self.values = np.concatenate(values)[kept]
        self.of_runs = numbers.astype(np.int32)

    def strips(self) -> Iterator[tuple[np.ndarray, int]]:
        """The part of each pixel, in strips, with -1 around the map; and the number of the border between rows, from 0,
        that each begins with. Neighbouring strips have a row in common, so that each border is in one strip.
        """
        for (first, rows), first_run in zip(self._rows(), self.first_runs, strict=True):
            parts = self.of_runs[_runs(rows)[1] + first_run]
            above, below = first == 0, max(0, first - 1) + len(rows) == len(self.labels)
            yield np.pad(parts, ((int(above), int(below)), (1, 1)), constant_values=-1), first

    def _rows(self) -> Iterator[tuple[int, np.ndarray]]:
        """Each strip: its first row's number, and its labels, after those of the row before it if there is one."""
        height, width = self.labels.shape
        step = max(1, STRIP // width)
        for first in range(0, height, step):
            yield first, self.labels[max(0, first - 1) : first + step]


def _runs(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of equal pixels begin, (H, W) bool, and the run of each pixel, (H, W) int64 from 0."""
    begins = np.ones(rows.shape, bool)
    begins[:, 1:] = rows[:, 1:] != rows[:, :-1]
    return begins, (np.cumsum(begins.ravel()) - 1).reshape(rows.shape)


def _join(parent: list[int], ones: np.ndarray, others: np.ndarray) -> None:
    """Let the runs of each pair have the same root, the first of them all."""
    for one, other in zip(ones.tolist(), others.tolist(), strict=True):
        one, other = _root(parent, one), _root(parent, other)
        parent[max(one, other)] = min(one, other)


def _root(parent: list[int], run: int) -> int:
    while parent[run] != run:
        parent[run] = run = parent[parent[run]]
    return run


def _polygons(part: np.ndarray, y: np.ndarray, x: np.ndarray, right: np.ndarray, down: np.ndarray) -> Iterator[Polygon]:
    """The polygon of each part: its corners are joined along rows and columns in turn until they close to rings.

    Arguments: see `_corners`.
    """
    # Along a row or column, each second stretch between two corners of a part is an edge of it.
    beside, above = _partners(part, y, x, right), _partners(part, x, y, down)
    order = np.lexsort((x, y, part))
    left = bytearray(b"\1") * len(part)
    points = np.stack([x, y], 1).tolist()
    part, beside, above = (values.tolist() for values in (part, beside, above))
    polygon: Polygon = []
    current = 0
    for start in order.tolist():  # a part's first corner is on its outer ring, which goes to the right from there
        if not left[start]:
            continue
        if part[start] != current:
            yield polygon
            current, polygon = part[start], []
        ring: Ring = []
        corner = start
        while True:
            other = beside[corner]
            ring += points[corner], points[other]
            left[corner] = left[other] = False
            corner = above[other]
            if corner == start:
                break
        ring.append(ring[0])
        polygon.append(ring if not polygon else ring[::-1])
    yield polygon


def _corners(around: np.ndarray, top: int) -> tuple[np.ndarray, ...]:
    """Corners of parts in a strip: part, y, x, and whether their edges go to the right and down, each (corners,).

    around, top: of `_Parts.strips`.

    A pixel makes a corner where both pixels beside it, at one of its four corners, are of other parts, and another
    where all three around the fourth are of its part. Where only the pixel diagonally opposite is of its part too, two
    corners meet. They are joined across the diagonal: the part then has a hole there that touches its border, and not a
    ring that touches itself.
    """
    places = [(down, right) for down in (0, 1) for right in (0, 1)]
    pixels = {
        (down, right): around[down : len(around) - 1 + down, right : around.shape[1] - 1 + right]
        for down, right in places
    }
    first = pixels[0, 0]
    y, x = np.nonzero((first != pixels[0, 1]) | (first != pixels[1, 0]) | (first != pixels[1, 1]))
    pixels = {place: found[y, x] for place, found in pixels.items()}
    y += top
    corners = []

    def add(where: np.ndarray, part: np.ndarray, right: int, down: int) -> None:
        ones = np.ones(np.count_nonzero(where), np.int8)
        corners.append((part[where], y[where], x[where], ones * right, ones * down))

    for (down, right), own in pixels.items():
        beside, above = pixels[down, 1 - right], pixels[1 - down, right]
        across = pixels[1 - down, 1 - right]
        inside = own >= 0
        convex = inside & (own != beside) & (own != above)
        # The edges of a convex corner lie on its pixel's side. Where two meet, each pixel keeps its vertical edge and
        # takes the horizontal one of the other.
        add(convex & (own != across), own, right, down)
        add(convex & (own == across), own, 1 - right, down)
        # `own` is in the middle of three pixels of a part: the edges are those of the fourth.
        add(inside & (own == beside) & (own == above) & (own != across), own, 1 - right, 1 - down)
    return tuple(np.concatenate(column) for column in zip(*corners, strict=True))


def _partners(part: np.ndarray, line: np.ndarray, along: np.ndarray, onward: np.ndarray) -> np.ndarray:
    """The other end of each corner's edge on its line (a row or a column), (corners,).

    along: the place on the line. onward: whether the edge goes on from there; where two corners meet, one does.
    """
    order = np.lexsort((onward, along, line, part))
    partners = np.empty(len(order), np.int64)
    partners[order[::2]], partners[order[1::2]] = order[1::2], order[::2]
    return partners
