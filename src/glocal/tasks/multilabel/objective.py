"""The loss of multi-label classification."""

from timm.loss import create_classification_loss
from torch import Tensor, nn

from glocal.data.batch import Batch
from glocal.tasks.labels.options import LabelOptions
from glocal.tasks.task import Objective


class MultilabelObjective(Objective):
    """Binary cross-entropy or asymmetric loss, for each class separately."""

    def __init__(self, options: LabelOptions):
        self.criterion = create_classification_loss(options.loss, multi_label=True, smoothing=options.label_smoothing)

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.criterion(model(batch.images).float(), batch.targets)}
