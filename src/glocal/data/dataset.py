"""Samples as tensors, in batches: in training each with a random seed of its own, in an order drawn for every epoch."""

import os
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from glocal.data.image import UnreadableImageError
from glocal.data.source import Samples

MAX_REPLACEMENTS = 100
SECONDS_AFTER_SIGTERM = 60
_GENERATOR = np.random.MT19937(0)  # of `random_state`


class ImageDataset(Dataset):
    """Samples through a transform: (image tensor, label, unread).

    The label is the class's index; with `classes` (several labels per image), a tensor (classes,) of zeros and ones.
    unread is -1, or the index of the sample that could not be read. In training (`replace=True`) another sample then
    takes its place, always the same one; otherwise, and when 100 others cannot be read either, the label is -1 and the
    image blank.

    An item is asked for by its index, or by (index, seed): the seed then decides every random change of the image,
    whichever process makes it. The index None stands for nothing: a blank image that fills a batch.
    """

    def __init__(
        self,
        samples: Samples,
        transform: Callable[[Image.Image], Tensor],
        replace: bool = False,
        classes: int | None = None,
    ):
        self.samples = samples
        self.transform = transform
        self.replace = replace
        self.classes = classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int] | None) -> tuple[Tensor, int | Tensor, int]:
        if isinstance(key, tuple):
            index, seed = key
            with random_state(seed):
                return self[index]
        if key is None:
            return self._blank(), self._label(None), -1
        unread = -1
        for step in range(min(MAX_REPLACEMENTS, len(self)) if self.replace else 1):
            # Neighbours share a class, and often a fault: a stride that is no divisor of a usual size leaves both.
            place = (key + step * 7919) % len(self)
            try:
                return self.transform(self.samples.load(place)), self._label(place), unread
            except UnreadableImageError:
                unread = key
        return self._blank(), self._label(None), unread

    def reason(self, index: int) -> str:
        """Why the sample at `index` cannot be read, with its name."""
        try:
            self.samples.load(index)
        except UnreadableImageError as error:
            return str(error)
        return f"{self.samples.name(index)}: could not be read before"

    def _blank(self) -> Tensor:
        return self.transform(Image.new("RGB", (32, 32)))

    def _label(self, place: int | None) -> int | Tensor:
        if self.classes is None:
            return -1 if place is None else self.samples.labels[place]
        if place is None:
            return torch.full((self.classes,), -1.0)
        target = torch.zeros(self.classes)
        target[list(self.samples.labels[place])] = 1
        return target


