import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from glocal.tasks.classification import ClassificationTotals, MultiLabelTotals, average_precision


def totals(logits, labels, sizes):
    result = ClassificationTotals()
    for part, part_labels in zip(logits.split(sizes), labels.split(sizes), strict=True):
        result.update(part, part_labels)
    return result.compute()


class TestTotals:
    def test_counts_labels_among_the_first_one_and_five(self):
        logits = torch.arange(10.0).repeat(4, 1)  # ranked 9, 8, 7, …
        assert totals(logits, torch.tensor([9, 5, 4, 9]), [4]) == pytest.approx(
            {"top1": 50.0, "top5": 75.0, "loss": F.cross_entropy(logits, torch.tensor([9, 5, 4, 9])).item()}
        )

    @pytest.mark.parametrize("sizes", [[7], [3, 4], [1] * 7, [0, 7], [6, 0, 1]])
    def test_does_not_depend_on_batches(self, sizes):
        torch.manual_seed(0)
        logits, labels = torch.randn(7, 12), torch.randint(12, (7,))
        assert totals(logits, labels, sizes) == pytest.approx(totals(logits, labels, [7]))

    @pytest.mark.parametrize("classes", [1, 2, 5])
    def test_few_classes(self, classes):
        result = totals(torch.randn(6, classes), torch.randint(classes, (6,)), [6])
        assert result["top5"] == 100

    def test_nothing_measured(self):
        assert ClassificationTotals().compute() == {}

    def test_reset(self):
        result = ClassificationTotals()
        result.update(torch.randn(4, 3), torch.zeros(4, dtype=torch.long))
        result.reset()
        assert result.compute() == {}


class TestMultiLabel:
    @pytest.mark.parametrize("levels", [2, 5, 1000])  # few levels: many equal scores
    def test_average_precision_is_sklearns(self, levels):
        torch.manual_seed(levels)
        scores, labels = torch.randint(levels, (60,)).float(), torch.randint(2, (60,))
        expected = average_precision_score(labels.numpy(), scores.numpy())
        assert average_precision(scores, labels) == pytest.approx(expected)

    def test_totals(self):
        torch.manual_seed(0)
        logits, labels = torch.randn(30, 4), torch.randint(2, (30, 4)).float()
        labels[:, 3] = 0  # a class that does not occur is no part of the mean
        totals = MultiLabelTotals()
        totals.update(logits[:10], labels[:10])
        totals.update(logits[10:], labels[10:])
        expected = average_precision_score(labels[:, :3].numpy(), logits[:, :3].numpy(), average="macro")
        assert totals.compute()["map"] == pytest.approx(100 * expected)
        assert totals.compute()["loss"] == pytest.approx(F.binary_cross_entropy_with_logits(logits, labels).item())

    def test_nothing_measured(self):
        totals = MultiLabelTotals()
        assert totals.compute() == {}
