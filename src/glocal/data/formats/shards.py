"""WebDataset shards as a data set: which files there are, how many samples each holds, and the names of the classes."""

import glob
import logging
import os
import re
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from glocal.data import mask_classes
from glocal.data.class_lists import ClassList, class_list
from glocal.data.names import class_name, split_of
from glocal.data.object_shards import OF_OBJECTS, classes_of_sample, ending_of_objects, sharded_objects
from glocal.data.samples import DataSource, Opening
from glocal.data.shards import (
    MaskedShards,
    MemberMask,
    RawSample,
    SampleNumbers,
    ShardedSamples,
    end_of,
    grouped,
    label_text,
    local_path,
    open_shard,
    read_shard,
)
from glocal.data.splits import DEFAULT_VAL_FRACTION, fingerprint, refuse_to_draw, stratified_split
from glocal.data.walk import entries, is_folder
from glocal.errors import InvalidValueError, MissingExtraError, MissingPathError, PathError
from glocal.trust import runs_command
from glocal.wording import counted, one_line, quoted, shown

log = logging.getLogger(__name__)

ARGS = ("masks", "classes", *OF_OBJECTS, *mask_classes.ARGS)
MASK_ENDINGS = ("seg.png", "mask.png", "label.png", "annotation.png")  # that are met
VAL_NAMES = ("val", "test")  # the first that there is
SIZES = ("_info.json", "info.json", "sizes.json")  # of timm and the Hugging Face Hub; of webdataset
CLASSES = ("classes.txt", "classes.json")
MOST_SHARDS = 200_000
LARGEST_LIST = 64 * 2**20  # bytes of such a file

# These files come with the shards, from their author.
_Count = Annotated[int, Meta(ge=0, le=10_000_000)]  # samples of a shard
_Names = Annotated[list[str], Meta(max_length=1_000_000)]
_ClassName = Annotated[str, Meta(min_length=1, max_length=1000)] | int
_ClassNames = (
    Annotated[list[_ClassName], Meta(max_length=1_000_000)]
    | Annotated[dict[str, str | int], Meta(max_length=1_000_000)]
)


class _Split(msgspec.Struct):
    filenames: _Names
    shard_lengths: list[_Count]


class _Info(msgspec.Struct):
    """What `_info.json` of timm and the Hugging Face Hub holds of interest."""

    splits: dict[str, _Split] = {}


def matches(data: str) -> bool:
    """Whether `data` names WebDataset shards: an address, a pattern or a name of .tar files, or a folder of them."""
    if data.startswith("pipe:") or "://" in data or data.startswith("file:"):
        return True
    path = Path(data)
    if not path.is_dir():
        return data.rstrip("}").endswith((".tar", ".tar.gz", ".tgz"))
    inside = entries(path)
    return any(entry.name.endswith(".tar") for entry in inside) and not any(is_folder(entry) for entry in inside)


def open_training(data: str, how: Opening) -> DataSource:
    """Open the shards named train and val, or hold out some of the shards; see `open_for_training`."""
    notes: list[str] = []
    parts = _parts(data, notes)
    held_out = None
    if "val" not in parts:
        shards = parts["train"]
        if len(shards) < 2:
            _describe(data, parts, None, notes, how.args)  # what is no shard at all is to be called that
            raise InvalidValueError(
                f"{data}: of a single shard none can be held out; name others val-….tar beside train-….tar"
            )
        if how.group is not None:
            raise InvalidValueError(
                f"--group does not apply to {data}: whole shards are held out; write the images of a group into one"
            )
        fraction = DEFAULT_VAL_FRACTION if how.val_fraction is None else how.val_fraction
        held_out = {"val_fraction": fraction, "seed": how.seed, "files": _fingerprint(shards)}
        parts = _drawn(shards, held_out)
        notes.append(f"{data}: {counted(len(parts['val']), 'shard')} of {len(shards)} held out for validation")
    else:
        refuse_to_draw(data, how, "it has shards for validation")
    if "train" not in parts:
        raise InvalidValueError(f"{data} has no shards for training: it has {quoted(_names(parts['val']))}")
    source = _describe(data, parts, held_out, notes, how.args)
    if len(source.class_names) < 2 and source.task != "detection":
        raise InvalidValueError(
            f"{data} holds a single class, {source.class_names[0]!r}: there is nothing to tell apart"
        )
    return source


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    """Open the shards named train and val, or all shards; see `open_for_evaluation`."""
    notes: list[str] = []
    parts = _parts(data, notes)
    if held_out and list(parts) == ["train"] and held_out["files"] == _fingerprint(parts["train"]):
        notes.append(f"{data} are the shards of the training: its split 'val' is what was held out then")
        return _describe(data, _drawn(parts["train"], held_out), held_out, notes, how.args)
    return _describe(data, parts, None, notes, how.args)


