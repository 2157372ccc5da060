"""Weights of classes in the losses of the heads: the class that a box should have counts, and nothing else does."""

import pytest
import torch

from glocal.models.detectors import DETECTORS

DIMS = (8, 16, 24, 32)
SIZES = torch.tensor([(64, 96), (50, 61)])
CLASSES, ONES = 4, torch.ones(4)
HEADS = {
    "retinanet": {"width": 8, "depth": 1},
    "faster_rcnn": {"width": 8, "hidden": 8},
    "cascade_mask_rcnn": {"width": 8, "hidden": 8},
    "dino": {"width": 64, "depth": 2, "num_queries": 20},
}


def target(labels, height, width):
    boxes = torch.tensor([[4.0, 5, 40, 45], [10, 2, 30, 50]])[: len(labels)]
    masks = torch.ones(len(labels), height, width, dtype=torch.bool)
    return {"boxes": boxes, "labels": torch.tensor(labels), "masks": masks}


def losses(name, weights):
    """The losses of a head on two images with objects of the classes 1 and 2."""
    torch.manual_seed(0)
    head = DETECTORS[name].build(DIMS, CLASSES, **HEADS[name]).train()
    sides = [[-(-side // (4 * 2**i)) for side in (64, 96)] for i in range(4)]
    maps = [torch.randn(2, dim, *size) for dim, size in zip(DIMS, sides, strict=True)]
    targets = [target([1, 2], 64, 96), target([1], 50, 61)]
    found = head(maps, SIZES, targets) if weights is None else head(maps, SIZES, targets, weights)
    return {key: value.sum().double() for key, value in found.items() if "acc" not in key}


@pytest.mark.parametrize("name", HEADS)
def test_the_class_that_a_box_should_have_counts(name):
    published = losses(name, None)
    of_classes = {key for key in published if key.endswith("loss_cls") and "rpn" not in key}
    assert len(of_classes) == {"retinanet": 1, "faster_rcnn": 1, "cascade_mask_rcnn": 3, "dino": 5}[name]
    assert losses(name, ONES) == published  # bit for bit
    assert losses(name, torch.tensor([7.0, 1, 1, 0.1])) == published  # no object has these classes
    without, twice, others = (losses(name, torch.tensor([1.0, w, v, 1])) for w, v in ((0, 1), (2, 1), (1, 3)))
    for key, value in published.items():
        if key in of_classes:
            assert without[key] < value < twice[key]
            assert (twice[key] - value).item() == pytest.approx((value - without[key]).item(), rel=1e-3)
            assert others[key] > value
        else:
            assert without[key] == twice[key] == value
