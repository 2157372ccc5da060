"""A whole training run: from its options to a folder with a trained model."""

import errno
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from glocal.data.image import set_strict
from glocal.data.open import open_for_training
from glocal.data.samples import DataSource, Opening
from glocal.device import is_rank_zero
from glocal.errors import ExistingPathError, InvalidValueError, MissingPathError
from glocal.files import check_target
from glocal.tasks import run_files
from glocal.tasks.registry import all_formats, find_task
from glocal.terminal import Console
from glocal.training import run_folder, run_lock
from glocal.training.config import DEFAULT_MODEL, LoopOptions
from glocal.training.stopping import StopSignals
from glocal.wording import Formatter

log = logging.getLogger(__name__)

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # full, or broken


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    metrics: the task's measures on the validation images, for the `epoch` whose weights are kept. unreadable: how often
    each unreadable file was met. samples: held-out images that were written for a first prediction.
    """

    output: Path
    task: str
    model: str
    data: str
    metrics: dict
    epochs: int
    parameters: int
    images: dict[str, int]
    seconds: float
    images_per_second: float
    unreadable: dict[str, int]
    samples: list[Path]


def train(config: LoopOptions, console: Console | None = None) -> TrainResult:
    """Train a model and write it to a folder with its log; see `glocal.training.config.TrainConfig`.

    A run that was stopped continues from the state that it saved last. If the options or the data are wrong,
    ValueError, TypeError or OSError is raised before training starts. TrainingStopped is raised if the run cannot go
    on, TrainingInterrupted if a signal stops it, KeyboardInterrupt if the user stops it. The checkpoints that were
    written before stay.
    """
    start = time.perf_counter()
    console = console or Console()
    config = _as_launched(config)
    output, rank_zero = Path(config.output or Path("runs") / _run_name(config)), is_rank_zero()
    if rank_zero:
        run_lock.refuse_if_held(output)
    asked = config.shrunk() if config.quick else config
    config, state = run_folder.resolve_run(output, asked)
    if config.model_args != asked.model_args:  # a file of the folder chose them, not the user
        check_model_args(config, output / run_files.CONFIG)
    name = _model_name(config)
    set_strict(config.strict)
    source = _open(config, None if state is None else run_folder.task_of(output))

    from glocal.training.loop import fit
    from glocal.training.prepare import prepare  # takes seconds: only after the checks that need no torch

    if not rank_zero:  # the other processes print nothing
        console.quiet = True
        logging.getLogger("glocal").setLevel(logging.ERROR)
    for note in source.notes:
        log.warning(note)
    run = prepare(config, name, source)
    if rank_zero:
        run_folder.make(output)
    kept = "nothing is saved yet" if state is None else f"saved before in {output}"
    with (
        run_lock.hold(output) if rank_zero else nullcontext(lambda: None) as check,
        _explained(output, check),
        StopSignals(kept) as stop,
    ):
        if rank_zero:
            if run_folder.resolve_run(output, asked) != (config, state):
                raise ExistingPathError(f"another run has written to {output} meanwhile: give the same command again")
            run_folder.start_output(output, config, keep=state is not None)
        console.print(run.opening(), highlight=False, soft_wrap=True)
        if state is not None:
            console.print(f"going on from {state}", highlight=False, soft_wrap=True)
        with _log_file(output / run_folder.LOG):
            outcome = fit(run, output, console, state, check, stop)
            if outcome.unreadable:
                files, times = len(outcome.unreadable), sum(outcome.unreadable.values())
                log.warning("%d file%s skipped, %d times in all", files, " was" if files == 1 else "s were", times)
        check()
        result = TrainResult(
            output=output,
            task=source.task,
            model=name,
            data=source.name,
            metrics=outcome.metrics,
            epochs=config.epochs + config.cooldown_epochs,
            parameters=run.parameters,
            images={split: len(samples) for split, samples in run.source.splits.items()},
            seconds=time.perf_counter() - start,
            images_per_second=outcome.images_per_second,
            unreadable=outcome.unreadable,
            samples=run_folder.write_samples(output, source) if rank_zero else [],
        )
        if rank_zero:
            run_folder.write_summary(output, result)
    return result


def show_batch(config: LoopOptions, console: Console | None = None) -> None:
    """Write the picture that `show_batch` asks for, and train nothing; the output folder is not touched.

    If the options or the data are wrong, ValueError, TypeError or OSError is raised as by `train`.
    """
    console = console or Console()
    config = _as_launched(config)
    check_target("--show-batch", config.show_batch)
    if config.resume and run_folder.find_run(config.output, True) is None:
        raise MissingPathError(f"--resume: {config.output} holds no run")
    config = config.shrunk() if config.quick else config
    set_strict(config.strict)
    source = _open(config, run_folder.task_of(Path(config.output)) if config.resume else None)

    from glocal.training import first_batch
    from glocal.training.prepare import prepare

    for note in source.notes:
        log.warning(note)
    run = prepare(config, _model_name(config), source)
    if is_rank_zero():
        console.print(run.opening(), highlight=False, soft_wrap=True)
        first_batch.write(run, config.show_batch)


@contextmanager
def _explained(output: Path, check: Callable[[], None]):
    """If a file cannot be written, say that the folder is gone, or else name the folder in the error."""
    try:
        yield
    except Exception as error:
        failure = error
        # Lightning's loggers raise another error instead; the cause is behind it.
        while failure is not None and not isinstance(failure, OSError):
            failure = failure.__cause__ or (None if failure.__suppress_context__ else failure.__context__)
        if failure is not None:
            check()
            if failure.errno in DISK and (failure is not error or error.filename is None):
                raise OSError(failure.errno, failure.strerror, failure.filename or str(output)) from None
        raise


def _open(config: LoopOptions, before: str | None) -> DataSource:
    """The data, read in a format of the task that is asked for, or else of any; ValueError for another task's data.

    before: the task of the run that goes on. Of the tasks that read the data, it is the one, even if data of its layout
    is now opened for another.
    """
    if config.task is not None:
        formats = find_task(config.task).formats
    else:
        formats = all_formats(None if before is None else find_task(before))
    source = open_for_training(
        config.data, Opening(config.val_fraction, config.seed, config.group, config.data_args), formats
    )
    if config.task not in (None, source.task):
        raise InvalidValueError(f"{config.data} is for the task {source.task}, not for --task {config.task}")
    if before not in (None, source.task):
        raise InvalidValueError(f"{config.data} is for the task {source.task}, and the run is one of {before}")
    return source


def check_model_args(config: LoopOptions, file: Path) -> None:
    """Raise ValueError if the options hold arguments of the model that a file may not give."""
    from glocal.models import check_model_arguments

    try:
        check_model_arguments(_model_name(config), config.model_args)
    except ValueError as error:
        raise InvalidValueError(
            f"{file} has model_args that a file may not give (--trust allows them): {error}"
        ) from None


def _as_launched(config: LoopOptions) -> LoopOptions:
    """The same options with the number of devices for which torchrun has started processes."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return config
    own = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = int(os.environ["WORLD_SIZE"]) // own
    for name, given, launched in (("devices", config.devices, own), ("num-nodes", config.num_nodes, nodes)):
        if given not in (1, launched):
            raise InvalidValueError(f"--{name} {given}: torchrun has started {launched}")
    return replace(config, devices=own, num_nodes=nodes)


