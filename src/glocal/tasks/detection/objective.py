"""The losses of a detector on a batch."""

import torch
from torch import Tensor, nn

from glocal.data.batch import Batch
from glocal.data.samples import DataSource
from glocal.tasks.detection.sampling import objects_of_classes
from glocal.tasks.segmentation.losses import class_weights
from glocal.tasks.task import Objective


class DetectionObjective(Objective):
    """The sum of all losses of the head; the log has each of them. Targets are as of `TrainingTransform`.

    how: of --class-weights, none, balanced or sqrt; the others count the objects of a data set's training part.
    """

    def __init__(self, how: str, source: DataSource):
        self.weights: Tensor | None = None
        if how != "none":
            counts = objects_of_classes(source.splits["train"], len(source.class_names))
            self.weights = class_weights(counts, how)

    def to(self, device) -> None:
        self.weights = None if self.weights is None else self.weights.to(device)

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        sizes = torch.stack([target["size"] for target in batch.targets])
        losses = model(batch.images, sizes, batch.targets, self.weights)
        parts = {name: part.sum() for name, part in losses.items()}
        return {"loss": sum(part for name, part in parts.items() if "loss" in name), **parts}
