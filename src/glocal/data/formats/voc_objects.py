"""PASCAL VOC's format of objects: an XML file with the boxes of each image, and lists of the images of each part."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from glocal.data import safe_xml
from glocal.data.class_lists import class_list, file_beside, read_class_list
from glocal.data.formats.mask_folders import IMAGES
from glocal.data.image import is_image_name
from glocal.data.names import class_name, split_of
from glocal.data.object_table import (
    UNKNOWN,
    Faults,
    ObjectTable,
    Photo,
    detection_source,
    frames_of,
    known,
    samples_of,
    strata_of,
)
from glocal.data.orientation import checked_frame, heads_of
from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.splits import folder_for_evaluation, folder_for_training
from glocal.data.walk import entries, files_below, is_folder
from glocal.errors import InvalidValueError, MissingPathError
from glocal.wording import one_line, quoted, shown

ARGS = ("images", "annotations", "classes", "orientation")
ANNOTATIONS = ("annotations", "annotation", "xml", "xmls")  # names of folders, in lower case
LISTS = Path("ImageSets", "Main")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
MOST_LIST = 64 << 20  # bytes of a list of images


@dataclass(frozen=True)
class _Part:
    """Where the images and the annotations of a part are. stems: those that a list names; None: all."""

    images: Path
    annotations: Path
    stems: list[str] | None = None


@dataclass
class _Content:
    """What the XML files of a part say.

    rows: of each object, the place of its image, its class, four corners, whether it is difficult, and its name.
    """

    photos: list[Photo] = field(default_factory=list)
    rows: list[tuple[int, str, list[float], bool, str]] = field(default_factory=list)


def matches(data: str) -> bool:
    """Whether there are XML files in a folder for annotations beside one of images, or beside the images of a part."""
    root = Path(data)
    try:
        return root.is_dir() and any(map(_has_pair, _parts(root, {}, []).values()))
    except (ValueError, OSError):
        return False


def open_training(data: str, how: Opening) -> DataSource:
    """Open the parts train and val, or one part, which is then divided; see `open_for_training`."""
    return folder_for_training(Path(data), _open(Path(data), how.args), how, strata_of)


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    """Open the parts that there are; see `open_for_evaluation`."""
    return folder_for_evaluation(Path(data), _open(Path(data), how.args), held_out)


def _has_pair(part: _Part) -> bool:
    """Whether there is an XML file, and beside the images one of the name of an image."""
    names = {entry.name for entry in entries(part.annotations) if entry.name.lower().endswith(".xml")}
    if part.annotations != part.images or not names:
        return bool(names)
    stems = {name[: -len(".xml")] for name in names}
    return any(is_image_name(entry.name) and Path(entry.name).stem in stems for entry in entries(part.images))


def _parts(root: Path, args: Mapping[str, Any], notes: list[str]) -> dict[str, _Part]:
    """The parts by the lists of ImageSets/Main, or by the names of folders, or all in one."""
    for name in ("images", "annotations"):
        if not isinstance(args.get(name, ""), str):
            raise InvalidValueError(f"{name} must be the name of a folder in {root}, got {shown(args[name])}")
    images = _folder(root, args.get("images"), IMAGES)
    annotations = _folder(root, args.get("annotations"), ANNOTATIONS)
    if images is not None and annotations is not None:
        return _listed(root, images, annotations, notes)
    parts: dict[str, _Part] = {}
    for entry in entries(root):
        split = split_of(entry.name) if is_folder(entry) else None
        if split is None:
            continue
        if split in parts:
            raise InvalidValueError(f"{root} has two parts named like {split}")
        place = Path(entry.path)
        inner = _folder(place, args.get("images"), IMAGES), _folder(place, args.get("annotations"), ANNOTATIONS)
        parts[split] = _Part(inner[0] or place, inner[1] or place)
    return _without_test(parts, root, notes) if parts else {"all": _Part(root, root)}


def _folder(place: Path, given: str | None, known_names: tuple[str, ...]) -> Path | None:
    if given is not None:
        return place / given if (place / given).is_dir() else None
    found = [Path(entry.path) for entry in entries(place) if is_folder(entry) and entry.name.lower() in known_names]
    if len(found) > 1:
        raise InvalidValueError(f"{place} has two folders that may be meant, {found[0].name!r} and {found[1].name!r}")
    return found[0] if found else None


def _listed(root: Path, images: Path, annotations: Path, notes: list[str]) -> dict[str, _Part]:
    """The parts that the lists of ImageSets/Main name: train and val, trainval and test, or some of these."""
    parts = {}
    for split, names in (("train", ("train", "trainval")), ("val", ("val", "test"))):
        file = next((path for name in names if (path := root / LISTS / f"{name}.txt").is_file()), None)
        if file is not None:
            parts[split] = _Part(images, annotations, _stems(file))
    if "val" in parts and "train" not in parts:
        return {"val": parts["val"]}
    if not parts and (root / LISTS).is_dir():
        notes.append(f"{root}: {LISTS} has neither train.txt nor val.txt; all images are taken")
    return parts or {"all": _Part(images, annotations)}


def _stems(file: Path) -> list[str]:
    """The first word of each line; those of a class's list with -1 behind it are there, too."""
    if file.stat().st_size > MOST_LIST:
        raise InvalidValueError(f"{file} is no list of images: it has {file.stat().st_size:,} bytes")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))


def _without_test(parts: dict[str, _Part], root: Path, notes: list[str]) -> dict[str, _Part]:
    if "test" in parts:
        test = parts.pop("test")
        if "val" in parts:
            notes.append(f"{root}: left out the part 'test'")
        else:
            parts["val"] = test
            notes.append(f"{root}: validated on the part 'test'")
    return parts


def _open(root: Path, args: Mapping[str, Any]) -> DataSource:
    frame = checked_frame(args.get("orientation"))
    notes: list[str] = []
    parts = _parts(root, args, notes)
    faults = {split: Faults(root if split == "all" else f"{root} ({split})") for split in parts}
    contents = {split: _read(part, faults[split]) for split, part in parts.items()}
    if not any(content.photos for content in contents.values()):
        raise MissingPathError(f"{root} holds no image with an XML file of its name")
    names = _class_names(root, args, contents, notes)
    base = _base(root, contents, notes)
    number = {name: label for label, name in enumerate(names)}
    splits: dict[str, Samples] = {}
    for split, content in contents.items():
        found = faults[split]
        table = _table(content, number, base)
        table = table.without(table.labels == UNKNOWN, "of a class that is not listed", found)
        frames = frames_of(content.photos, heads_of([one.image for one in content.photos]), frame, found, notes)
        splits[split] = samples_of(content.photos, frames, table, found)
        found.note(notes)
    source = detection_source(str(root), names, list(range(len(names))), splits, notes)
    return replace(source, about=source.about | {"voc": True})  # it is also measured as VOC does


def _read(part: _Part, faults: Faults) -> _Content:
    """The images of a part that have an XML file; broken files, and files without the other, become faults."""
    folders = dict.fromkeys([str(part.images), str(part.annotations)])
    below = files_below(folders)
    by_stem: dict[str, list[str]] = {}
    for file in below[str(part.images)]:
        if is_image_name(file):
            by_stem.setdefault(os.path.splitext(os.path.relpath(file, part.images))[0], []).append(file)
    of_xml = {
        os.path.splitext(os.path.relpath(file, part.annotations))[0]: file
        for file in below[str(part.annotations)]
        if file.lower().endswith(".xml")
    }
    wanted = sorted(of_xml) if part.stems is None else part.stems
    content = _Content()
    for stem in wanted:
        file = of_xml.get(stem)
        if file is None:
            what = "of a list, without an XML file" if stem in by_stem else "of a list, without a file"
            faults.add("image", what, str(part.images / stem))
            continue
        _add(content, Path(file), by_stem.get(stem, []), part, faults)
    if part.stems is None:
        bare = [files[0] for stem, files in sorted(by_stem.items()) if stem not in of_xml]
        if bare:
            faults.add("image", "without an XML file", bare[0], len(bare))
    return content