def _parts(data: str, notes: list[str]) -> dict[str, list[str]]:
    """The shards for "train" and "val", as their names say; all are for "train" where they say nothing."""
    shards = expand_shards(data)
    of_split: dict[str, list[str]] = {}
    for shard in shards:
        of_split.setdefault(_split(shard), []).append(shard)
    train = [shard for name in ("train", "") for shard in of_split.get(name, [])]
    if "" in of_split and len(of_split[""]) < len(train):
        raise InvalidValueError(f"{data}: beside the shards named train, {quoted(_names(of_split['']))} has no split")
    val = next((name for name in VAL_NAMES if name in of_split), None)
    if val != "test" and "test" in of_split:
        notes.append(f"{data}: left out {counted(len(of_split['test']), 'shard')} named test")
    parts = {"train": train, "val": of_split.get(val, [])}
    if "" not in of_split and not parts["val"]:
        parts["val"] = _beside(data, train, notes)
    return {part: shards for part, shards in parts.items() if shards}


def expand_shards(data: str) -> list[str]:
    """The shards that a pattern in braces, a glob pattern, an address or a folder stands for.

    Raises FileNotFoundError for files that are not there, ValueError for a shard named twice, ImportError without the
    library webdataset.
    """
    try:
        from webdataset.shardlists import expand_urls
    except ImportError:
        raise MissingExtraError(f"{data} needs the library webdataset: pip install 'glocal[data]'") from None
    if os.path.isdir(data):
        return sorted(str(path) for path in Path(data).glob("*.tar") if not path.name.startswith("."))
    if os.path.isfile(data):
        return [data]
    _check_count(data)
    try:
        shards = expand_urls(data)
    except Exception as error:  # of braceexpand
        raise InvalidValueError(f"{data}: {one_line(error)}") from None
    if any(map(runs_command, shards)) and not data.startswith("pipe:"):  # put together by braces, or behind a path
        raise InvalidValueError(f"{data!r} has a command in it: write it as pipe:COMMAND")
    found = []
    for shard in shards:
        if glob.has_magic(shard) and local_path(shard) == shard and not os.path.exists(shard):
            matches = sorted(glob.glob(shard))
            if not matches:
                raise MissingPathError(f"no file matches {shard}")
            found += matches
        else:
            found.append(shard)
    if len(set(found)) < len(found):
        raise InvalidValueError(f"{data} names a shard twice")
    missing = [shard for shard in found if local_path(shard) is not None and not os.path.isfile(local_path(shard))]
    if missing:
        raise MissingPathError(f"{data}: {counted(len(missing), 'shard')} missing: {quoted(missing)}")
    return found


def _check_count(data: str) -> None:
    """Raise ValueError for braces that stand for too many shards to be written out."""
    whole, most = data, 1
    while (group := re.search(r"\{([^{}]*)\}", data)) is not None and most <= MOST_SHARDS:
        ends = re.fullmatch(r"(-?\d+)\.\.(-?\d+)(\.\..*)?", group[1])
        if ends is None:
            most *= group[1].count(",") + 1
        else:
            long = max(len(ends[1]), len(ends[2])) > 10
            most *= MOST_SHARDS + 1 if long else abs(int(ends[2]) - int(ends[1])) + 1
        data = data[: group.start()] + data[group.end() :]
    if most > MOST_SHARDS:
        raise InvalidValueError(f"{shown(whole)} stands for more than {MOST_SHARDS:,} shards")


