import pytest
import torch
from torch import nn
from torch.nn import functional as F

from glocal.tasks.classification import ClassificationTotals, evaluate, training_loss


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


def test_label_smoothing_spreads_the_target():
    logits, labels = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0])
    target = torch.tensor([[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]])
    expected = -(target * logits.log_softmax(-1)).sum()
    assert training_loss(logits, labels, 0.1).item() == pytest.approx(expected.item())


def test_evaluate_uses_eval_mode_and_counts_unread():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.99), nn.Linear(3, 3, bias=False)).train()
    with torch.no_grad():
        model[2].weight.copy_(torch.eye(3))
    images = torch.eye(3).view(3, 3, 1, 1)
    batches = [(images, torch.arange(3), [7]), (images[:0], torch.arange(0), [8, 9])]
    metrics, unread = evaluate(model, batches)
    assert metrics["top1"] == 100
    assert metrics["images"] == 3
    assert metrics["images_per_second"] > 0
    assert unread == [7, 8, 9]
