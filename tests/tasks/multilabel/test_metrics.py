"""Against scikit-learn's definition, and by hand."""

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from glocal.tasks.multilabel.metrics import MultilabelMetrics, average_precision

NAMES = list("abcdefgh")


def batch(images=200, classes=8):
    return 2 * torch.randn(images, classes, generator=torch.Generator().manual_seed(0))


def measured(metrics, logits, targets):
    for part in zip(logits.split((150, 0, 50)), targets.split((150, 0, 50)), strict=True):
        metrics.update(*part)
    return metrics.report()


class TestValues:
    @pytest.mark.parametrize("levels", [2, 5, 1000])  # few levels: many equal scores
    def test_average_precision_is_sklearns(self, levels):
        torch.manual_seed(levels)
        scores, labels = torch.randint(levels, (60,)).float(), torch.randint(2, (60,))
        expected = average_precision_score(labels.numpy(), scores.numpy())
        assert average_precision(scores, labels) == pytest.approx(expected)

    def test_metrics(self):
        torch.manual_seed(0)
        logits, labels = torch.randn(30, 4), torch.randint(2, (30, 4)).float()
        labels[:, 3] = 0  # a class that does not occur is no part of the mean
        metrics = MultilabelMetrics()
        metrics.update(logits[:10], labels[:10])
        metrics.update(logits[10:], labels[10:])
        expected = average_precision_score(labels[:, :3].numpy(), logits[:, :3].numpy(), average="macro")
        assert metrics.compute()["map"] == pytest.approx(100 * expected)
        assert metrics.compute()["loss"] == pytest.approx(F.binary_cross_entropy_with_logits(logits, labels).item())

    def test_nothing_measured(self):
        metrics = MultilabelMetrics()
        assert metrics.compute() == {}


class TestReport:
    def test_map_leaves_out_classes_without_positives(self):
        from torchmetrics.functional.classification import multilabel_average_precision

        logits = batch()
        targets = torch.randint(2, (200, 8), generator=torch.Generator().manual_seed(2)).float()
        targets[:, 3] = 0
        result = measured(MultilabelMetrics(NAMES), logits, targets)
        rest = [0, 1, 2, 4, 5, 6, 7]
        expected = multilabel_average_precision(logits[:, rest], targets[:, rest].long(), 7, average=None)
        assert [one["name"] for one in result["per_class"]] == [NAMES[c] for c in rest]
        assert [one["average_precision"] for one in result["per_class"]] == pytest.approx((100 * expected).tolist())
        assert result["map"] == pytest.approx(100 * expected.mean().item())
        assert [one["images"] for one in result["per_class"]] == targets[:, rest].sum(0).tolist()
        assert result["loss"] == pytest.approx(F.binary_cross_entropy_with_logits(logits, targets).item())

    def test_no_labels_at_all(self):
        with pytest.raises(ValueError, match="none of the images has a label"):
            measured(MultilabelMetrics(NAMES), batch(), torch.zeros(200, 8))
