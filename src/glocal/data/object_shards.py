"""Samples in shards with their objects: the JSON beside an image has a box and a class of each."""

import json
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from PIL import Image

from glocal.data.image import UnreadableImageError
from glocal.data.object_table import UNKNOWN, Faults, Photo, frames_of, samples_of
from glocal.data.objects import Objects
from glocal.data.orientation import Frame, checked_frame, head_of
from glocal.data.row_objects import Columns, are_objects, checked_boxes, classes_in, columns_of, table_of, with_texts
from glocal.data.shards import (
    RawSample,
    SampleNumbers,
    ShardedSamples,
    grouped,
    local_path,
    members_of,
    open_shard,
    read_shard,
)
from glocal.errors import InvalidValueError
from glocal.wording import one_line, quoted, shown

OF_OBJECTS = ("objects", "boxes", "orientation")  # arguments
OBJECTS = ("objects", "annotations")  # in the JSON of a sample
PEEKED = 32  # samples, to see whether objects have segments


@dataclass(frozen=True, kw_only=True)
class ObjectShards(ShardedSamples):
    """Shards whose samples have their objects in a member with JSON.

    ending: of this member. corners: whether boxes are x1, y1, x2, y2. frame: of which picture boxes are, where an EXIF
    orientation turns an image and its size does not tell. masks: whether every object must have a segment.
    """

    ending: str
    corners: bool = False
    frame: Frame | None = None
    masks: bool = False

    def content(self) -> tuple:
        return *super().content(), self.ending, self.corners, self.frame, self.masks

    def decode(self, sample: "RawSample | UnreadableImageError") -> tuple[Image.Image, Objects]:
        """The RGB image and the objects of a sample; raises UnreadableImageError, also for a broken object."""
        if isinstance(sample, UnreadableImageError):
            raise sample
        image, faults = sample.image(), Faults(sample.name)
        try:
            columns, said = objects_in(sample, self.ending)
            photos = [Photo(image, "the image", said)]
            frames = frames_of(photos, [head_of(image)], self.frame, faults, [])
            table = table_of([columns], self.numbers, self.corners, lambda _: f".{self.ending}")
            table = table.without(
                table.labels == UNKNOWN, f"of a class that is not among the {len(self.class_names)}", faults
            )
            objects = samples_of(photos, frames, table, faults).labels[0]
        except InvalidValueError as error:
            raise UnreadableImageError(sample.name, one_line(error)) from None
        if faults.found:
            raise UnreadableImageError(sample.name, faults.messages()[0])
        if self.masks and not objects.has_segments:
            raise UnreadableImageError(sample.name, "an object without a segment, where others have one")
        return image.load(), objects


def objects_in(sample: "RawSample", ending: str) -> tuple[Columns, tuple[int, int] | None]:
    """The objects of a sample and the (height, width) that it says; ValueError if there are none to be read."""
    if ending not in sample.fields:
        raise InvalidValueError(f"no objects .{ending} among {', '.join(sample.fields)}")
    try:
        record = json.loads(sample.fields[ending])
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f".{ending} is no JSON ({one_line(error)})") from None
    found = object_list(record)
    if found is None:
        raise InvalidValueError(f".{ending} has no list of {quoted(list(OBJECTS))}")
    sides = [record.get(side) for side in ("height", "width")] if isinstance(record, dict) else [None]
    said = (sides[0], sides[1]) if all(type(side) is int and side > 0 for side in sides) else None
    return with_texts(columns_of(found, f".{ending}")), said


def object_list(record: object) -> object | None:
    """What is a list of objects in the JSON of a sample, if there is one."""
    if isinstance(record, list):
        return record
    names = [name for name in OBJECTS if name in record] if isinstance(record, dict) else []
    if names:
        return record[names[0]]
    if isinstance(record, dict) and are_objects(record):
        return {name: column for name, column in record.items() if isinstance(column, list)}
    return None


def sharded_objects(
    parts: Mapping[str, list[str]],
    counts_of: Mapping[str, list[int]],
    names: list[str],
    ending: str,
    args: Mapping[str, Any],
) -> tuple[dict[str, ObjectShards], bool]:
    """The shards of each part, and whether every object has a segment, which the first samples tell."""
    options = {"corners": checked_boxes(args.get("boxes")), "frame": checked_frame(args.get("orientation"))}
    first, count = next(iter(parts.values()))[0], next(iter(counts_of.values()))[0]
    masks = True
    for _, sample in read_shard(first, set(range(min(count, PEEKED))), count):
        try:
            columns = objects_in(sample, ending)[0] if isinstance(sample, RawSample) else {}
        except InvalidValueError:
            continue  # it is named when it is read
        table = table_of([columns], {}, False, str)
        masks = masks and (not len(table) or all(table.segments or [None]))
    splits = {
        part: ObjectShards(of_part, counts_of[part], names, ending=ending, masks=masks, **options)
        for part, of_part in parts.items()
    }
    return splits, masks


def ending_of_objects(data: str, shards: list[str], args: Mapping[str, Any]) -> str | None:
    """The ending of the members with objects: as it is given, or .json of the first sample if it has a list of them."""
    if "objects" in args:
        if not isinstance(args["objects"], str) or not re.fullmatch(r"[\w.]+", args["objects"]):
            raise InvalidValueError(
                f"objects must be the ending of the members with them, got {shown(args['objects'])}"
            )
        if not set(args) <= {*OF_OBJECTS, "classes"}:
            raise InvalidValueError(f"{data}: objects and masks exclude each other")
        return args["objects"]
    if not set(args) <= set(OF_OBJECTS) or local_path(shards[0]) is None:
        return None
    try:
        with open_shard(shards[0]) as stream, tarfile.open(fileobj=stream, mode="r:*") as tar:
            _, _, fields = next(grouped(members_of(tar, SampleNumbers())), (0, "", {}))
        record = None if "cls" in fields else msgspec.json.decode(fields.get("json", b"null"))
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, RecursionError):
        return None  # it is named when the shards are read
    labelled = isinstance(record, dict) and "label" in record and not isinstance(record["label"], list)
    return "json" if not labelled and object_list(record) else None


def classes_of_sample(ending: str, shard: str, key: str, fields: dict[str, bytes]) -> list[str]:
    """The classes of the objects of a sample, as texts; ValueError where they cannot be read."""
    try:
        columns, _ = objects_in(RawSample(shard, key, fields), ending)
    except InvalidValueError as error:
        raise InvalidValueError(f"{shard}: the sample {key!r}: {error}") from None
    return [name for name in classes_in(columns) if name is not None]
