"""What COCO's files have in common: ids, categories, parts, and folders of images."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from glocal.data.image import is_strict
from glocal.data.masks import distinct_colors
from glocal.data.names import class_name, split_of
from glocal.data.walk import entries, is_folder
from glocal.errors import InvalidValueError, MissingPathError
from glocal.wording import counted, one_line, quoted, shown

MOST_BYTES = 4 << 30  # of a JSON file
MOST_CLASSES = 10_000

T = TypeVar("T")
Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Key = Annotated[int, Meta(ge=0)] | Name  # of an image; Cityscapes' are texts
Flag = Annotated[int, Meta(ge=0, le=1)]
Side = Annotated[int, Meta(ge=1, le=1 << 20)]


class Category(msgspec.Struct):
    """A class. isthing: whether its objects can be counted."""

    id: Annotated[int, Meta(ge=0, le=1 << 31)]
    name: Name
    isthing: Flag = 1
    color: Annotated[list[Annotated[int, Meta(ge=0, le=255)]], Meta(min_length=3, max_length=3)] | None = None


Categories = Annotated[list[Category], Meta(min_length=1, max_length=MOST_CLASSES)]


def json_files(root: Path, fits: Callable[[str], bool]) -> list[Path]:
    """The JSON files whose names fit, in a folder, in its folder `annotations`, and in those of its parts."""
    inner = [entry for entry in entries(root) if is_folder(entry)]
    places = [root, *(Path(entry.path) for entry in inner if entry.name == "annotations" or split_of(entry.name))]
    files = [Path(entry.path) for place in places for entry in entries(place) if not is_folder(entry)]
    return [file for file in files if file.suffix.lower() == ".json" and fits(file.name.lower())]


def parts_of(root: Path, files: Sequence[Path], notes: list[str]) -> dict[str, tuple[Path, str]]:
    """The file of each part, "train", "val" or "all", and what names the part in it, for instance train2017."""
    parts: dict[str, tuple[Path, str]] = {}
    for file in files:
        words = [*file.stem.split("_"), *([file.parent.name] if file.parent != root else [])]
        part = next((word for word in words if split_of(word)), "")
        split = split_of(part) or "all"
        if split in parts:
            raise InvalidValueError(f"{root} has two files of annotations for {split}: {parts[split][0]} and {file}")
        parts[split] = file, part
    if "test" in parts:
        test = parts.pop("test")
        if "val" in parts or "all" in parts:
            notes.append(f"{root}: left out the part 'test'")
        else:
            parts["val"] = test
            notes.append(f"{root}: validated on the part 'test'")
    if "all" in parts and len(parts) > 1:
        raise InvalidValueError(f"{root}: the name of {parts['all'][0]} says no part, as that of others does")
    return parts


def read(file: Path, kind: type[T]) -> T:
    """The content of a JSON file; ValueError, which names the file, for content of another kind."""
    if file.stat().st_size > MOST_BYTES:
        raise InvalidValueError(f"{file} has {file.stat().st_size:,} bytes, more than {MOST_BYTES:,}")
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidValueError(f"{file} is no file of COCO's format: {one_line(error)}") from None


def checked_categories(file: Path, categories: list[Category], others: list[Category] | None) -> list[Category]:
    """The categories by their ids. others: those of another part, which must be the same."""
    found = sorted(categories, key=lambda category: category.id)
    for what, values in (("id", [one.id for one in found]), ("name", [class_name(one.name) for one in found])):
        twice = [str(value) for value, times in Counter(values).items() if times > 1]
        if twice:
            raise InvalidValueError(f"{file}: several categories have the {what} {quoted(twice)}")
    if others is not None and [(one.id, one.name) for one in found] != [(one.id, one.name) for one in others]:
        raise InvalidValueError(f"{file} has other categories than the other part")
    return found


def about(categories: Sequence[Category]) -> dict[str, Any]:
    """`DataSource.about` of categories: their colours, or some where they have none, ids, and which are things."""
    colors = [list(one.color) for one in categories if one.color is not None]
    if len(set(map(tuple, colors))) < len(categories):
        colors = distinct_colors(len(categories))
    return {
        "colors": colors,
        "ids": [one.id for one in categories],
        "things": [bool(one.isthing) for one in categories],
    }


def check_folder_names(root: Path, args: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if not isinstance(args.get(name, ""), str):
            raise InvalidValueError(f"{name} must be the name of a folder in {root}, got {shown(args[name])}")


def check_file_names(file: Path, names: Sequence[str]) -> None:
    """Raise ValueError for names that would lead out of the folder."""
    for name in names:
        if "\0" in name or os.path.isabs(name) or ".." in Path(name).parts:
            raise InvalidValueError(f"{file}: {shown(name)} is no name of a file in a folder")


def folder_of_images(root: Path, file: Path, part: str, args: Mapping[str, Any], first: str) -> Path:
    """The folder that holds the images of a part, where `first` is one of them."""
    base = root / args["images"] if "images" in args else root
    return folder_of(file, [base / part, base / "images" / part, base / "images", base, file.parent], "images", first)


def folder_of(file: Path, places: Sequence[Path], what: str, first: str | None = None) -> Path:
    """The first of the folders that holds `first`, or else that is there."""
    there = [place for place in places if place.is_dir()]
    for place in there:
        if first is None or (place / first).is_file():
            return place
    if there:
        return there[0]
    raise MissingPathError(
        f"{file}: there is no folder of {what}, such as {places[0]}: say its name with --data-args {what}=NAME"
    )


def note_missing(file: Path, found: Sequence[str], lacks: str, notes: list[str]) -> None:
    """Note images that are left out as they lack something; ValueError if `is_strict`."""
    if found:
        message = f"{counted(len(found), 'image')} without {lacks}, the first: {found[0]}"
        if is_strict():
            raise InvalidValueError(f"{file}: {message} (refused with --strict)")
        notes.append(f"{file}: left out {message}")
