"""A whole training run: from a configuration to a folder with a model in it."""

import logging
import signal
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from glocal.data.dataset import default_workers, evaluation_loader, training_loader
from glocal.data.preprocessing import Augmentation, Preprocessing
from glocal.data.source import DataSource, open_for_training
from glocal.tasks.checkpoint import CheckpointInfo, find_checkpoint, read_info
from glocal.tasks.classifier import create_model, load_for_finetuning, resolve_device
from glocal.training import run_folder
from glocal.training.config import DEFAULT_MODEL, TrainConfig

try:
    import lightning.pytorch as lightning
except ImportError:
    raise ImportError("training needs Lightning: pip install 'glocal[train]'") from None

from glocal.training.callbacks import AtomicCheckpointIO, EpochLog, KeepBest
from glocal.training.module import ClassificationModule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    metrics: loss, top1, top5 (percent) of the validation images, at the epoch whose weights are kept.
    unread: how often each unreadable file was met. samples: held-out images written for a first prediction.
    """

    output: Path
    model: str
    data: str
    metrics: dict
    parameters: int
    images: dict[str, int]
    seconds: float
    images_per_second: float
    unread: dict[str, int]
    samples: list[Path]


def train(config: TrainConfig, console: Console | None = None) -> TrainResult:
    """Train a classifier and leave it in a folder with its log; see `TrainConfig`.

    What is wrong with the arguments or the data raises ValueError, TypeError or OSError before training starts;
    TrainingStopped ends a run that cannot go on, KeyboardInterrupt one that the user stops. The checkpoints written
    until then stay.
    """
    start = time.perf_counter()
    console = console or Console()
    device = resolve_device(config.device)
    name = _model_name(config)
    output = Path(config.output or Path("runs") / f"{Path(config.data).resolve().name}-{name}")
    run_folder.check_output(output, config.overwrite)
    source = open_for_training(config.data, config.val_fraction, config.seed)
    for note in source.notes:
        log.warning(note)

    with _quiet_lightning(), _reproducible(device):
        lightning.seed_everything(config.seed, workers=True, verbose=False)
        model, model_args = _create_model(config, name, source)
        img_size = config.img_size or source.img_size
        preprocessing = Preprocessing.of_model(model, img_size)
        _check_accepts(model, preprocessing)
        module = ClassificationModule(
            model,
            lr=config.lr or (2e-4 if config.pretrained or config.checkpoint else 2e-3),
            weight_decay=config.weight_decay,
            warmup_epochs=min(5, config.epochs / 10) if config.warmup_epochs is None else config.warmup_epochs,
            label_smoothing=config.label_smoothing,
        )
        describe = partial(
            CheckpointInfo,
            name,
            source.class_names,
            preprocessing.to_dict(),
            data={"name": Path(source.name).name, "held_out": source.held_out},
            model_args=model_args,
        )
        run_folder.start_output(output, config)
        best, epochs = KeepBest(output / run_folder.BEST, describe), EpochLog(console)
        with _log_file(output / run_folder.LOG):
            console.print(_opening(name, model, source, preprocessing, device), highlight=False)
            _fit(config, module, _loaders(config, source, preprocessing, device), output, device, [best, epochs])
            for reason, count in module.unread.items():
                log.warning("skipped %d times: %s", count, reason)
    return TrainResult(
        output=output,
        model=name,
        data=source.name,
        metrics=best.metrics,
        parameters=_count_parameters(model),
        images={split: len(samples) for split, samples in source.splits.items()},
        seconds=time.perf_counter() - start,
        images_per_second=epochs.images_per_second,
        unread=dict(module.unread),
        samples=run_folder.write_samples(output, source),
    )


def _fit(config: TrainConfig, module, loaders, output: Path, device: torch.device, callbacks: list) -> None:
    trainer = lightning.Trainer(
        max_epochs=config.epochs,
        accelerator=device.type,
        devices=[device.index] if device.index is not None else 1,
        logger=lightning.loggers.CSVLogger(output, name="", version="", flush_logs_every_n_steps=1),
        callbacks=[*callbacks, _keep_last(output)],
        plugins=[AtomicCheckpointIO()],
        deterministic="warn" if device.type == "cpu" else None,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, *loaders)
    except SystemExit:  # Lightning's answer to Ctrl-C, after which it leaves the signal switched off
        signal.signal(signal.SIGINT, interrupt)
        kept = f"the last checkpoint is in {output}" if (output / run_folder.LAST).exists() else "no epoch was finished"
        raise KeyboardInterrupt(f"stopped in epoch {trainer.current_epoch + 1} of {config.epochs}: {kept}") from None


def _keep_last(output: Path) -> lightning.Callback:
    """Keeps the state after the last epoch whose validation went well: weights, optimizer, schedule."""
    name = Path(run_folder.LAST).stem
    return lightning.callbacks.ModelCheckpoint(
        output, filename=name, save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True
    )


def _model_name(config: TrainConfig) -> str:
    if config.model is not None or config.checkpoint is None:
        return config.model or DEFAULT_MODEL
    info = read_info(find_checkpoint(config.checkpoint))
    if info is None:
        raise ValueError(f"{config.checkpoint} does not say of which model it is: give --model too")
    return info.model


def _create_model(config: TrainConfig, name: str, source: DataSource) -> tuple[nn.Module, dict]:
    """The model, and the arguments that it needs again when its checkpoint is loaded."""
    classes = len(source.class_names)
    kwargs = {} if config.drop_path is None else {"drop_path_rate": config.drop_path}
    model_args = {}
    img_size = config.img_size or source.img_size
    if img_size and create_model(name, device="meta").pretrained_cfg.get("fixed_input_size"):
        model_args["img_size"] = img_size
    if config.pretrained or config.checkpoint:
        model = load_for_finetuning(name, config.checkpoint, classes, **kwargs, **model_args)
    else:
        model = create_model(name, num_classes=classes, **kwargs, **model_args)
    return model, model_args


def _check_accepts(model: nn.Module, preprocessing: Preprocessing) -> None:
    """Raise ValueError for an input size that the model cannot take, before a long run starts."""
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, *preprocessing.input_size))
    except (RuntimeError, AssertionError, ValueError) as error:
        size = "×".join(map(str, preprocessing.input_size[1:]))
        reason = " ".join(str(error).split())
        raise ValueError(f"--img-size: the model does not take images of {size} pixels: {reason}") from error
    model.train()


def _loaders(config: TrainConfig, source: DataSource, preprocessing: Preprocessing, device: torch.device) -> tuple:
    small = min(preprocessing.input_size[1:]) <= 64
    augmentation = Augmentation(
        crop_scale=config.crop_scale or (0.6 if small else 0.35),
        crop_ratio=3 / 4,
        hflip=config.hflip if config.hflip is not None else 0.5 if source.hflip is None else source.hflip,
        color_jitter=config.color_jitter,
        auto_augment=config.auto_augment,
        random_erasing=config.random_erasing,
    )
    train, val = source.splits["train"], source.splits["val"]
    workers = default_workers(train) if config.workers is None else config.workers
    pin = device.type == "cuda"
    return (
        training_loader(
            train, preprocessing.training_transform(augmentation), config.batch_size, workers, config.seed, pin
        ),
        evaluation_loader(val, preprocessing.transform(), config.batch_size, workers, pin),
    )


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _opening(name: str, model: nn.Module, source: DataSource, preprocessing: Preprocessing, device) -> str:
    size = "×".join(map(str, preprocessing.input_size[1:]))
    images = " + ".join(f"{len(samples):,} {split}" for split, samples in source.splits.items())
    return (
        f"{name} ({_count_parameters(model) / 1e6:.2f} M parameters) on {source.name}: {len(source.class_names)} "
        f"classes, {images} images, {size} pixels, {device}"
    )


@contextmanager
def _log_file(path: Path):
    """Keep a copy of the library's log in a file."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("glocal")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


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
def _reproducible(device: torch.device):
    """On a CPU, deterministic algorithms for the time of a run: some sums are otherwise added up in any order."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill
