"""PASCAL VOC's AP50: closed forms, and a loop that follows the description of VOC's development kit."""

import json
import os

import numpy as np
import pytest

from glocal.cli import main
from glocal.tasks.detection import voc
from glocal.tasks.detection.metrics import DetectionMetrics
from glocal.tasks.detection.precision import Rows

LEFT, NEAR, RIGHT = (0, 0, 10, 10), (0, 0, 10, 8), (20, 0, 30, 10)


def rows(entries, found):
    """Rows of (image, box, score or crowd), all of class 0."""
    images, boxes, values = ([entry[place] for entry in entries] for place in range(3))
    boxes, labels = np.array(boxes, np.float64).reshape(-1, 4), np.zeros(len(images), np.int64)
    images = np.array(images, np.int64)
    if found:
        return Rows(images, boxes, labels, scores=np.array(values, np.float64))
    return Rows(images, boxes, labels, crowd=np.array(values, bool), areas=np.zeros(len(images)))


def average(found, objects):
    (one,) = voc.averages(rows(found, True), rows(objects, False), 1)
    return one


@pytest.mark.parametrize(
    ("found", "objects", "points", "area"),
    [
        # right, wrong, right: precision 1 up to the recall 0.5, and 2 / 3 above
        ([(0, LEFT, 0.9), (0, RIGHT, 0.8), (1, LEFT, 0.7)], [(0, LEFT, 0), (1, LEFT, 0)], (6 + 5 * 2 / 3) / 11, 5 / 6),
        # of two boxes of an object, the surer one is right, wherever it stands
        ([(0, LEFT, 0.8), (0, NEAR, 0.9)], [(0, LEFT, 0)], 1, 1),
        ([(0, LEFT, 0.8), (0, NEAR, 0.9), (1, LEFT, 0.7)], [(0, LEFT, 0), (1, LEFT, 0)], (6 + 5 * 2 / 3) / 11, 5 / 6),
        # nobody has to find a difficult object, and nobody is wrong who finds it twice
        ([(0, LEFT, 0.9), (0, NEAR, 0.8), (0, RIGHT, 0.7)], [(0, LEFT, 1), (0, RIGHT, 0)], 1, 1),
        # a box without an object is wrong in an image with a difficult one, too
        ([(0, (0, 0, 10, 4), 0.9), (0, RIGHT, 0.7)], [(0, LEFT, 1), (0, RIGHT, 0)], 0.5, 0.5),
        # the object of the largest overlap has a box already: COCO would give the second object to this one
        ([(0, LEFT, 0.9), (0, (0, 0, 10, 9), 0.8)], [(0, LEFT, 0), (0, NEAR, 0)], 6 / 11, 0.5),
        # an IoU of exactly 0.5 is enough
        ([(0, (0, 0, 10, 5), 0.9)], [(0, LEFT, 0)], 1, 1),
        # the object is in another image
        ([(1, LEFT, 0.9)], [(0, LEFT, 0)], 0, 0),
        ([], [(0, LEFT, 0)], 0, 0),
    ],
)
def test_closed_forms(found, objects, points, area):
    assert average(found, objects) == pytest.approx((100 * points, 100 * area))


@pytest.mark.parametrize("hits", range(1, 11))
def test_a_recall_in_tenths_is_reached(hits):
    found = [(image, LEFT, 1 - image / 100) for image in range(hits)]
    assert average(found, [(image, LEFT, 0) for image in range(10)]) == pytest.approx(
        (100 * (hits + 1) / 11, 10 * hits)
    )


@pytest.mark.parametrize("objects", [[], [(0, LEFT, 1)]], ids=["no object", "difficult objects alone"])
def test_a_class_without_an_object_has_no_average(objects):
    assert average([(0, LEFT, 0.9)], objects) is None


