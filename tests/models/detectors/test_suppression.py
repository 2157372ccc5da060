"""What stays of many boxes."""

import pytest
import torch
from torchvision.ops import nms

from glocal.models.detectors.suppression import best_pairs, suppress
from golden.detectors import load

UNITS = load("units_det")


def test_golden():
    boxes, scores, labels = (torch.from_numpy(UNITS[f"nms_{name}"]) for name in ("boxes", "scores", "labels"))
    assert suppress(boxes, scores, labels, 0.5).tolist() == UNITS["nms_keep"].tolist()
    assert suppress(boxes, scores, labels, 0.5, count=3).tolist() == UNITS["nms_keep"][:3].tolist()


@pytest.mark.parametrize("boxes", [50, 1500])  # torchvision computes few and many in different ways
def test_groups_do_not_suppress_each_other(boxes):
    generator = torch.Generator().manual_seed(boxes)
    corners = torch.rand(boxes, 2, generator=generator, dtype=torch.float64) * 300
    sides = torch.rand(boxes, 2, generator=generator, dtype=torch.float64) * 200
    places = torch.cat([corners, corners + sides], 1)
    scores = torch.rand(boxes, generator=generator, dtype=torch.float64)
    groups = torch.randint(0, 4, (boxes,), generator=generator)
    kept = suppress(places, scores, groups, 0.5)
    expected = set()
    for group in range(4):
        (members,) = (groups == group).nonzero(as_tuple=True)
        expected |= set(members[nms(places[members], scores[members], 0.5)].tolist())
    assert set(kept.tolist()) == expected
    assert (scores[kept].diff() <= 0).all()


def test_no_boxes():
    kept = suppress(torch.empty(0, 4), torch.empty(0), torch.empty(0, dtype=torch.int64), 0.5, 100)
    assert kept.shape == (0,)


SCORES = torch.tensor([[0.05, 0.9, 0.3], [0.3, 0.06, 0.01]])


@pytest.mark.parametrize("count", [None, 3, 9])
def test_pairs_above_the_threshold_the_best_first(count):
    pairs = best_pairs(SCORES, 0.05, count)
    expected = [(0.9, 0, 1), (0.3, 0, 2), (0.3, 1, 0), (0.06, 1, 1)][:count]
    assert pairs.scores.tolist() == pytest.approx([score for score, _, _ in expected])
    assert list(zip(pairs.boxes.tolist(), pairs.classes.tolist(), strict=True)) == [pair[1:] for pair in expected]


def test_nan_is_no_reason_to_find_nothing():
    pairs = best_pairs(torch.tensor([[0.9, torch.nan], [0.01, 0.02]]), 0.05)
    assert pairs.scores.isnan().tolist() == [True, False]
    assert list(zip(pairs.boxes.tolist(), pairs.classes.tolist(), strict=True)) == [(0, 1), (0, 0)]


def test_no_pairs():
    assert [len(x) for x in best_pairs(SCORES, 0.95, 10)] == [0, 0, 0]