def _beside(data: str, train: list[str], notes: list[str]) -> list[str]:
    """The shards named val in the folder of local shards named train."""
    folders = {_folder(shard) for shard in train if local_path(shard) is not None}
    beside = [shard for folder in folders for shard in expand_shards(folder or ".")]
    for name in VAL_NAMES:
        found = [shard for shard in beside if _split(shard) == name]
        if found:
            notes.append(f"{data}: validated on {counted(len(found), 'shard')} beside it: {quoted(_names(found))}")
            return found
    return []


def _drawn(shards: list[str], held_out: dict) -> dict[str, list[str]]:
    train, val = stratified_split([0] * len(shards), held_out["val_fraction"], held_out["seed"])
    return {"train": [shards[i] for i in train], "val": [shards[i] for i in val]}


def _split(shard: str) -> str:
    """The split that a shard's name says; "" where it says none."""
    words = re.split(r"[-_.]", _base(shard))  # train-0000.tar, photos_val_set_12.tar
    return next(filter(None, (split_of(word.rstrip("0123456789")) for word in words)), "")


def _fingerprint(shards: list[str]) -> str:
    return fingerprint(map(_base, shards))


def _base(shard: str) -> str:
    """The name of a shard's file, without its folder and without what an address asks for after a question mark."""
    return re.split(r"[/\\\s]", shard.split("?")[0].rstrip())[-1]


def _names(shards: list[str]) -> list[str]:
    return [_base(shard) for shard in shards]


@dataclass
class _Contents:
    """What a pass over a shard finds: how many samples, and their labels (empty where they were not asked for)."""

    count: int
    labels: set[str]


def _describe(
    data: str, parts: dict[str, list[str]], held_out: dict | None, notes: list[str], args: Mapping[str, Any]
) -> DataSource:
    """Count the samples and name the classes, from the files beside the shards or by reading these once."""
    shards = [shard for of_part in parts.values() for shard in of_part]
    counts = _written_counts(shards)
    objects = ending_of_objects(data, shards, args)
    if args and objects is None and "masks" not in args:
        raise InvalidValueError(f"{data}: {quoted(list(args))} is for masks: say their ending, as in masks=seg.png")
    known = _mask_classes(data, shards, args) if args and objects is None else None
    names = _written_classes(shards) if known is None else list(known.names)
    to_scan = shards if names is None else [shard for shard in shards if shard not in counts]
    if len(to_scan) > 100 or any(local_path(shard) is None for shard in to_scan):
        spare = "classes.txt and sizes.json beside them would spare that"
        log.warning(
            "%s: reading %s once to count and to find the classes; %s", data, counted(len(to_scan), "shard"), spare
        )
    labels = _label if objects is None else partial(classes_of_sample, objects)
    contents = {shard: _scan(shard, labels if names is None else None) for shard in to_scan}
    for shard, found in contents.items():
        if counts.setdefault(shard, found.count) != found.count:
            raise InvalidValueError(
                f"{shard} holds {counted(found.count, 'sample')}, the list of sizes says {counts[shard]:,}"
            )
    for shard in shards:
        path = local_path(shard)
        if path is not None and path.endswith(".tar") and counts[shard] * tarfile.BLOCKSIZE > os.path.getsize(path):
            raise InvalidValueError(
                f"{shard} is too small for the {counts[shard]:,} samples that the list of sizes says"
            )
        if counts[shard] < 1:
            raise InvalidValueError(f"{shard} holds no samples: write it again or leave it out")
    names = _found_classes(data, parts, contents) if names is None else [class_name(name) for name in names]
    if len(set(names)) < len(names):
        raise InvalidValueError(
            f"{data}: the list of classes beside the shards names one twice, in two of Unicode's forms"
        )
    counts_of = {part: [counts[shard] for shard in of_part] for part, of_part in parts.items()}
    if known is not None:
        masks = _first_masks(next(iter(parts.values()))[0], args["masks"], counts)
        classes, coding = mask_classes.coded(data, known, masks, args, notes)
        names, about = list(classes.names), mask_classes.about_classes(classes, coding, masks[0])
        splits = {
            part: MaskedShards(of_part, counts_of[part], names, ending=args["masks"], coding=coding)
            for part, of_part in parts.items()
        }
        return DataSource(data, names, splits, held_out, notes=notes, task="segmentation", about=about)
    if objects is not None:
        splits, masks = sharded_objects(parts, counts_of, names, objects, args)
        about = {"ids": list(range(len(names))), "masks": masks}
        return DataSource(data, names, splits, held_out, notes=notes, task="detection", about=about)
    splits = {part: ShardedSamples(of_part, counts_of[part], names) for part, of_part in parts.items()}
    return DataSource(data, names, splits, held_out, notes=notes)


