"""Samples in WebDataset shards: tar files, read from end to end, whose members 0001.jpg and 0001.cls are one sample."""

import json
import os
import random
import re
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby, takewhile
from typing import BinaryIO
from urllib.parse import urlparse
from urllib.request import url2pathname

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from glocal.data.dataset import mix_seeds, random_state
from glocal.data.image import PHOTO_ENDINGS, PHOTOS, StoredImage, UnreadableImageError, image_endings, one_line
from glocal.data.names import class_name

SHUFFLE_BUFFER = 1000
META = re.compile(r"__[^/]*__($|/)")  # members that webdataset reserves for itself

Fields = dict[str, bytes]  # endings of a sample's members ("jpg", "cls") → their content


@dataclass(frozen=True)
class ShardedSamples:
    """Shards, how many samples each holds, and the names of the classes; images and labels come with `stream`.

    A label is the number of a class or its name; `new_labels`, if given, replaces the number of each class.
    """

    shards: list[str]
    counts: list[int]
    class_names: list[str]
    new_labels: list[int] | None = None

    in_memory = False

    def __len__(self) -> int:
        return sum(self.counts)

    def __add__(self, other: "ShardedSamples") -> "ShardedSamples":
        return ShardedSamples(
            [*self.shards, *other.shards], [*self.counts, *other.counts], self.class_names, self.new_labels
        )

    def relabel(self, new: Sequence[int]) -> "ShardedSamples":
        """The same shards, with `new[label]` in the place of each label."""
        old = range(len(self.class_names)) if self.new_labels is None else self.new_labels
        return ShardedSamples(self.shards, self.counts, self.class_names, [new[label] for label in old])

    def stream(
        self,
        transform: Callable[[Image.Image], Tensor],
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        training: bool = False,
        batch_size: int = 1,
    ) -> "ShardStream":
        """The samples as a data set for a DataLoader; see `ShardStream`."""
        return ShardStream(self, transform, seed, rank, world, training, batch_size)

    def content(self) -> tuple:
        """What tells the samples from others, wherever they lie: the names and sizes of shards, and the labels."""
        return [shard.rpartition("/")[2] for shard in self.shards], self.counts, self.new_labels

    def name(self, index: int) -> str:
        """Where the sample `index` is, counted over all shards."""
        shard, place = self._place(index)
        return f"{self.shards[shard]}: sample {place}"

    def reason(self, index: int) -> str:
        """Why the sample `index` cannot be read, with its name; a shard that is not local is not read again."""
        shard, place = self._place(index)
        if local_path(self.shards[shard]) is None:
            return f"{self.name(index)}: cannot be read"
        try:
            for _, sample in read_shard(self.shards[shard], {place}, self.counts[shard]):
                self.decode(sample)
        except UnreadableImageError as error:
            return str(error)
        return f"{self.name(index)}: could not be read before"

    def decode(self, sample: "RawSample | UnreadableImageError") -> tuple[Image.Image, int]:
        """The RGB image and the label of a sample; raises UnreadableImageError."""
        if isinstance(sample, UnreadableImageError):
            raise sample
        place = f"{sample.shard}: {sample.key}"
        text = label_text(sample.fields)
        label = self._numbers.get(text)
        if label is None:
            reason = "no label" if text is None else f"the label {text!r} is none of {len(self.class_names)} classes"
            raise UnreadableImageError(place, reason)
        return sample.image().load(), label if self.new_labels is None else self.new_labels[label]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Name or number of a class → its number; where a name is a number itself, it is taken for a number."""
        of_name = {name: label for label, name in enumerate(self.class_names)}
        return of_name | {str(label): label for label in range(len(self.class_names))}

    def _place(self, index: int) -> tuple[int, int]:
        starts = list(accumulate(self.counts, initial=0))
        shard = bisect_right(starts, index) - 1
        return shard, index - starts[shard]


@dataclass(frozen=True)
class RawSample:
    """A sample as it stands in a shard."""

    shard: str
    key: str
    fields: Fields

    def image(self) -> StoredImage:
        """The first image among the fields."""
        place = f"{self.shard}: {self.key}"
        for ending, content in self.fields.items():
            if f".{ending}" in image_endings():
                return StoredImage(f"{place}.{ending}", content)
        extra = f" ({PHOTOS} to read it)" if any(f".{ending}" in PHOTO_ENDINGS for ending in self.fields) else ""
        return StoredImage(place, reason=f"no image among {', '.join(self.fields)}{extra}")


class ShardStream(IterableDataset):
    """One device's share of an epoch, sample by sample: (image tensor, label, unread), as of `ImageDataset`.

    unread is -1, or the index (over all shards) of the sample that could not be read; `reason` says why. In
    training the last sample that could be read then takes its place; where there is none, and in evaluation, the label
    is -1 and the image blank. So the counts are exact whatever is broken.

    An epoch is a sequence of all samples, shard after shard, the shards in an order drawn anew for each. Every device
    gets an equal part of it: in training a remainder smaller than `world` is left out, in evaluation the last devices
    get blank images with the label -1. Every worker of a DataLoader gets a part of its device's, in whole batches of
    `batch_size`. In training a worker shuffles its samples in a buffer of 1,000, so the order depends on the number of
    workers, and otherwise on (seed, epoch) alone; so do the random changes of an image.

    `state_dict` and `load_state_dict` let torchdata's StatefulDataLoader continue within an epoch.
    """

    def __init__(
        self,
        samples: ShardedSamples,
        transform: Callable[[Image.Image], Tensor],
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        training: bool = False,
        batch_size: int = 1,
    ):
        if training and len(samples) < world:
            raise ValueError(f"{len(samples)} samples are too few for {world} devices")
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

    def reason(self, index: int) -> str:
        """Why the sample `index`, counted over all shards, cannot be read, with its name."""
        return self.samples.reason(index)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the epoch that the next iterator goes through."""
        self._epoch.fill_(epoch)

    def state_dict(self) -> dict:
        """Where the current iterator stands: its epoch, the samples yielded, and the last that could be read."""
        return dict(self._state)

    def load_state_dict(self, state: dict) -> None:
        """Let the next iterator continue where `state` was taken, on as many devices and workers as then."""
        self._loaded = dict(state)

    def __iter__(self) -> Iterator[tuple[Tensor, int, int]]:
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

    def _items(self, state: dict, first: int, last: int) -> Iterator[tuple[Tensor, int, int]]:
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
            index, sample = ahead.take(position) if position < len(self.samples) else (-1, None)
            with random_state(mix_seeds(self.seed, epoch, position)):
                item, is_good = self._item(index, sample, kept)
            if is_good:
                kept, state["good"] = (index, sample), position
            state["yielded"] += 1
            yield item

    def _item(self, index: int, sample, kept) -> tuple[tuple[Tensor, int, int], bool]:
        """The item of a sample, and whether that could be read."""
        if sample is None:
            return (self._blank(), -1, -1), False
        try:
            image, label = self.samples.decode(sample)
            return (self.transform(image), label, -1), True
        except UnreadableImageError:
            if self.training and kept is not None:
                image, label = self.samples.decode(kept[1])
                return (self.transform(image), label, index), False
            return (self._blank(), -1, index), False

    def _blank(self) -> Tensor:
        return self.transform(Image.new("RGB", (32, 32)))

    def _raw(self, shards: list[int], wanted: list[int]) -> Iterator[tuple[int, tuple[int, object]]]:
        """Read the samples at the positions `wanted` of the epoch's sequence: position → (index, sample)."""
        starts = list(accumulate(self.samples.counts, initial=0))
        begin, place = 0, 0
        for shard in shards:
            end, here = begin + self.samples.counts[shard], set()
            while place < len(wanted) and wanted[place] < end:
                here.add(wanted[place] - begin)
                place += 1
            if here:
                for number, sample in read_shard(self.samples.shards[shard], here, self.samples.counts[shard]):
                    yield begin + number, (starts[shard] + number, sample)
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


