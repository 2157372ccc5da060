"""Loaders of batches, and the processes that read images for them."""

import os
import signal
import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from glocal.data.batch import Collate, Transform
from glocal.data.dataset import ImageDataset
from glocal.data.samples import Samples
from glocal.data.sampling import EvaluationSampler, TrainingSampler
from glocal.data.shard_stream import ShardStream
from glocal.data.shards import ShardedSamples
from glocal.errors import InvalidValueError

SECONDS_AFTER_SIGTERM = 60


def training_loader(
    samples: Samples,
    transform: Transform,
    batch_size: int,
    workers: int | None,
    seed: int,
    *,
    parts: int = 1,
    rank: int = 0,
    world: int = 1,
    repeats: int = 1,
    weights: Tensor | None = None,
    targets: Callable[[list], Any] = default_collate,
    pin_memory: bool = False,
    told=None,
) -> DataLoader:
    """Batches in an order drawn from `seed`, anew every epoch; see `Batch` and `TrainingSampler`.

    batch_size counts the samples of a step on all `world` devices; each gets its share in `parts` batches, one after
    the other. An incomplete last step is dropped. In the place of an image that cannot be read comes another. workers:
    processes that read images, None for as many as suit them. weights: a probability per sample, to draw with
    replacement. targets: puts the targets of a batch together.

    A place within an epoch is the sampler's `begin_at`, with any number of workers; of shards, it is the loader's
    `state_dict`, with the same number. told: a shared integer (multiprocessing.RawValue) for the number of a signal
    that a worker gets.
    """
    own, collate = own_share(batch_size, parts, world), Collate(True, targets)
    if isinstance(samples, ShardedSamples):
        if repeats > 1:
            raise InvalidValueError("--repeated-augmentation needs images in any order, which shards do not give")
        stream = ShardStream(samples, transform, seed, rank, world, training=True, batch_size=own)
        from torchdata.stateful_dataloader import StatefulDataLoader  # of the extra [train]

        warnings.filterwarnings("ignore", "'set_vital' is deprecated", module="torchdata")
        options = _options(samples, workers, pin_memory, told, persistent=False)
        drop_last = len(samples) >= batch_size
        return StatefulDataLoader(stream, batch_size=own, drop_last=drop_last, collate_fn=collate, **options)
    sampler = TrainingSampler(len(samples), batch_size, seed, rank, world, repeats, weights)
    dataset = ImageDataset(samples, transform, replace=True)
    options = _options(samples, workers, pin_memory, told)
    options |= {"generator": torch.Generator().manual_seed(seed), "collate_fn": collate}
    return DataLoader(dataset, batch_size=own, sampler=sampler, **options)


def own_share(batch_size: int, parts: int, world: int) -> int:
    """The samples of a step that one of `world` devices gets at once; ValueError where they are not shared equally."""
    own, rest = divmod(batch_size, parts * world)
    if rest or not own:
        raise InvalidValueError(
            f"--batch-size {batch_size} cannot be shared equally: it must be a multiple of {parts * world} "
            f"({world} devices × --accumulate {parts})"
        )
    return own


def evaluation_loader(
    samples: Samples,
    transform: Transform,
    batch_size: int,
    workers: int | None,
    *,
    rank: int = 0,
    world: int = 1,
    targets: Callable[[list], Any] = default_collate,
    pin_memory: bool = False,
    told=None,
) -> DataLoader:
    """All samples once, in order, in batches; this device's share of them. workers: as of `training_loader`.

    Every device gets as many batches; what cannot be read, or is beyond the last sample, makes a batch smaller.
    """
    if isinstance(samples, ShardedSamples):
        stream = ShardStream(samples, transform, rank=rank, world=world, batch_size=batch_size)
        options = _options(samples, workers, pin_memory, told, persistent=False)
        return DataLoader(stream, batch_size=batch_size, collate_fn=Collate(targets=targets), **options)
    sampler = EvaluationSampler(len(samples), rank, world)
    options = _options(samples, workers, pin_memory, told)
    dataset = ImageDataset(samples, transform)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, collate_fn=Collate(targets=targets), **options)


def _options(samples: Samples, workers: int | None, pin_memory: bool, told, persistent: bool = True) -> dict:
    """persistent: keep the workers from epoch to epoch; those of a stream are made anew, as they carry its number."""
    workers = default_workers(samples) if workers is None else workers
    return dict(
        num_workers=workers,
        persistent_workers=persistent and workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=partial(_outlive_signals, told=told),
    )


def end_workers(loader: DataLoader) -> None:
    """End the worker processes that a loader keeps from epoch to epoch."""
    iterator = getattr(loader, "_iterator", None)
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()
        for worker in iterator._workers:
            if worker.is_alive():
                worker.kill()
        loader._iterator = None


def _outlive_signals(worker: int, told=None) -> None:
    """A scheduler signals every process of a job: the run's own process needs its workers until it has saved.

    SIGTERM is also how Python ends processes that are left at its exit, and waits for them: they take a minute for it.
    told: takes the number of a signal, as whoever sends it may know no other process.
    """

    def note(number: int, frame) -> None:
        if told is not None:
            told.value = number
        if number == signal.SIGTERM:
            _end_later()

    for name in ("SIGINT", "SIGUSR1", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), note)


def _end_later() -> None:
    timer = threading.Timer(SECONDS_AFTER_SIGTERM, os._exit, (0,))
    timer.daemon = True
    timer.start()


def default_workers(samples: Samples) -> int:
    """No processes for images in memory, otherwise one per core that this process may use, at most 8."""
    if samples.in_memory:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)
