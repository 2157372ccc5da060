"""A task under test: what the commands make of it and of its data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from glocal.data.batch import Batch, Collate, Example, Item
from glocal.data.geometry import Geometry, geometry_of
from glocal.data.image import UnreadableImageError
from glocal.data.open import open_for_training
from glocal.data.preprocessing import Preprocessing
from glocal.data.samples import DataSource
from glocal.deploy.runtimes import as_list
from glocal.tasks.loading import create_model
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
        outputs = self.task.num_outputs(self.class_names)
        return self.task.model(create_model(self.model_name, num_classes=outputs), self.class_names)

    @cached_property
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().eval()

    @cached_property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.of_model(self.model, self.img_size)

    @cached_property
    def trained(self) -> Trained:
        names = self.class_names
        return Trained(self.model, self.model_name, self.task, names, names, self.preprocessing.to_dict())

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

    def results(self, top_k: int = 3) -> list[Result]:
        batch = self.batch()
        return self.task.results(as_list(self.outputs(batch.images)), self.geometry, self.class_names, top_k)

    @property
    def geometry(self) -> list[Geometry]:
        """As `glocal predict` and the service give it, whatever the task's transform says."""
        return [geometry_of(self.preprocessing, image.size[::-1]) for image, _ in self.images()]
