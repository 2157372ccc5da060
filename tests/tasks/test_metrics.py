"""What several devices kept gives what one device would have kept."""

import pickle

import pytest
import torch

from glocal.tasks import registered_tasks

NAMES = ["a", "b", "c"]


def batches(task):
    torch.manual_seed(0)
    for size in (4, 0, 3, 5):
        logits = torch.randn(size, 3)
        if task == "segmentation":
            yield [list(torch.randint(3, (size, 5, 7)))], list(torch.randint(-1, 3, (size, 5, 7)))
        elif task == "panoptic":
            ids = [torch.randint(-1, 2, (size, 5, 7)) for _ in range(2)]  # of two segments
            classes = [list(torch.randint(3, (size, 2))) for _ in range(2)]
            targets = [{"ids": one, "classes": labels} for one, labels in zip(ids[1], classes[1], strict=True)]
            yield [list(ids[0]), classes[0], list(torch.rand(size, 2))], targets
        elif task == "multilabel":
            yield logits, torch.randint(2, (size, 3)).float()
        else:
            yield logits, torch.randint(3, (size,))


@pytest.mark.parametrize("task", [task.name for task in registered_tasks()])
class TestDevices:
    def metrics(self, task):
        (found,) = (one for one in registered_tasks() if one.name == task)
        return found.metrics(NAMES)

    def test_together_they_are_one(self, task):
        whole, parts = self.metrics(task), [self.metrics(task) for _ in range(2)]
        for place, batch in enumerate(batches(task)):
            whole.update(*batch)
            parts[place // 2].update(*batch)
        states = [pickle.loads(pickle.dumps(part.state())) for part in parts]
        for part in parts:
            part.merge(states)
            assert part.compute() == whole.compute()
            assert part.report() == whole.report()
            assert part.images == 12

    def test_a_device_without_images(self, task):
        whole, empty = self.metrics(task), self.metrics(task)
        for batch in batches(task):
            whole.update(*batch)
        values = whole.compute()
        empty.merge([empty.state(), whole.state()])
        assert empty.compute() == values

    def test_nothing_on_any_device(self, task):
        metrics = self.metrics(task)
        metrics.merge([self.metrics(task).state(), metrics.state()])
        assert metrics.compute() == {}
        assert metrics.images == 0

    def test_every_value_is_one_of_its_measures(self, task):
        (found,) = (one for one in registered_tasks() if one.name == task)
        metrics = self.metrics(task)
        for batch in batches(task):
            metrics.update(*batch)
        keys = {measure.key for measure in found.measures}
        assert set(metrics.compute()) <= keys
        assert found.headline.key in metrics.compute()
