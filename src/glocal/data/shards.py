"""Samples in WebDataset shards: tar files, read from end to end, whose members 0001.jpg and 0001.cls are one sample."""

import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, takewhile
from typing import BinaryIO
from urllib.parse import urlparse
from urllib.request import url2pathname

from PIL import Image

from glocal.data.image import PHOTO_ENDINGS, PHOTOS, StoredImage, UnreadableImageError, image_endings
from glocal.data.masks import Coding, MaskFile
from glocal.data.names import class_name
from glocal.wording import one_line

META = re.compile(r"__[^/]*__($|/)")  # members that webdataset reserves for itself

Fields = dict[str, bytes]  # endings of a sample's members ("jpg", "cls") → their content


@dataclass(frozen=True)
class ShardedSamples:
    """Shards, how many samples each holds, and the names of the classes; `ShardStream` gives images and labels.

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
        return replace(self, shards=[*self.shards, *other.shards], counts=[*self.counts, *other.counts])

    def relabel(self, new: Sequence[int]) -> "ShardedSamples":
        """The same shards, with `new[label]` in the place of each label."""
        old = range(len(self.class_names)) if self.new_labels is None else self.new_labels
        return replace(self, new_labels=[new[label] for label in old])

    def content(self) -> tuple:
        """What tells the samples from others, wherever they lie: the names and sizes of shards, and the labels."""
        return [shard.rpartition("/")[2] for shard in self.shards], self.counts, self.new_labels

    def decode(self, sample: "RawSample | UnreadableImageError") -> tuple[Image.Image, int]:
        """The RGB image and the label of a sample; raises UnreadableImageError."""
        if isinstance(sample, UnreadableImageError):
            raise sample
        text = label_text(sample.fields)
        label = self.numbers.get(text)
        if label is None:
            reason = "no label" if text is None else f"the label {text!r} is none of {len(self.class_names)} classes"
            raise UnreadableImageError(sample.name, reason)
        return sample.image().load(), label if self.new_labels is None else self.new_labels[label]

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Name or number of a class → its number; where a name is a number itself, it is taken for a number."""
        of_name = {name: label for label, name in enumerate(self.class_names)}
        return of_name | {str(label): label for label in range(len(self.class_names))}


@dataclass(frozen=True, kw_only=True)
class MaskedShards(ShardedSamples):
    """Shards whose samples have a mask each. ending: of its member, for instance seg.png. coding: of all masks."""

    ending: str
    coding: Coding

    def content(self) -> tuple:
        return *super().content(), self.ending, self.coding.values

    def decode(self, sample: "RawSample | UnreadableImageError") -> tuple[Image.Image, MaskFile]:
        """The RGB image and the label map of a sample; raises UnreadableImageError."""
        if isinstance(sample, UnreadableImageError):
            raise sample
        return sample.image().load(), MaskFile(sample.mask(self.ending), self.coding)


@dataclass(frozen=True)
class MemberMask:
    """A mask in a shard; see `StoredMask`."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name

    def read(self) -> bytes:
        return self.content


@dataclass(frozen=True)
class RawSample:
    """A sample as it stands in a shard."""

    shard: str
    key: str
    fields: Fields

    @property
    def name(self) -> str:
        return f"{self.shard}: {self.key}"

    def image(self) -> StoredImage:
        """The first image among the fields."""
        for ending, content in self.fields.items():
            if f".{ending}" in image_endings():
                return StoredImage(f"{self.name}.{ending}", content)
        extra = f" ({PHOTOS} to read it)" if any(f".{ending}" in PHOTO_ENDINGS for ending in self.fields) else ""
        return StoredImage(self.name, reason=f"no image among {', '.join(self.fields)}{extra}")

    def mask(self, ending: str) -> MemberMask:
        """The member with an ending; raises UnreadableImageError if there is none."""
        name = f"{self.shard}: {self.key}"
        if ending not in self.fields:
            raise UnreadableImageError(name, f"no mask .{ending} among {', '.join(self.fields)}")
        return MemberMask(f"{name}.{ending}", self.fields[ending])


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
            for _, key, fields in grouped(members_of(tar, numbers)):
                yield RawSample(shard, key, fields).image()
            broken = None if path is None else end_of(tar)
    except Exception as error:  # of tarfile, gzip, a command, a network
        broken = one_line(error)
    if broken:
        yield StoredImage(shard, reason=f"cannot be read to its end ({broken})")


def members_of(tar: tarfile.TarFile, numbers: "SampleNumbers") -> Iterator[tuple[int, str, bytes]]:
    """The members of samples: the number of the sample, the name and the content of each."""
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
