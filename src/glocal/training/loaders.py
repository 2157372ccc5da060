"""The batches of a run on each device, for Lightning."""

from typing import TYPE_CHECKING

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from glocal.data.loaders import end_workers, evaluation_loader, per_device_batch_size, training_loader
from glocal.data.shards import ShardedSamples
from glocal.training.stopping import StopSignals

if TYPE_CHECKING:
    from glocal.training.prepare import Run


def loader_of(run: "Run", **options) -> DataLoader:
    """The training batches of a run. options: of `training_loader`, beside those that the run decides."""
    config, samples = run.config, run.source.splits["train"]
    return training_loader(
        samples,
        run.task.transform(run.preprocessing, run.source.class_names, run.augmentation),
        run.batch_size,
        config.workers,
        config.seed,
        parts=config.accumulate,
        repeats=config.repeated_augmentation,
        weights=run.task.sample_weights(config, samples),
        steps=config.epoch_steps,
        groups=run.task.sample_groups(config, samples),
        **options,
    )


class RunData(LightningDataModule):
    """The loaders of a run. Each device makes its own, for its share of the samples."""

    def __init__(self, run: "Run", stop: StopSignals):
        super().__init__()
        self.run = run
        self.loaders = []
        self.common = dict(
            targets=run.task.collate,
            pin_memory=run.device.type == "cuda",
            signal_number=stop.signal_of_worker,
        )

    def train_dataloader(self):
        loader = loader_of(self.run, rank=self.trainer.global_rank, world=self.trainer.world_size, **self.common)
        # Lightning sets the epoch from a run's second epoch on, but a resumed run may begin in any epoch.
        module = self.run.module
        if isinstance(self.run.source.splits["train"], ShardedSamples):
            loader.dataset.set_epoch(module.data_epoch)
        else:
            loader.sampler.begin_at(module.data_epoch, module.data_batches * loader.batch_size)
        self.loaders.append(loader)
        return loader

    def val_dataloader(self):
        run, config = self.run, self.run.config
        samples = run.source.splits["val"]
        at_once = per_device_batch_size(run.batch_size, config.accumulate, self.trainer.world_size)
        loader = evaluation_loader(
            samples,
            run.task.transform(run.preprocessing, run.source.class_names),
            run.task.images_at_once or at_once,
            config.workers,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            **self.common,
        )
        self.loaders.append(loader)
        return loader

    def end_workers(self) -> None:
        for loader in self.loaders:
            end_workers(loader)
