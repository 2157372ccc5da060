"""Polygons of label maps, along the edges of pixels, so that a polygon holds exactly the pixels of its part.

docs/decisions/segmentation-polygons.md says why they are traced here.
"""

from collections.abc import Iterator

import numpy as np

Ring = list[list[int]]  # corners [x, y], the first once more at the end
Polygon = list[Ring]  # the outer ring, then those of the holes


def polygons_of(labels: np.ndarray) -> Iterator[tuple[int, list[Polygon]]]:
    """Each value of a label map, in ascending order, with the polygons of its parts.

    labels: (H, W), whole numbers from 0 on. A part is what hangs together across the pixels' edges; parts that touch in
    a corner only are separate. Pixel (row, column) is the square from (column, row) to (column + 1, row + 1). Outer
    rings have a positive area by the shoelace formula, holes a negative one. No ring crosses or touches itself.
    """
    parts, values = parts_of(labels)
    order = np.argsort(values, kind="stable")
    by_part = dict(_by_part(parts))
    first = 0
    for value, count in zip(*np.unique(values, return_counts=True), strict=True):
        yield int(value), [by_part[part] for part in order[first : first + count].tolist()]
        first += count


def parts_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts of a label map: their numbers (H, W) int32, by their first pixels from 0 on, and their values (parts,).

    Runs of equal pixels in a row are joined with the runs below that they touch, by a union-find.
    """
    height, width = labels.shape
    begins = np.ones((height, width), bool)
    begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = (np.cumsum(begins.ravel(), dtype=np.int32) - 1).reshape(height, width)
    values = labels[begins]
    # Two runs touch first where one of them begins.
    touching = (begins[1:] | begins[:-1]) & (labels[1:] == labels[:-1])
    pairs = np.stack([runs[:-1][touching], runs[1:][touching]], 1)
    parent = list(range(len(values)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    for one, other in pairs.tolist():
        one, other = root(one), root(other)
        if one < other:
            parent[other] = one
        else:
            parent[one] = other
    roots = np.array([root(run) for run in range(len(parent))], np.int64)
    first, numbers = np.unique(roots, return_inverse=True)
    return numbers.astype(np.int32)[runs], values[first]


def _by_part(parts: np.ndarray) -> Iterator[tuple[int, Polygon]]:
    """Each part with its polygon: corners are joined along rows and columns in turn until they close to rings."""
    part, y, x, right, down = _corners(parts)
    # Along a row or column, each second stretch between two corners of a part is an edge of it.
    beside, above = _partners(part, y, x, right), _partners(part, x, y, down)
    order = np.lexsort((x, y, part))
    left = bytearray(b"\1") * len(part)
    points = np.stack([x, y], 1).tolist()
    part, beside, above = (values.tolist() for values in (part, beside, above))
    polygon: Polygon = []
    current = None
    for start in order.tolist():  # a part's first corner is on its outer ring, which goes to the right from there
        if not left[start]:
            continue
        if part[start] != current:
            if current is not None:
                yield current, polygon
            current, polygon = part[start], []
        ring: Ring = []
        corner = start
        while True:
            other = beside[corner]
            ring += points[corner], points[other]
            left[corner] = left[other] = 0
            corner = above[other]
            if corner == start:
                break
        ring.append(ring[0])
        polygon.append(ring if not polygon else ring[::-1])
    if current is not None:
        yield current, polygon


def _corners(parts: np.ndarray) -> tuple[np.ndarray, ...]:
    """The corners of all parts: part, y, x, and whether their edges go to the right and down, each (corners,).

    A pixel makes a corner where both pixels beside it, at one of its four corners, are of other parts, and another
    where all three around the fourth are of its part. Where only the pixel diagonally opposite is of its part too, two
    corners meet. They are joined across the diagonal: the part then has a hole there that touches its border, and not a
    ring that touches itself.
    """
    around = np.pad(parts, 1, constant_values=-1)
    places = [(down, right) for down in (0, 1) for right in (0, 1)]
    pixels = {
        (down, right): around[down : len(around) - 1 + down, right : around.shape[1] - 1 + right]
        for down, right in places
    }
    first = pixels[0, 0]
    y, x = np.nonzero((first != pixels[0, 1]) | (first != pixels[1, 0]) | (first != pixels[1, 1]))
    pixels = {place: found[y, x] for place, found in pixels.items()}
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
