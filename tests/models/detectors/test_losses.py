"""Losses equal their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from glocal.models.detectors.losses import (
    EPS,
    binary_cross_entropy,
    cross_entropy,
    focal_loss,
    l1_loss,
    smooth_l1_loss,
)

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.0, 1.0], [0.2, 4.0, -0.7]], dtype=torch.float64)
LABELS = torch.tensor([2, 3, 0])  # the second is background
CODES, TARGETS = torch.tensor([[0.3, -2.0]]), torch.tensor([[0.1, 1.0]])


@pytest.mark.parametrize("count", [7, torch.tensor(7.0, dtype=torch.float64)])
def test_focal_loss(count):
    total = 0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        for k, x in enumerate(row):
            p = 1 / (1 + math.exp(-x))
            total += -0.25 * (1 - p) ** 2 * math.log(p) if k == label else -0.75 * p**2 * math.log(1 - p)
    assert focal_loss(LOGITS, LABELS, count).item() == pytest.approx(total / (7 + EPS), rel=1e-12)


WEIGHTS = [2.0, 0.5, 3.0]  # of the classes; background counts 1


def test_focal_loss_with_weights():
    rows = [focal_loss(LOGITS[i : i + 1], LABELS[i : i + 1], 7).item() for i in range(3)]
    found = focal_loss(LOGITS, LABELS, 7, torch.tensor(WEIGHTS))
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(3 * rows[0] + rows[1] + 2 * rows[2], rel=1e-12)


def test_cross_entropy_with_weights():
    labels = torch.tensor([0, 1, 2])  # of two classes; 2 is background
    expected = -F.log_softmax(LOGITS, -1)[torch.arange(3), labels] * torch.tensor([2, 0.5, 1])
    found = cross_entropy(LOGITS, labels, 5, torch.tensor(WEIGHTS[:2]))
    assert found.item() == pytest.approx(expected.sum().item() / 5, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("loss", "classes"), [(focal_loss, 9), (cross_entropy, 8)])
def test_weights_of_1_are_the_published_loss_bit_for_bit(loss, classes, dtype):
    torch.manual_seed(0)
    logits, labels = torch.randn(5000, 9, dtype=dtype), torch.randint(0, classes + 1, (5000,))
    weights = torch.ones(classes)
    assert torch.equal(loss(logits, labels, 123, weights), loss(logits, labels, 123))


def test_focal_loss_of_sure_logits_is_finite():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([1]), 1)
    loss.backward()
    assert loss.item() == pytest.approx(0.25 * 200 + 0.75 * 200)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "total"),
    [
        (l1_loss(CODES, TARGETS, 4), 0.2 + 3.0),
        (smooth_l1_loss(CODES, TARGETS, 4, beta=1.0), 0.2**2 / 2 + 3 - 0.5),
        (smooth_l1_loss(CODES, TARGETS, 4, beta=1 / 9), 0.2 - 1 / 18 + 3 - 1 / 18),
        (binary_cross_entropy(CODES, torch.tensor([[1, 0]]), 4), math.log1p(math.exp(-0.3)) + math.log1p(math.exp(-2))),
    ],
)
def test_sums_are_divided_by_the_count(loss, total):
    assert loss.item() == pytest.approx(total / 4, rel=1e-6)


def test_cross_entropy():
    labels = torch.tensor([0, 1, 2])
    expected = -F.log_softmax(LOGITS, -1)[torch.arange(3), labels].sum() / 5
    assert cross_entropy(LOGITS, labels, 5).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("count", [0, torch.tensor(0.0)])
def test_nothing_to_average_is_0(count):
    empty = torch.empty(0, 4, requires_grad=True)
    loss = l1_loss(empty, torch.empty(0, 4), count)
    loss.backward()
    assert loss.item() == 0
    assert focal_loss(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), count).item() == 0
