"""grouped_nms equals a loop over boxes, in both forms, and in graphs for any number of boxes."""

import pytest
import torch

from glocal.ops import grouped_nms
from glocal.ops.grouped_nms import graph

FORMS = pytest.mark.parametrize("nms", [grouped_nms, graph.grouped_nms], ids=["op", "graph"])


def boxes_of(count, groups, seed=0):
    draw = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=draw, dtype=torch.float64) * 300
    sides = torch.rand(count, 2, generator=draw, dtype=torch.float64) * 150
    scores = torch.rand(count, generator=draw, dtype=torch.float64)
    return torch.cat((corners, corners + sides), 1), scores, torch.randint(0, groups, (count,), generator=draw)


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other)]
    return both / (sum(areas) - both)


def by_boxes(boxes, scores, groups, threshold):
    boxes, groups, kept = boxes.tolist(), groups.tolist(), []
    for place in scores.argsort(descending=True).tolist():
        same = [boxes[other] for other in kept if groups[other] == groups[place]]
        if all(overlap(boxes[place], other) <= threshold for other in same):
            kept.append(place)
    return kept


@FORMS
@pytest.mark.parametrize(("count", "groups"), [(1, 1), (60, 1), (60, 5), (200, 90)])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_equals_a_loop_over_boxes(nms, count, groups, threshold):
    given = boxes_of(count, groups)
    assert nms(*given, threshold).tolist() == by_boxes(*given, threshold)


@FORMS
def test_no_boxes(nms):
    assert nms(*boxes_of(0, 1), 0.5).shape == (0,)


@FORMS
def test_boxes_without_extent_stay(nms):
    boxes = torch.tensor([[5.0, 5, 5, 9], [5, 5, 5, 9], [0, 0, 0, 0]])
    kept = nms(boxes, torch.tensor([0.1, 0.3, 0.2]), torch.zeros(3, dtype=torch.int64), 0.5)
    assert kept.tolist() == [1, 2, 0]


def test_a_graph_for_any_number_of_boxes():
    class Kept(torch.nn.Module):
        def forward(self, boxes, scores, groups):
            return boxes[grouped_nms(boxes, scores, groups, 0.5)]

    count = torch.export.Dim("count", min=2, max=500)
    program = torch.export.export(Kept(), boxes_of(60, 5), dynamic_shapes=({0: count},) * 3)
    for count in (2, 300):
        boxes, scores, groups = boxes_of(count, 20, seed=count)
        kept = program.module()(boxes, scores, groups)
        assert torch.equal(kept, boxes[by_boxes(boxes, scores, groups, 0.5)])
