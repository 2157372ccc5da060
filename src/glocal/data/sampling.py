"""Which samples a device takes in an epoch, and in which order."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler

from glocal.data.objects import Objects, classes_of_images
from glocal.data.seeds import mix_seeds
from glocal.errors import InvalidValueError


class TrainingSampler(Sampler):
    """One device's share of an epoch's samples, as (index, seed) for `ImageDataset`, decided by (seed, epoch) alone.

    The order is that of one device: of `world` devices, the one of `rank` takes every world-th sample, so that a step
    sees the same samples, changed in the same way, on any number of devices and with any number of workers.

    batch_size: samples of a step, over all devices. What remains of an epoch's whole steps is left out; where there is
        not one, only what would give one device more samples than another. Fewer samples than devices: ValueError.
    repeats: differently changed copies of an image that follow each other (repeated augmentation, Hoffer et al. 2020);
        an epoch then sees a part of the images only.
    weights: a probability per sample, to draw with replacement.
    steps: steps of an epoch. An epoch is then a stretch of an endless sequence of passes over all samples, each in an
        order of its own, and begins where the epoch before it ends; there may be fewer samples than a step or the
        devices need. By default, an epoch is a pass.
    groups: the group of each sample, (size,). The steps of an epoch are then each of one group, as far as it goes.
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
        steps: int | None = None,
        groups: Tensor | None = None,
    ):
        self.size = size
        self.batch_size = batch_size
        self.groups = groups
        self.steps = steps
        self.used = size // batch_size * batch_size or size // world * world
        if steps is not None:
            self.used = steps * batch_size
        if not size or not self.used:
            raise InvalidValueError(f"{size} samples are too few for {world} devices")
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
        order, seeds = self._pass(self.epoch, self.used) if self.steps is None else self._stretch()
        if self.groups is not None:
            order = in_groups(order, self.groups, self.batch_size)
        mine = slice(self.rank, None, self.world)
        items = list(zip(order[mine].tolist(), seeds[mine].tolist(), strict=True))
        return iter(items[self.begin[1] :] if self.epoch == self.begin[0] else items)

    def _pass(self, number: int, used: int) -> tuple[Tensor, Tensor]:
        """The samples of a pass up to the place `used`, and a seed for each."""
        generator = torch.Generator().manual_seed(mix_seeds(self.seed, number))
        if self.weights is None:
            order = torch.randperm(self.size, generator=generator)
        else:
            order = torch.multinomial(self.weights, self.size, replacement=True, generator=generator)
        order = order.repeat_interleave(self.repeats)[:used]
        seeds = torch.randint(2**62, (used,), generator=generator)
        return order, seeds

    def _stretch(self) -> tuple[Tensor, Tensor]:
        """The samples of an epoch of `steps` steps, and a seed for each: places of the sequence of all passes."""
        length = self.size * self.repeats
        first, last = self.epoch * self.used, (self.epoch + 1) * self.used
        passes = [self._pass(number, length) for number in range(first // length, -(-last // length))]
        order, seeds = (torch.cat(parts) for parts in zip(*passes, strict=True))
        part = slice(first % length, first % length + self.used)
        return order[part], seeds[part]


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


def in_groups(order: Tensor, groups: Tensor, batch_size: int) -> Tensor:
    """The samples of an order (N,) so that batches are of one group each; what is left of the groups comes last.

    A batch stands where its last sample was.
    """
    of_order, whole, rest = groups[order], [], []
    for group in groups.unique():
        places = (of_order == group).nonzero()[:, 0]
        full = len(places) // batch_size * batch_size
        whole.append(places[:full].view(-1, batch_size))
        rest.append(places[full:])
    batches = torch.cat(whole)
    batches = batches[batches[:, -1].argsort()]
    return order[torch.cat([batches.flatten(), torch.cat(rest).sort().values])]


def aspect_groups(sizes: Sequence[tuple[int, int] | None]) -> Tensor:
    """The group of each sample (N,) int64: 1 for wide images, 0 for others. Batches of one group are padded little.

    sizes: (height, width); None: not known.
    """
    return torch.tensor([int(size is not None and size[1] > size[0]) for size in sizes], dtype=torch.int64)


def class_balance(labels: list[int]) -> Tensor:
    """A weight per sample with which all classes are drawn equally often."""
    labels = torch.tensor(labels)
    return 1.0 / labels.bincount()[labels].double()


def repeat_factors(annotations: Sequence[Objects], classes: int, threshold: float = 0.001) -> Tensor:
    """A weight per image (N,) by its objects, crowds included; see `rare_class_weights`. threshold: LVIS's."""
    return rare_class_weights(torch.from_numpy(classes_of_images(annotations, classes)), threshold)


def rare_class_weights(presence: Tensor, threshold: float = 1.0) -> Tensor:
    """A weight per sample with which samples of rare classes are drawn more often: the repeat factors of LVIS.

    Of a sample it is the largest of max(1, √(threshold / f)) over its classes, f being the share of the samples that
    have the class; 1 for a sample without classes (Gupta et al., arXiv 1908.03195).

    presence: (N, C) bool, which classes a sample has. threshold: the share below which a class is rare; the paper has
    0.001, for 1,200 classes in 100,000 images. With 1 it is the square root for all classes, which suits a few images.
    """
    shares = presence.double().mean(0)
    factors = (threshold / shares).sqrt().clamp(min=1)  # infinite for a class that no sample has
    return torch.where(presence, factors, 1.0).amax(1)
