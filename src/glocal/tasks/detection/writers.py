"""Files of objects: COCO's JSON, YOLO's texts, and a table. Each writer passes results on and keeps none."""

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile

from glocal.files import numbered_name, write_atomically, written_atomically
from glocal.tasks.detection.result import Detection
from glocal.tasks.segmentation.writers import AT_ONCE, Entries, to_json
from glocal.tasks.task import Trained
from glocal.wording import utf8

Results = Iterator[Detection]
COLUMNS = ("source", "class", "score", "x1", "y1", "x2", "y2")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes a text that begins so for a formula


def write_coco(results: Results, path: Path, trained: Trained) -> Results:
    """A data set of COCO: an annotation with a score for each object.

    An image's id is its place in the input, from 1. The ids of the categories are those of the data; where the run does
    not know them, they count from 1. The images come last: until the end they are in a temporary file.
    """
    names = trained.class_names
    ids = trained.task_args.get("ids", [])
    ids = ids if len(ids) == len(names) else list(range(1, len(names) + 1))
    categories = [{"id": id, "name": utf8(name)} for id, name in zip(ids, names, strict=True)]
    with written_atomically(path) as file, SpooledTemporaryFile(AT_ONCE, dir=path.parent) as images:
        file.write(b'{"categories": ' + to_json(categories) + b', "annotations": [')
        annotations, images_so_far, count = Entries(file), Entries(images), 0
        for place, result in enumerate(results, 1):
            if result.error is None:
                height, width = result.size
                images_so_far.add({"id": place, "file_name": utf8(result.source), "width": width, "height": height})
                for number, about in zip(result.numbers, result.annotations(), strict=True):
                    count += 1
                    annotations.add({"id": count, "image_id": place, "category_id": ids[number]} | about)
            yield result
        file.write(b'\n], "images": [')
        images.seek(0)
        shutil.copyfileobj(images, file)
        file.write(b"\n]}\n")


def write_yolo(results: Results, folder: Path, trained: Trained) -> Results:
    """A text for each image, and data.yaml with the classes, as YOLO has them.

    A line is the number of a class, the middle of a box, its width and its height in parts of the image, and the score.
    An image without an object has an empty text.
    """
    names = "".join(f"  {number}: {to_json(utf8(name)).decode()}\n" for number, name in enumerate(trained.class_names))
    write_atomically(folder / "data.yaml", f"names:\n{names}".encode())
    for number, result in enumerate(results):
        if result.error is None:
            lines = (
                yolo_line(*one, result.size) for one in zip(result.numbers, result.boxes, result.scores, strict=True)
            )
            write_atomically(folder / numbered_name(number, result.source, ".txt"), "".join(lines).encode())
        yield result


def yolo_line(label: int, box: list[float], score: float, size: list[int]) -> str:
    left, top, right, bottom = box
    height, width = size
    numbers = (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height
    return f"{label} {' '.join(f'{number:.6f}' for number in numbers)} {score:.6f}\n"


def write_csv(results: Results, path: Path, trained: Trained) -> Results:
    """A row for each object: the image, the class, the score, and the box in pixels."""
    with written_atomically(path) as file:
        _row(file, COLUMNS)
        for result in results:
            if result.error is None:
                for name, score, box in zip(result.classes, result.scores, result.boxes, strict=True):
                    numbers = [f"{number:.6g}" for number in (score, *box)]
                    _row(file, [_text(utf8(result.source)), _text(utf8(name)), *numbers])
            yield result


def _row(file, cells) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    file.write(text.getvalue().encode())


def _text(text: str) -> str:
    """A text with a quote before it if a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text
