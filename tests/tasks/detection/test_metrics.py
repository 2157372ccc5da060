"""Measures of detection: equal to COCO's own program on the same objects."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from glocal.tasks.detection.confusion import counts
from glocal.tasks.detection.masks import from_bytes, masks_of_texts, texts_of_masks, to_bytes
from glocal.tasks.detection.metrics import DetectionMetrics
from glocal.tasks.instances.metrics import InstanceMetrics

CLASSES = ["a", "b", "c", "d"]  # d occurs nowhere
SIZE = (160, 200)
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", None, None, "ar")


def polygon(box):
    left, top, right, bottom = box
    return [left, top, right, top, left + 0.7 * (right - left), bottom, left, top + 0.8 * (bottom - top)]


def text_of(box) -> bytes:
    return coco_masks.merge(coco_masks.frPyObjects([polygon(box)], *SIZE))["counts"]


def made(images=21, seed=0):
    """Of each image: what is found (boxes, scores, labels), and the target; some of both are near each other."""
    random = np.random.RandomState(seed)
    found = []
    for place in range(images):
        count = 0 if place % 7 == 3 else random.randint(1, 6)
        boxes = corners(random, count)
        target = {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(random.randint(0, 3, count)),
            "crowd": torch.from_numpy(random.rand(count) < 0.15),
            "areas": torch.from_numpy((boxes[:, 2:] - boxes[:, :2]).prod(1) * random.uniform(0.5, 1, count)),
            "size": torch.tensor(SIZE),
        }
        near = (boxes + random.uniform(-6, 6, boxes.shape)).clip(0, 160)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 2)
        answers = np.concatenate([near, corners(random, 0 if place % 5 == 2 else 6)])
        labels = np.concatenate([target["labels"].numpy(), random.randint(0, 3, len(answers) - count)])
        scores = -np.sort(-random.rand(len(answers)))
        order = random.permutation(len(answers))
        texts = [text_of(box) for box in boxes], [text_of(box) for box in answers[order]]
        target["rles"], target["lengths"] = to_bytes(texts[0])
        outputs = torch.from_numpy(answers[order]), torch.from_numpy(scores), torch.from_numpy(labels[order])
        found.append((outputs, to_bytes(texts[1]), target))
    return found


def corners(random, count):
    left, top = random.uniform(0, 60, (2, count))
    return np.stack([left, top, left + random.uniform(3, 130, count), top + random.uniform(3, 98, count)], 1)


def updated(metrics, images, at_once=2):
    masks = isinstance(metrics, InstanceMetrics)
    for first in range(0, len(images), at_once):
        part = images[first : first + at_once]
        outputs = [
            list(column)
            for column in zip(*((*found, *rles) if masks else found for found, rles, _ in part), strict=True)
        ]
        metrics.update(outputs, [target for *_, target in part])
    return metrics


def of_pycocotools(images, kind) -> COCOeval:
    annotations, results = [], []
    for place, ((boxes, scores, labels), _, target) in enumerate(images, 1):
        about = zip(*(target[name].tolist() for name in ("boxes", "labels", "crowd", "areas")), strict=True)
        for box, label, crowd, area in about:
            one = {"id": len(annotations) + 1, "image_id": place, "category_id": label + 1, "iscrowd": int(crowd)}
            one |= {"bbox": xywh(box), "area": area, "segmentation": [polygon(box)]}
            annotations.append(one)
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
            one = {"image_id": place, "category_id": label + 1, "score": score}
            mask = {"size": list(SIZE), "counts": text_of(box).decode()}
            results.append(one | ({"bbox": xywh(box)} if kind == "bbox" else {"segmentation": mask}))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": place, "height": SIZE[0], "width": SIZE[1]} for place in range(1, len(images) + 1)],
            "categories": [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def xywh(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


@pytest.mark.parametrize(("key", "kind"), [("box", "bbox"), ("mask", "segm")])
def test_equal_to_pycocotools(key, kind):
    images = made(40)
    expected = of_pycocotools(images, kind)
    metrics = updated(InstanceMetrics(CLASSES), images)
    values = metrics.compute()
    for name, value in zip(NAMES, expected.stats, strict=False):
        if name is not None and value >= 0:
            assert values[f"{key}_{name}"] == pytest.approx(100 * value, abs=1e-9), name
    precision = expected.eval["precision"][:, :, :, 0, -1]
    for label, entry in enumerate(metrics.report()["per_class"][:3]):
        assert entry[f"{key}_ap"] == pytest.approx(100 * precision[:, :, label].mean(), abs=1e-9)
        assert entry[f"{key}_ap50"] == pytest.approx(100 * precision[0, :, label].mean(), abs=1e-9)


def test_a_class_without_an_object_counts_nowhere():
    entry = updated(DetectionMetrics(CLASSES), made(10)).report()["per_class"][3]
    assert entry == {"name": "d", "objects": 0, "found": 0, "box_ap": None, "box_ap50": None}


def test_21_images_on_two_devices_are_those_of_one():
    images = made(21)
    one = updated(DetectionMetrics(CLASSES), images)
    devices = [updated(DetectionMetrics(CLASSES), images[first::2]) for first in (0, 1)]
    devices[0].merge([device.state() for device in devices])
    assert devices[0].images == 21
    assert rounded(devices[0].report()) == rounded(one.report())
    json.dumps(one.report(), allow_nan=False)


def rounded(value):
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 9) if isinstance(value, float) else value


class TestNothing:
    """Data without objects, and models that find nothing."""

    def target(self, count=1):
        boxes = torch.tensor([[10.0, 10, 60, 60]] * count, dtype=torch.float64).reshape(-1, 4)
        labels, crowd = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.bool)
        areas = torch.full((count,), 2500.0, dtype=torch.float64)
        return {"boxes": boxes, "labels": labels, "crowd": crowd, "areas": areas, "size": torch.tensor(SIZE)}

    def outputs(self, count=0):
        return [
            [torch.tensor([[10.0, 10, 60, 60]] * count).reshape(-1, 4)],
            [torch.full((count,), 0.9)],
            [torch.zeros(count, dtype=torch.int64)],
        ]

    def test_nothing_found_is_0(self):
        metrics = DetectionMetrics(CLASSES)
        metrics.update(self.outputs(), [self.target()])
        assert metrics.compute() == {"box_ap": 0, "box_ap50": 0, "box_ap75": 0, "box_ar": 0, "box_ap_medium": 0}
        assert metrics.scores().tolist() == [0]
        assert metrics.report()["confusion"] == [[0, 4, 1]]

    def test_no_object_at_all_is_0(self):
        metrics = DetectionMetrics(CLASSES)
        metrics.update(self.outputs(1), [self.target(0)])
        assert metrics.compute() == {"box_ap": 0, "box_ap50": 0, "box_ap75": 0, "box_ar": 0}
        assert metrics.scores().tolist() == [0]
        assert all(entry["box_ap"] is None for entry in metrics.report()["per_class"])

    def test_neither_is_right(self):
        metrics = DetectionMetrics(CLASSES)
        metrics.update(self.outputs(), [self.target(0)])
        assert metrics.scores().tolist() == [100]

    def test_no_image(self):
        metrics = DetectionMetrics(CLASSES)
        metrics.update([[], [], []], [])
        assert metrics.compute() == {}
        assert len(metrics.scores()) == 0
        assert metrics.report()["images"] == 0

    def test_everything_right_is_100(self):
        metrics = DetectionMetrics(CLASSES)
        metrics.update(self.outputs(1), [self.target()])
        assert rounded(list(metrics.compute().values())) == [100] * 5


class TestConfusion:
    BOXES = torch.tensor([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], dtype=torch.float64)

    def target(self, labels, crowd=(False, False, False)):
        return {"boxes": self.BOXES, "labels": torch.tensor(labels), "crowd": torch.tensor(crowd)}

    def pairs(self, confusion):
        return {tuple(place.tolist()): int(confusion[tuple(place)]) for place in confusion.nonzero()}

    def test_right_other_class_missed_and_nothing_there(self):
        boxes = torch.cat([self.BOXES[:2], torch.tensor([[70.0, 0, 80, 10]])])
        found = counts(boxes, torch.tensor([0, 0, 1]), self.target([0, 1, 1]), 2)
        assert self.pairs(found.confusion) == {(0, 0): 1, (1, 0): 1, (1, 2): 1, (2, 1): 1}
        assert found.f1 == pytest.approx(100 * 2 / 6)

    def test_an_object_is_given_once(self):
        boxes = self.BOXES[[0, 0]]
        found = counts(boxes, torch.tensor([0, 0]), self.target([0, 1, 1]), 2)
        assert self.pairs(found.confusion) == {(0, 0): 1, (2, 0): 1, (1, 2): 2}

    def test_what_lies_in_a_crowd_counts_nowhere(self):
        found = counts(self.BOXES, torch.tensor([0, 0, 0]), self.target([0, 0, 0], (False, True, False)), 2)
        assert self.pairs(found.confusion) == {(0, 0): 2}
        assert found.f1 == 100

    def test_the_best_overlap_of_the_own_class_goes_first(self):
        boxes = torch.tensor([[1.0, 0, 11, 10]], dtype=torch.float64)
        target = {
            "boxes": torch.tensor([[1.0, 0, 11, 10], [3, 0, 13, 10]], dtype=torch.float64),
            "labels": torch.tensor([1, 0]),
            "crowd": torch.zeros(2, dtype=torch.bool),
        }
        assert self.pairs(counts(boxes, torch.tensor([0]), target, 2).confusion) == {(0, 0): 1, (1, 2): 1}


def test_texts_of_masks_and_back():
    masks = torch.rand(5, 17, 23) > 0.6
    masks[3] = False
    texts = texts_of_masks(masks)
    assert from_bytes(*to_bytes(texts)) == texts
    assert np.array_equal(masks_of_texts(texts, (17, 23)), masks.numpy())
    expected = coco_masks.encode(np.asfortranarray(masks.numpy().transpose(1, 2, 0).astype(np.uint8)))
    assert [one["counts"] for one in expected] == texts
    assert texts_of_masks(masks[:0]) == []
    assert masks_of_texts([], (3, 4)).shape == (0, 3, 4)
