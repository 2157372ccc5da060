"""Losses equal programs by their definitions, pixel by pixel, and have the gradients of finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import jaccard_score

from glocal.data.masks import IGNORE
from glocal.errors import InvalidValueError
from glocal.tasks.segmentation.losses import LOSSES, class_weights, find_loss, lovasz_loss

WEIGHT = [0.5, 2.0, 1.0, 0.25, 4.0]


def problem(height=6, width=5, classes=5, batch=2, seed=0):
    """Logits (float64) of the labels' size, and labels: the last class does not occur, some pixels are ignored."""
    torch.manual_seed(seed)
    labels = torch.randint(0, classes - 1, (batch, height, width))
    labels[torch.rand(labels.shape) < 0.2] = IGNORE
    return 2 * torch.randn(batch, classes, height, width, dtype=torch.float64), labels


def pixels(logits, labels):
    """(probabilities, label) of every pixel that is not ignored, as Python's numbers."""
    rows = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1]).tolist()
    for row, label in zip(rows, labels.flatten().tolist(), strict=True):
        if label != IGNORE:
            total = sum(math.exp(x) for x in row)
            yield [math.exp(x) / total for x in row], label


def naive_ce(logits, labels, weight):
    return sum(-weight[label] * math.log(p[label]) for p, label in pixels(logits, labels)) / labels.numel()


def naive_focal(logits, labels, weight):
    losses = [-weight[label] * (1 - p[label]) ** 2 * math.log(p[label]) for p, label in pixels(logits, labels)]
    return sum(losses) / len(losses)


def of_classes(logits, labels, weight, loss):
    """The weighted mean of loss(probabilities of the class, whether a pixel is of it) over the classes that occur."""
    found = list(pixels(logits, labels))
    present = sorted({label for _, label in found})
    losses = [weight[c] * loss([p[c] for p, _ in found], [label == c for _, label in found]) for c in present]
    return sum(losses) / sum(weight[c] for c in present)


def naive_dice(logits, labels, weight):
    def loss(p, g):
        return 1 - (2 * sum(a * b for a, b in zip(p, g, strict=True)) + 1) / (sum(p) + sum(g) + 1)

    return of_classes(logits, labels, weight, loss)


def naive_lovasz(logits, labels, weight):
    """Equation 9 of the paper: errors sorted downward, times the steps of the set function 1 − IoU."""

    def set_loss(wrong, g):
        truth = {i for i, one in enumerate(g) if one}
        return len(wrong) / len(truth | wrong)

    def loss(p, g):
        errors = [1 - a if b else a for a, b in zip(p, g, strict=True)]
        order = sorted(range(len(errors)), key=lambda i: -errors[i])
        steps = [set_loss(set(order[: i + 1]), g) - set_loss(set(order[:i]), g) for i in range(len(order))]
        return sum(errors[i] * step for i, step in zip(order, steps, strict=True))

    return of_classes(logits, labels, weight, loss)


NAIVE = {"ce": naive_ce, "dice": naive_dice, "focal": naive_focal, "lovasz": naive_lovasz}


def test_every_loss_has_its_definition_here():
    assert NAIVE.keys() == LOSSES.keys()


@pytest.mark.parametrize("name", LOSSES)
class TestEach:
    @pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
    @pytest.mark.parametrize("size", [(6, 5), (1, 1), (1, 9)], ids=str)
    def test_definition(self, name, weight, size):
        logits, labels = problem(*size, seed=2)
        assert (labels != IGNORE).any()
        found = LOSSES[name](logits, labels, None if weight is None else torch.tensor(weight, dtype=torch.float64))
        assert found.item() == pytest.approx(NAIVE[name](logits, labels, weight or [1.0] * 5), rel=1e-9)

    @pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
    def test_gradient(self, name, weight):
        logits, labels = problem(4, 3)
        weight = None if weight is None else torch.tensor(weight, dtype=torch.float64)
        torch.autograd.gradcheck(lambda x: LOSSES[name](x, labels, weight), logits.requires_grad_())

    def test_logits_are_resized_to_the_labels(self, name):
        _, labels = problem(9, 14)
        logits = torch.randn(2, 5, 3, 4, dtype=torch.float64)
        full = F.interpolate(logits, size=(9, 14), mode="bilinear")
        assert LOSSES[name](logits, labels).item() == pytest.approx(LOSSES[name](full, labels).item())

    def test_ignored_pixels_do_not_matter(self, name):
        logits, labels = problem()
        other = torch.where((labels == IGNORE)[:, None], 100 * torch.randn_like(logits), logits).requires_grad_()
        loss = LOSSES[name](other, labels)
        loss.backward()
        assert loss.item() == pytest.approx(LOSSES[name](logits, labels).item())
        assert not other.grad.transpose(0, 1)[:, labels == IGNORE].any()

    @pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
    def test_all_ignored(self, name, weight):
        logits = torch.randn(2, 5, 4, 4, requires_grad=True)
        labels = torch.full((2, 16, 16), IGNORE)
        loss = LOSSES[name](logits, labels, None if weight is None else torch.tensor(weight))
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_weights_that_are_all_0(self, name):
        logits, labels = problem()
        assert LOSSES[name](logits, labels, torch.zeros(5, dtype=torch.float64)).item() == 0

    def test_float32_under_autocast(self, name):
        logits, labels = problem(32, 40)
        logits = logits.bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            found = LOSSES[name](logits, labels, torch.tensor(WEIGHT))
        expected = LOSSES[name](logits.double(), labels, torch.tensor(WEIGHT, dtype=torch.float64))
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("scale", [30.0, 1000.0])
    def test_confident_logits(self, name, scale):
        labels = torch.randint(0, 3, (1, 8, 8))
        right = scale * F.one_hot(labels, 3).permute(0, 3, 1, 2).float()
        wrong = right.roll(1, 1).requires_grad_()
        assert LOSSES[name](right, labels).item() == pytest.approx(0, abs=1e-5)
        loss = LOSSES[name](wrong, labels)
        loss.backward()
        assert loss.item() > 0.9
        assert wrong.grad.isfinite().all()

    def test_it_falls_when_trained(self, name):
        labels = torch.randint(0, 3, (1, 8, 8), generator=torch.Generator().manual_seed(0))
        logits = torch.zeros(1, 3, 8, 8, requires_grad=True)
        optimizer = torch.optim.Adam([logits], 0.5)
        for _ in range(60):
            optimizer.zero_grad()
            LOSSES[name](logits, labels).backward()
            optimizer.step()
        assert (logits.argmax(1) == labels).all()


