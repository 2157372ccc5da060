"""The losses of the heads on a batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from glocal.data.batch import Batch
from glocal.data.samples import DataSource
from glocal.device import mean_of_processes
from glocal.tasks.segmentation.labels import pixels_of_classes
from glocal.tasks.segmentation.losses import class_weights, find_loss
from glocal.tasks.segmentation.mask2former_loss import Masks, mask2former_loss, masks_of
from glocal.tasks.segmentation.options import SegmentationOptions
from glocal.tasks.task import Objective


class SegmentationObjective(Objective):
    """A loss of the logits, and the same of the auxiliary head's logits times a weight. Targets are (B, H, W)."""

    def __init__(self, options: SegmentationOptions, source: DataSource):
        self.loss = find_loss(options.mask_loss)
        self.aux_weight = options.aux_weight
        self.weights: Tensor | None = None
        if options.class_weights != "none":
            counts = pixels_of_classes(source.splits["train"], len(source.class_names))
            self.weights = class_weights(torch.from_numpy(counts.sum(0)), options.class_weights)

    def to(self, device) -> None:
        self.weights = None if self.weights is None else self.weights.to(device)

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits, auxiliary = model(batch.images, for_loss=True)
        loss = self.loss(logits, batch.targets, self.weights)
        if auxiliary is None:
            return {"loss": loss}
        second = self.aux_weight * self.loss(auxiliary, batch.targets, self.weights)
        return {"loss": loss + second, "decode": loss, "auxiliary": second}


class Mask2FormerObjective(Objective):
    """Mask2Former's loss.

    masks: what is to be found in an image, of its target; by default, a mask for each class of its label map (H, W).
    """

    def __init__(self, masks: Callable[[Any], Masks] = masks_of):
        self.masks = masks

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        predictions, _ = model(batch.images, for_loss=True)
        predictions = [type(one)(*(tensor.float() for tensor in one)) for one in predictions]
        return mask2former_loss(predictions, [self.masks(target) for target in batch.targets], share=mean_of_processes)