@contextmanager
def random_state(seed: int):
    """Python's, NumPy's and torch's random numbers as `seed` decides; what they were before comes back afterwards."""
    # This is done for every sample. NumPy's state takes 0.1 ms to copy, so another generator takes its place meanwhile;
    # torch.manual_seed takes longer still, as it sees to all devices.
    before = random.getstate(), np.random.get_bit_generator(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.set_bit_generator(_GENERATOR)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_bit_generator(before[1])
        torch.default_generator.set_state(before[2])


class TrainingSampler(Sampler):
    """One device's share of an epoch's samples, as (index, seed) for `ImageDataset`, decided by (seed, epoch) alone.

    The order is that of one device: of `world` devices, the one of `rank` takes every world-th sample, so that a step
    sees the same samples, changed in the same way, on any number of devices and with any number of workers.

    batch_size: samples of a step, over all devices. What remains of an epoch's whole steps is left out; where there is
        not one, only what would give one device more samples than another. Fewer samples than devices: ValueError.
    repeats: differently changed copies of an image that follow each other (repeated augmentation, Hoffer et al. 2020);
        an epoch then sees a part of the images only.
    weights: a probability per sample, to draw with replacement.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        repeats: int = 1,
        weights: Tensor | None = None,
    ):
        self.size = size
        self.used = size // batch_size * batch_size or size // world * world
        if not self.used:
            raise ValueError(f"{size} samples are too few for {world} devices")
        self.seed = seed
        self.rank = rank
        self.world = world
        self.repeats = repeats
        self.weights = weights
        self.epoch = 0
        self.begin = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def begin_at(self, epoch: int, done: int) -> None:
        """Leave out the first `done` samples of an epoch, which were seen before the run was stopped."""
        self.epoch, self.begin = epoch, (epoch, done)

    def __len__(self) -> int:
        return len(range(self.rank, self.used, self.world))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(mix_seeds(self.seed, self.epoch))
        if self.weights is None:
            order = torch.randperm(self.size, generator=generator)
        else:
            order = torch.multinomial(self.weights, self.size, replacement=True, generator=generator)
        order = order.repeat_interleave(self.repeats)[: self.used]
        seeds = torch.randint(2**62, (self.used,), generator=generator)
        mine = slice(self.rank, None, self.world)
        items = list(zip(order[mine].tolist(), seeds[mine].tolist(), strict=True))
        return iter(items[self.begin[1] :] if self.epoch == self.begin[0] else items)


class EvaluationSampler(Sampler):
    """One device's share of all samples, in order; with None at the end, so that every device has as many."""

    def __init__(self, size: int, rank: int = 0, world: int = 1):
        self.size = size
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        return -(-self.size // self.world)

    def __iter__(self) -> Iterator[int | None]:
        mine = list(range(self.rank, self.size, self.world))
        return iter(mine + [None] * (len(self) - len(mine)))


def mix_seeds(*numbers: int) -> int:
    """One 64-bit seed of several numbers; near numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def class_balance(labels: list[int]) -> Tensor:
    """A weight per sample with which all classes are drawn equally often."""
    labels = torch.tensor(labels)
    return 1.0 / labels.bincount()[labels].double()


def training_loader(
    samples: Samples,
    transform: Callable,
    batch_size: int,
    workers: int | None,
    seed: int,
    *,
    parts: int = 1,
    rank: int = 0,
    world: int = 1,
    repeats: int = 1,
    balanced: bool = False,
    classes: int | None = None,
    pin_memory: bool = False,
    told=None,
) -> DataLoader:
    """Batches of (images, labels, unread) in an order drawn from `seed`, anew every epoch; see `TrainingSampler`.

    batch_size counts the samples of a step on all `world` devices; each gets its share in `parts` batches, one after
    the other. An incomplete last step is dropped. classes: how many, for several labels per image. workers: processes
    that read images, None for as many as suit them.

    A place within an epoch is the sampler's `begin_at`, with any number of workers; of shards, it is the loader's
    `state_dict`, with the same number. told: a shared integer (multiprocessing.RawValue) for the number of a signal
    that a worker gets.
    """
    own = own_share(batch_size, parts, world)
    if hasattr(samples, "stream"):
        if balanced or repeats > 1:
            option = "--balanced" if balanced else "--repeated-augmentation"
            raise ValueError(f"{option} needs images in any order, which shards do not give")
        stream = samples.stream(transform, seed=seed, rank=rank, world=world, training=True, batch_size=own)
        from torchdata.stateful_dataloader import StatefulDataLoader  # of the extra [train]

        warnings.filterwarnings("ignore", "'set_vital' is deprecated", module="torchdata")
        options = _options(samples, workers, pin_memory, told, persistent=False)
        return StatefulDataLoader(stream, batch_size=own, drop_last=len(samples) >= batch_size, **options)
    weights = class_balance(samples.labels) if balanced else None
    sampler = TrainingSampler(len(samples), batch_size, seed, rank, world, repeats, weights)
    dataset = ImageDataset(samples, transform, replace=True, classes=classes)
    generator = torch.Generator().manual_seed(seed)
    options = _options(samples, workers, pin_memory, told)
    return DataLoader(dataset, batch_size=own, sampler=sampler, generator=generator, **options)


def own_share(batch_size: int, parts: int, world: int) -> int:
    """The samples of a step that one of `world` devices gets at once; ValueError where they are not shared equally."""
    own, rest = divmod(batch_size, parts * world)
    if rest or not own:
        raise ValueError(
            f"--batch-size {batch_size} cannot be shared equally: it must be a multiple of {parts * world} "
            f"({world} devices × --accumulate {parts})"
        )
    return own


def evaluation_loader(
    samples: Samples,
    transform: Callable,
    batch_size: int,
    workers: int | None,
    *,
    rank: int = 0,
    world: int = 1,
    classes: int | None = None,
    pin_memory: bool = False,
    told=None,
) -> DataLoader:
    """All samples once, in order, as batches of (images, labels, unread); this device's share of them.

    The label of a sample that cannot be read, or fills a batch, is -1; unread is its index or -1. workers: as of
    `training_loader`.
    """
    if hasattr(samples, "stream"):
        stream = samples.stream(transform, rank=rank, world=world, batch_size=batch_size)
        options = _options(samples, workers, pin_memory, told, persistent=False)
        return DataLoader(stream, batch_size=batch_size, **options)
    dataset = ImageDataset(samples, transform, classes=classes)
    sampler = EvaluationSampler(len(samples), rank, world)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, **_options(samples, workers, pin_memory, told))


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
