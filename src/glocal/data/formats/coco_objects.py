"""COCO's format of objects: a JSON file with a box, a class and mostly a segment of each object."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from glocal.data import coco
from glocal.data.names import class_name
from glocal.data.object_table import (
    UNKNOWN,
    Faults,
    ObjectTable,
    Photo,
    detection_source,
    frames_of,
    known,
    refuse_corners,
    samples_of,
    strata_of,
)
from glocal.data.orientation import checked_frame, heads_of
from glocal.data.samples import DataSource, Opening
from glocal.data.splits import folder_for_evaluation, folder_for_training
from glocal.errors import InvalidValueError, MissingPathError
from glocal.wording import counted, one_line, shown

ARGS = ("images", "annotations", "orientation")
STARTS = ("instances", "lvis")  # of the names of files
ENDS = ("annotations.coco.json",)  # Roboflow's
OTHERS = re.compile("panoptic|stuff|captions|keypoints")  # in the names of COCO's other files
WORDS = (b'"images"', b'"annotations"', b'"categories"', b'"bbox"')
SNIFFED = 1 << 20  # bytes at the beginning and at the end of a file
EMPTY = (b"", b"[]", b"null", b"[[]]", b"{}")  # segments that are none
# A text, or a number that JSON does not have and Python writes.
NO_NUMBERS = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b')


class _Image(msgspec.Struct):
    id: coco.Key
    file_name: coco.Name | None = None
    coco_url: coco.Name | None = None
    width: coco.Side | None = None
    height: coco.Side | None = None

    @property
    def name(self) -> str:
        """The name of the file; LVIS has addresses, which end with the folder and the file."""
        return self.file_name or "/".join((self.coco_url or "").split("/")[-2:])

    @property
    def size(self) -> tuple[int, int] | None:
        return None if self.width is None or self.height is None else (self.height, self.width)


class _Annotation(msgspec.Struct):
    image_id: coco.Key
    category_id: int
    id: coco.Key | None = None
    bbox: Annotated[list[float | None], Meta(max_length=4)] | None = None
    area: float | None = None
    iscrowd: coco.Flag | bool | None = 0
    segmentation: msgspec.Raw = msgspec.Raw(b"[]")


class _Content(msgspec.Struct):
    images: list[_Image]
    categories: Annotated[list[coco.Category], Meta(min_length=1, max_length=coco.MOST_CLASSES)]
    annotations: list[_Annotation] = []


def matches(data: str) -> bool:
    """Whether there is a JSON file whose name is COCO's for objects, or Roboflow's, or that has COCO's words."""
    try:
        return Path(data).is_dir() and bool(_files(Path(data), {}))
    except OSError:
        return False


def claims(data: str, args: Mapping[str, Any]) -> bool:
    """Whether arguments name JSON files in a folder."""
    return Path(data).is_dir() and "annotations" in args and set(args) <= set(ARGS)


def open_training(data: str, how: Opening) -> DataSource:
    """Open the parts train and val, or one part, which is then divided; see `open_for_training`."""
    return folder_for_training(Path(data), _open(Path(data), how.args), how, strata_of)


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    """Open the parts that there are; see `open_for_evaluation`."""
    return folder_for_evaluation(Path(data), _open(Path(data), how.args), held_out)


def _files(root: Path, args: Mapping[str, Any]) -> list[Path]:
    """The files of `annotations`, the name of one or the beginning of several, or of objects by their names.

    Without any, those of other names whose first and last bytes have COCO's words: Label Studio, CVAT and others write
    result.json or annotations.json.
    """
    given = args.get("annotations")
    if given is not None and (root / given).is_file():
        return [root / given]
    if given is not None:
        return coco.json_files(root, lambda name: name.startswith(given.lower()))
    named = coco.json_files(root, lambda name: name.startswith(STARTS) or name.endswith(ENDS))
    return named or [file for file in coco.json_files(root, lambda name: not OTHERS.search(name)) if _has_words(file)]


def _has_words(file: Path) -> bool:
    """Whether a file begins and ends as COCO's files of objects do."""
    with open(file, "rb") as stream:
        text = stream.read(SNIFFED)
        stream.seek(max(len(text), file.stat().st_size - SNIFFED))
        text += stream.read(SNIFFED)
    return text.lstrip().startswith(b"{") and all(word in text for word in WORDS)


def _open(root: Path, args: Mapping[str, Any]) -> DataSource:
    coco.check_folder_names(root, args, ("images", "annotations"))
    frame = checked_frame(args.get("orientation"))
    notes: list[str] = []
    parts = coco.parts_of(root, _files(root, args), notes)
    if not parts:
        raise MissingPathError(
            f"{root} holds no JSON file of objects, such as annotations/instances_train.json: say its name with "
            "--data-args annotations=NAME"
        )
    categories: list[coco.Category] | None = None
    splits = {}
    for split, (file, part) in parts.items():
        content = _read(file)
        categories = coco.checked_categories(file, content.categories, categories)
        faults = Faults(file)
        photos, places = _photos(root, file, part, content, args, faults)
        heads = heads_of([photo.image for photo in photos])
        frames = frames_of(photos, heads, frame, faults, notes)
        table = _table(file, content, categories, places, faults, notes)
        refuse_corners(table, photos, faults, "")
        splits[split] = samples_of(photos, frames, table, faults)
        faults.note(notes)
    names = [class_name(one.name) for one in categories]
    return detection_source(str(root), names, [one.id for one in categories], splits, notes)