def read_shard(shard: str, wanted: set[int], count: int) -> Iterator[tuple[int, RawSample | UnreadableImageError]]:
    """Read the samples of a shard whose numbers are `wanted`, in order; an error for each that cannot be got at."""
    from webdataset.tariterators import tar_file_iterator

    left, last, numbers, reason = sorted(wanted, reverse=True), max(wanted), SampleNumbers(), ""

    def select(name: str) -> bool:
        number = numbers.of(name)
        return number is not None and (number in wanted or number > last)

    try:
        with open_shard(shard) as stream:
            files = tar_file_iterator(stream, select_files=select)
            members = ((numbers.number, file["fname"], file["data"]) for file in files)
            for number, key, fields in grouped(takewhile(lambda member: member[0] <= last, members)):
                left.pop()
                yield number, RawSample(shard, key, fields)
    except Exception as error:  # of tarfile, gzip, a command, a network
        reason = f" ({one_line(error)})"
    ends = f"{shard} ends after {numbers.number + 1:,} of {count:,} samples{reason}"
    for number in reversed(left):
        yield number, UnreadableImageError(f"{shard}: sample {number}", ends)


def images_in_shard(shard: str) -> Iterator[StoredImage]:
    """The images of all samples of a shard, in order; where it is broken or cut off, one at its end that says so."""
    numbers, path, broken = SampleNumbers(), local_path(shard), None
    try:
        with open_shard(shard) as stream, tarfile.open(fileobj=stream, mode="r|*" if path is None else "r:*") as tar:
            for _, key, fields in grouped(_members(tar, numbers)):
                yield RawSample(shard, key, fields).image()
            broken = None if path is None else end_of(tar)
    except Exception as error:  # of tarfile, gzip, a command, a network
        broken = one_line(error)
    if broken:
        yield StoredImage(shard, reason=f"cannot be read to its end ({broken})")


