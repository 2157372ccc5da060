"""Making and checking all that a run needs, before it begins."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm.optim
import torch

from glocal.errors import InvalidValueError, MissingExtraError

try:
    import lightning.pytorch as lightning
except ImportError:
    raise MissingExtraError("training needs Lightning: pip install 'glocal[train]'") from None

from glocal.data.loaders import per_device_batch_size
from glocal.data.preprocessing import Preprocessing
from glocal.data.raster import measure
from glocal.data.samples import DataSource
from glocal.data.splits import content_key
from glocal.device import resolve_device
from glocal.tasks.creation import check_name, registered
from glocal.tasks.description import CheckpointInfo
from glocal.tasks.loading import arguments_of, check_input_size, load_for_finetuning
from glocal.tasks.registry import find_task, refuse_foreign_options
from glocal.tasks.task import Task
from glocal.training.config import QUICK_BATCHES, LoopOptions
from glocal.training.groups import parameter_groups
from glocal.training.lightning_module import TrainingModule

SMALL = 64  # pixels: up to this size, the default batch is twice as large


@dataclass(frozen=True)
class Run:
    """All that a run needs, checked."""

    config: LoopOptions
    name: str
    model_args: dict
    task_args: dict
    task: Task
    source: DataSource
    preprocessing: Preprocessing
    augmentation: Any
    batch_size: int
    module: TrainingModule
    device: torch.device

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.module.model.parameters())

    def opening(self) -> str:
        """The line that a run prints first: model, data, image size, device."""
        size = "×".join(map(str, self.preprocessing.input_size[1:]))
        images = " + ".join(f"{len(samples):,} {split}" for split, samples in self.source.splits.items())
        count = self.config.world_size
        classes = f"{len(self.source.class_names)} classes, " if self.source.class_names else ""
        return (
            f"{self.name} ({self.parameters / 1e6:.2f} M parameters) on {self.source.name}: "
            f"{classes}{images} images, {size} pixels, " + (f"{count} × " if count > 1 else "") + str(self.device)
        )

    def describe(self, metrics: dict) -> CheckpointInfo:
        """The description of a checkpoint whose weights reached `metrics`."""
        args = {"args": dict(self.config.data_args)} if self.config.data_args else {}
        return CheckpointInfo(
            model=self.name,
            class_names=self.source.class_names,
            preprocessing=self.preprocessing.to_dict(),
            metrics=metrics,
            data={"name": Path(self.source.name).name, "held_out": self.source.held_out} | args,
            model_args=self.model_args,
            task=self.task.name,
            task_args=self.task_args,
        )


def prepare(config: LoopOptions, name: str, source: DataSource) -> Run:
    """Create the model from the seed, and check that it takes the images; raises ValueError, TypeError or OSError."""
    task = find_task(source.task)
    source = source.with_splits(train=task.training_samples(config, source.splits["train"]))
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
    if source.bands is not None:
        model_args.setdefault("in_chans", len(source.bands.numbers))
    described = registered(name, model_args)  # refuses arguments that no checkpoint can hold
    kwargs = dict(model_args) if config.drop_path is None else {**model_args, "drop_path_rate": config.drop_path}
    task_args = task.model_args(config, source)
    if config.pretrained or config.checkpoint:
        model = load_for_finetuning(name, config.checkpoint, task, source.class_names, task_args, **kwargs)
    else:
        model = task.model(task.backbone(name, source.class_names, **kwargs), source.class_names, **task_args)
    preprocessing = task.preprocessing(model, config, img_size)
    preprocessing = _of_bands(preprocessing, model_args.get("in_chans", 3), source, config.seed)
    check_input_size(task.outputs(model), preprocessing.input_size)
    if config.grad_checkpointing:
        if not hasattr(model, "set_grad_checkpointing"):
            raise InvalidValueError(
                f"--grad-checkpointing: the model of the task {task.name} cannot recompute its blocks"
            )
        model.set_grad_checkpointing()
    augmentation = task.augmentation(config, source, preprocessing)
    task.transform(preprocessing, source.class_names, augmentation)  # refuses an unknown policy
    images = len(source.splits["train"])
    batch_size = config.batch_size or _batch_size(images, task, min(preprocessing.input_size[1:]) <= SMALL)
    refuse_foreign_options(config, task)
    task.check(config, per_device_batch_size(batch_size, config.accumulate, config.world_size))
    _check_optimizer(config.optimizer)
    steps = config.epoch_steps or min(max(1, images // batch_size), QUICK_BATCHES if config.quick else images)
    if not config.quick and (config.warmup_steps or 0) > steps * config.epochs:
        raise InvalidValueError(f"--warmup-steps {config.warmup_steps}: the training has {steps * config.epochs} steps")
    module = TrainingModule(
        model,
        task,
        task.objective(config, source, preprocessing),
        config,
        lr=_lr(config, batch_size),
        class_names=source.class_names,
        images=images,
        steps_per_epoch=steps,
        input_size=preprocessing.input_size,
        data_key=content_key(source),
        task_args=task_args,
    )
    if config.parameter_rules:
        parameter_groups(module.model, config)  # refuses a rule that names nothing
    return Run(config, *described, task_args, task, source, preprocessing, augmentation, batch_size, module, device)


def _of_bands(preprocessing: Preprocessing, channels: int, source: DataSource, seed: int) -> Preprocessing:
    """The preprocessing for data of bands, whose means and spreads are measured; ValueError if the model has others."""
    bands = source.bands
    if bands is None:
        return preprocessing
    if channels != len(bands.numbers):
        raise InvalidValueError(
            f"in_chans is {channels}, and the images have {bands}: choose some with --data-args '{{bands: [1, 2]}}'"
        )
    mean, std = measure(source.splits["train"].images, seed)
    size = (channels, *preprocessing.input_size[1:])
    return replace(preprocessing, input_size=size, mean=mean, std=std, bands=bands)


def _batch_size(images: int, task: Task, small: bool) -> int:
    """The default batch size: smaller for few images, so that an epoch has at least 8 steps."""
    size = task.training_batch or (128 if small else 64)
    while size > 8 and images < 8 * size:
        size //= 2
    return size


def _lr(config: LoopOptions, batch_size: int) -> float:
    if config.lr is not None:
        return config.lr * (batch_size / config.lr_batch_size if config.lr_batch_size else 1)
    return 2e-3 * (batch_size / 64) ** 0.5 * (0.1 if config.pretrained or config.checkpoint else 1)


def _check_optimizer(name: str) -> None:
    known = timm.optim.list_optimizers()
    if name not in known:
        close = get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.optim.list_optimizers() lists the names"
        raise InvalidValueError(f"--optimizer: timm has no {name!r}; {hint}")
