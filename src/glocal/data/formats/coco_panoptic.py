"""COCO's panoptic format: a JSON file of segments, and a PNG for each image whose colours are the segments' numbers."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from glocal.data.groups import groups_of_files
from glocal.data.image import UnreadableImageError, is_strict
from glocal.data.masks import IGNORE, check_size, distinct_colors, pack, read_mask
from glocal.data.names import class_name, split_of
from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.splits import fingerprint, hold_out, hold_out_again, refuse_to_draw
from glocal.data.walk import entries, is_folder
from glocal.errors import InvalidValueError, MissingPathError
from glocal.wording import counted, one_line, quoted, shown

ARGS = ("images", "masks")
PANOPTIC = "panoptic"
MOST_BYTES = 4 << 30  # of a JSON file
MOST_CLASSES = 10_000

Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Key = Annotated[int, Meta(ge=0)] | Name  # of an image; Cityscapes' are texts
Flag = Annotated[int, Meta(ge=0, le=1)]
Side = Annotated[int, Meta(ge=1, le=1 << 20)]


class _Image(msgspec.Struct):
    id: Key
    file_name: Name


class _Segment(msgspec.Struct):
    id: Annotated[int, Meta(ge=1, lt=1 << 24)]
    category_id: Annotated[int, Meta(ge=0, le=1 << 31)]
    iscrowd: Flag = 0


class _Annotation(msgspec.Struct):
    image_id: Key
    file_name: Name
    segments_info: Annotated[list[_Segment], Meta(max_length=1 << 16)]


class _Category(msgspec.Struct):
    id: Annotated[int, Meta(ge=0, le=1 << 31)]
    name: Name
    isthing: Flag = 1
    color: Annotated[list[Annotated[int, Meta(ge=0, le=255)]], Meta(min_length=3, max_length=3)] | None = None


class _Content(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: Annotated[list[_Category], Meta(min_length=1, max_length=MOST_CLASSES)]


@dataclass(frozen=True, eq=False)
class PanopticFile:
    """The label map of a PNG of segments.

    segments: (S, 3) int32: the number, the class and whether it is a crowd (0 or 1), of each. The number of a pixel's
    segment is red + 256 · green + 65,536 · blue; 0 counts nowhere.
    """

    path: str
    segments: np.ndarray

    def load(self, size: tuple[int, int]) -> np.ndarray:
        return np.append(self.segments[:, 1], np.int32(IGNORE))[self.places(size)]

    def places(self, size: tuple[int, int]) -> np.ndarray:
        """The place in `segments` of each pixel's segment, (H, W) int32, or IGNORE; see `load`."""
        raw = read_mask(self.path)
        check_size(self.path, raw.shape[:2], size)
        if raw.ndim != 3:
            raise UnreadableImageError(self.path, "the mask has one channel, where three hold the numbers of segments")
        found, places = np.unique(pack(raw[..., ::-1]), return_inverse=True)
        order = np.argsort(self.segments[:, 0])
        known = np.append(self.segments[order, 0], -1)
        nearest = np.searchsorted(known[:-1], found)
        place_of = np.where(known[nearest] == found, np.append(order, -1)[nearest], IGNORE).astype(np.int32)
        unknown = found[(place_of == IGNORE) & (found != 0)]
        if len(unknown):
            pixels = counted(int((found[places.reshape(-1)] == unknown[0]).sum()), "pixel")
            raise UnreadableImageError(
                self.path, f"the mask has the segment {unknown[0]:,} on {pixels}, which the JSON file does not list"
            )
        return place_of[places].reshape(raw.shape[:2])

    def content(self) -> str:
        return Path(self.path).name


def matches(data: str) -> bool:
    """Whether a folder, or its folder `annotations`, holds a JSON file whose name says panoptic."""
    try:
        return Path(data).is_dir() and bool(_json_files(Path(data)))
    except OSError:
        return False


def open_training(data: str, how: Opening) -> DataSource:
    """Open the parts train and val, or one part, which is then divided; see `open_for_training`."""
    root = Path(data)
    source = _open(root, how.args)
    if set(source.splits) == {"val"}:
        raise MissingPathError(f"{root} has a part to validate on and none to train on")
    if "val" in source.splits:
        refuse_to_draw(data, how, "it has a validation part")
        return source
    source = _as_all(source)
    names = _names(root, source)
    if len(names) < 2:
        raise InvalidValueError(f"{root} holds a single image with a mask, so that none can be held out")
    groups = None if how.group is None else groups_of_files(str(root), names, how.group)
    return hold_out(source, how, fingerprint(names), groups, strata=[0] * len(names))


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    """Open the parts that there are; see `open_for_evaluation`."""
    root = Path(data)
    source = _open(root, how.args)
    if len(source.splits) > 1 or "val" in source.splits:
        return source
    source = _as_all(source)
    if held_out and held_out["files"] == fingerprint(_names(root, source)):
        note = f"{root} is the folder of the training: its split 'val' is what was held out then"
        return hold_out_again(source, held_out).with_notes(note)
    return source


def _as_all(source: DataSource) -> DataSource:
    return replace(source, splits={"all": next(iter(source.splits.values()))})


def _names(root: Path, source: DataSource) -> list[str]:
    return [Path(image).relative_to(root).as_posix() for image in source.splits["all"].images]


def _json_files(root: Path) -> list[Path]:
    places = [root, *(Path(entry.path) for entry in entries(root) if entry.name == "annotations" and is_folder(entry))]
    files = [Path(entry.path) for place in places for entry in entries(place) if not is_folder(entry)]
    return [file for file in files if PANOPTIC in file.stem.lower() and file.suffix.lower() == ".json"]


def _open(root: Path, args: Mapping[str, Any]) -> DataSource:
    for name in ARGS:
        if not isinstance(args.get(name, ""), str):
            raise InvalidValueError(f"{name} must be the name of a folder in {root}, got {shown(args[name])}")
    files: dict[str, tuple[Path, str]] = {}
    for file in _json_files(root):
        part = next((word for word in file.stem.split("_") if split_of(word)), "")
        split = split_of(part) or "all"
        if split in files:
            raise InvalidValueError(f"{root} has two files of segments for {split}: {files[split][0]} and {file}")
        files[split] = file, part
    if not files:
        raise MissingPathError(f"{root} holds no JSON file whose name says {PANOPTIC}")
    notes: list[str] = []
    if "test" in files:
        test = files.pop("test")
        if "val" not in files and "train" in files:
            files["val"] = test
            notes.append(f"{root}: validated on the part 'test'")
        elif not files:
            files["val"] = test
        else:
            notes.append(f"{root}: left out the part 'test'")
    categories: list[_Category] | None = None
    splits = {}
    for split, (file, part) in files.items():
        content = _read(file)
        found = sorted(content.categories, key=lambda category: category.id)
        if categories is not None and [(one.id, one.name) for one in found] != [
            (one.id, one.name) for one in categories
        ]:
            raise InvalidValueError(f"{file} has other categories than the other part")
        categories, names = found, _checked_names(file, found)
        splits[split] = _samples(root, file, part, content, [one.id for one in found], args, notes)
    colors = [list(one.color) for one in categories if one.color is not None]
    if len(set(map(tuple, colors))) < len(names):
        colors = distinct_colors(len(names))
    about = {
        "colors": colors,
        "ids": [one.id for one in categories],
        "things": [bool(one.isthing) for one in categories],
    }
    return DataSource(str(root), names, splits, notes=notes, task="segmentation", about=about)


def _read(file: Path) -> _Content:
    if file.stat().st_size > MOST_BYTES:
        raise InvalidValueError(f"{file} has {file.stat().st_size:,} bytes, more than {MOST_BYTES:,}")
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Content)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidValueError(f"{file} is no file of segments: {one_line(error)}") from None