def _members(tar: tarfile.TarFile, numbers: "SampleNumbers") -> Iterator[tuple[int, str, bytes]]:
    for member in tar:
        number = numbers.of(member.name) if member.isreg() else None
        if number is not None:
            yield number, member.name, tar.extractfile(member).read()
        tar.members.clear()  # or it would keep the headers of all


def end_of(tar: tarfile.TarFile) -> str | None:
    """What is wrong with the place where reading ended: a tar file ends with blocks of zeros, or it is cut off."""
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        return "it is cut off"
    return "a broken header follows" if block.strip(b"\0") else None


class SampleNumbers:
    """Numbers the samples of a shard, from the names of its members in their order."""

    def __init__(self):
        self.number = -1
        self.key = None

    def of(self, name: str) -> int | None:
        """The number of the sample that a member belongs to; None for one of webdataset's own or without an ending."""
        key = key_and_ending(name)[0]
        if key is None or META.match(name):
            return None
        if key != self.key:
            self.number += 1
            self.key = key
        return self.number


def grouped(members: Iterable[tuple[int, str, bytes]]) -> Iterator[tuple[int, str, Fields]]:
    """Gather members (number, name, content) to samples (number, key, fields)."""
    for number, of_sample in groupby(members, key=lambda member: member[0]):
        fields, key = {}, ""
        for _, name, content in of_sample:
            key, ending = key_and_ending(name)
            fields[ending] = content
        yield number, key, fields


def key_and_ending(name: str) -> tuple[str | None, str]:
    """Divide a member's name at the first point of its last part: "a/0001.jpg" into "a/0001" and "jpg"."""
    from webdataset.tariterators import base_plus_ext

    key, ending = base_plus_ext(name)
    return key, (ending or "").lower()


def label_text(fields: Fields) -> str | None:
    """What a sample's .cls says, or "label" in its .json; None where that is no name and no whole number."""
    try:
        if "cls" in fields:
            return _name(fields["cls"].decode())
        label = json.loads(fields["json"])["label"]
    except (KeyError, TypeError, ValueError):
        return None
    return _name(str(label)) if isinstance(label, (int, str)) and not isinstance(label, bool) else None


def _name(label: str) -> str | None:
    try:
        return class_name(label.strip()) or None
    except ValueError:  # JSON can hold what is no text
        return None


def open_shard(shard: str) -> BinaryIO:
    """Open a shard, wherever it is."""
    from webdataset.gopen import gopen

    path = local_path(shard)
    return gopen(shard) if path is None else open(path, "rb")


def local_path(shard: str) -> str | None:
    """The path of a shard that is a file; None for an address and a command."""
    if os.path.isfile(shard):  # whatever its name, pipe:… too
        return shard
    address = urlparse(shard)
    if address.scheme == "file":
        return url2pathname(address.path)
    return shard if len(address.scheme) < 2 else None  # a single letter is a drive
