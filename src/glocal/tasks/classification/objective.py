"""The loss of classification, also with mixed images and a teacher."""

import torch
from timm.data import Mixup
from timm.loss import create_classification_loss
from torch import Tensor, nn

from glocal.data.batch import Batch
from glocal.data.names import class_name
from glocal.data.preprocessing import Preprocessing
from glocal.data.samples import DataSource
from glocal.errors import InvalidValueError
from glocal.tasks.classification.distillation import Teacher
from glocal.tasks.classification.options import NAME, ClassificationOptions
from glocal.tasks.loading import check_input_size, load_trained
from glocal.tasks.task import Objective


class ClassificationObjective(Objective):
    """Cross-entropy, binary cross-entropy or asymmetric loss; images may be mixed, and a teacher may add its part.

    classes: number of classes.
    """

    def __init__(self, options: ClassificationOptions, classes: int, teacher: Teacher | None = None):
        self.teacher = teacher  # not a module: no checkpoint of the run holds its weights
        self.mixup = None
        if options.mixup or options.cutmix:
            self.mixup = Mixup(
                mixup_alpha=options.mixup,
                cutmix_alpha=options.cutmix,
                prob=options.mixup_prob,
                switch_prob=options.mixup_switch_prob,
                label_smoothing=options.label_smoothing,
                num_classes=classes,
            )
        self.criterion = create_classification_loss(
            options.loss,
            multi_label=False,
            smoothing=options.label_smoothing,
            soft_targets=self.mixup is not None,
        )

    def to(self, device: torch.device) -> None:
        if self.teacher is not None:
            self.teacher.to(device)

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images, targets = batch.images, batch.targets
        if self.mixup is not None:
            images, targets = self.mix(images, targets)
        logits = model(images)
        loss = self.criterion(logits.float(), targets)  # on a CPU, autocast leaves the logits in half precision
        if self.teacher is not None:
            loss = self.teacher.teach(loss, logits, images)
        return {"loss": loss}

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixup and CutMix, which pair the first image with the last, and so on; timm's code needs an even batch."""
        if len(images) % 2 == 0:
            return self.mixup(images, labels)
        once_more = [*range(len(images)), 0]  # the first image is paired with itself and does not change
        mixed, targets = self.mixup(images[once_more], labels[once_more])
        return mixed[:-1], targets[:-1]


def find_teacher(options: ClassificationOptions, source: DataSource, preprocessing: Preprocessing) -> Teacher | None:
    """The teacher that the options name; ValueError if its classes or its image size do not fit."""
    if options.teacher is None and options.teacher_checkpoint is None:
        return None
    trained = load_trained(options.teacher_checkpoint, options.teacher)
    if trained.task.name != NAME:
        raise InvalidValueError(f"the teacher {trained.name} is of the task {trained.task.name}, not {NAME}")
    names, classes = [class_name(name) for name in trained.class_names], source.class_names
    if len(names) != len(classes):
        raise InvalidValueError(f"the teacher {trained.name} has {len(names)} classes, the data {len(classes)}")
    if trained.info is not None and names != classes:
        raise InvalidValueError(f"the classes of the teacher {trained.name} are not those of the data")
    check_input_size(trained.model, preprocessing.input_size)
    return Teacher(
        trained,
        preprocessing.mean,
        preprocessing.std,
        options.distillation,
        options.distillation_weight,
        options.distillation_temperature,
    )