def _mask_classes(data: str, shards: list[str], args: Mapping[str, Any]) -> ClassList:
    """The classes of the masks, as the user or a file beside the shards lists them."""
    if not isinstance(args["masks"], str) or not re.fullmatch(r"[\w.]+", args["masks"]):
        raise InvalidValueError(f"masks must be the ending of the masks, as in seg.png, got {shown(args['masks'])}")
    if "classes" in args:
        return class_list(args["classes"], Path(_folder(shards[0]) or "."))
    names = _written_classes(shards)
    if names is None:
        raise InvalidValueError(f"{data}: list the classes of the masks in classes.txt beside it, or with classes=FILE")
    return ClassList([class_name(name) for name in names])


def _first_masks(shard: str, ending: str, counts: Mapping[str, int]) -> list[MemberMask]:
    """Masks at the beginning of a shard, to see whether the classes fit."""
    numbers = set(range(min(counts[shard], mask_classes.CHECKED)))
    samples = [sample for _, sample in read_shard(shard, numbers, counts[shard])]
    masks = [one.mask(ending) for one in samples if isinstance(one, RawSample) and ending in one.fields]
    if not masks:
        held = ", ".join(next((one.fields for one in samples if isinstance(one, RawSample)), ()))
        raise InvalidValueError(f"{shard}: no mask .{ending} in the first {counted(len(numbers), 'sample')} ({held})")
    return masks


def _found_classes(data: str, parts: dict[str, list[str]], contents: dict[str, _Contents]) -> list[str]:
    """The labels that there are: 0 to the largest where all are whole numbers, otherwise the names, sorted."""
    of_part = {part: set().union(*(contents[shard].labels for shard in shards)) for part, shards in parts.items()}
    labels = set().union(*of_part.values())
    if all(label.isascii() and label.isdigit() and len(label) < 7 for label in labels):
        largest = {part: max(map(int, found)) for part, found in of_part.items()}
        if largest.get("val", 0) > largest.get("train", largest.get("val", 0)):
            raise InvalidValueError(
                f"{data}: val holds the label {largest['val']}, train none above {largest['train']}"
            )
        return [str(number) for number in range(max(largest.values()) + 1)]
    unknown = sorted(of_part.get("val", set()) - of_part.get("train", labels))
    if unknown:
        raise InvalidValueError(f"{data}: val holds classes that train does not: {quoted(unknown)}")
    return sorted(labels)


def _scan(shard: str, labels: Callable[[str, str, dict[str, bytes]], list[str]] | None) -> _Contents:
    """Count the samples of a shard by its headers, and collect their labels; ValueError for a broken one.

    labels: those of a sample, from the shard, the sample's key and its members; None: they are known.
    """
    found, numbers, path = set(), SampleNumbers(), local_path(shard)
    try:
        mode = "r|*" if path is None else "r:*"
        with open_shard(shard) as stream, tarfile.open(fileobj=stream, mode=mode) as tar:
            for _, key, fields in grouped(_members(tar, numbers, labels is not None)):
                if labels is not None:
                    found.update(labels(shard, key, fields))
            broken = None if path is None else end_of(tar)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        unopened = isinstance(error, tarfile.ReadError) and numbers.number < 0
        broken = "it is no tar file" if unopened else one_line(error)
        if path is not None and os.path.getsize(path) == 0:
            broken = "it is empty"
    if broken:
        after = f" after the sample {numbers.key!r}" if numbers.key else ""
        raise InvalidValueError(f"{shard} cannot be read{after}: {broken}")
    return _Contents(numbers.number + 1, found)


