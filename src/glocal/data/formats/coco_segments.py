"""COCO's format of objects and of stuff: a JSON file with a polygon or run lengths for each segment."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from glocal.data import coco
from glocal.data.image import UnreadableImageError
from glocal.data.masks import IGNORE, check_size
from glocal.data.names import class_name
from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.segments import mask_of_polygons, mask_of_runs, runs_of_text
from glocal.data.splits import folder_for_evaluation, folder_for_training
from glocal.errors import InvalidValueError, MissingPathError
from glocal.wording import counted, one_line, shown

ARGS = ("images", "annotations", "background")
ONLY_ASKED = True  # without --task, files of objects are opened for detection, and those of stuff by STUFF_FILES
STUFF = "stuff"
STARTS = ("instances", STUFF)  # of the names of files
ENDS = ("annotations.coco.json",)  # Roboflow's
BACKGROUND = "background"


class _Runs(msgspec.Struct):
    size: tuple[coco.Side, coco.Side]  # height, width
    counts: str | list[int]


Polygons = list[Annotated[list[float], Meta(min_length=6)]]


class _Image(msgspec.Struct):
    id: coco.Key
    file_name: coco.Name
    width: coco.Side
    height: coco.Side


class _Annotation(msgspec.Struct):
    image_id: coco.Key
    category_id: Annotated[int, Meta(ge=0, le=1 << 31)]
    segmentation: msgspec.Raw = msgspec.Raw(b"[]")


class _Content(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: coco.Categories


@dataclass(frozen=True, eq=False)
class SegmentsMap:
    """The label map of an image's segments.

    Small segments lie on large ones. name: of the image in its JSON file. size: (height, width) there. segments: pairs
    of a class and the segmentation as JSON. uncovered: the label of pixels of no segment.
    """

    name: str
    size: tuple[int, int]
    segments: tuple[tuple[int, bytes], ...]
    uncovered: int

    def load(self, size: tuple[int, int]) -> np.ndarray:
        check_size(self.name, self.size, size)
        try:
            masks = [(label, _mask(segmentation, self.size)) for label, segmentation in self.segments]
        except (ValueError, msgspec.MsgspecError) as error:
            raise UnreadableImageError(self.name, f"a segment is broken ({one_line(error)})") from None
        labels = np.full(self.size, self.uncovered, np.int32)
        for label, mask in sorted(masks, key=lambda one: -np.count_nonzero(one[1])):
            labels[mask] = label
        return labels

    def content(self) -> str:
        return hashlib.sha256(repr((self.size, self.segments, self.uncovered)).encode()).hexdigest()


def matches(data: str) -> bool:
    """Whether there is a JSON file whose name is one of COCO's for objects and stuff, or Roboflow's."""
    try:
        return Path(data).is_dir() and bool(_files(Path(data), {}))
    except OSError:
        return False


def claims(data: str, args: Mapping[str, Any]) -> bool:
    """Whether arguments name JSON files in a folder."""
    return Path(data).is_dir() and "annotations" in args


class _Stuff:
    """Files of stuff alone. Without --task, files of objects are opened for detection."""

    ARGS = ARGS

    def matches(self, data: str) -> bool:
        try:
            return Path(data).is_dir() and bool(coco.json_files(Path(data), lambda name: name.startswith(STUFF)))
        except OSError:
            return False

    def claims(self, data: str, args: Mapping[str, Any]) -> bool:
        """Whether arguments name files of stuff, or what is around segments, which detection does not ask."""
        stuff = isinstance(args.get("annotations"), str) and args["annotations"].lower().startswith(STUFF)
        return claims(data, args) and (stuff or "background" in args)

    def open_training(self, data: str, how: Opening) -> DataSource:
        return open_training(data, how)

    def open_evaluation(self, data: str, how: Opening, held_out: dict | None) -> DataSource:
        return open_evaluation(data, how, held_out)


STUFF_FILES = _Stuff()


def open_training(data: str, how: Opening) -> DataSource:
    """Open the parts train and val, or one part, which is then divided; see `open_for_training`."""
    return folder_for_training(Path(data), _open(Path(data), how.args), how)


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    """Open the parts that there are; see `open_for_evaluation`."""
    return folder_for_evaluation(Path(data), _open(Path(data), how.args), held_out)


def _files(root: Path, args: Mapping[str, Any]) -> list[Path]:
    """The files of `annotations`, the name of one or the beginning of several, or of stuff, or of objects."""
    given = args.get("annotations")
    if given is not None and (root / given).is_file():
        return [root / given]
    if given is not None:
        return coco.json_files(root, lambda name: name.startswith(given.lower()))
    for fits in (lambda name: name.startswith(STUFF), lambda name: name.startswith(STARTS) or name.endswith(ENDS)):
        found = coco.json_files(root, fits)
        if found:
            return found
    return []


def _open(root: Path, args: Mapping[str, Any]) -> DataSource:
    coco.check_folder_names(root, args, ("images", "annotations"))
    notes: list[str] = []
    parts = coco.parts_of(root, _files(root, args), notes)
    if not parts:
        raise MissingPathError(
            f"{root} holds no JSON file of objects or stuff, such as annotations/instances_train.json: say its "
            "name with --data-args annotations=NAME"
        )
    background = args.get("background", not any(file.name.startswith(STUFF) for file, _ in parts.values()))
    if not isinstance(background, bool):
        raise InvalidValueError(f"background must be true or false, got {shown(background)}")
    categories: list[coco.Category] | None = None
    contents = {}
    for split, (file, _) in parts.items():
        contents[split] = coco.read(file, _Content)
        categories = coco.checked_categories(file, contents[split].categories, categories)
    if background:
        categories, uncovered = _with_background(categories)
    else:
        uncovered = IGNORE
    if len(categories) < 2:
        raise InvalidValueError(f"{root} has a single category, {categories[0].name!r}: there is nothing to tell apart")
    label_of = {one.id: label for label, one in enumerate(categories)}
    splits = {
        split: _samples(root, *parts[split], contents[split], label_of, uncovered, args, notes) for split in parts
    }
    names = [class_name(one.name) for one in categories]
    return DataSource(str(root), names, splits, notes=notes, task="segmentation", about=coco.about(categories))


def _with_background(categories: list[coco.Category]) -> tuple[list[coco.Category], int]:
    """The categories with one for what no segment covers, the first if its id can be 0, and its label."""
    there = [label for label, one in enumerate(categories) if one.name.lower() == BACKGROUND]
    if there:
        return categories, there[0]
    first = categories[0].id > 0
    extra = coco.Category(0 if first else categories[-1].id + 1, BACKGROUND, 0)
    return ([extra, *categories], 0) if first else ([*categories, extra], len(categories))


def _samples(
    root: Path,
    file: Path,
    part: str,
    content: _Content,
    label_of: Mapping[int, int],
    uncovered: int,
    args: Mapping[str, Any],
    notes: list[str],
) -> Samples:
    """The images with their segments; without background, an image without any is left out."""
    segments: dict[coco.Key, list[tuple[int, bytes]]] = {image.id: [] for image in content.images}
    if len(segments) < len(content.images):
        raise InvalidValueError(f"{file}: two images have one id")
    coco.check_file_names(file, [image.file_name for image in content.images])
    size_of = {image.id: (image.height, image.width) for image in content.images}
    boxes = 0
    for place, one in enumerate(content.annotations, 1):
        if one.image_id not in segments:
            raise InvalidValueError(f"{file}, annotation {place:,}: no image has the id {shown(one.image_id)}")
        if one.category_id not in label_of:
            raise InvalidValueError(f"{file}, annotation {place:,}: the category {one.category_id} is not listed")
        segmentation = bytes(one.segmentation)
        if segmentation in (b"[]", b"null", b"[[]]"):
            boxes += 1
            continue
        _check_segmentation(f"{file}, annotation {place:,}", segmentation, size_of[one.image_id])
        segments[one.image_id].append((label_of[one.category_id], segmentation))
    if boxes:
        notes.append(f"{file}: left out {counted(boxes, 'annotation')} without a segment, boxes for instance")
    folder = coco.folder_of_images(root, file, part, args, content.images[0].file_name) if content.images else root
    images, maps, missing, bare = [], [], [], []
    for image in sorted(content.images, key=lambda image: image.file_name):
        path = os.path.join(folder, image.file_name)
        if not os.path.isfile(path):
            missing.append(path)
        elif uncovered == IGNORE and not segments[image.id]:
            bare.append(image.file_name)
        else:
            name = f"{file.name}: {image.file_name}"
            images.append(path)
            maps.append(SegmentsMap(name, size_of[image.id], tuple(segments[image.id]), uncovered))
    coco.note_missing(file, missing, "a file", notes)
    coco.note_missing(file, bare, "segments", notes)
    if not images:
        raise InvalidValueError(f"{file}: no image is there with its segments")
    if not any(segments.values()):
        raise InvalidValueError(f"{file} holds no segments")
    return Samples(images, maps)


def _decoded(segmentation: bytes) -> _Runs | Polygons:
    return msgspec.json.decode(segmentation, type=_Runs | Polygons)


def _check_segmentation(where: str, segmentation: bytes, size: tuple[int, int]) -> None:
    """Raise ValueError for a segmentation of another kind, or of an image of another size."""
    try:
        found = _decoded(segmentation)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidValueError(f"{where}: its segmentation is none of COCO's: {one_line(error)}") from None
    if isinstance(found, _Runs) and tuple(found.size) != size:
        height, width = found.size
        raise InvalidValueError(
            f"{where}: its segmentation is of {width}×{height} pixels, its image of {size[1]}×{size[0]}"
        )


def _mask(segmentation: bytes, size: tuple[int, int]) -> np.ndarray:
    found = _decoded(segmentation)
    if isinstance(found, _Runs):
        return mask_of_runs(runs_of_text(found.counts) if isinstance(found.counts, str) else found.counts, size)
    return mask_of_polygons(found, size)