def _run_name(config: LoopOptions) -> str:
    data = Path(config.data).resolve().name if Path(config.data).exists() else config.data
    return re.sub(r"[^\w.-]+", "-", f"{data}-{_model_name(config)}")


def _model_name(config: LoopOptions) -> str:
    if config.model is not None or config.checkpoint is None:
        return config.model or DEFAULT_MODEL
    from glocal.tasks.checkpoint import find_checkpoint, read_info

    info = read_info(find_checkpoint(config.checkpoint))
    if info is None:
        raise InvalidValueError(f"{config.checkpoint} does not say of which model it is: give --model too")
    return info.model


class _LogFile(logging.FileHandler):
    """Stops with a note at the first line that cannot be written; Python's handler prints a traceback for each line."""

    def handleError(self, record: logging.LogRecord) -> None:
        logging.getLogger("glocal").removeHandler(self)
        error = sys.exc_info()[1]
        log.warning("%s is not continued: %s", self.baseFilename, getattr(error, "strerror", None) or error)


@contextmanager
def _log_file(path: Path):
    """Copy the library's log to a file; without any message, no file is made."""
    handler = _LogFile(path, encoding="utf-8", errors="backslashreplace", delay=True)
    handler.setFormatter(Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("glocal")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with suppress(OSError):  # the disk may still be full
            handler.close()
