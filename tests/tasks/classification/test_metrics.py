"""Against scikit-learn's and torchmetrics' definitions, and by hand."""

import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch.nn import functional as F

from glocal.tasks.classification.metrics import AcceptedLabelsMetrics, ClassificationMetrics, calibration

NAMES = list("abcdefgh")


def batch(images=200, classes=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    return logits, torch.randint(classes - 1, (images,), generator=generator)  # the last class does not occur


def filled(metrics, logits, labels, sizes=(150, 0, 50)):
    for part in zip(logits.split(sizes), labels.split(sizes), strict=True):
        metrics.update(*part)
    return metrics


def measured(metrics, logits, labels, sizes=(150, 0, 50)):
    return filled(metrics, logits, labels, sizes).report()


def computed(logits, labels, sizes):
    return filled(ClassificationMetrics(), logits, labels, sizes).compute()


class TestTotals:
    def test_counts_labels_among_the_first_one_and_five(self):
        logits = torch.arange(10.0).repeat(4, 1)  # ranked 9, 8, 7, …
        assert computed(logits, torch.tensor([9, 5, 4, 9]), [4]) == pytest.approx(
            {"top1": 50.0, "top5": 75.0, "loss": F.cross_entropy(logits, torch.tensor([9, 5, 4, 9])).item()}
        )

    @pytest.mark.parametrize("sizes", [[7], [3, 4], [1] * 7, [0, 7], [6, 0, 1]])
    def test_does_not_depend_on_batches(self, sizes):
        torch.manual_seed(0)
        logits, labels = torch.randn(7, 12), torch.randint(12, (7,))
        assert computed(logits, labels, sizes) == pytest.approx(computed(logits, labels, [7]))

    @pytest.mark.parametrize("classes", [1, 2, 5])
    def test_few_classes(self, classes):
        result = computed(torch.randn(6, classes), torch.randint(classes, (6,)), [6])
        assert result["top5"] == 100

    def test_nothing_measured(self):
        assert ClassificationMetrics().compute() == {}

    def test_reset(self):
        result = ClassificationMetrics()
        result.update(torch.randn(4, 3), torch.zeros(4, dtype=torch.long))
        result.reset()
        assert result.compute() == {}


class TestSingleLabel:
    def test_top1_top5_and_loss(self):
        logits, labels = batch()
        result = measured(ClassificationMetrics(NAMES), logits, labels)
        ranked = logits.argsort(1, descending=True)
        assert result["top1"] == pytest.approx(100 * (ranked[:, 0] == labels).double().mean().item())
        assert result["top5"] == pytest.approx(100 * (ranked[:, :5] == labels[:, None]).any(1).double().mean().item())
        assert result["loss"] == pytest.approx(F.cross_entropy(logits, labels).item())
        assert result["images"] == 200

    def test_confusion_is_that_of_scikit_learn(self):
        logits, labels = batch()
        result = measured(ClassificationMetrics(NAMES), logits, labels)
        matrix = torch.zeros(8, 8, dtype=torch.long)
        for label, prediction, images in result["confusion"]:
            matrix[label, prediction] = images
        assert matrix.tolist() == confusion_matrix(labels, logits.argmax(1), labels=range(8)).tolist()
        assert all(images > 0 for _, _, images in result["confusion"])

    def test_accuracy_of_every_class_that_occurs(self):
        logits, labels = batch()
        matrix = confusion_matrix(labels, logits.argmax(1), labels=range(8))
        expected = [
            {
                "name": NAMES[c],
                "images": matrix[c].sum(),
                "accuracy": pytest.approx(100 * matrix[c, c] / matrix[c].sum()),
            }
            for c in range(7)
        ]
        assert measured(ClassificationMetrics(NAMES), logits, labels)["per_class"] == expected


class TestCalibration:
    @pytest.mark.parametrize("seed", range(3))
    def test_ece_is_that_of_torchmetrics(self, seed):
        from torchmetrics.functional.classification import multiclass_calibration_error

        logits, labels = batch(seed=seed)
        confidences, predictions = logits.softmax(1).max(1)
        expected = multiclass_calibration_error(logits.softmax(1), labels, 8, n_bins=15, norm="l1")
        assert calibration(confidences, predictions == labels)[0] == pytest.approx(100 * expected.item(), rel=1e-5)

    def test_by_hand(self):
        confidences = torch.tensor([0.95, 0.97, 0.99, 0.35, 0.34])
        correct = torch.tensor([True, True, False, False, True])
        ece, bins = calibration(confidences, correct)
        # three in the last bin: |2/3 − 0.97|; two in (5/15, 6/15]: |1/2 − 0.345|
        assert ece == pytest.approx(100 * (3 / 5 * (0.97 - 2 / 3) + 2 / 5 * (0.5 - 0.345)), rel=1e-5)
        assert len(bins) == 15
        assert [one["images"] for one in bins] == [0] * 5 + [2] + [0] * 8 + [3]
        assert bins[5]["confidence"] == pytest.approx(0.345)
        assert bins[5]["accuracy"] == 0.5
        assert bins[0] == {"low": 0.0, "high": 1 / 15, "images": 0, "confidence": None, "accuracy": None}

    def test_a_confidence_on_an_edge_belongs_to_the_bin_below(self):
        confidences = torch.linspace(0, 1, 16)[1:]  # in float32, as confidences are
        _, bins = calibration(confidences, torch.ones(15).bool())
        assert [one["images"] for one in bins] == [1] * 15
        _, bins = calibration(torch.nextafter(confidences[:-1], torch.tensor(1.0)), torch.ones(14).bool())
        assert [one["images"] for one in bins] == [0] + [1] * 14
        assert [(one["low"], one["high"]) for one in bins] == [(b / 15, (b + 1) / 15) for b in range(15)]

    def test_full_confidence_belongs_to_the_last_bin(self):
        ece, bins = calibration(torch.ones(4), torch.tensor([True, True, True, False]))
        assert ece == pytest.approx(25)
        assert bins[-1]["images"] == 4


def test_any_accepted_label_is_right():
    logits = torch.tensor([[3.0, 2, 1, 0, -1, -2], [3, 2, 1, 0, -1, -2], [0, -1, -2, -3, -4, 9]])
    accepted = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0]]).bool()
    metrics = AcceptedLabelsMetrics(list("abcdef"))
    metrics.update(logits[:2], accepted[:2])
    metrics.update(logits[2:], accepted[2:])
    result = metrics.report()
    assert result["top1"] == pytest.approx(100 / 3)
    assert result["top5"] == 100  # of the third, the first class is second
    assert result["images"] == 3
