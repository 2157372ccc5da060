"""A task under test: what the commands make of it and of its data."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from glocal.data.batch import Batch, Collate, Example, Item
from glocal.data.geometry import Geometry
from glocal.data.image import UnreadableImageError
from glocal.data.open import open_for_training
from glocal.data.prepare import Prepare
from glocal.data.preprocessing import Preprocessing
from glocal.data.samples import DataSource
from glocal.device import to_cpu
from glocal.tasks.task import Result, Task, Trained
from glocal.training.config import LoopOptions, train_config

IMAGES = 8  # of a split, or a few more


@dataclass(frozen=True)
class TaskCase:
    """A task under test, its data, and the backbone that it is checked with."""

    task: Task
    data: str
    model_name: str
    img_size: int

    @cached_property
    def config(self) -> LoopOptions:
        return train_config(self.task)()

    @cached_property
    def source(self) -> DataSource:
        return open_for_training(self.data, formats=self.task.formats)

    @property
    def class_names(self) -> list[str]:
        return self.source.class_names

    def build(self) -> nn.Module:
        """The model as `glocal train` makes it."""
        backbone = self.task.backbone(self.model_name, self.class_names)
        return self.task.model(backbone, self.class_names, **self.task_args)

    @cached_property
    def task_args(self) -> dict:
        return self.task.model_args(self.config, self.source)

    @cached_property
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().eval()

    @cached_property
    def preprocessing(self) -> Preprocessing:
        return self.task.preprocessing(self.model, self.config, self.img_size)

    @cached_property
    def trained(self) -> Trained:
        names = self.class_names
        return Trained(
            self.model, self.model_name, self.task, names, names, self.preprocessing.to_dict(), None, self.task_args
        )

    def images(self, split: str = "val") -> Iterator[tuple[Image.Image, Any]]:
        """A few images, from the whole of a split, with their annotations."""
        samples = self.source.splits[split]
        for index in range(0, len(samples), max(1, len(samples) // IMAGES)):
            try:
                yield samples.load(index), samples.labels[index]
            except UnreadableImageError:
                continue

    def examples(self, split: str = "val") -> list[Example]:
        augmentation = None
        if split == "train":
            augmentation = self.task.augmentation(self.config, self.source, self.preprocessing)
        transform = self.task.transform(self.preprocessing, self.class_names, augmentation)
        return [transform(image, annotation) for image, annotation in self.images(split)]

    def batch(self, split: str = "val", examples: Sequence[Example] | None = None) -> Batch:
        examples = self.examples(split) if examples is None else examples
        return Collate(targets=self.task.collate)([Item(example) for example in examples])

    def outputs(self, images: Tensor) -> Tensor | Sequence[Tensor]:
        with torch.no_grad():
            return self.task.outputs(self.model.eval())(images)

    def predicted(self, batch: Batch, change: Callable[[Any], Any] = lambda outputs: outputs) -> list:
        """What the task's `predict` gives for a batch. change: of the model's outputs."""
        compute = self.task.outputs(self.model.eval())
        with torch.no_grad():
            return to_cpu(self.task.predict(lambda *inputs: change(compute(*inputs)), batch, self.task_args))

    @property
    def changes_outputs(self) -> bool:
        """Whether the task's `predict` does more than to call the model."""
        return type(self.task).predict is not Task.predict

    @cached_property
    def prepared(self) -> Batch:
        """The images as `glocal predict` and the service prepare them, whatever the task's transform says."""
        prepare = Prepare(self.preprocessing)
        return Batch.of([prepare(image) for image, _ in self.images()])

    def results(self, top_k: int = 3) -> list[Result]:
        return self.task.results(self.predicted(self.prepared), self.geometry, self.trained, top_k)

    @property
    def geometry(self) -> list[Geometry]:
        return self.prepared.geometry
