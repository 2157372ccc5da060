"""Weights of samples with which rare classes are seen more often."""

import pytest
import torch

from glocal.data.sampling import TrainingSampler, rare_class_weights


def repeat_factors(presence, threshold):
    """As the paper says it, sample by sample."""
    share = {c: sum(row[c] for row in presence) / len(presence) for c in range(len(presence[0]))}
    return [
        max([1.0] + [max(1.0, (threshold / share[c]) ** 0.5) for c, there in enumerate(row) if there])
        for row in presence
    ]


@pytest.mark.parametrize("threshold", [0.001, 0.1, 0.5, 1.0])
def test_repeat_factors(threshold):
    torch.manual_seed(0)
    presence = torch.rand(300, 6) < torch.tensor([1.0, 0.6, 0.3, 0.05, 0.01, 0.0])
    weights = rare_class_weights(presence, threshold)
    assert weights.tolist() == pytest.approx(repeat_factors(presence.tolist(), threshold))
    assert weights.isfinite().all()
    assert weights.min() >= 1


def test_a_sample_without_classes_counts_as_one_of_common_classes():
    presence = torch.tensor([[True, False]] * 3 + [[True, True], [False, False]])
    common = (5 / 4) ** 0.5
    assert rare_class_weights(presence).tolist() == pytest.approx([common] * 3 + [5**0.5, 1])


def test_rare_classes_are_drawn_more_often():
    presence = torch.zeros(1000, 2, dtype=torch.bool)
    presence[:, 0] = True
    presence[:10, 1] = True
    drawn = [index for index, _ in TrainingSampler(1000, 10, seed=0, weights=rare_class_weights(presence))]
    assert sum(index < 10 for index in drawn) == pytest.approx(1000 * 100 / (990 + 100), abs=30)
