"""The training loop's inner part, for Lightning: step, optimizer, schedule."""

import logging
from collections import Counter

import torch
from lightning.pytorch import LightningModule
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn

from glocal.tasks.classification import ClassificationTotals, training_loss

log = logging.getLogger(__name__)


class TrainingStopped(RuntimeError):
    """A run that cannot go on; the checkpoints written so far stay."""


class ClassificationModule(LightningModule):
    """A classifier in training: AdamW, linear warm-up and cosine per step, label smoothing.

    Batches are those of `glocal.data.dataset`. `train_loss` and `val_metrics` hold the figures of the current epoch,
    `unread` counts how often each unreadable file was met, by its message.
    """

    def __init__(
        self, model: nn.Module, lr: float, weight_decay: float, warmup_epochs: float, label_smoothing: float = 0.0
    ):
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)  # faster for convolutions, with the same results
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.label_smoothing = label_smoothing
        self.train_losses: list[float] = []
        self.val_totals = ClassificationTotals()
        self.unread: Counter[str] = Counter()

    @property
    def train_loss(self) -> float:
        return sum(self.train_losses) / max(1, len(self.train_losses))

    @property
    def val_metrics(self) -> dict[str, float]:
        return self.val_totals.compute()

    def configure_optimizers(self) -> dict:
        optimizer = create_optimizer_v2(self.model, opt="adamw", lr=self.lr, weight_decay=self.weight_decay)
        steps = self.trainer.estimated_stepping_batches // self.trainer.max_epochs
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched="cosine",
            num_epochs=self.trainer.max_epochs,
            warmup_epochs=self.warmup_epochs,
            warmup_lr=self.lr / 100,
            min_lr=self.lr / 100,
            step_on_epochs=False,
            updates_per_epoch=steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scheduler_step(self, scheduler, metric) -> None:
        # timm's schedulers know per-layer rates, torch's do not; they count updates themselves.
        scheduler.step_update(self.global_step)

    def on_before_batch_transfer(self, batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Note the files that could not be read, while the batch is on the CPU; returns (images, labels)."""
        images, labels, unread = batch
        dataset = (self.trainer.train_dataloader if self.training else self.trainer.val_dataloaders).dataset
        for index in unread if isinstance(unread, list) else unread[unread >= 0].tolist():
            reason = dataset.reason(index)
            if not self.unread[reason]:
                log.warning("skipped %s", reason)
            self.unread[reason] += 1
        if (labels < 0).any():
            raise TrainingStopped(f"too many images cannot be read, for instance {next(iter(self.unread))}")
        return images, labels

    def on_train_epoch_start(self) -> None:
        self.train_losses.clear()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        try:
            logits = self.model(images.to(memory_format=torch.channels_last))
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                raise TrainingStopped("batch norm has nothing to average over: give a larger --batch-size") from None
            raise
        loss = training_loss(logits, labels, self.label_smoothing)
        value = loss.item()
        self._check_finite(value, f"the loss is {value} at step {self.global_step + 1}")
        self.train_losses.append(value)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.val_totals = ClassificationTotals()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        if len(labels):
            self.val_totals.update(self.model(images.to(memory_format=torch.channels_last)), labels)

    def on_validation_epoch_end(self) -> None:
        if not self.val_metrics:
            raise TrainingStopped(f"no validation image can be read, for instance {next(iter(self.unread))}")
        value = self.val_metrics["loss"]
        self._check_finite(value, f"the validation loss is {value} after step {self.global_step}")

    def _check_finite(self, value: float, what: str) -> None:
        if not torch.isfinite(torch.tensor(value)):
            raise TrainingStopped(f"{what} (epoch {self.current_epoch + 1}): try a lower --lr")
