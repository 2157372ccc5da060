"""Weights of samples with which rare classes are seen more often."""

import numpy as np
import pytest
import torch

from glocal.data import sampling
from glocal.data.objects import Objects
from glocal.data.sampling import TrainingSampler, aspect_groups, rare_class_weights


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


def test_repeat_factors_are_those_of_lvis_for_the_objects_of_images():
    """max over the classes of an image of max(1, √(t / f)), by loops."""
    random = np.random.RandomState(0)
    labels = [random.choice(4, random.randint(0, 4), p=[0.7, 0.2, 0.1, 0]) for _ in range(50)]
    annotations = [
        Objects(np.tile([0.0, 0, 1, 1], (len(of), 1)), of.astype(np.int64), np.ones(len(of), bool), np.ones(len(of)))
        for of in labels
    ]
    shares = [sum(one in of for of in labels) / 50 for one in range(4)]
    expected = [max([max(1, (0.5 / shares[one]) ** 0.5) for one in set(of)], default=1) for of in labels]
    assert sampling.repeat_factors(annotations, 4, 0.5).tolist() == pytest.approx(expected)
    assert sampling.repeat_factors([], 3).tolist() == []


def test_wide_images_are_a_group():
    assert aspect_groups([(2, 3), (3, 2), (2, 2), None]).tolist() == [1, 0, 0, 0]


class TestGroups:
    """Batches of one group."""

    GROUPS = torch.tensor([int(place % 3 == 0) for place in range(103)])

    def batches(self, **options):
        drawn = [index for index, _ in TrainingSampler(103, 8, seed=1, groups=self.GROUPS, **options)]
        return torch.tensor(drawn).view(-1, 8)

    @pytest.mark.parametrize("options", [{}, {"steps": 11}, {"repeats": 2}], ids=str)
    def test_a_batch_is_of_one_group_as_far_as_it_goes(self, options):
        mixed = [len(self.GROUPS[batch].unique()) > 1 for batch in self.batches(**options)]
        assert not any(mixed[:-2])
        assert len(set(self.GROUPS[self.batches(**options)[:-2, 0]].tolist())) == 2

    @pytest.mark.parametrize("options", [{}, {"steps": 11}], ids=str)
    def test_an_epoch_has_the_same_samples_as_without_groups(self, options):
        plain = [index for index, _ in TrainingSampler(103, 8, seed=1, **options)]
        assert sorted(plain) == sorted(self.batches(**options).flatten().tolist())
        assert plain != self.batches(**options).flatten().tolist()

    def test_the_groups_do_not_follow_each_other(self):
        first = self.GROUPS[self.batches()[:-2, 0]].tolist()
        assert first not in (sorted(first), sorted(first, reverse=True))

    def test_devices_share_the_batches(self):
        devices = [
            [index for index, _ in TrainingSampler(103, 8, seed=1, rank=rank, world=2, groups=self.GROUPS)]
            for rank in (0, 1)
        ]
        assert torch.tensor(devices).T.flatten().tolist() == self.batches().flatten().tolist()
