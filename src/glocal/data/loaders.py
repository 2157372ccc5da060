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
    steps: int | None = None,
    groups: Tensor | None = None,
    targets: Callable[[list], Any] = default_collate,
    pin_memory: bool = False,
    signal_number=None,
) -> DataLoader:
    """Batches in an order drawn from `seed`, anew every epoch; see `Batch` and `TrainingSampler`.

    batch_size: samples of a step on all `world` devices; each device gets its share in `parts` successive batches. An
    incomplete last step is dropped, and another image replaces an image that cannot be read. workers: processes that
    read images; None: as many as suit the images. weights: a probability per sample, to draw with replacement.
    steps: steps of an epoch (default: a pass over the samples). groups: see `TrainingSampler`. targets: collates the
    targets of a batch.

    To begin within an epoch, use the sampler's `begin_at`, with any number of workers; for shards, use the loader's
    `state_dict`, with the same number of workers. signal_number: a shared integer (multiprocessing.RawValue) that a
    worker sets to the number of a signal that it gets.
    """
    own, collate = per_device_batch_size(batch_size, parts, world), Collate(True, targets)
    if isinstance(samples, ShardedSamples):
        if repeats > 1:
            raise InvalidValueError("--repeated-augmentation needs images in any order, which shards do not give")
        if steps is not None:
            raise InvalidValueError("--epoch-steps needs images in any order, which shards do not give")
        stream = ShardStream(samples, transform, seed, rank, world, training=True, batch_size=own)
        from torchdata.stateful_dataloader import StatefulDataLoader  # of the extra [train]

        warnings.filterwarnings("ignore", "'set_vital' is deprecated", module="torchdata")
        options = _options(samples, workers, pin_memory, signal_number, persistent=False)
        drop_last = len(samples) >= batch_size
        return StatefulDataLoader(stream, batch_size=own, drop_last=drop_last, collate_fn=collate, **options)
    sampler = TrainingSampler(len(samples), batch_size, seed, rank, world, repeats, weights, steps, groups)
    dataset = ImageDataset(samples, transform, replace=True)
    options = _options(samples, workers, pin_memory, signal_number)
    options |= {"generator": torch.Generator().manual_seed(seed), "collate_fn": collate}
    return DataLoader(dataset, batch_size=own, sampler=sampler, **options)


def per_device_batch_size(batch_size: int, parts: int, world: int) -> int:
    """Samples that each of `world` devices computes at once; ValueError if the devices cannot share them equally."""
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
    signal_number=None,
) -> DataLoader:
    """This device's share of the samples, once and in order, in batches. workers: as in `training_loader`.

    All devices get the same number of batches; unreadable images, and places after the last sample, make a batch
    smaller.
    """
    if isinstance(samples, ShardedSamples):
        stream = ShardStream(samples, transform, rank=rank, world=world, batch_size=batch_size)
        options = _options(samples, workers, pin_memory, signal_number, persistent=False)
        return DataLoader(stream, batch_size=batch_size, collate_fn=Collate(targets=targets), **options)
    sampler = EvaluationSampler(len(samples), rank, world)
    options = _options(samples, workers, pin_memory, signal_number)
    dataset = ImageDataset(samples, transform)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, collate_fn=Collate(targets=targets), **options)


def _options(samples: Samples, workers: int | None, pin_memory: bool, signal_number, persistent: bool = True) -> dict:
    """persistent: keep the workers from epoch to epoch. A stream needs new workers: they carry the epoch's number."""
    workers = default_workers(samples) if workers is None else workers
    return dict(
        num_workers=workers,
        persistent_workers=persistent and workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=partial(_outlive_signals, signal_number=signal_number),
    )


def end_workers(loader: DataLoader) -> None:
    """End the worker processes that a loader has kept from epoch to epoch."""
    iterator = getattr(loader, "_iterator", None)
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()
        for worker in iterator._workers:
            if worker.is_alive():
                worker.kill()
        loader._iterator = None


def _outlive_signals(worker: int, signal_number=None) -> None:
    """Let a worker survive signals, which a scheduler sends to every process: the run reads images until it saves.

    Python also sends SIGTERM to the processes that are left when it exits, and waits for them; a worker therefore ends
    `SECONDS_AFTER_SIGTERM` after it. signal_number: the worker writes the signal's number here, because the sender may
    have signalled no other process.
    """

    def note(number: int, frame) -> None:
        if signal_number is not None:
            signal_number.value = number
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
    """Processes that read images: none if the images are in memory, else one per core of this process, at most 8."""
    if samples.in_memory:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)