def _add(content: _Content, file: Path, images: list[str], part: _Part, faults: Faults) -> None:
    """Add the image of an XML file, and its objects."""
    try:
        root = safe_xml.read(file)
    except (safe_xml.XmlError, OSError) as error:
        faults.add("XML file", "that cannot be read", f"{file}: {one_line(error)}")
        return
    written = os.path.basename((root.findtext("filename") or "").strip().replace("\\", "/"))
    if len(images) != 1:  # none of the name of the XML file, or several with different endings
        named = file.parent if part.annotations == part.images else part.images
        images = [image for image in images if os.path.basename(image) == written] or (
            [str(named / written)] if not images and is_image_name(written) and (named / written).is_file() else []
        )
    if len(images) != 1:
        faults.add("XML file", "without an image of its name", str(file))
        return
    place = len(content.photos)
    content.photos.append(Photo(images[0], os.path.relpath(images[0], part.images), _size(root)))
    for number, one in enumerate(root.iter("object"), 1):
        name = f"{file}, object {number}"
        label = (one.findtext("name") or "").strip()
        if not label:
            faults.add("object", "without a name", name)
            continue
        difficult = (one.findtext("difficult") or "0").strip() not in ("0", "")
        content.rows.append((place, class_name(label), _corners(one), difficult, name))


def _size(root: Element) -> tuple[int, int] | None:
    """(height, width); None where the file does not say it, or says 0 as some programs do."""
    sides = [(root.findtext(f"size/{side}") or "").strip() for side in ("height", "width")]
    sides = [int(side) if side.isascii() and side.isdigit() and len(side) < 8 else 0 for side in sides]
    return (sides[0], sides[1]) if all(sides) else None


def _corners(one: Element) -> list[float]:
    return [_number(one.findtext(f"bndbox/{side}")) for side in CORNERS]


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return np.nan


def _base(root: Path, contents: Mapping[str, _Content], notes: list[str]) -> int:
    """The number of the first pixel: 1, as the format says, unless a box begins before it."""
    corners = np.array([row[2] for content in contents.values() for row in content.rows]).reshape(-1, 4)
    if ((corners[:, :2] >= 0) & (corners[:, :2] < 1)).any():
        notes.append(f"{root}: pixels are counted from 0, where boxes begin; the format counts from 1")
        return 0
    return 1


def _class_names(root: Path, args: Mapping[str, Any], contents: Mapping[str, _Content], notes: list[str]) -> list[str]:
    """The classes that the user or a file lists, or the names of all objects, sorted."""
    file = file_beside(root)
    if "classes" in args:
        return list(class_list(args["classes"], root).names)
    if file is not None:
        notes.append(f"{root}: the classes are those of {file.name}")
        return list(read_class_list(file).names)
    names = sorted({row[1] for content in contents.values() for row in content.rows})
    if not names:
        raise InvalidValueError(f"{root} holds no objects")
    train = {row[1] for split, content in contents.items() if split != "val" for row in content.rows}
    alone = [name for name in names if name not in train] if train else []
    if alone:
        notes.append(f"{root}: no objects to train on of {quoted(alone)}, which val has")
    return names


def _table(content: _Content, number: Mapping[str, int], base: int) -> ObjectTable:
    rows = content.rows
    boxes = np.array([row[2] for row in rows], np.float64).reshape(-1, 4)
    boxes[:, :2] -= base  # the last pixel, counted from 1, ends where the box does
    count = len(rows)
    return ObjectTable(
        np.fromiter((row[0] for row in rows), np.int64, count),
        known((row[1] for row in rows), number),
        boxes,
        np.fromiter((row[3] for row in rows), bool, count),
        np.full(count, np.nan),
        [],
        lambda row: rows[row][4],
    )
