"""From boxes and masks to results."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from glocal.data.geometry import Geometry
from glocal.data.segments import runs_of_text, text_of_runs
from glocal.data.tiles import Tile
from glocal.tasks.detection.masks import from_bytes
from glocal.tasks.detection.results import fields_of, rows_of_tiles
from glocal.tasks.detection.seams import kept_of_tiles
from glocal.tasks.instances.result import Instances
from glocal.tasks.task import Trained


def results(outputs: Sequence[Sequence[Tensor]], geometry: Sequence[Geometry], trained: Trained) -> list[Instances]:
    """The result for each image. outputs: as of `glocal.tasks.instances.inference.predict`."""
    found = []
    for (boxes, scores, labels, joined, lengths), where in zip(zip(*outputs, strict=True), geometry, strict=True):
        texts = [text.decode() for text in from_bytes(joined, lengths)]
        found.append(Instances(**fields_of(boxes, scores, labels, where.size, trained), rles=texts))
    return found


def joined(parts: Iterable[tuple[Tile, Instances]], size: tuple[int, int], trained: Trained) -> Instances:
    """The result of a large image from those of its tiles. size: (height, width)."""
    parts = list(parts)
    rows = rows_of_tiles(parts)
    texts = [(text, tile.box, part.size) for tile, part in parts for text in part.rles]
    kept = kept_of_tiles(*rows)
    boxes, scores, labels, _ = (column[kept] for column in rows)
    rles = [moved(*texts[place], size) for place in kept.tolist()]
    return Instances(**fields_of(boxes, scores, labels, size, trained), rles=rles)


def moved(text: str, box: Sequence[int], part: Sequence[int], size: tuple[int, int]) -> str:
    """The run lengths of a tile's mask in the whole image.

    box: (top, left, bottom, right) of the tile. part, size: (height, width) of the tile and of the image.
    """
    top, left, *_ = box
    (height, _), (whole_height, whole_width) = part, size
    ends = np.cumsum(runs_of_text(text))  # where runs end, column by column
    begins, ends = ends[:-1:2], ends[1::2]  # of the runs inside
    pieces = []
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):  # a run may reach over several columns
        while begin < end:
            column, row = divmod(begin, height)
            stop = min(end, (column + 1) * height)
            start = (left + column) * whole_height + top + row
            pieces.append((start, start + stop - begin))
            begin = stop
    runs, place = [], 0
    for start, stop in pieces:
        if runs and start == place:
            runs[-1] += stop - start
        else:
            runs += [start - place, stop - start]
        place = stop
    rest = whole_height * whole_width - place
    return text_of_runs([*runs, rest] if rest else runs)
