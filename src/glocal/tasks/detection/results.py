"""From boxes to results."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from glocal.data.geometry import Geometry
from glocal.data.tiles import Tile
from glocal.tasks.detection.drawing import colors_of_classes
from glocal.tasks.detection.result import Detection
from glocal.tasks.detection.seams import kept_of_tiles
from glocal.tasks.task import Trained


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
