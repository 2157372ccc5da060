"""The heavy part of a training run: model, data, and Lightning's loop over them."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import timm.optim
import torch
from rich.console import Console

from glocal.data.dataset import own_share
from glocal.data.names import class_name
from glocal.data.preprocessing import Augmentation, Preprocessing
from glocal.data.source import DataSource, content_key
from glocal.tasks.classifier import (
    arguments_of,
    check_input_size,
    check_name,
    create_model,
    load_classifier,
    load_for_finetuning,
    registered,
    resolve_device,
)
from glocal.tasks.description import CheckpointInfo
from glocal.training import run_folder
from glocal.training.config import QUICK_BATCHES, TrainConfig

try:
    import lightning.pytorch as lightning
except ImportError:
    raise ImportError("training needs Lightning: pip install 'glocal[train]'") from None
from lightning.pytorch.strategies.launchers import subprocess_script

from glocal.training.callbacks import AtomicCheckpointIO, EpochLog, KeepBest, KeepLast
from glocal.training.distillation import Teacher
from glocal.training.loaders import RunData
from glocal.training.module import ClassificationModule, TrainingStopped
from glocal.training.stopping import MAIN, FurtherProcesses, StopSignals, end_with_main_process, interrupted

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


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


@dataclass(frozen=True)
class Outcome:
    """metrics of the epoch kept; how often each unreadable file was met; training speed."""

    metrics: dict
    unread: dict[str, int]
    images_per_second: float


def prepare(config: TrainConfig, name: str, source: DataSource) -> Run:
    """Create the model, seeded, and check that it takes the images; raises ValueError, TypeError or OSError."""
    device = resolve_device(config.device)
    if config.precision == "fp16" and (device.type == "cpu" or config.strategy == "fsdp"):
        where = "with --strategy fsdp" if config.strategy == "fsdp" else "on a CPU"
        raise ValueError(f"--precision fp16 is not for training {where}: bf16 is")
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
        data_key=content_key(source),
        multi_label=multi_label,
        teacher=_teacher(config, preprocessing, source),
    )
    return Run(config, *described, source, preprocessing, augmentation, batch_size, module, device)


def fit(
    run: Run, output: Path, console: Console, state: Path | None, check: Callable[[], None], stop: StopSignals
) -> Outcome:
    """Train, keeping the best and the last checkpoint and a CSV of each epoch's figures in `output`.

    state: a last checkpoint to go on from. check: raises where the output folder is no longer this run's. stop: the
    signals that stop it, entered.
    """
    config, module = run.config, run.module
    figure = module.figure
    best = KeepBest({"": output / run_folder.BEST, "raw": output / run_folder.RAW}, run.describe, figure, check)
    epochs = EpochLog(console, output / run_folder.METRICS, figure, check)
    last = KeepLast(output / run_folder.LAST, config.save_every_minutes, stop)
    sync_batch_norm = _syncs_batch_norm(config, run.device)
    module.sync_batch_norm = sync_batch_norm and config.strategy == "fsdp"
    with _quiet_lightning(), _deterministic(run.device):
        trainer = lightning.Trainer(
            max_epochs=config.epochs + config.cooldown_epochs,
            check_val_every_n_epoch=config.val_every,
            accelerator=run.device.type,
            devices=[run.device.index] if run.device.index is not None else config.devices,
            num_nodes=config.num_nodes,
            strategy=_strategy(config),
            precision=PRECISIONS[config.precision],
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=config.clip_grad,
            sync_batchnorm=sync_batch_norm and config.strategy != "fsdp",
            limit_train_batches=module.steps_per_epoch * config.accumulate,  # shards may end within a step
            limit_val_batches=QUICK_BATCHES if config.quick else None,
            logger=_loggers(config, output),
            callbacks=[best, epochs, last],
            plugins=[AtomicCheckpointIO(check)],
            deterministic="warn" if run.device.type == "cpu" else None,
            use_distributed_sampler=False,  # ours share the samples out themselves
            enable_checkpointing=False,  # KeepLast does it
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        if _compiles(config, run.device):
            module.model.compile()
        for logger in trainer.loggers:
            logger.log_hyperparams(asdict(config))
        data = RunData(run, stop)
        with _all_processes(trainer, stop):
            try:
                trainer.fit(module, datamodule=data, ckpt_path=state, weights_only=True)
            except TrainingStopped as error:
                raise TrainingStopped(f"{error}; {stop.kept}") from None
            except RuntimeError as error:
                if str(error).startswith("DataLoader worker"):
                    raise TrainingStopped(f"a process that reads images has died ({error}); {stop.kept}") from None
                raise
            except SystemExit:  # Lightning's answer to a KeyboardInterrupt that no signal has brought
                raise KeyboardInterrupt(f"stopped: {stop.kept}") from None
            finally:
                data.end_workers()
            unread = module.all_unread()
    return Outcome(best.metrics, unread, epochs.images_per_second)


class _EndOthers(lightning.Callback):
    """Ends the other processes before a failure of this one, which they know nothing of, breaks their connection."""

    def __init__(self, further: FurtherProcesses):
        self.further = further

    def on_exception(self, trainer, module, exception) -> None:
        if self.further.stop.error is None:  # otherwise they stop at the same step
            if isinstance(exception, RuntimeError):
                self.further.look()
            self.further.kill()


@contextmanager
def _all_processes(trainer: lightning.Trainer, stop: StopSignals):
    """One end for all processes of a run: what stops any of them by a signal stops the run, with that signal's code."""
    further = FurtherProcesses(stop)
    stop.end_others = further.kill
    trainer.callbacks.append(_EndOthers(further))
    observer, subprocess_script._launch_process_observer = subprocess_script._launch_process_observer, further
    trainer._signal_connector.register_signal_handlers = lambda: None  # they start collectives from within a handler
    end_with_main_process()
    os.environ.setdefault(MAIN, str(os.getpid()))
    try:
        yield
    except BaseException:
        further.end()
        stopped = stop.error or (None if further.signal is None else interrupted(further.signal, stop.kept))
        if stopped is None:
            raise
        raise KeyboardInterrupt(str(stopped)) if stopped.signal == signal.SIGINT else stopped from None
    finally:
        subprocess_script._launch_process_observer = observer
        if os.environ[MAIN] == str(os.getpid()):
            del os.environ[MAIN]