def _members(tar: tarfile.TarFile, numbers: SampleNumbers, labels: bool) -> Iterator[tuple[int, str, bytes]]:
    for member in tar:
        number = numbers.of(member.name) if member.isreg() else None
        if number is not None:
            wanted = labels and member.name.lower().endswith((".cls", ".json"))
            yield number, member.name, tar.extractfile(member).read() if wanted else b""


def _label(shard: str, key: str, fields: dict[str, bytes]) -> list[str]:
    label = label_text(fields)
    if label is None:
        mask = next((ending for ending in MASK_ENDINGS if ending in fields), None)
        hint = "" if mask is None else f"; for a segmentation, say --data-args masks={mask}"
        raise InvalidValueError(f'{shard}: the sample {key!r} has no label (.cls, or .json with "label"){hint}')
    return [label]


def _written_counts(shards: list[str]) -> dict[str, int]:
    """Counts from `_info.json` (timm, Hugging Face) or `sizes.json` (webdataset) beside the shards."""
    counts = {}
    for folder in dict.fromkeys(map(_folder, shards)):
        place, text = _read_first(folder, SIZES)
        if text is None:
            continue
        try:
            sizes = msgspec.json.decode(text, type=dict[str, object])
            for split in msgspec.convert(sizes, _Info).splits.values():
                sizes |= dict(zip(split.filenames, split.shard_lengths, strict=True))
            known = {_base(name): msgspec.convert(size, _Count) for name, size in sizes.items() if type(size) is int}
        except (ValueError, RecursionError) as error:
            raise InvalidValueError(f"{place} is no list of the shards' sizes: {one_line(error)}") from None
        counts |= {s: known[_base(s)] for s in shards if _folder(s) == folder and _base(s) in known}
    return counts


def _written_classes(shards: list[str]) -> list[str] | None:
    """The names from `classes.txt`, one per line, or `classes.json`: a list, {name: number} or {number: name}."""
    place, text = _read_first(_folder(shards[0]), CLASSES)
    if text is None:
        return None
    if place.endswith(".txt"):
        names = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        try:
            names = msgspec.json.decode(text, type=_ClassNames)
            if isinstance(names, dict) and all(isinstance(value, int) for value in names.values()):
                names = {number: name for name, number in names.items()}
            if isinstance(names, dict):
                names = {int(number): name for number, name in names.items()}
                names = [names[number] for number in range(len(names))]
            names = [name if isinstance(name, str) else str(name) for name in names]
        except (ValueError, KeyError, RecursionError) as error:
            raise InvalidValueError(f"{place} is no list of class names: {one_line(error)}") from None
    if not names or len(set(names)) < len(names):
        raise InvalidValueError(f"{place} " + ("names a class twice" if names else "names no classes"))
    return names


def _folder(shard: str) -> str | None:
    """Where files beside a shard are; None for a command."""
    if shard.startswith("pipe:"):
        return None
    place = local_path(shard) or shard
    return place[: len(place) - len(_base(place))]


def _read_first(folder: str | None, names: tuple[str, ...]) -> tuple[str, str | None]:
    """The path and the text of the first of `names` that is in `folder`."""
    for name in names if folder is not None else ():
        place = folder + name
        try:
            if place.startswith(("http://", "https://")):
                with urllib.request.urlopen(place, timeout=30) as answer:
                    return place, _text(place, answer.read(LARGEST_LIST + 1))
            if os.path.isfile(place):
                with open(place, "rb") as file:
                    return place, _text(place, file.read(LARGEST_LIST + 1))
        except urllib.error.HTTPError:
            continue  # there is no such file
        except UnicodeDecodeError:
            raise InvalidValueError(f"{place} is not UTF-8 text") from None
        except OSError as error:
            raise PathError(f"{place} cannot be read: {one_line(error)}") from None
    return "", None


def _text(place: str, content: bytes) -> str:
    if len(content) > LARGEST_LIST:
        raise InvalidValueError(f"{place} is larger than {LARGEST_LIST / 2**20:.0f} MB")
    return content.decode("utf-8-sig")
