"""What happens around the training loop: checkpoints, the log, the progress bar."""

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

from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint, write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written under a temporary name, flushed to the disk, and renamed."""

    def save_checkpoint(self, checkpoint: dict, path: str | os.PathLike, storage_options=None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(path, buffer.getbuffer())


class KeepBest(Callback):
    """Writes the model whenever its validation top-1 is higher than before, or equal with a lower loss.

    describe: makes the checkpoint's info of the epoch's metrics. After training, `metrics` are those of the model kept.
    """

    def __init__(self, path: Path, describe: Callable[[dict], CheckpointInfo]):
        self.path = path
        self.describe = describe
        self.metrics: dict = {}

    def on_validation_end(self, trainer, module) -> None:
        metrics = {**module.val_metrics, "epoch": trainer.current_epoch + 1}
        if not self.metrics or self._rank(metrics) > self._rank(self.metrics):
            self.metrics = metrics
            save_checkpoint(self.path, module.model.state_dict(), self.describe(metrics))

    @staticmethod
    def _rank(metrics: dict) -> tuple[float, float]:
        return metrics["top1"], -metrics["loss"]


class EpochLog(Callback):
    """One row of figures per epoch for the loggers, one line for the screen; on a terminal, a progress bar too.

    After training, `images_per_second` is the training's mean, validation apart.
    """

    def __init__(self, console: Console):
        self.console = console
        self.images = 0
        self.seconds = 0.0
        self.progress: Progress | None = None

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer, module) -> None:
        if self.console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}")
            self.progress = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
            self.task = self.progress.add_task("", total=trainer.estimated_stepping_batches, rate="")
            self.progress.start()

    def on_train_epoch_start(self, trainer, module) -> None:
        self.epoch_images = self.epoch_seconds = 0
        self.unread_before = module.unread.total()
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx: int) -> None:
        self.epoch_images += len(batch[1])
        self.epoch_seconds = time.perf_counter() - self.start
        if self.progress is not None:
            rate = f"{self.epoch_images / self.epoch_seconds:,.0f} images/s"
            description = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self.progress.update(self.task, advance=1, description=description, rate=rate)

    def on_train_epoch_end(self, trainer, module) -> None:
        self.images += self.epoch_images
        self.seconds += self.epoch_seconds
        val, epoch, rate = module.val_metrics, trainer.current_epoch + 1, self.epoch_images / self.epoch_seconds
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        unread = module.unread.total() - self.unread_before
        row = {"epoch": epoch, "lr": lr, "train_loss": module.train_loss, "train_images_per_second": rate}
        row |= {f"val_{name}": value for name, value in val.items()} | {"unread": unread}
        for logger in trainer.loggers:
            logger.log_metrics(row, step=trainer.global_step)
        line = (
            f"epoch {epoch:>{len(str(trainer.max_epochs))}}/{trainer.max_epochs}  train loss {module.train_loss:.4f}  "
            f"val loss {val['loss']:.4f}  top-1 {val['top1']:6.2f} %  {rate:,.0f} images/s"
        )
        self.console.print(line + (f"  {unread} unreadable" if unread else ""), highlight=False, soft_wrap=True)

    def on_train_end(self, trainer, module) -> None:
        self._stop()

    def on_exception(self, trainer, module, exception) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()
