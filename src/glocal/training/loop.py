"""Lightning's training loop over a model and its data."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console

from glocal.errors import InvalidValueError, MissingExtraError
from glocal.tasks import run_files
from glocal.training import run_folder
from glocal.training.config import QUICK_BATCHES, LoopOptions

try:
    import lightning.pytorch as lightning
except ImportError:
    raise MissingExtraError("training needs Lightning: pip install 'glocal[train]'") from None
from lightning.pytorch.strategies.launchers import subprocess_script

from glocal.training.callbacks import AtomicCheckpointIO, EpochLog, KeepBest, KeepLast
from glocal.training.lightning_module import TrainingStopped
from glocal.training.loaders import RunData
from glocal.training.prepare import Run
from glocal.training.stopping import MAIN, FurtherProcesses, StopSignals, end_with_main_process, interrupted

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True)
class Outcome:
    """What a training gives.

    metrics: of the epoch that is kept. unreadable: how often each unreadable file was met. images_per_second: in
    training, without validation.
    """

    metrics: dict
    unreadable: dict[str, int]
    images_per_second: float


def fit(
    run: Run, output: Path, console: Console, state: Path | None, check: Callable[[], None], stop: StopSignals
) -> Outcome:
    """Train; write the best and the last checkpoint, and a CSV with a row per epoch, to `output`.

    state: the last checkpoint of a run that continues. check: raises if the output folder no longer belongs to this
    run. stop: the signals that stop the run, already entered.
    """
    config, module = run.config, run.module
    task = run.task
    best = KeepBest({"": output / run_files.BEST, "raw": output / run_files.RAW}, run.describe, task.rank, check)
    epochs = EpochLog(console, output / run_folder.METRICS, task.headline, check)
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
            use_distributed_sampler=False,  # our samplers give each device its share
            enable_checkpointing=False,  # KeepLast saves them
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
                death = _death_of_worker(error)
                if death is None:
                    raise
                raise TrainingStopped(f"a process that reads images has died ({death}); {stop.kept}") from None
            except SystemExit:  # Lightning raises it for a KeyboardInterrupt that did not come from a signal
                raise KeyboardInterrupt(f"stopped: {stop.kept}") from None
            finally:
                data.end_workers()
            unreadable = module.all_unreadable()
    return Outcome(best.metrics, unreadable, epochs.images_per_second)


def _death_of_worker(error: BaseException | None) -> BaseException | None:
    """The error by which torch says that a process that reads images has died, or None.

    torch raises it between any two instructions, when the system reports the death. If this interrupts torch's writing
    of a file, the writer raises another error in its place.
    """
    while error is not None and not str(error).startswith("DataLoader worker"):
        error = error.__context__
    return error


class _EndOthers(lightning.Callback):
    """If this process fails, ends the other processes first: otherwise they report a broken connection."""

    def __init__(self, further: FurtherProcesses):
        self.further = further

    def on_exception(self, trainer, module, exception) -> None:
        if self.further.stop.error is None:  # otherwise they stop at the same step
            if isinstance(exception, RuntimeError):
                self.further.look()
            self.further.kill()


@contextmanager
def _all_processes(trainer: lightning.Trainer, stop: StopSignals):
    """End all processes of a run together: a signal to any process stops the run with the exit code of that signal."""
    further = FurtherProcesses(stop)
    stop.end_others = further.kill
    trainer.callbacks.append(_EndOthers(further))
    observer, subprocess_script._launch_process_observer = subprocess_script._launch_process_observer, further
    trainer._signal_connector.register_signal_handlers = lambda: None  # its handlers start collectives
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


def _strategy(config: LoopOptions):
    if config.strategy == "fsdp":
        from lightning.pytorch.strategies import ModelParallelStrategy

        return ModelParallelStrategy(
            data_parallel_size=config.world_size, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    return "ddp" if config.world_size > 1 else "auto"


def _syncs_batch_norm(config: LoopOptions, device: torch.device) -> bool:
    if config.sync_bn == "always" and device.type != "cuda":
        raise InvalidValueError("--sync-bn always: torch has it on GPUs only")
    several = config.world_size > 1 and device.type == "cuda"
    return config.sync_bn == "always" or (config.sync_bn == "auto" and several)


def _compiles(config: LoopOptions, device: torch.device) -> bool:
    return config.compile == "always" or (config.compile == "auto" and device.type == "cuda")


def _loggers(config: LoopOptions, output: Path) -> list:
    """Lightning's loggers by name. `EpochLog` writes metrics.csv."""
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
            raise MissingExtraError(f"--loggers {name} needs the package of that name: pip install {name}") from None
    return loggers


@contextmanager
def _quiet_lightning():
    """Hide Lightning's tips and its advice on workers, logging intervals and folders.

    Also hide the traceback that TensorBoard's thread prints for a full disk: the main thread raises the same error.
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
                "FSDP2-wrapped module",  # about in-place changes to its output, which nothing here makes
                "Grad strides do not match bucket view strides",  # 1 × 1 kernels in channels_last: the memory is equal
            ):
                warnings.filterwarnings("ignore", harmless)
            yield
    finally:
        threading.excepthook = excepthook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _deterministic(device: torch.device):
    """Use deterministic algorithms on a CPU during a run; otherwise the order of some sums is not fixed."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    if device.type == "cpu":
        torch.utils.deterministic.fill_uninitialized_memory = False  # costs time; nothing here reads unwritten memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill
