"""A model in training, for Lightning: step, loss, optimizer, schedule, moving average, validation."""

import logging
import random
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import timm.optim.muon
import torch
from lightning.pytorch import LightningModule
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from glocal.backbone import Block, Stage
from glocal.data.batch import Batch
from glocal.data.seeds import mix_seeds
from glocal.data.shard_stream import ShardStream
from glocal.errors import InvalidValueError, WorkError
from glocal.tasks.task import Objective, Task
from glocal.training.config import LoopOptions, part_of
from glocal.training.freezing import freeze
from glocal.training.groups import parameter_groups
from glocal.training.schedule import make_scheduler

log = logging.getLogger(__name__)

LOSSES_AT_ONCE = 20  # losses fetched from a GPU together, because the GPU waits at every fetch


class TrainingStopped(WorkError):
    """The run cannot go on. The checkpoints that were written before stay."""


class TrainingModule(LightningModule):
    """A model in training, for any task.

    Batches are `glocal.data.batch.Batch`. images: number of training images. data_key: hash of the training data;
    resuming with other data is an error. lr: the highest learning rate. input_size: (C, H, W) of the images.
    `train_loss`, `train_parts` and `val_metrics` hold the values of the current epoch; `unreadable` counts how often
    each unreadable file was met, by its message.

    Every step draws its random numbers (mixup, dropout, stochastic depth) from the seed and the step's place. A resumed
    run therefore computes the same as a run that was not stopped, and no generator's state is saved.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        objective: Objective,
        config: LoopOptions,
        lr: float,
        class_names: list[str],
        images: int,
        steps_per_epoch: int,
        input_size: tuple[int, int, int],
        data_key: str = "",
        task_args: dict | None = None,
    ):
        super().__init__()
        if config.strategy != "fsdp":  # FSDP2 takes contiguous parameters only
            model = model.to(memory_format=torch.channels_last)  # faster for convolutions, with the same results
        self.model = model
        self.task = task
        self.objective = objective
        self.config = config
        self.lr = lr
        self.images = images
        # The trainer is not asked: it would make its loaders, before the saved place in them is loaded.
        self.steps_per_epoch = steps_per_epoch
        self.input_size = input_size
        self.data_key = data_key
        self.task_args = task_args or {}
        self.data_epoch = 0  # of the next batch; at the end of an epoch, the trainer's epoch + 1
        self.data_batches = 0  # batches of that epoch that were seen before the run was stopped
        if config.freeze:
            freeze(self.model, config.freeze)  # Lightning restores the mode of every part after a validation
        self.ema = None
        if config.ema is not None:
            together = config.strategy != "fsdp"  # torch does not compute parts of weights together with whole buffers
            ema = ModelEmaV3(self.model, decay=config.ema, use_warmup=config.ema_warmup, foreach=together)
            self.ema = ema.requires_grad_(False)
        names = ["val_", "val_raw_"] if self.ema else ["val_"]
        self.measured = {name: task.metrics(class_names) for name in names}
        self.val_metrics: dict[str, float] = {}  # of this epoch; empty before its validation, or without one
        self.raw_metrics: dict[str, float] = {}
        max_bad = part_of(config.max_bad, "--max-bad")
        self.max_bad = 1.0 if max_bad is None else max_bad
        self.unreadable: Counter[str] = Counter()
        self.unreadable_in_training: set[str] = set()
        self.unreadable_elsewhere: set[str] = set()  # that other devices have reported
        self.unreadable_shared = 0  # how many of this device's files the other devices know
        self.loss_sum, self.loss_steps = 0.0, 0  # of the epoch's batches so far
        self.part_sums: dict[str, tuple[float, int]] = {}  # the same of the other parts that the objective returns
        self.pending: list[tuple[int, dict[str, Tensor]]] = []  # steps, and their losses, which are still on the device
        self.grouped = False
        self.sync_batch_norm = False  # for FSDP2; set before the run

    @property
    def train_loss(self) -> float:
        """The mean loss of the epoch's batches so far, over all devices."""
        self.fetch_losses()
        sums = self.sum_over_devices(torch.tensor([self.loss_sum, self.loss_steps], dtype=torch.float64))
        return (sums[0] / sums[1].clamp(min=1)).item()

    @property
    def train_parts(self) -> dict[str, float]:
        """The same of the other parts that the objective returns; empty if it returns none."""
        self.fetch_losses()
        return {name: total / count for name, (total, count) in self._all_part_sums().items()}

    def _all_part_sums(self) -> dict[str, tuple[float, int]]:
        """The sum of each part and the number of its batches, over all devices."""
        if self.trainer.world_size == 1:
            return dict(self.part_sums)
        devices = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(devices, self.part_sums)
        sums: dict[str, tuple[float, int]] = {}
        for one in devices:
            _add_parts(sums, one)
        return sums

    def sum_over_devices(self, values: Tensor) -> Tensor:
        """The sum of a small CPU tensor over the devices of the run."""
        if self.trainer.world_size == 1:
            return values
        values = values.to(self.device, torch.float32 if self.device.type == "mps" else values.dtype)
        return self.trainer.strategy.reduce(values, reduce_op="sum").cpu()

    def all_unreadable(self) -> dict[str, int]:
        """How often each unreadable file was met, on all devices."""
        if self.trainer.world_size == 1:
            return dict(self.unreadable)
        parts = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, self.unreadable)
        return dict(sum(parts, Counter()))

    def configure_model(self) -> None:
        """Shard the weights if the strategy is FSDP2: each block, each stage, and the rest.

        In timm's models, these are the numbered parts at two depths, such as stages.0 and stages.0.blocks.0.
        """
        if self.device_mesh is None or self.grouped:
            return
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        if self.sync_batch_norm:  # Lightning converts them for DDP only
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)

        mesh = self.device_mesh["data_parallel"]
        for model in [self.model] if self.ema is None else [self.model, self.ema.module]:
            ours = any(isinstance(part, Stage) for part in model.modules())
            for name, part in reversed(list(model.named_modules())):
                numbered = name.rpartition(".")[2].isdigit() and name.count(".") in (1, 3)
                whole = isinstance(part, (Block, Stage)) or (not ours and numbered)
                if whole and any(True for _ in part.parameters()):
                    fully_shard(part, mesh=mesh)
                if isinstance(part, Stage):  # called by dense models in the place of `forward`
                    register_fsdp_forward_method(part, "forward_maps")
            fully_shard(model, mesh=mesh)
        self.grouped = True

    def configure_optimizers(self) -> dict:
        config = self.config
        _compute_muon_in(torch.float32 if self.device.type == "cpu" else torch.bfloat16)
        ruled = config.parameter_rules or config.decay_1d
        optimizer = create_optimizer_v2(
            parameter_groups(self.model, config) if ruled else self.model,
            opt=config.optimizer,
            lr=self.lr,
            weight_decay=config.weight_decay,
            layer_decay=config.layer_decay,
        )
        epochs = self.trainer.max_epochs - config.cooldown_epochs
        scheduler = make_scheduler(optimizer, config, self.lr, epochs, self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scheduler_step(self, scheduler, metric) -> None:
        # timm's schedulers keep a rate per layer, torch's do not; timm's count the updates themselves.
        scheduler.step_update(self.global_step)

    def on_fit_start(self) -> None:
        self.objective.to(self.device)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Note the files that could not be read."""
        for reason in batch.skipped:
            if not self.unreadable[reason]:
                log.warning("skipped %s", reason)
            self.unreadable[reason] += 1
            if self.training:
                self.unreadable_in_training.add(reason)
        if self.training:
            if self.trainer.world_size == 1:
                self._check_unreadable()
            if not len(batch):
                raise TrainingStopped(f"too many images cannot be read, for instance {next(iter(self.unreadable))}")
        return batch

    def share_unreadable(self) -> None:
        """Exchange the unreadable files with the other devices, all of which call it; stop if they are too many."""
        if self.trainer.world_size == 1:  # checked with each batch
            return
        news = len(self.unreadable) > self.unreadable_shared
        if not self.trainer.strategy.reduce_boolean_decision(news, all=False):
            return
        parts = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, (sorted(self.unreadable), sorted(self.unreadable_in_training)))
        elsewhere = {reason for reasons, _ in parts for reason in reasons} - set(self.unreadable)
        for reason in sorted(elsewhere - self.unreadable_elsewhere):
            log.warning("skipped %s", reason)
        self.unreadable_elsewhere = elsewhere
        self.unreadable_in_training.update(*(reasons for _, reasons in parts))
        self.unreadable_shared = len(self.unreadable)
        self._check_unreadable()

    def _check_unreadable(self) -> None:
        bad = self.unreadable_in_training
        if len(bad) > self.max_bad * self.images:
            raise TrainingStopped(
                f"{len(bad)} of {self.images} images cannot be read, more than --max-bad {self.config.max_bad} allows, "
                f"for instance {min(bad)}"
            )

    def on_train_batch_start(self, batch, batch_idx: int) -> None:
        seed = mix_seeds(self.config.seed, self.current_epoch, batch_idx, self.global_rank)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        batch = replace(batch, images=batch.images.to(memory_format=torch.channels_last))
        try:
            parts = self.objective(self.model, batch)
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                raise TrainingStopped("batch norm has nothing to average over: give a larger --batch-size") from None
            raise
        self.pending.append((self.trainer.global_step + 1, {name: part.detach() for name, part in parts.items()}))
        if len(self.pending) >= (LOSSES_AT_ONCE if self.device.type == "cuda" else 1):
            self.fetch_losses()
        return parts["loss"]

    def fetch_losses(self) -> None:
        """Fetch the losses that are still on the device; TrainingStopped if a loss is not finite."""
        if not self.pending:
            return
        values = torch.stack([parts["loss"] for _, parts in self.pending]).double().tolist()
        for (step, _), value in zip(self.pending, values, strict=True):
            self._check_finite(value, f"the loss is {value} at step {step}")
        self.loss_sum += sum(values)
        self.loss_steps += len(values)
        others = [(name, part) for _, parts in self.pending for name, part in parts.items() if name != "loss"]
        if others:
            numbers = torch.stack([part.to(self.device, torch.float32) for _, part in others]).tolist()
            for (name, _), number in zip(others, numbers, strict=True):
                _add_parts(self.part_sums, {name: (number, 1)})
        self.pending.clear()

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:  # here, so that every saved state contains this step
            self.ema.update(self.model, step=self.trainer.global_step + 1)

    def on_train_start(self) -> None:
        self._measure_the_last_epoch()  # Lightning calls no on_train_epoch_start for an epoch that is continued

    def on_train_epoch_start(self) -> None:
        self.data_epoch = self.current_epoch
        self.loss_sum, self.loss_steps = 0.0, 0
        self.part_sums = {}
        self.val_metrics, self.raw_metrics = {}, {}
        self._measure_the_last_epoch()
        dataset = self.trainer.train_dataloader.dataset
        if isinstance(dataset, ShardStream):
            dataset.set_epoch(self.current_epoch)

    def _measure_the_last_epoch(self) -> None:
        if self.current_epoch + 1 == self.trainer.max_epochs:
            self.trainer.check_val_every_n_epoch = 1

    def on_validation_epoch_start(self) -> None:
        self.fetch_losses()
        if self.device_mesh is not None:  # batch norms' statistics are each device's own; DDP shares the first's too
            for buffer in [*self.model.buffers(), *(self.ema.module.buffers() if self.ema is not None else ())]:
                torch.distributed.broadcast(buffer, 0)
        for metrics in self.measured.values():
            metrics.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        batch = replace(batch, images=batch.images.to(memory_format=torch.channels_last)) if len(batch) else batch
        models = [self.model] if self.ema is None else [self.ema.module, self.model]
        for model, metrics in zip(models, self.measured.values(), strict=True):
            outputs = self.task.outputs(model)
            if len(batch):
                metrics.update(self.task.predict(outputs, batch, self.task_args), batch.targets)
            elif self.device_mesh is not None:  # the other devices need this device's part of the weights
                outputs(torch.zeros(1, *self.input_size, device=self.device))

    def on_validation_epoch_end(self) -> None:
        for metrics in self.measured.values():
            if self.trainer.world_size > 1:
                states = [None] * self.trainer.world_size
                torch.distributed.all_gather_object(states, metrics.state())
                metrics.merge(states)
        values = [metrics.compute() for metrics in self.measured.values()]
        self.val_metrics, self.raw_metrics = values[0], values[-1]
        if not self.val_metrics:
            raise TrainingStopped(f"no validation image can be read, for instance {next(iter(self.unreadable))}")
        for name, value in [item for of_model in values for item in of_model.items()]:
            self._check_finite(value, f"the validation {name} is {value} after step {self.global_step}")

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The state dicts to keep: "" is the model's; with --ema it is the averaged model's, and "raw" the model's."""
        if self.ema is None:
            return {"": self._whole(self.model)}
        return {"": self._whole(self.ema.module), "raw": self._whole(self.model)}

    def _whole(self, model: nn.Module) -> dict[str, Tensor]:
        if self.device_mesh is None:
            return model.state_dict()
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        sums = self.sum_over_devices(torch.tensor([self.loss_sum, self.loss_steps], dtype=torch.float64))
        checkpoint["epoch_so_far"] = {"loss_sum": sums[0].item(), "loss_steps": int(sums[1])}
        if parts := self._all_part_sums():
            checkpoint["epoch_so_far"]["parts"] = parts
        checkpoint["unread"] = self.all_unreadable()
        checkpoint["unread_in_training"] = sorted(self.unreadable_in_training)
        in_epoch = self.data_epoch == self.current_epoch
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if in_epoch else 0
        checkpoint["data"] = {"key": self.data_key, "epoch": self.data_epoch, "batches": batches}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        if checkpoint["data"]["key"] != self.data_key:
            raise InvalidValueError(
                "the data has changed since the run was stopped (other images, labels or classes): "
                "--overwrite starts anew"
            )
        self.data_epoch, self.data_batches = checkpoint["data"]["epoch"], checkpoint["data"]["batches"]
        if self.trainer.is_global_zero:  # the counts are those of all devices: only one device continues them
            self.loss_sum = checkpoint["epoch_so_far"]["loss_sum"]
            self.loss_steps = checkpoint["epoch_so_far"]["loss_steps"]
            self.part_sums = dict(checkpoint["epoch_so_far"].get("parts", {}))
            self.unreadable = Counter(checkpoint["unread"])
            self.unreadable_in_training = set(checkpoint["unread_in_training"])

    def _check_finite(self, value: float, what: str) -> None:
        if not np.isfinite(value):
            raise TrainingStopped(f"{what} (epoch {self.current_epoch + 1}): try a lower --lr")


def _add_parts(sums: dict[str, tuple[float, int]], further: dict[str, tuple[float, int]]) -> None:
    """Add to each part's sum, and to the number of its batches."""
    for name, (value, count) in further.items():
        total, batches = sums.get(name, (0.0, 0))
        sums[name] = total + value, batches + count


def _compute_muon_in(dtype: torch.dtype) -> None:
    """Set the type of Muon's matrix products (timm has no argument for it); bfloat16 is slow on most CPUs."""
    iterate = timm.optim.muon.zeropower_via_newtonschulz
    timm.optim.muon.zeropower_via_newtonschulz = partial(getattr(iterate, "func", iterate), dtype=dtype)
