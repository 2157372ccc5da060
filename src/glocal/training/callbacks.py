"""Lightning callbacks of a run: checkpoints, the log, the progress bar."""

import csv
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from glocal.device import memory_in_use
from glocal.files import write_atomically
from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint
from glocal.tasks.task import Measure
from glocal.training.stopping import StopSignals

STEPS_BETWEEN_TALKS = 10  # how often several devices agree on whether to save


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes Lightning's checkpoints under a temporary name, flushes them to the disk, and renames them.

    check: here and in the callbacks below, raises if the output folder no longer belongs to this run.
    """

    def __init__(self, check: Callable[[], None]):
        super().__init__()
        self.check = check

    def save_checkpoint(self, checkpoint: dict, path: str | os.PathLike, storage_options=None) -> None:
        self.check()
        write_atomically(path, lambda file: torch.save(checkpoint, file))


class KeepBest(Callback):
    """Writes the model whenever its validation is better than before.

    paths: the file for each of the module's `weights()`. describe: turns the metrics of an epoch into the info of a
    checkpoint. rank: turns them into a tuple that is larger for a better model. After training, `metrics` belong to
    the model that was kept.
    """

    def __init__(
        self,
        paths: dict[str, Path],
        describe: Callable[[dict], CheckpointInfo],
        rank: Callable[[dict], tuple],
        check: Callable[[], None],
    ):
        self.paths = paths
        self.describe = describe
        self.rank = rank
        self.check = check
        self.metrics: dict = {}

    def on_validation_end(self, trainer, module) -> None:
        metrics = {**module.val_metrics, "epoch": trainer.current_epoch + 1}
        if self.metrics and self.rank(metrics) <= self.rank(self.metrics):
            return
        self.metrics = metrics
        weights = module.weights()  # on all devices, because each may hold a part
        if trainer.is_global_zero:
            self.check()
            for name, state in weights.items():
                info = metrics if not name else {**module.raw_metrics, "epoch": metrics["epoch"]}
                save_checkpoint(self.paths[name], state, self.describe(info))

    def state_dict(self) -> dict:
        return {"metrics": self.metrics}

    def load_state_dict(self, state: dict) -> None:
        self.metrics = state["metrics"]


class KeepLast(Callback):
    """Saves the state of the run: after every epoch, every `minutes` within an epoch, and before a signal stops it.

    Within an epoch it saves between two steps of the optimizer, but not after the last step, because the epoch ends
    with its validation. A second signal stops the run at once.
    """

    def __init__(self, path: Path, minutes: float, stop: StopSignals):
        self.path = path
        self.seconds = 60 * minutes
        self.stop = stop

    def on_train_start(self, trainer, module) -> None:
        self.saved_at = time.monotonic()
        if trainer.global_step:
            self._note_saved(trainer)  # the state from which this run continues
        self.stop.begin()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx: int) -> None:
        parts = trainer.accumulate_grad_batches
        left = trainer.num_training_batches - (batch_idx + 1)
        if not left or (batch_idx + 1) % parts:
            return
        # A validation follows the last step: save before it, so that a signal during the validation costs little.
        wait = self.seconds if left > parts else self.seconds / 10
        if trainer.world_size > 1 and left > parts and (batch_idx + 1) // parts % STEPS_BETWEEN_TALKS:
            return
        module.share_unreadable()
        stop = any_device(trainer, self.stop.number is not None)
        if stop or any_device(trainer, time.monotonic() - self.saved_at >= wait):
            module.fetch_losses()  # raises for a loss that is not finite: such a state is not saved
            self._save(trainer)
        if stop:
            self.stop.stop(self.stop.number)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if trainer.world_size > 1 and (batch_idx + 1) % STEPS_BETWEEN_TALKS:
            return
        if any_device(trainer, self.stop.number is not None):
            self.stop.stop(self.stop.number)

    def on_train_epoch_end(self, trainer, module) -> None:
        module.data_epoch = trainer.current_epoch + 1
        module.share_unreadable()
        self._save(trainer)
        stop = any_device(trainer, self.stop.number is not None)
        if stop and trainer.current_epoch + 1 < trainer.max_epochs:
            self.stop.stop(self.stop.number)

    def _save(self, trainer) -> None:
        trainer.save_checkpoint(self.path)
        self.saved_at = time.monotonic()
        self._note_saved(trainer)

    def _note_saved(self, trainer) -> None:
        place = f"step {trainer.global_step} (epoch {trainer.current_epoch + 1})"
        self.stop.kept = f"saved at {place} in {self.path.parent}"


def any_device(trainer, answer: bool) -> bool:
    """Whether the answer is yes on any device of the run. All devices have to ask."""
    return answer if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(answer, all=False)


class EpochLog(Callback):
    """Writes a row per epoch to metrics.csv and the loggers, and a line to the screen.

    On a terminal it also shows a progress bar. After training, `images_per_second` is the mean speed of training,
    without validation. `rows` holds all epochs of the run, also those before it was resumed. monitor: the measure that
    the line shows.
    """

    def __init__(self, console: Console, path: Path, monitor: Measure, check: Callable[[], None]):
        self.console = console
        self.path = path
        self.monitor = monitor
        self.check = check
        self.rows: list[dict] = []
        self.unreadable_before = 0
        self.images = 0
        self.seconds = 0.0
        self.progress: Progress | None = None

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0

    def state_dict(self) -> dict:
        return {"rows": self.rows, "unread_before": self.unreadable_before}

    def load_state_dict(self, state: dict) -> None:
        self.rows = state["rows"]
        self.unreadable_before = state["unread_before"]

    def on_train_start(self, trainer, module) -> None:
        self._start_clock()  # Lightning calls no on_train_epoch_start for an epoch that is continued
        if self.console.is_terminal and trainer.is_global_zero:
            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}")
            self.progress = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
            batches = int(trainer.num_training_batches) * trainer.max_epochs
            done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
            self.task = self.progress.add_task("", total=batches, completed=done, rate="")
            self.progress.start()

    def on_train_epoch_start(self, trainer, module) -> None:
        self.unreadable_before = module.unreadable.total()
        self._start_clock()

    def _start_clock(self) -> None:
        self.epoch_images = self.epoch_seconds = 0
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx: int) -> None:
        self.epoch_images += len(batch) * trainer.world_size
        self.epoch_seconds = time.perf_counter() - self.start
        if self.progress is not None:
            rate = f"{self.epoch_images / self.epoch_seconds:,.0f} images/s, {memory_in_use(module.device)}"
            description = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self.progress.update(self.task, advance=1, description=description, rate=rate)

    def on_train_epoch_end(self, trainer, module) -> None:
        self.images += self.epoch_images
        self.seconds += self.epoch_seconds
        rate = self.epoch_images / self.epoch_seconds if self.epoch_seconds else 0.0
        unreadable = torch.tensor([module.unreadable.total() - self.unreadable_before], dtype=torch.float64)
        unreadable = int(module.sum_over_devices(unreadable))
        epoch, loss = trainer.current_epoch + 1, module.train_loss
        lr = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        row = {"epoch": epoch, "lr": lr, "train_loss": loss}
        row |= {f"train_{name}": value for name, value in module.train_parts.items()}
        row["train_images_per_second"] = rate
        val = module.val_metrics
        row |= {f"val_{name}": value for name, value in val.items()}
        if module.ema is not None:
            row |= {f"val_raw_{name}": value for name, value in module.raw_metrics.items()}
        row["unread"] = unreadable  # the column's name since version 0.1
        self.rows.append(row)
        for logger in trainer.loggers:
            logger.log_metrics(row, step=trainer.global_step)
        if not trainer.is_global_zero:
            return
        self.check()
        write_atomically(self.path, table(self.rows))
        line = f"epoch {epoch:>{len(str(trainer.max_epochs))}}/{trainer.max_epochs}  train loss {loss:.4f}  "
        if "loss" in val:
            line += f"val loss {val['loss']:.4f}  "
        if self.monitor.key in val:
            shown, width = self.monitor.shown(val[self.monitor.key]), len(self.monitor.shown(100))
            line += f"{self.monitor.title} {shown:>{width}}  "
        line += f"{rate:,.0f} images/s" + (f"  {unreadable} unreadable" if unreadable else "")
        self.console.print(line, highlight=False, soft_wrap=True)

    def on_train_end(self, trainer, module) -> None:
        self._stop()

    def on_exception(self, trainer, module, exception) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()


def table(rows: list[dict]) -> bytes:
    """The rows as CSV, with every column that any row has."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