def _strategy(config: TrainConfig):
    if config.strategy == "fsdp":
        from lightning.pytorch.strategies import ModelParallelStrategy

        return ModelParallelStrategy(
            data_parallel_size=config.world_size, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    return "ddp" if config.world_size > 1 else "auto"


def _syncs_batch_norm(config: TrainConfig, device: torch.device) -> bool:
    if config.sync_bn == "always" and device.type != "cuda":
        raise ValueError("--sync-bn always: torch has it on GPUs only")
    several = config.world_size > 1 and device.type == "cuda"
    return config.sync_bn == "always" or (config.sync_bn == "auto" and several)


def _compiles(config: TrainConfig, device: torch.device) -> bool:
    return config.compile == "always" or (config.compile == "auto" and device.type == "cuda")


def _loggers(config: TrainConfig, output: Path) -> list:
    """Lightning's loggers by name; metrics.csv is `EpochLog`'s."""
    makers = {
        "tensorboard": lambda: lightning.loggers.TensorBoardLogger(output, name="", version="tensorboard"),
        "wandb": lambda: lightning.loggers.WandbLogger(save_dir=output, name=output.name),
        "mlflow": lambda: lightning.loggers.MLFlowLogger(experiment_name=output.name),
    }
    loggers = []
    for name in config.loggers.split(",") if config.loggers else ():
        try:
            loggers.append(makers[name]())
        except ImportError:
            raise ImportError(f"--loggers {name} needs the package of that name: pip install {name}") from None
    return loggers


def _teacher(config: TrainConfig, preprocessing: Preprocessing, source: DataSource) -> Teacher | None:
    if config.teacher is None and config.teacher_checkpoint is None:
        return None
    classifier = load_classifier(config.teacher_checkpoint, config.teacher)
    names, classes = [class_name(name) for name in classifier.class_names], source.class_names
    if len(names) != len(classes):
        raise ValueError(f"the teacher {classifier.name} has {len(names)} classes, the data {len(classes)}")
    if classifier.info is not None and names != classes:
        raise ValueError(f"the classes of the teacher {classifier.name} are not those of the data")
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
        raise ValueError(
            "--mixup and --cutmix need two images at a time on each device: give a larger --batch-size or a smaller "
            "--accumulate"
        )
    if multi_label:
        for name in ("mixup", "cutmix", "balanced", "teacher", "teacher_checkpoint"):
            if getattr(config, name):
                raise ValueError(f"--{name.replace('_', '-')} is for one label per image")
    if multi_label and config.loss == "ce":
        raise ValueError("--loss ce is for one label per image: bce and asl take several")
    if mixed and config.loss == "asl":
        raise ValueError("--loss asl takes no mixed labels: --mixup 0 --cutmix 0")


def _check_optimizer(name: str) -> None:
    known = timm.optim.list_optimizers()
    if name not in known:
        close = get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.optim.list_optimizers() lists the names"
        raise ValueError(f"--optimizer: timm has no {name!r}; {hint}")


@contextmanager
def _quiet_lightning():
    """Without Lightning's tips and its advice on workers, logging intervals and folders.

    And without a traceback from TensorBoard's thread for a full disk, which it raises in the main thread too.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    excepthook = threading.excepthook
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else excepthook(args)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            for harmless in (
                "FSDP2-wrapped module",  # of in-place changes to its output: there are none
                "Grad strides do not match bucket view strides",  # of 1 × 1 kernels in channels_last, which are equal
            ):
                warnings.filterwarnings("ignore", harmless)
            yield
    finally:
        threading.excepthook = excepthook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _deterministic(device: torch.device):
    """On a CPU, deterministic algorithms for the time of a run: some sums are otherwise added up in any order."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    if device.type == "cpu":
        torch.utils.deterministic.fill_uninitialized_memory = False  # costs time; nothing here reads unwritten memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill
