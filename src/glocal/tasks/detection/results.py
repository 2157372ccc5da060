"""From boxes to results."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from glocal.data.geometry import Geometry
from glocal.data.tiles import Tile
from glocal.tasks.detection.drawing import colors_of_classes
from glocal.tasks.detection.result import Detection
from glocal.tasks.task import Trained

COVERED = 0.5  # of the smaller of two boxes of neighbouring tiles, from which on they are of one object


def results(outputs: Sequence[Sequence[Tensor]], geometry: Sequence[Geometry], trained: Trained) -> list[Detection]:
    """The result for each image. outputs: the boxes (N, 4), scores (N,) and labels (N,) of each."""
    return [
        Detection(**fields_of(*image, where.size, trained))
        for image, where in zip(zip(*outputs, strict=True), geometry, strict=True)
    ]


def fields_of(boxes: Tensor, scores: Tensor, labels: Tensor, size: Sequence[int], trained: Trained) -> dict[str, Any]:
    """The fields of a result. size: (height, width) of the image."""
    names, colors = trained.descriptions, colors_of_classes(len(trained.descriptions))
    numbers = labels.tolist()
    return {
        "size": list(size),
        "classes": [names[number] for number in numbers],
        "scores": scores.double().tolist(),
        "boxes": boxes.tolist(),
        "numbers": numbers,
        "colors": [colors[number] for number in numbers],
        "shown": int((scores >= trained.task_args["score_threshold"]).sum()),
    }


def joined(parts: Iterable[tuple[Tile, Detection]], size: tuple[int, int], trained: Trained) -> Detection:
    """The result of a large image from those of its tiles. size: (height, width)."""
    rows = rows_of_tiles(parts)
    kept = kept_of_tiles(*rows)
    boxes, scores, labels, _ = (column[kept] for column in rows)
    return Detection(**fields_of(boxes, scores, labels, size, trained))


def rows_of_tiles(parts: Iterable[tuple[Tile, Detection]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The boxes (N, 4) in the whole image, scores (N,), labels (N,) and places of tiles (N,) of all tiles' objects."""
    boxes, scores, labels, tiles = [torch.zeros(0, 4, dtype=torch.float64)], [], [], []
    for place, (tile, part) in enumerate(parts):
        top, left, *_ = tile.box
        corner = torch.tensor([left, top] * 2, dtype=torch.float64)
        boxes.append(torch.tensor(part.boxes, dtype=torch.float64).reshape(-1, 4) + corner)
        scores += part.scores
        labels += part.numbers
        tiles += [place] * len(part.numbers)
    numbers = (torch.tensor(column, dtype=torch.int64) for column in (labels, tiles))
    return torch.cat(boxes), torch.tensor(scores, dtype=torch.float64), *numbers


def kept_of_tiles(boxes: Tensor, scores: Tensor, labels: Tensor, tiles: Tensor) -> Tensor:
    """The places of the objects of several tiles, each once, by falling score.

    Two tiles show an object where they overlap, one of them perhaps a part of it. Of two boxes of one class in two
    tiles, the one with the lower score is left out if they share more than half of the smaller one; boxes of one tile
    are the model's own and stay.
    """
    order = scores.argsort(descending=True, stable=True)
    left = torch.ones(len(order), dtype=torch.bool)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept = []
    for row, place in enumerate(order.tolist()):
        if not left[row]:
            continue
        kept.append(place)
        later = order[row + 1 :]
        first, last = (
            torch.maximum(boxes[place, :2], boxes[later, :2]),
            torch.minimum(boxes[place, 2:], boxes[later, 2:]),
        )
        shared = (last - first).clamp(min=0).prod(1)
        same = (labels[later] == labels[place]) & (tiles[later] != tiles[place])
        left[row + 1 :] &= ~(same & (shared > COVERED * torch.minimum(areas[later], areas[place])))
    return torch.tensor(kept, dtype=torch.long)