class TestLovasz:
    def test_of_decided_probabilities_it_is_1_minus_iou(self):
        torch.manual_seed(0)
        labels, prediction = torch.randint(0, 3, (2, 2, 9, 7))
        logits = 1000.0 * F.one_hot(prediction, 3).permute(0, 3, 1, 2)
        expected = 1 - jaccard_score(labels.flatten(), prediction.flatten(), average="macro")
        assert lovasz_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)

    def test_many_pixels_in_float32(self):
        """Differences of an IoU near 1 have no digits left in float32 here."""
        torch.manual_seed(0)
        labels = torch.randint(0, 2, (1, 1000, 1000))
        logits = torch.randn(1, 2, 1000, 1000)
        found, expected = logits.clone().requires_grad_(), logits.double().requires_grad_()
        losses = [lovasz_loss(x, labels) for x in (found, expected)]
        for loss in losses:
            loss.backward()
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
        torch.testing.assert_close(found.grad.double(), expected.grad, rtol=1e-2, atol=1e-10)


class TestNames:
    def test_a_sum(self):
        logits, labels = problem()
        expected = LOSSES["ce"](logits, labels) + LOSSES["dice"](logits, labels) + LOSSES["lovasz"](logits, labels)
        torch.testing.assert_close(find_loss("ce+dice + lovasz")(logits, labels), expected)

    def test_weights_reach_all_parts(self):
        logits, labels = problem()
        weight = torch.tensor(WEIGHT, dtype=torch.float64)
        expected = LOSSES["focal"](logits, labels, weight) + LOSSES["dice"](logits, labels, weight)
        torch.testing.assert_close(find_loss("focal+dice")(logits, labels, weight), expected)

    def test_one(self):
        assert find_loss("dice") is LOSSES["dice"]

    @pytest.mark.parametrize("name", ["", "dise", "ce+", "+", "ce+dise", "ce dice"])
    def test_what_is_no_loss(self, name):
        with pytest.raises(InvalidValueError, match=r"is no loss: choose from ce, dice, focal, lovasz"):
            find_loss(name)

    def test_a_part_twice(self):
        with pytest.raises(InvalidValueError, match="names a part twice"):
            find_loss("ce+dice+ce")


class TestClassWeights:
    def test_balanced(self):
        weights = class_weights(torch.tensor([900, 90, 10]), "balanced")
        assert weights.mean().item() == pytest.approx(1)
        assert (weights / weights[2]).tolist() == pytest.approx([10 / 900, 10 / 90, 1])
        assert weights.dtype == torch.float32

    def test_sqrt(self):
        weights = class_weights(torch.tensor([900, 100]), "sqrt")
        assert weights.tolist() == pytest.approx([0.5, 1.5])

    def test_a_class_that_does_not_occur_has_1(self):
        assert class_weights(torch.tensor([10, 0, 30]), "balanced").tolist() == pytest.approx([1.5, 1, 0.5])
        assert class_weights(torch.zeros(3, dtype=torch.int64), "balanced").tolist() == [1, 1, 1]

    def test_large_counts(self):
        weights = class_weights(torch.tensor([10**13, 1]), "balanced")
        assert weights.isfinite().all()
        assert weights[1].item() == pytest.approx(2)

    def test_unknown(self):
        with pytest.raises(InvalidValueError, match="'inverse' says nothing about class weights: choose from balanced"):
            class_weights(torch.tensor([1]), "inverse")
