"""The samples of WebDataset shards as a stream for a DataLoader: shuffled in training, shared out over devices."""

import random
from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import IterableDataset, get_worker_info

from glocal.data.batch import Item, Transform
from glocal.data.image import UnreadableImageError
from glocal.data.seeds import mix_seeds, random_state
from glocal.data.shards import ShardedSamples, read_shard
from glocal.errors import InvalidValueError

SHUFFLE_BUFFER = 1000


class ShardStream(IterableDataset):
    """One device's share of an epoch, sample by sample, as an `Item` for each.

    In training the last sample that could be read takes the place of one that cannot, where there is one.

    An epoch is a sequence of all samples, shard after shard, the shards in an order drawn anew for each. Every device
    gets an equal part of it: in training a remainder smaller than `world` is left out, in evaluation the last devices
    get items that hold nothing. Every worker of a DataLoader gets a part of its device's, in whole batches of
    `batch_size`. In training a worker shuffles its samples in a buffer of 1,000, so the order depends on the number of
    workers, and otherwise on (seed, epoch) alone; so do the random changes of an image.

    `state_dict` and `load_state_dict` let torchdata's StatefulDataLoader continue within an epoch.
    """

    def __init__(
        self,
        samples: ShardedSamples,
        transform: Transform,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        training: bool = False,
        batch_size: int = 1,
    ):
        if training and len(samples) < world:
            raise InvalidValueError(f"{len(samples)} samples are too few for {world} devices")
        self.samples = samples
        self.transform = transform
        self.seed = seed
        self.rank = rank
        self.world = world
        self.training = training
        self.batch_size = batch_size
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that persist must see it change
        self._state = {"epoch": 0, "yielded": 0, "good": None}
        self._loaded: dict | None = None

    def __len__(self) -> int:
        """How many samples one device gets in an epoch."""
        return len(self.samples) // self.world if self.training else -(-len(self.samples) // self.world)

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the epoch that the next iterator goes through."""
        self._epoch.fill_(epoch)

    def state_dict(self) -> dict:
        """Where the current iterator stands: its epoch, the samples yielded, and the last that could be read."""
        return dict(self._state)

    def load_state_dict(self, state: dict) -> None:
        """Let the next iterator continue where `state` was taken, on as many devices and workers as then."""
        self._loaded = dict(state)

    def __iter__(self) -> Iterator[Item]:
        info = get_worker_info()
        first, last = self._range(*((info.id, info.num_workers) if info else (0, 1)))
        self._state = self._loaded or {"epoch": self.epoch, "yielded": 0, "good": None}
        self._loaded = None
        return self._items(self._state, first, last)

    def _range(self, worker: int, workers: int) -> tuple[int, int]:
        """The part of the epoch's sequence that a worker of this device yields, as (first, last + 1)."""
        whole, rest = divmod(len(self), self.batch_size)

        def until(worker: int) -> int:
            batches = whole // workers * worker + min(worker, whole % workers)
            # A DataLoader asks its workers in turn: after the last whole batch comes this one's turn.
            return batches * self.batch_size + (rest if worker > whole % workers else 0)

        return self.rank * len(self) + until(worker), self.rank * len(self) + until(worker + 1)

    def _items(self, state: dict, first: int, last: int) -> Iterator[Item]:
        epoch, order = state["epoch"], list(range(first, last))
        shards = list(range(len(self.samples.shards)))
        if self.training:
            random.Random(f"{self.seed} {epoch} shards").shuffle(shards)
            order = buffer_shuffled(order, SHUFFLE_BUFFER, random.Random(f"{self.seed} {epoch} {first}"))
        good = state["good"]
        wanted = order[state["yielded"] :]
        read = {position for position in [*wanted, good] if position is not None and position < len(self.samples)}
        ahead = _Ahead(self._raw(shards, sorted(read)))
        kept = ahead.take(good) if good is not None else None  # raw, not decoded: its random changes differ every time
        for position in wanted:
            sample = ahead.take(position) if position < len(self.samples) else None
            with random_state(mix_seeds(self.seed, epoch, position)):
                item = self._item(sample, kept)
            if item.example is not None and item.skipped is None:
                kept, state["good"] = sample, position
            state["yielded"] += 1
            yield item

    def _item(self, sample, kept) -> Item:
        if sample is None:
            return Item(None)
        try:
            return Item(self.transform(*self.samples.decode(sample)), name=sample.name)
        except UnreadableImageError as error:
            reason = str(error if error is sample else error.of(sample.name))
            if self.training and kept is not None:
                return Item(self.transform(*self.samples.decode(kept)), reason, kept.name)
            return Item(None, reason)

    def _raw(self, shards: list[int], wanted: list[int]) -> Iterator[tuple[int, object]]:
        """Read the samples at the positions `wanted` of the epoch's sequence: position → sample."""
        begin, place = 0, 0
        for shard in shards:
            end, here = begin + self.samples.counts[shard], set()
            while place < len(wanted) and wanted[place] < end:
                here.add(wanted[place] - begin)
                place += 1
            if here:
                for number, sample in read_shard(self.samples.shards[shard], here, self.samples.counts[shard]):
                    yield begin + number, sample
            begin = end


class _Ahead:
    """Takes out of a sequence of (position, value) any position, keeping those passed on the way."""

    def __init__(self, values: Iterator[tuple[int, object]]):
        self.values = values
        self.passed: dict[int, object] = {}

    def take(self, position: int):
        while position not in self.passed:
            passed, value = next(self.values)
            self.passed[passed] = value
        return self.passed.pop(position)


def buffer_shuffled(order: Iterable[int], size: int, draw: random.Random) -> list[int]:
    """The order in which a shuffle buffer of `size` would give out what comes in `order`."""
    buffer, shuffled = [], []
    for position in order:
        if len(buffer) < size:
            buffer.append(position)
        else:
            place = draw.randrange(size)
            shuffled.append(buffer[place])
            buffer[place] = position
    draw.shuffle(buffer)
    return shuffled + buffer
