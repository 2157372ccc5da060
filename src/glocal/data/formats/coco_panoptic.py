"""COCO's panoptic format: a JSON file of segments, and a PNG for each image whose colours are the segments' numbers."""

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
from glocal.data.masks import IGNORE, check_size, pack, read_mask
from glocal.data.names import class_name
from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.segment_maps import SegmentIds
from glocal.data.splits import folder_for_evaluation, folder_for_training
from glocal.errors import InvalidValueError, MissingPathError
from glocal.wording import counted, shown

ARGS = ("images", "masks")
PANOPTIC = "panoptic"


class _Image(msgspec.Struct):
    id: coco.Key
    file_name: coco.Name


class _Segment(msgspec.Struct):
    id: Annotated[int, Meta(ge=1, lt=1 << 24)]
    category_id: Annotated[int, Meta(ge=0, le=1 << 31)]
    iscrowd: coco.Flag = 0


class _Annotation(msgspec.Struct):
    image_id: coco.Key
    file_name: coco.Name
    segments_info: Annotated[list[_Segment], Meta(max_length=1 << 16)]


class _Content(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: coco.Categories


@dataclass(frozen=True, eq=False)
class PanopticFile:
    """The segment map of a PNG of segments.

    segments: (S, 3) int32: the number, the class and whether it is a crowd (0 or 1), of each. The number of a pixel's
    segment is red + 256 · green + 65,536 · blue; 0 counts nowhere.
    """

    path: str
    segments: np.ndarray

    def load(self, size: tuple[int, int]) -> np.ndarray:
        return np.append(self.segments[:, 1], np.int32(IGNORE))[self.places(size)]

    def load_segments(self, size: tuple[int, int]) -> SegmentIds:
        return SegmentIds(self.places(size), self.segments[:, 1], self.segments[:, 2].astype(bool))

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
        return Path(data).is_dir() and bool(_files(Path(data)))
    except OSError:
        return False


def open_training(data: str, how: Opening) -> DataSource:
    """Open the parts train and val, or one part, which is then divided; see `open_for_training`."""
    return folder_for_training(Path(data), _open(Path(data), how.args), how)


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    """Open the parts that there are; see `open_for_evaluation`."""
    return folder_for_evaluation(Path(data), _open(Path(data), how.args), held_out)


def _open(root: Path, args: Mapping[str, Any]) -> DataSource:
    coco.check_folder_names(root, args, ARGS)
    notes: list[str] = []
    parts = coco.parts_of(root, _files(root), notes)
    if not parts:
        raise MissingPathError(f"{root} holds no JSON file whose name says {PANOPTIC}")
    categories: list[coco.Category] | None = None
    splits = {}
    for split, (file, part) in parts.items():
        content = coco.read(file, _Content)
        categories = coco.checked_categories(file, content.categories, categories)
        if len(categories) < 2:
            raise InvalidValueError(f"{file} has a single category, {categories[0].name!r}: nothing to tell apart")
        splits[split] = _samples(root, file, part, content, [one.id for one in categories], args, notes)
    names = [class_name(one.name) for one in categories]
    return DataSource(str(root), names, splits, notes=notes, task="segmentation", about=coco.about(categories))


def _files(root: Path) -> list[Path]:
    return coco.json_files(root, lambda name: PANOPTIC in name)


def _samples(
    root: Path, file: Path, part: str, content: _Content, ids: list[int], args: Mapping[str, Any], notes: list[str]
) -> Samples:
    """The images that have a PNG of segments; what lacks one of both is noted, or refused if `is_strict`."""
    label_of = {number: label for label, number in enumerate(ids)}
    name_of = {image.id: image.file_name for image in content.images}
    if len(name_of) < len(content.images):
        raise InvalidValueError(f"{file}: two images have one id")
    names = [image.file_name for image in content.images]
    coco.check_file_names(file, [*names, *(one.file_name for one in content.annotations)])
    masks = coco.folder_of(file, [root / args["masks"]] if "masks" in args else [file.with_suffix("")], "masks")
    images = coco.folder_of_images(root, file, part, args, names[0]) if names else root
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
    coco.note_missing(file, missing, "a file", notes)
    coco.note_missing(file, [name for key, name in name_of.items() if key not in seen], "segments", notes)
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