def by_the_description(found, objects, label):
    """AP as VOC2007 and VOC2012 have it, with boxes of whole pixels that include the last one."""

    def inclusive(box):
        return box[0] + 1, box[1] + 1, box[2], box[3]

    def overlap(one, other):
        width = min(one[2], other[2]) - max(one[0], other[0]) + 1
        height = min(one[3], other[3]) - max(one[1], other[1]) + 1
        if width <= 0 or height <= 0:
            return 0.0
        areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (one, other)]
        return width * height / (sum(areas) - width * height)

    truth = {}
    for image, box, of, crowd in zip(objects.images, objects.boxes, objects.labels, objects.crowd, strict=True):
        if of == label:
            truth.setdefault(image, []).append([inclusive(box), crowd, False])
    wanted = sum(not crowd for entries in truth.values() for _, crowd, _ in entries)
    right = wrong = 0
    recall, precision = [], []
    answers = zip(found.scores, found.images, found.boxes, found.labels, strict=True)
    for _, image, box, of in sorted(answers, key=lambda one: -one[0]):
        if of != label:
            continue
        best, chosen = -1.0, None
        for entry in truth.get(image, []):
            value = overlap(inclusive(box), entry[0])
            if value > best:
                best, chosen = value, entry
        if best >= 0.5:
            if chosen[1]:
                continue
            right, wrong, chosen[2] = (right, wrong + 1, True) if chosen[2] else (right + 1, wrong, True)
        else:
            wrong += 1
        recall.append(right / wanted)
        precision.append(right / (right + wrong))
    at = [
        max([p for p, r in zip(precision, recall, strict=True) if r >= tenth / 10 - 1e-9] or [0]) for tenth in range(11)
    ]
    recall, precision = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for place in reversed(range(len(precision) - 1)):
        precision[place] = max(precision[place], precision[place + 1])
    area = sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))
    return 100 * sum(at) / 11, 100 * area


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_the_description(seed):
    random = np.random.RandomState(seed)

    def boxes(count):
        corners = random.randint(0, 30, (count, 2))
        return np.concatenate([corners, corners + random.randint(6, 30, (count, 2))], 1).astype(np.float64)

    objects = Rows(random.randint(0, 12, 60), boxes(60), random.randint(0, 3, 60), crowd=random.rand(60) < 0.2)
    of = random.randint(0, 60, 200)  # the object that each box is near
    near = objects.boxes[of] + random.randint(-3, 4, (200, 4))
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    labels = np.where(random.rand(200) < 0.7, objects.labels[of], random.randint(0, 3, 200))
    found = Rows(objects.images[of], near, labels, scores=random.permutation(200) / 200)
    expected = [by_the_description(found, objects, label) for label in range(3)]
    assert np.allclose(voc.averages(found, objects, 3), expected, atol=1e-9)
    assert min(value for one in expected for value in one) > 10


def test_the_mean_is_over_the_classes_with_objects():
    import torch

    metrics = DetectionMetrics(["a", "b", "c"], voc=True)
    boxes = torch.tensor([LEFT, RIGHT], dtype=torch.float64)
    target = {"boxes": boxes, "labels": torch.tensor([0, 1]), "crowd": torch.tensor([False, False])}
    target |= {"areas": torch.full((2,), 100.0, dtype=torch.float64), "size": torch.tensor((40, 40))}
    metrics.update([[boxes[:1]], [torch.tensor([0.9])], [torch.tensor([0])]], [target])
    values = metrics.compute()
    assert (values["voc_ap50"], values["voc07_ap50"]) == pytest.approx((50, 50))
    assert [entry["voc_ap50"] for entry in metrics.report()["per_class"]] == [pytest.approx(100), 0, None]


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """The images of `data` in VOC's format, two objects of which are difficult."""
    root = tmp_path_factory.mktemp("voc") / "data"
    (root / "Annotations").mkdir(parents=True)
    os.symlink(data / "images", root / "JPEGImages")
    content = json.loads((data / "instances.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    for image in content["images"]:
        parts = [f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"]
        for one in content["annotations"]:
            if one["image_id"] == image["id"]:
                x, y, width, height = one["bbox"]
                corners = zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + width, y + height), strict=True)
                box = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
                more = f"<name>{names[one['category_id']]}</name><difficult>{int(one['id'] < 3)}</difficult>"
                parts.append(f"<object>{more}<bndbox>{box}</bndbox></object>")
        file = root / "Annotations" / f"{image['file_name'].removesuffix('.png')}.xml"
        file.write_text(f"<annotation>{''.join(parts)}</annotation>")
    return root


@pytest.mark.parametrize(("kind", "options"), [("voc", []), ("coco", ["--voc"])])
def test_eval_measures_it(run, data, folder, tmp_path, kind, options, capsys):
    place = tmp_path / "eval.json"
    command = ["eval", str(folder if kind == "voc" else data), "--checkpoint", str(run), "--workers", "0", *options]
    assert main([*command, "--split", "all", "--json", str(place)]) == 0
    assert "VOC2007 AP50" in capsys.readouterr().out
    found = json.loads(place.read_text())
    assert found["voc_ap50"] > 0  # the run finds some objects
    known = [entry["voc07_ap50"] for entry in found["per_class"]]
    assert found["voc07_ap50"] == pytest.approx(sum(known) / len(known))
