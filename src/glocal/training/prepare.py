"""All that a run needs, made and checked before it begins."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import timm.optim
import torch

from glocal.errors import InvalidValueError, MissingExtraError

try:
    import lightning.pytorch as lightning
except ImportError:
    raise MissingExtraError("training needs Lightning: pip install 'glocal[train]'") from None

from glocal.data.loaders import own_share
from glocal.data.names import class_name
from glocal.data.preprocessing import Augmentation, Preprocessing
from glocal.data.samples import DataSource
from glocal.data.splits import content_key
from glocal.device import resolve_device
from glocal.tasks.classifier import (
    arguments_of,
    check_input_size,
    check_name,
    create_model,
    load_classifier,
    load_for_finetuning,
    registered,
)
from glocal.tasks.description import CheckpointInfo
from glocal.training.config import QUICK_BATCHES, TrainConfig
from glocal.training.distillation import Teacher
from glocal.training.module import ClassificationModule


@dataclass(frozen=True)
class Run:
    """All that a run needs, checked."""

    config: TrainConfig
    name: str
    model_args: dict
    source: DataSource
    preprocessing: Preprocessing
    augmentation: Augmentation
    batch_size: int
    module: ClassificationModule
    device: torch.device

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.module.model.parameters())

    def opening(self) -> str:
        """What is about to happen, in one line."""
        size = "×".join(map(str, self.preprocessing.input_size[1:]))
        images = " + ".join(f"{len(samples):,} {split}" for split, samples in self.source.splits.items())
        count = self.config.world_size
        return (
            f"{self.name} ({self.parameters / 1e6:.2f} M parameters) on {self.source.name}: "
            f"{len(self.source.class_names)} classes, {images} images, {size} pixels, "
            + (f"{count} × " if count > 1 else "")
            + str(self.device)
        )

    def describe(self, metrics: dict) -> CheckpointInfo:
        """The description to keep with weights that reached `metrics`."""
        several = {"multi_label": True} if self.source.multi_label else {}
        return CheckpointInfo(
            model=self.name,
            class_names=self.source.class_names,
            preprocessing=self.preprocessing.to_dict(),
            metrics=metrics,
            data={"name": Path(self.source.name).name, "held_out": self.source.held_out} | several,
            model_args=self.model_args,
        )


def prepare(config: TrainConfig, name: str, source: DataSource) -> Run:
    """Create the model, seeded, and check that it takes the images; raises ValueError, TypeError or OSError."""
    device = resolve_device(config.device)
    if config.precision == "fp16" and (device.type == "cpu" or config.strategy == "fsdp"):
        where = "with --strategy fsdp" if config.strategy == "fsdp" else "on a CPU"
        raise InvalidValueError(f"--precision fp16 is not for training {where}: bf16 is")
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    check_name(name)
    img_size = config.img_size or source.img_size
    model_args = arguments_of(config.checkpoint) | config.model_args
    if img_size and getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        model_args["img_size"] = img_size
    described = registered(name, model_args)  # what no checkpoint can hold is refused here
    kwargs = dict(model_args) if config.drop_path is None else {**model_args, "drop_path_rate": config.drop_path}
    classes = len(source.class_names)
    if config.pretrained or config.checkpoint:
        model = load_for_finetuning(name, config.checkpoint, classes, **kwargs)
    else:
        model = create_model(name, num_classes=classes, **kwargs)
    preprocessing = Preprocessing.of_model(model, img_size)
    crop = {"crop_pct": config.crop_pct, "crop_mode": config.crop_mode}
    preprocessing = replace(preprocessing, **{name: value for name, value in crop.items() if value is not None})
    check_input_size(model, preprocessing.input_size)
    if config.grad_checkpointing:
        model.set_grad_checkpointing()
    small = min(preprocessing.input_size[1:]) <= 64
    augmentation = _augmentation(config, source, small)
    preprocessing.training_transform(augmentation)  # an unknown policy is refused here
    images = len(source.splits["train"])
    batch_size = config.batch_size or _batch_size(images, small)
    multi_label = source.multi_label
    _check_batch(config, batch_size, multi_label)
    _check_optimizer(config.optimizer)
    module = ClassificationModule(
        model,
        config,
        lr=_lr(config, batch_size),
        classes=classes,
        images=images,
        steps_per_epoch=min(max(1, images // batch_size), QUICK_BATCHES if config.quick else images),
        input_size=preprocessing.input_size,
        data_key=content_key(source),
        multi_label=multi_label,
        teacher=_teacher(config, preprocessing, source),
    )
    return Run(config, *described, source, preprocessing, augmentation, batch_size, module, device)


def _teacher(config: TrainConfig, preprocessing: Preprocessing, source: DataSource) -> Teacher | None:
    if config.teacher is None and config.teacher_checkpoint is None:
        return None
    classifier = load_classifier(config.teacher_checkpoint, config.teacher)
    names, classes = [class_name(name) for name in classifier.class_names], source.class_names
    if len(names) != len(classes):
        raise InvalidValueError(f"the teacher {classifier.name} has {len(names)} classes, the data {len(classes)}")
    if classifier.info is not None and names != classes:
        raise InvalidValueError(f"the classes of the teacher {classifier.name} are not those of the data")
    check_input_size(classifier.model, preprocessing.input_size)
    return Teacher(
        classifier,
        preprocessing.mean,
        preprocessing.std,
        config.distillation,
        config.distillation_weight,
        config.distillation_temperature,
    )


def _augmentation(config: TrainConfig, source: DataSource, small: bool) -> Augmentation:
    """What the configuration says, and what suits the data where it says nothing."""
    hflip = source.hflip if config.hflip is None else config.hflip
    return Augmentation(
        crop_scale=config.crop_scale or (0.6 if small else 0.35),
        crop_ratio=3 / 4,
        hflip=0.5 if hflip is None else hflip,
        color_jitter=config.color_jitter,
        auto_augment=config.auto_augment,
        random_erasing=config.random_erasing,
        interpolation=config.train_interpolation,
    )


def _batch_size(images: int, small: bool) -> int:
    """A batch that leaves a few images enough steps to learn from."""
    size = 128 if small else 64
    while size > 8 and images < 8 * size:
        size //= 2
    return size


def _lr(config: TrainConfig, batch_size: int) -> float:
    if config.lr is not None:
        return config.lr * (batch_size / config.lr_batch_size if config.lr_batch_size else 1)
    return 2e-3 * (batch_size / 64) ** 0.5 * (0.1 if config.pretrained or config.checkpoint else 1)


def _check_batch(config: TrainConfig, batch_size: int, multi_label: bool) -> None:
    """Raise ValueError for a batch that cannot be shared out, mixed or measured as the configuration says."""
    own = own_share(batch_size, config.accumulate, config.world_size)
    mixed = bool(config.mixup or config.cutmix)
    if mixed and own == 1:
        raise InvalidValueError(
            "--mixup and --cutmix need two images at a time on each device: give a larger --batch-size or a smaller "
            "--accumulate"
        )
    if multi_label:
        for name in ("mixup", "cutmix", "balanced", "teacher", "teacher_checkpoint"):
            if getattr(config, name):
                raise InvalidValueError(f"--{name.replace('_', '-')} is for one label per image")
    if multi_label and config.loss == "ce":
        raise InvalidValueError("--loss ce is for one label per image: bce and asl take several")
    if mixed and config.loss == "asl":
        raise InvalidValueError("--loss asl takes no mixed labels: --mixup 0 --cutmix 0")


def _check_optimizer(name: str) -> None:
    known = timm.optim.list_optimizers()
    if name not in known:
        close = get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.optim.list_optimizers() lists the names"
        raise InvalidValueError(f"--optimizer: timm has no {name!r}; {hint}")
