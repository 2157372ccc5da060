"""YOLO's format of objects: a text file beside each image, a line for each object, and data.yaml with the classes."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glocal import safe_yaml
from glocal.data.class_lists import class_list, file_beside
from glocal.data.image import is_image_name
from glocal.data.names import class_name, split_of
from glocal.data.object_table import Faults, Photo, detection_source, frames_of, samples_of, strata_of
from glocal.data.orientation import Head, checked_frame, heads_of
from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.splits import folder_for_evaluation, folder_for_training
from glocal.data.walk import entries, files_below, is_folder
from glocal.data.yolo_labels import IMAGES, LABELS, table_of, text_of
from glocal.errors import InvalidValueError, MissingPathError
from glocal.wording import counted, quoted, shown

ARGS = ("classes", "orientation")
YAML = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NAMES = ("obj.names", "names.txt")  # beside those of `class_lists.FILES`
MOST_CLASSES = 10_000
UP = re.compile(r"^(\.\./)+")


@dataclass(frozen=True)
class _Layout:
    """parts: the images of each, paths. keypoints: how many numbers of a line say them."""

    root: Path
    names: list[str]
    parts: dict[str, list[str]]
    keypoints: int = 0


def matches(data: str) -> bool:
    """Whether it is a .yaml file, or a folder with data.yaml, or one of images, labels and a list of classes."""
    path = Path(data)
    try:
        if path.is_file():
            return path.suffix.lower() in (".yaml", ".yml")
        return path.is_dir() and (
            _is_of_objects(_yaml_in(path)) or (_names_file(path) is not None and _has_labels(path))
        )
    except OSError:
        return False


def claims(data: str, args: Mapping[str, Any]) -> bool:
    """Whether the classes of a folder of images and labels are given."""
    return "classes" in args and set(args) <= set(ARGS) and Path(data).is_dir() and _has_labels(Path(data))


def open_training(data: str, how: Opening) -> DataSource:
    """Open the parts train and val, or one part, which is then divided; see `open_for_training`."""
    return folder_for_training(_root(data), _open(data, how.args), how, strata_of)


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    """Open the parts that there are; see `open_for_evaluation`."""
    return folder_for_evaluation(_root(data), _open(data, how.args), held_out)


def _root(data: str) -> Path:
    return Path(data) if Path(data).is_dir() else Path(data).parent


def _yaml_in(root: Path) -> Path | None:
    return next((path for path in map(root.joinpath, YAML) if path.is_file()), None)


def _is_of_objects(file: Path | None) -> bool:
    """Whether a file begins lines with the words that data.yaml has."""
    if file is None or file.stat().st_size > safe_yaml.MAX_BYTES:
        return False
    words = {line.partition(":")[0] for line in file.read_text(encoding="utf-8", errors="replace").splitlines()}
    return "names" in words and not words.isdisjoint(("train", "val"))


def _names_file(root: Path) -> Path | None:
    """The file that lists the classes, if there is one."""
    there = (path for path in map(root.joinpath, NAMES) if path.is_file())
    return file_beside(root) or next(there, None) or (file_beside(root / LABELS) if (root / LABELS).is_dir() else None)


def _has_labels(root: Path) -> bool:
    """Whether a folder, or the folder of a part in it, has folders called images and labels, the last with texts."""
    places = [root, *(Path(entry.path) for entry in entries(root) if is_folder(entry) and split_of(entry.name))]
    for place in places:
        if (place / IMAGES).is_dir() and (place / LABELS).is_dir():
            inner = [Path(entry.path) for entry in entries(place / LABELS) if is_folder(entry)]
            if any(entry.name.endswith(".txt") for one in (place / LABELS, *inner) for entry in entries(one)):
                return True
    return False


def _open(data: str, args: Mapping[str, Any]) -> DataSource:
    frame = checked_frame(args.get("orientation")) or "upright"  # as every program of this format shows its images
    notes: list[str] = []
    path = Path(data)
    file = path if path.is_file() else _yaml_in(path)
    layout = _of_folders(path, args, notes) if file is None else _of_yaml(file, args, notes)
    splits: dict[str, Samples] = {}
    for split, images in layout.parts.items():
        faults = Faults(layout.root if split == "all" else f"{layout.root} ({split})")
        photos = [Photo(image, os.path.relpath(image, layout.root)) for image in images]
        heads = heads_of(images)
        if "orientation" not in args:
            _note_turned(photos, heads, faults, notes)
        frames = frames_of(photos, heads, frame, faults, notes)
        table = table_of(photos, frames, len(layout.names), layout.keypoints, faults, notes)
        splits[split] = samples_of(photos, frames, table, faults)
        faults.note(notes)
    return detection_source(data, layout.names, list(range(len(layout.names))), splits, notes)


def _note_turned(photos: Sequence[Photo], heads: Sequence[Head | None], faults: Faults, notes: list[str]) -> None:
    """Note images that an orientation turns: no size says of which picture their boxes are."""
    turned = [
        photo.name for photo, head in zip(photos, heads, strict=True) if head is not None and head.orientation > 1
    ]
    if turned:
        notes.append(
            f"{faults.place}: {counted(len(turned), 'image')} turned by EXIF, whose boxes are taken as those of the "
            f"upright picture (else say --data-args '{{orientation: stored}}'); the first: {turned[0]}"
        )


def _of_folders(root: Path, args: Mapping[str, Any], notes: list[str]) -> _Layout:
    """The layout of folders without data.yaml."""
    if "classes" in args:
        names = list(class_list(args["classes"], root).names)
    else:
        file = _names_file(root)
        if file is None:
            raise MissingPathError(f"{root} has no list of its classes: write classes.txt, with a name in each line")
        names = _names_in(file)
    places: dict[str, list[Path]] = {}
    if (root / IMAGES).is_dir():
        inner = {entry.name: split_of(entry.name) for entry in entries(root / IMAGES) if is_folder(entry)}
        for name, split in inner.items():
            if split:
                places.setdefault(split, []).append(root / IMAGES / name)
        places = places or {"all": [root / IMAGES]}
    else:
        for entry in entries(root):
            split = split_of(entry.name) if is_folder(entry) else None
            if split and (Path(entry.path) / IMAGES).is_dir():
                places.setdefault(split, []).append(Path(entry.path) / IMAGES)
    return _Layout(root, names, _parts(root, places, notes))


def _names_in(file: Path) -> list[str]:
    """The names in the lines of a file; of other kinds of files, see `class_list`."""
    if file.name in NAMES:
        lines = text_of(file).splitlines()
        return _checked_names(file, [line.strip() for line in lines if line.strip()])
    return list(class_list(file.name, file.parent).names)


def _of_yaml(file: Path, args: Mapping[str, Any], notes: list[str]) -> _Layout:
    """The layout that data.yaml says. It is data: nothing in it is run or fetched, and it names nothing outside."""
    try:
        content = safe_yaml.read(text_of(file), names=(str, int))
    except safe_yaml.YamlError as error:
        raise InvalidValueError(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise InvalidValueError(f"{file} does not say the names of classes")
    content = {str(name): value for name, value in content.items()}
    root = file.parent
    names = list(class_list(args["classes"], root).names) if "classes" in args else _names_of(file, content)
    base = content.get("path")
    if isinstance(base, str) and not os.path.isabs(base) and ".." not in Path(base).parts and (root / base).is_dir():
        root = root / base  # another path is that of its author's machine
    places: dict[str, list[Path]] = {}
    for key, value in content.items():
        split = split_of(key) if key in ("train", "val", "valid", "validation", "test") else None
        for one in value if isinstance(value, list) else [value]:
            if split and str(one).strip() and safe_yaml.plain(one) is not None:
                places.setdefault(split, []).append(_inside(file, root, str(one)))
    if not places:
        raise InvalidValueError(f"{file} names no folder of images as train or val")
    return _Layout(root, names, _parts(root, places, notes), _keypoints(file, content))


def _names_of(file: Path, content: Mapping[str, Any]) -> list[str]:
    """The names of the classes by their numbers."""
    given = content.get("names")
    if isinstance(given, dict):
        by_number = {str(key): str(name) for key, name in given.items()}
        given = [by_number.get(str(number)) for number in range(len(by_number))]
    if not isinstance(given, list) or not given or not all(isinstance(name, str) and name.strip() for name in given):
        raise InvalidValueError(f"{file}: names must be a list, or a name for each number from 0 on")
    count = content.get("nc")
    if count is not None and str(count) != str(len(given)):
        raise InvalidValueError(f"{file}: nc is {shown(str(count))}, and there are {len(given)} names")
    return _checked_names(file, [str(name).strip() for name in given])


def _checked_names(file: Path, given: list[str]) -> list[str]:
    names = [class_name(name) for name in given]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice or not 0 < len(names) <= MOST_CLASSES:
        raise InvalidValueError(f"{file}: " + (f"names twice {quoted(twice)}" if twice else f"{len(names):,} names"))
    return names


def _keypoints(file: Path, content: Mapping[str, Any]) -> int:
    """How many numbers behind the box say the keypoints of an object, which are not read."""
    shape = safe_yaml.plain(content.get("kpt_shape"))
    if shape is None:
        return 0
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or not all(type(one) is int and 0 < one < 10_000 for one in shape)
    ):
        raise InvalidValueError(f"{file}: kpt_shape must be two whole numbers, got {shown(shape)}")
    return shape[0] * shape[1]


def _inside(file: Path, root: Path, given: str) -> Path:
    """A folder or a list of images; ../ at the beginning, as Roboflow writes it, is that of another place."""
    for one in (given, UP.sub("", given)):
        if not os.path.isabs(one) and ".." not in Path(one).parts and "\0" not in one and (root / one).exists():
            return root / one
    if os.path.isabs(given) or ".." in Path(given).parts:
        raise InvalidValueError(f"{file}: {shown(given)} is outside its folder")
    raise MissingPathError(f"{file}: there is no {given!r} in {root}")


def _parts(root: Path, places: dict[str, list[Path]], notes: list[str]) -> dict[str, list[str]]:
    """The images of each part, each once."""
    if "test" in places:
        test = places.pop("test")
        if "val" in places or "all" in places:
            notes.append(f"{root}: left out the part 'test'")
        else:
            places["val"] = test
            notes.append(f"{root}: validated on the part 'test'")
    parts = {split: sorted({image for one in of_split for image in _images(one)}) for split, of_split in places.items()}
    both = sorted(set(parts.get("train", [])) & set(parts.get("val", [])))
    if both and len(both) < len(parts["train"]):
        notes.append(f"{root}: {counted(len(both), 'image')} in both train and val, the first: {both[0]}")
    elif both:  # as the authors' small examples have it
        notes.append(f"{root}: train and val are the same images")
    for split, images in parts.items():
        if not images:
            raise InvalidValueError(f"{root}: no images of the part {split!r}")
    return parts


def _images(place: Path) -> list[str]:
    """The images below a folder, or those that a list names, relative to its folder."""
    if place.is_dir():
        return [file for file in files_below([str(place)])[str(place)] if is_image_name(file)]
    found = []
    for number, line in enumerate(text_of(place).splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        if os.path.isabs(name) or ".." in Path(name).parts or "\0" in name:
            raise InvalidValueError(f"{place}, line {number:,}: {shown(name)} is outside its folder")
        found.append(os.path.normpath(place.parent / name))
    return found
