"""The heavy part of a training run: model, loaders, and Lightning's loop over them."""

import logging
import signal
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader

from glocal.data.dataset import default_workers, evaluation_loader, training_loader
from glocal.data.preprocessing import Augmentation, Preprocessing
from glocal.data.source import DataSource
from glocal.tasks.checkpoint import CheckpointInfo
from glocal.tasks.classifier import check_input_size, check_name, create_model, load_for_finetuning, resolve_device
from glocal.training import run_folder
from glocal.training.config import TrainConfig

try:
    import lightning.pytorch as lightning
except ImportError:
    raise ImportError("training needs Lightning: pip install 'glocal[train]'") from None

from glocal.training.callbacks import AtomicCheckpointIO, EpochLog, KeepBest
from glocal.training.module import ClassificationModule


@dataclass(frozen=True)
class Run:
    """All that a run needs, checked."""

    config: TrainConfig
    name: str
    source: DataSource
    model: nn.Module
    model_args: dict
    preprocessing: Preprocessing
    augmentation: Augmentation
    batch_size: int
    lr: float
    device: torch.device

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def opening(self) -> str:
        """What is about to happen, in one line."""
        size = "×".join(map(str, self.preprocessing.input_size[1:]))
        images = " + ".join(f"{len(samples):,} {split}" for split, samples in self.source.splits.items())
        return (
            f"{self.name} ({self.parameters / 1e6:.2f} M parameters) on {self.source.name}: "
            f"{len(self.source.class_names)} classes, {images} images, {size} pixels, {self.device}"
        )

    def describe(self, metrics: dict) -> CheckpointInfo:
        """The description to keep with weights that reached `metrics`."""
        return CheckpointInfo(
            model=self.name,
            class_names=self.source.class_names,
            preprocessing=self.preprocessing.to_dict(),
            metrics=metrics,
            data={"name": Path(self.source.name).name, "held_out": self.source.held_out},
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
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    check_name(name)
    img_size = config.img_size or source.img_size
    model_args = {}
    if img_size and getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        model_args["img_size"] = img_size
    kwargs = dict(model_args) if config.drop_path is None else {**model_args, "drop_path_rate": config.drop_path}
    classes = len(source.class_names)
    if config.pretrained or config.checkpoint:
        model = load_for_finetuning(name, config.checkpoint, classes, **kwargs)
    else:
        model = create_model(name, num_classes=classes, **kwargs)
    preprocessing = Preprocessing.of_model(model, img_size)
    check_input_size(model, preprocessing.input_size)
    small = min(preprocessing.input_size[1:]) <= 64
    augmentation = _augmentation(config, source, small)
    preprocessing.training_transform(augmentation)  # an unknown policy is refused here
    batch_size = config.batch_size or _batch_size(len(source.splits["train"]), small)
    lr = config.lr or 2e-3 * (batch_size / 64) ** 0.5 * (0.1 if config.pretrained or config.checkpoint else 1)
    return Run(config, name, source, model, model_args, preprocessing, augmentation, batch_size, lr, device)


def fit(run: Run, output: Path, console: Console) -> Outcome:
    """Train, keeping the best and the last checkpoint and a CSV of each epoch's figures in `output`."""
    config = run.config
    module = ClassificationModule(
        run.model,
        lr=run.lr,
        weight_decay=config.weight_decay,
        warmup_epochs=min(5, config.epochs / 10) if config.warmup_epochs is None else config.warmup_epochs,
        label_smoothing=config.label_smoothing,
    )
    best, epochs = KeepBest(output / run_folder.BEST, run.describe), EpochLog(console)
    with _quiet_lightning(), _deterministic(run.device):
        trainer = lightning.Trainer(
            max_epochs=config.epochs,
            accelerator=run.device.type,
            devices=[run.device.index] if run.device.index is not None else 1,
            logger=lightning.loggers.CSVLogger(output, name="", version="", flush_logs_every_n_steps=1),
            callbacks=[best, epochs, _keep_last(output)],
            plugins=[AtomicCheckpointIO()],
            deterministic="warn" if run.device.type == "cpu" else None,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(module, *_loaders(run))
        except SystemExit:  # Lightning's answer to Ctrl-C, after which it leaves the signal switched off
            signal.signal(signal.SIGINT, interrupt)
            finished = trainer.current_epoch
            kept = f"the checkpoints in {output} are of the {finished} before" if finished else "nothing is saved yet"
            raise KeyboardInterrupt(f"stopped in epoch {finished + 1} of {config.epochs}; {kept}") from None
    return Outcome(best.metrics, dict(module.unread), epochs.images_per_second)


def _keep_last(output: Path) -> lightning.Callback:
    """Keeps the state after the last epoch whose validation went well: weights, optimizer, schedule."""
    name = Path(run_folder.LAST).stem
    return lightning.callbacks.ModelCheckpoint(
        output, filename=name, save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True
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
    )


def _batch_size(images: int, small: bool) -> int:
    """A batch that leaves a few images enough steps to learn from."""
    size = 128 if small else 64
    while size > 8 and images < 8 * size:
        size //= 2
    return size


def _loaders(run: Run) -> tuple[DataLoader, DataLoader]:
    config, train, val = run.config, run.source.splits["train"], run.source.splits["val"]
    workers = default_workers(train) if config.workers is None else config.workers
    pin = run.device.type == "cuda"
    transform = run.preprocessing.training_transform(run.augmentation)
    return (
        training_loader(train, transform, run.batch_size, workers, config.seed, pin),
        evaluation_loader(val, run.preprocessing.transform(), run.batch_size, workers, pin),
    )


@contextmanager
def _quiet_lightning():
    """Without Lightning's tips and its advice on workers, logging intervals and folders."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
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
