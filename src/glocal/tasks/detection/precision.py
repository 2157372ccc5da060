"""Average precision and recall of COCO."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from glocal.tasks.detection.library import coco, coco_masks

AREAS = ("all", "small", "medium", "large")  # up to 32² pixels, up to 96², more
MOST = (1, 10, 100)  # objects in an image that count, those of the highest scores
AP50, AP75 = 0, 5  # places of the IoU 0.5 and 0.75 among 0.5, 0.55, … 0.95


class Rows(NamedTuple):
    """Objects of many images.

    images: (N,) the place of each one's image. boxes: (N, 4), x1, y1, x2, y2. labels: (N,). scores: (N,), of those
    that are found; crowd, areas: (N,), of the annotation. masks: run lengths of each; empty for boxes alone.
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None
    areas: np.ndarray | None = None
    masks: Sequence[bytes] = ()


class Averages(NamedTuple):
    """precision: (IoUs, recalls, classes, areas, numbers) at 101 recalls. recall: (IoUs, classes, areas, numbers).

    -1 where the annotations have no object of a class and an area.
    """

    precision: np.ndarray
    recall: np.ndarray


def averages(found: Rows, objects: Rows, sizes: np.ndarray, classes: int, kind: str) -> Averages:
    """COCO's measures of a data set. sizes: (images, 2), height and width. kind: "bbox" or "segm"."""
    library = coco()
    truth = library.COCO()
    images = [
        {"id": place, "height": height, "width": width} for place, (height, width) in enumerate(sizes.tolist(), 1)
    ]
    categories = [{"id": label + 1, "name": str(label)} for label in range(classes)]
    truth.dataset = {
        "images": images,
        "categories": categories,
        "annotations": list(_annotations(objects, sizes, kind)),
    }
    truth.createIndex()
    answers = library.COCO()
    answers.dataset = {
        "images": images,
        "categories": categories,
        "annotations": list(_annotations(found, sizes, kind)),
    }
    answers.createIndex()
    evaluation = library.COCOeval(truth, answers, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    return Averages(np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"]))


def _annotations(rows: Rows, sizes: np.ndarray, kind: str) -> Iterator[dict]:
    sides = rows.boxes[:, 2:] - rows.boxes[:, :2]
    boxes = np.concatenate([rows.boxes[:, :2], sides], 1).tolist()
    images, labels = rows.images.tolist(), rows.labels.tolist()
    masks = []
    if kind == "segm":
        masks = [
            {"size": sizes[image].tolist(), "counts": text} for image, text in zip(images, rows.masks, strict=True)
        ]
    if rows.scores is not None:  # the areas of what is found are those of the masks, if there are masks
        areas = coco_masks().area(masks) if masks else sides.prod(1)
        columns = {"score": rows.scores.tolist(), "area": np.asarray(areas, np.float64).tolist()}
    else:
        columns = {"area": rows.areas.tolist(), "iscrowd": rows.crowd.astype(int).tolist()}
    for place, (image, label, box) in enumerate(zip(images, labels, boxes, strict=True)):
        about = {"id": place + 1, "image_id": image + 1, "category_id": label + 1, "bbox": box, "iscrowd": 0}
        about |= {name: column[place] for name, column in columns.items()}
        if masks:
            about["segmentation"] = masks[place]
        yield about


def mean(values: np.ndarray) -> float | None:
    """The mean in percent of the values that are known; None if none is."""
    known = values[values > -1]
    return 100 * float(known.mean()) if known.size else None


def measures(found: Averages) -> dict[str, float]:
    """The measures over all classes in percent, by the ends of their keys; those without an object are left out.

    Only ap, ap50, ap75 and ar are always there: 0 without any object.
    """
    precision, recall = found.precision[..., -1], found.recall[..., -1]
    always = {
        "ap": mean(precision[:, :, :, 0]),
        "ap50": mean(precision[AP50, :, :, 0]),
        "ap75": mean(precision[AP75, :, :, 0]),
        "ar": mean(recall[:, :, 0]),
    }
    values = {name: value or 0.0 for name, value in always.items()}
    for place, area in enumerate(AREAS[1:], 1):
        value = mean(precision[:, :, :, place])
        if value is not None:
            values[f"ap_{area}"] = value
    return values


def of_classes(found: Averages) -> list[tuple[float | None, float | None]]:
    """AP and AP50 of each class in percent; None of a class without an object."""
    precision = found.precision[:, :, :, 0, -1]
    return [(mean(precision[:, :, label]), mean(precision[AP50, :, label])) for label in range(precision.shape[2])]