def _read(file: Path) -> _Content:
    """The content of a JSON file. Numbers that JSON does not have are read as null."""
    try:
        return coco.read(file, _Content)
    except InvalidValueError:
        text = file.read_bytes() if file.stat().st_size <= coco.MOST_BYTES else b""
        if b"NaN" not in text and b"Infinity" not in text:
            raise
    text = NO_NUMBERS.sub(lambda found: found[0] if found[0].startswith(b'"') else b"null", text)
    try:
        return msgspec.json.decode(text, type=_Content)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidValueError(f"{file} is no file of COCO's format: {one_line(error)}") from None


def _photos(
    root: Path, file: Path, part: str, content: _Content, args: Mapping[str, Any], faults: Faults
) -> tuple[list[Photo], dict[coco.Key, int]]:
    """The images whose files are there, by name, and the place of each image's id: -1 where there is no file."""
    if len({image.id for image in content.images}) < len(content.images):
        raise InvalidValueError(f"{file}: two images have one id")
    nameless = next((image.id for image in content.images if not image.name), None)
    if nameless is not None:
        raise InvalidValueError(f"{file}: the image with the id {shown(nameless)} has no file_name")
    names = [image.name for image in content.images]
    coco.check_file_names(file, names)
    if len(set(names)) < len(names):
        raise InvalidValueError(f"{file}: two images have one file_name")
    folder = coco.folder_of_images(root, file, part, args, names[0]) if names else root
    photos, places = [], {}
    for image in sorted(content.images, key=lambda image: image.name):
        path = os.path.join(folder, image.name)
        if os.path.isfile(path):
            places[image.id] = len(photos)
            photos.append(Photo(path, image.name, image.size))
        else:
            places[image.id] = -1
            faults.add("image", "without a file", path)
    return photos, places


def _table(
    file: Path,
    content: _Content,
    categories: Sequence[coco.Category],
    places: Mapping[coco.Key, int],
    faults: Faults,
    notes: list[str],
) -> ObjectTable:
    """The objects of images that are there, with boxes as corners."""
    found = content.annotations
    unknown = len(places) + 1  # of an image; -1 is a known image without a file
    images = np.fromiter((places.get(one.image_id, unknown) for one in found), np.int64, len(found))
    labels = known((one.category_id for one in found), {one.id: label for label, one in enumerate(categories)})
    boxes = np.array([_four(one.bbox) for one in found], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    segments = [None if (raw := bytes(one.segmentation)) in EMPTY else raw for one in found]
    table = ObjectTable(
        images,
        labels,
        boxes,
        np.fromiter((bool(one.iscrowd) for one in found), bool, len(found)),
        np.array([one.area for one in found], np.float64),
        segments if any(segments) else [],
        lambda row: _name(found, row),
    )
    left = images != -1
    for bad, why in (
        (_repeated(found, file, notes), "written twice"),
        (images == unknown, "of an image that is not listed"),
        (labels == UNKNOWN, "of a category that is not listed"),
    ):
        faults.add_rows("object", why, bad & left, table.name)
        left &= ~bad
    return table if left.all() else table.only(left)


def _four(box: list[float | None] | None) -> list[float | None]:
    """The numbers of a box; None for those that it lacks."""
    return box if box is not None and len(box) == 4 else [*(box or ()), *[None] * (4 - len(box or ()))]


def _name(found: Sequence[_Annotation], row: int) -> str:
    one = found[row]
    name = f"annotation {row + 1:,}" if one.id is None else f"the annotation with the id {shown(one.id)}"
    return f"{name} (image_id {shown(one.image_id)}, category_id {one.category_id})"


def _repeated(found: Sequence[_Annotation], file: Path, notes: list[str]) -> np.ndarray:
    """Which annotations (M,) have the id and the content of one before; notes others that have an id of one before."""
    repeated = np.zeros(len(found), bool)
    ids = [one.id for one in found if one.id is not None]
    if len(set(ids)) == len(ids):
        return repeated
    seen: dict[Any, set] = {}
    other = 0
    for row, one in enumerate(found):
        if one.id is None:
            continue
        content = (one.image_id, one.category_id, tuple(one.bbox or ()), bytes(one.segmentation))
        before = seen.setdefault(one.id, set())
        repeated[row] = content in before
        other += bool(before) and not repeated[row]
        before.add(content)
    if other:
        notes.append(f"{file}: {counted(other, 'annotation')} with the id of another annotation; all are used")
    return repeated
