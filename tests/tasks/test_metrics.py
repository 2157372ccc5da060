"""What several devices kept gives what one device would have kept."""

import pickle

import numpy as np
import pytest
import torch

from glocal.data.segments import runs_of_mask, text_of_runs
from glocal.tasks import registered_tasks
from glocal.tasks.detection.masks import to_bytes

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
        elif task in ("detection", "instances"):
            yield objects(size, masks=task == "instances")
        elif task == "multilabel":
            yield logits, torch.randint(2, (size, 3)).float()
        else:
            yield logits, torch.randint(3, (size,))


def objects(images, masks):
    """What is found in each image, as lists of tensors, and its target: two objects, one of them found; and another."""
    boxes = torch.tensor([[0.0, 0, 8, 8], [2, 4, 12, 16]], dtype=torch.float64)
    outputs, targets = [], []
    for _ in range(images):
        labels, texts = torch.randint(3, (2,)), to_bytes([text_of_box(box) for box in boxes])
        target = {"boxes": boxes, "labels": labels, "crowd": torch.tensor([False, False])}
        target |= {"areas": torch.tensor([64.0, 120.0]), "size": torch.tensor([20, 24])}
        target |= dict(zip(("rles", "lengths"), texts, strict=True))
        scores = torch.rand(2).sort(descending=True).values
        found = [boxes + torch.randint(-1, 2, (1, 1)).clamp(min=0), scores, labels[torch.randperm(2)]]
        outputs.append([*found, *texts] if masks else found)
        targets.append(target)
    return list(map(list, zip(*outputs, strict=True))) or [[]] * (5 if masks else 3), targets


def text_of_box(box):
    left, top, right, bottom = box.int().tolist()
    mask = np.zeros((20, 24), bool)
    mask[top:bottom, left:right] = True
    return text_of_runs(runs_of_mask(mask)).encode()


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