def _checked_names(file: Path, categories: list[_Category]) -> list[str]:
    names, ids = [class_name(one.name) for one in categories], [one.id for one in categories]
    for what, values in (("id", ids), ("name", names)):
        twice = [str(value) for value, times in Counter(values).items() if times > 1]
        if twice:
            raise InvalidValueError(f"{file}: several categories have the {what} {quoted(twice)}")
    if len(names) < 2:
        raise InvalidValueError(f"{file} holds a single class, {names[0]!r}: there is nothing to tell apart")
    return names


def _samples(
    root: Path, file: Path, part: str, content: _Content, ids: list[int], args: Mapping[str, Any], notes: list[str]
) -> Samples:
    """The images that have a PNG of segments; what lacks one of both is noted, or refused if `is_strict`."""
    label_of = {number: label for label, number in enumerate(ids)}
    name_of = {image.id: image.file_name for image in content.images}
    if len(name_of) < len(content.images):
        raise InvalidValueError(f"{file}: two images have one id")
    names = [image.file_name for image in content.images]
    _check_names(file, [*names, *(one.file_name for one in content.annotations)])
    masks = _folder(file, [root / args["masks"]] if "masks" in args else [file.with_suffix("")], "masks")
    base = root / args["images"] if "images" in args else root
    images = _folder(file, [base / part, base / "images" / part, base / "images", base], "images", names[:1])
    pairs, missing, seen = [], [], set()
    for one in content.annotations:
        if one.image_id not in name_of:
            raise InvalidValueError(f"{file}: no image has the id {shown(one.image_id)} of {one.file_name!r}")
        if one.image_id in seen:
            raise InvalidValueError(f"{file}: the image {name_of[one.image_id]!r} has two lists of segments")
        seen.add(one.image_id)
        segments = _segments(file, one, label_of)
        image, mask = os.path.join(images, name_of[one.image_id]), os.path.join(masks, one.file_name)
        lacking = [path for path in (image, mask) if not os.path.isfile(path)]
        if lacking:
            missing += lacking[:1]
        else:
            pairs.append((image, PanopticFile(mask, segments)))
    _note(file, missing, "a file", notes)
    _note(file, [name for key, name in name_of.items() if key not in seen], "segments", notes)
    if not pairs:
        raise InvalidValueError(f"{file}: no image is there with its mask")
    pairs.sort(key=lambda pair: pair[0])
    return Samples([image for image, _ in pairs], [mask for _, mask in pairs])


def _segments(file: Path, one: _Annotation, label_of: Mapping[int, int]) -> np.ndarray:
    unknown = [segment.category_id for segment in one.segments_info if segment.category_id not in label_of]
    if unknown:
        raise InvalidValueError(
            f"{file}: a segment of {one.file_name!r} has the category {unknown[0]}, which is not listed"
        )
    if len({segment.id for segment in one.segments_info}) < len(one.segments_info):
        raise InvalidValueError(f"{file}: two segments of {one.file_name!r} have one id")
    rows = [(segment.id, label_of[segment.category_id], segment.iscrowd) for segment in one.segments_info]
    return np.array(rows, np.int32).reshape(-1, 3)


def _check_names(file: Path, names: list[str]) -> None:
    """Raise ValueError for names that would lead out of the folder."""
    for name in names:
        if "\0" in name or os.path.isabs(name) or ".." in Path(name).parts:
            raise InvalidValueError(f"{file}: {shown(name)} is no name of a file in a folder")


def _folder(file: Path, places: list[Path], what: str, names: list[str] | None = None) -> Path:
    """The first of the folders that is there, and holds `names`."""
    for place in places:
        if place.is_dir() and all((place / name).is_file() for name in names or ()):
            return place
    there = next((place for place in places if place.is_dir() and names), None)
    if there is not None:
        return there
    raise MissingPathError(
        f"{file}: there is no folder of {what}, such as {places[0]}: say its name with --data-args {what}=NAME"
    )


def _note(file: Path, found: list[str], lacks: str, notes: list[str]) -> None:
    if found:
        message = f"{counted(len(found), 'image')} without {lacks}, the first: {found[0]}"
        if is_strict():
            raise InvalidValueError(f"{file}: {message} (refused with --strict)")
        notes.append(f"{file}: left out {message}")
