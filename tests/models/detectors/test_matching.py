"""Assigning and sampling equal loops over boxes and objects."""

import pytest
import torch

from glocal.models.detectors.boxes import pairwise_iou
from glocal.models.detectors.matching import BACKGROUND, IGNORED, assign, random_choice, sample
from golden.detectors import choose, load

UNITS = load("units_det")
RULES = {
    "retina": dict(positive=0.5, negative=0.4, claim=0),
    "rpn": dict(positive=0.7, negative=0.3, claim=0.3),
    "roi": dict(positive=0.5, negative=0.5, claim=0.5),
    "cascade3": dict(positive=0.7, negative=0.7),
}


def by_loop(overlaps, positive, negative, claim=None):
    found = []
    for box in overlaps.T.tolist():
        best = max(box)
        found.append(box.index(best) if best >= positive else BACKGROUND if best < negative else IGNORED)
    for index, of_object in enumerate(overlaps.tolist() if claim is not None else ()):
        if max(of_object) >= claim:
            found = [index if value == max(of_object) else old for value, old in zip(of_object, found, strict=True)]
    return found


@pytest.mark.parametrize("rule", RULES)
def test_golden(rule):
    boxes, objects = (torch.from_numpy(UNITS[f"assign_{name}"]) for name in ("boxes", "gt"))
    assigned = assign(pairwise_iou(objects, boxes), **RULES[rule])
    assert assigned.tolist() == UNITS[f"assign_{rule}"].tolist()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("objects", [1, 7])
def test_equals_a_loop(rule, objects):
    generator = torch.Generator().manual_seed(objects)
    overlaps = torch.randint(0, 11, (objects, 60), generator=generator).double() / 10  # with many ties
    assert assign(overlaps, **RULES[rule]).tolist() == by_loop(overlaps, **RULES[rule])


@pytest.mark.parametrize("rule", RULES)
def test_without_objects_all_is_background(rule):
    assert assign(torch.empty(0, 3), **RULES[rule]).tolist() == [BACKGROUND] * 3


def test_without_boxes_nothing_is_assigned():
    assert assign(torch.empty(3, 0), **RULES["rpn"]).shape == (0,)


ASSIGNED = torch.tensor([0, BACKGROUND, IGNORED, 2, BACKGROUND, 1, BACKGROUND, IGNORED, 0])


@pytest.mark.parametrize(
    ("count", "most_positive", "positives", "negatives"),
    [
        (8, 4, [0, 3, 5, 8], [1, 4, 6]),  # all there are
        (5, 4, [0, 3, 5, 8], [1]),
        (5, 2, [0, 5], [1, 4, 6]),  # at even distances, by `choose`
        (3, 2, [0, 5], [1]),
    ],
)
def test_background_fills_up(count, most_positive, positives, negatives):
    drawn = sample(ASSIGNED, count, most_positive, choose)
    assert [x.tolist() for x in drawn] == [positives, negatives]


def test_indices_are_sorted_whatever_is_chosen():
    drawn = sample(ASSIGNED, 4, 2, lambda indices, count: indices.flip(0)[:count])
    assert [x.tolist() for x in drawn] == [[5, 8], [4, 6]]


def test_a_choice_is_asked_for_only_where_there_are_more():
    def refuse(indices, count):
        raise AssertionError

    sample(ASSIGNED, 7, 4, refuse)


def test_random_choice_draws_each_index_equally_often():
    torch.manual_seed(0)
    drawn = torch.stack([random_choice(torch.tensor([3, 5, 7, 9]), 2) for _ in range(400)])
    assert (drawn[:, 0] != drawn[:, 1]).all()
    counts = torch.stack([(drawn == index).sum() for index in (3, 5, 7, 9)])
    assert counts.sum() == 800
    assert ((counts - 200).abs() < 50).all()
