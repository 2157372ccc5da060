"""Mask2Former's loss where there is nothing to match; tests/tasks/segmentation/test_golden.py has its values."""

import math

import pytest
import torch

from glocal.data.masks import IGNORE
from glocal.models.heads.mask2former import QueryPredictions
from glocal.tasks.segmentation.mask2former_loss import mask2former_loss, masks_of


def predictions(images=2, value=None):
    """Of 2 layers, 10 queries, 3 classes and masks of 6 × 7 pixels; random numbers, or all of them `value`."""
    torch.manual_seed(0)
    made = [(torch.randn(images, 10, 4), torch.randn(images, 10, 6, 7)) for _ in range(2)]
    if value is not None:
        made = [tuple(torch.full_like(tensor, value) for tensor in layer) for layer in made]
    return [QueryPredictions(*(tensor.requires_grad_() for tensor in layer)) for layer in made]


def targets(images=2, labels=()):
    """Label maps that are all ignored, but for a block of each of the labels in the last image."""
    maps = torch.full((images, 24, 28), IGNORE)
    for place, label in enumerate(labels):
        maps[-1, 5 * place : 5 * place + 5] = label
    return [masks_of(one) for one in maps]


def draw(shape):
    """The same numbers for the same shape."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(math.prod(shape)))


def test_without_objects_the_queries_learn_to_be_nothing():
    found = predictions()
    losses = mask2former_loss(found, targets(), draw)
    assert losses["loss_mask"] == losses["loss_dice"] == losses["d0.loss_mask"] == 0
    expected = torch.nn.functional.cross_entropy(found[-1].class_logits.flatten(0, 1), torch.full((20,), 3))
    assert losses["loss_cls"].item() == pytest.approx(2 * expected.item(), rel=1e-5)
    losses["loss"].backward()
    assert all(torch.equal(one.mask_logits.grad, torch.zeros(2, 10, 6, 7)) for one in found)


def test_an_image_without_objects_does_not_change_the_masks_of_others():
    both = predictions()
    alone = [QueryPredictions(*(tensor[1:] for tensor in layer)) for layer in both]
    losses = mask2former_loss(both, targets(labels=[0, 2]), draw)
    of_one = mask2former_loss(alone, targets(1, labels=[0, 2]), draw)
    for name in ("loss_mask", "loss_dice", "d0.loss_mask", "d0.loss_dice"):
        assert losses[name].item() == pytest.approx(of_one[name].item(), rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_head_has_a_loss_that_is_no_number(value):
    loss = mask2former_loss(predictions(value=value), targets(labels=[0, 2]), draw)["loss"]
    assert not loss.isfinite()  # by which the training is stopped, with what to do
