"""Objects that several tiles show, each once: the same as a loop over all pairs, with few comparisons."""

import pytest
import torch

from glocal.tasks.detection import seams
from glocal.tasks.detection.seams import kept_of_tiles, with_middle_inside


def one_by_one(boxes, scores, labels, tiles):
    """The rule as it is said: the surest first, and each hides those of its class in other tiles."""
    kept = []
    rows = list(zip(boxes.tolist(), labels.tolist(), tiles.tolist(), strict=True))
    for place in sorted(range(len(rows)), key=lambda i: -float(scores[i])):
        (x1, y1, x2, y2), label, tile = rows[place]
        for better in kept:
            (a1, b1, a2, b2), same, other = rows[better]
            shared = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            smaller = min((x2 - x1) * (y2 - y1), (a2 - a1) * (b2 - b1))
            if (label, other != tile) == (same, True) and shared > 0.5 * smaller:
                break
        else:
            kept.append(place)
    return kept


def drawn(count, side, largest, classes=1, seed=0, whole=False):
    """Boxes, with a third of them again in the next tile, moved a little; scores of which many are equal."""
    draw = torch.Generator().manual_seed(seed)
    corners = side * torch.rand(count, 2, generator=draw, dtype=torch.float64)
    boxes = torch.cat([corners, corners + largest * torch.rand(count, 2, generator=draw, dtype=torch.float64)], 1)
    again = boxes[: count // 3] + torch.tensor([1.0, 2, 3, 2])
    labels = torch.randint(0, classes, (count,), generator=draw)
    tiles = torch.randint(0, 4, (count,), generator=draw)
    boxes = torch.cat([boxes, again])
    if whole:  # ties of areas, and boxes without an extent
        boxes = boxes.round()
    scores = torch.randint(1, 50, (len(boxes),), generator=draw).double() / 50
    return boxes, scores, torch.cat([labels, labels[: count // 3]]), torch.cat([tiles, tiles[: count // 3] + 1])


@pytest.mark.parametrize("at_once", [seams.AT_ONCE, 7])
@pytest.mark.parametrize(
    "case",
    [
        drawn(0, 100, 50),
        drawn(1, 100, 50),
        drawn(150, 300, 60, classes=3),
        drawn(150, 40, 200),  # most are larger than what is between them
        drawn(150, 30, 6, whole=True),
        drawn(150, 1, 0.5),  # less than a pixel
    ],
    ids=["none", "one", "classes", "large", "whole numbers", "small"],
)
def test_the_same_as_a_loop_over_all_pairs(case, at_once, monkeypatch):
    monkeypatch.setattr(seams, "AT_ONCE", at_once)
    assert kept_of_tiles(*case).tolist() == one_by_one(*case)


def test_a_hidden_box_hides_no_other():
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], dtype=torch.float64)
    kept = kept_of_tiles(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3).long(), torch.arange(3))
    assert kept.tolist() == [0, 2]


@pytest.mark.parametrize("count", [2_000, 100_000])
def test_few_pairs_are_compared(count):
    """Boxes of up to 40 pixels, 100 to a tile: each is compared with itself and those that lie about its middle."""
    boxes, _, labels, _ = drawn(count, 100 * count**0.5, 40)
    assert sum(len(one) for one, _ in with_middle_inside(boxes, labels)) < 4 * count
