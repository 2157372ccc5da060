"""Files of label maps: PNG, COCO's JSON, and polygons. Each writer passes results on and keeps none."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image

from glocal.data.image import UnreadableImageError
from glocal.data.polygons import polygons_of
from glocal.errors import InvalidValueError
from glocal.files import numbered_name, write_atomically, written_atomically
from glocal.tasks.segmentation.result import Segmentation
from glocal.tasks.task import Trained
from glocal.wording import utf8

AT_ONCE = 2**20  # bytes of COCO's list of images that are kept in memory
LARGEST = 2**16 - 1  # value of a pixel in a PNG

Results = Iterator[Segmentation]


class Parted(Protocol):
    """A result whose `parts` are each the number of a class, run lengths, a score and a mask (H, W)."""

    source: str
    error: UnreadableImageError | None
    size: list[int]

    def parts(self) -> Iterator[tuple[int, str, float, np.ndarray]]: ...


def write_labels(results: Results, folder: Path, trained: Trained) -> Results:
    """A PNG per image, with the numbers of the classes; see `Segmentation.to_png`."""
    return _write_pngs(results, folder, Segmentation.to_png)


def write_ids(results: Results, folder: Path, trained: Trained) -> Results:
    """A PNG per image, with the values of the data's masks: 8 bits, or 16 if a class has a value above 255."""
    ids = trained.task_args.get("ids", [])
    if len(ids) != len(trained.class_names):
        raise InvalidValueError("--save ids: the run does not know its data's values of the classes: --save labels")
    if max(ids) > LARGEST:
        raise InvalidValueError(f"--save ids: the data has values up to {max(ids):,}, and a PNG up to {LARGEST:,}")
    values = np.array(ids, np.uint8 if max(ids) < 256 else np.uint16)

    def to_png(result: Segmentation) -> bytes:
        file = io.BytesIO()
        Image.fromarray(values[result.labels]).save(file, "PNG")
        return file.getvalue()

    return _write_pngs(results, folder, to_png)


def _write_pngs(results: Results, folder: Path, to_png: Callable[[Segmentation], bytes]) -> Results:
    for number, result in enumerate(results):
        if result.error is None:
            write_atomically(folder / numbered_name(number, result.source, ".png"), to_png(result))
        yield result


def write_coco(results: Iterator[Parted], path: Path, trained: Trained) -> Iterator[Parted]:
    """A data set of COCO: an annotation for each part of an image, a class or a segment, with its run lengths.

    An image's id is its place in the input, from 1. The ids of the categories are the values of the data's masks; where
    the run does not know them, they count from 1. The images come last: until the end they are in a temporary file.
    """
    names = trained.class_names
    ids = trained.task_args.get("ids", [])
    ids = ids if len(ids) == len(names) else list(range(1, len(names) + 1))
    categories = [{"id": id, "name": name} for id, name in zip(ids, names, strict=True)]
    with written_atomically(path) as file, SpooledTemporaryFile(AT_ONCE, dir=path.parent) as images:
        file.write(b'{"categories": ' + to_json(categories) + b', "annotations": [')
        annotations, images_so_far, count = Entries(file), Entries(images), 0
        for place, result in enumerate(results, 1):
            if result.error is None:
                height, width = result.size
                name = utf8(result.source)
                images_so_far.add({"id": place, "file_name": name, "width": width, "height": height})
                for number, rle, score, mask in result.parts():
                    count += 1
                    about = {"id": count, "image_id": place, "category_id": ids[number]}
                    about |= {"segmentation": {"size": [height, width], "counts": rle}, "iscrowd": 0, "score": score}
                    annotations.add(about | _extent(mask))
            yield result
        file.write(b'\n], "images": [')
        images.seek(0)
        shutil.copyfileobj(images, file)
        file.write(b"\n]}\n")


def _extent(mask: np.ndarray) -> dict:
    """The area and the box [x, y, width, height] of a mask with at least one pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    return {"area": int(np.count_nonzero(mask)), "bbox": box}


def write_polygons(results: Results, path: Path, trained: Trained) -> Results:
    """A FeatureCollection of GeoJSON, in pixels: a MultiPolygon for each class of an image; see `polygons_of`."""
    with written_atomically(path) as file:
        file.write(b'{"type": "FeatureCollection", "features": [')
        features = Entries(file)
        for result in results:
            if result.error is None:
                found = dict(polygons_of(result.labels))
                about = zip(result.numbers, result.classes, result.shares, result.confidences, strict=True)
                for number, name, share, confidence in about:
                    properties = {"source": utf8(result.source), "class": name}
                    properties |= {"share": share, "confidence": confidence}
                    geometry = {"type": "MultiPolygon", "coordinates": found[number]}
                    features.add({"type": "Feature", "properties": properties, "geometry": geometry})
            yield result
        file.write(b"\n]}\n")


class Entries:
    """The entries of a list in a JSON file, each on a line of its own."""

    def __init__(self, file: BinaryIO):
        self.file, self.before = file, b"\n"

    def add(self, entry: dict) -> None:
        self.file.write(self.before + to_json(entry))
        self.before = b",\n"


def to_json(value: object) -> bytes:
    """A value as JSON in UTF-8, with the texts that are not Unicode escaped."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
