"""The losses of a detector on a batch."""

import torch
from torch import Tensor, nn

from glocal.data.batch import Batch
from glocal.tasks.task import Objective


class DetectionObjective(Objective):
    """The sum of all losses of the head; the log has each of them. Targets are as of `TrainingTransform`."""

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        sizes = torch.stack([target["size"] for target in batch.targets])
        parts = {name: part.sum() for name, part in model(batch.images, sizes, batch.targets).items()}
        return {"loss": sum(part for name, part in parts.items() if "loss" in name), **parts}
