"""Against loops over pixels, scikit-learn's confusion matrix, and erosion by definition."""

import json

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import confusion_matrix as sklearn_confusion

from glocal.data.masks import IGNORE
from glocal.tasks.segmentation import metrics as module
from glocal.tasks.segmentation.metrics import SegmentationMetrics, confusion_matrix, near_border

NAMES = list("abcdef")  # "f" occurs nowhere, "e" is predicted only
SIZES = [(1, 1), (7, 5), (33, 18), (1, 40)]


def blobs(size, classes, seed):
    """(H, W): patches of labels, as masks have them."""
    random = np.random.RandomState(seed)
    small = random.randint(0, classes, (size[0] // 4 + 1, size[1] // 4 + 1))
    return small.repeat(4, 0).repeat(4, 1)[: size[0], : size[1]].copy()


def images(sizes=SIZES, ignored=0.15):
    """Predictions and targets of some images: the predictions are right at most places."""
    predictions, targets = [], []
    for seed, size in enumerate(sizes):
        target, other = blobs(size, 4, seed), blobs(size, 5, seed + 100)
        random = np.random.RandomState(seed + 200)
        predictions.append(np.where(random.random_sample(size) < 0.3, other, target))
        target[random.random_sample(size) < ignored] = IGNORE
        targets.append(target)
    return predictions, targets


def tensors(maps, dtype=torch.int64):
    return [torch.from_numpy(one).to(dtype) for one in maps]


def measured(predictions, targets, boundary=False, dtype=torch.int64):
    metrics = SegmentationMetrics(NAMES, boundary)
    for part in (slice(0, 3), slice(0, 0), slice(3, None)):
        metrics.update([tensors(predictions[part], dtype)], tensors(targets[part]))
    return metrics


def by_pixels(predictions, targets):
    """miou, macc, aacc in percent, and pixels by (label, prediction): one pixel after the other."""
    pairs = {}
    for prediction, target in zip(predictions, targets, strict=True):
        for p, t in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True):
            if t != IGNORE:
                pairs[t, p] = pairs.get((t, p), 0) + 1
    ious, recalls, right, total = [], [], 0, 0
    for c in range(len(NAMES)):
        both = pairs.get((c, c), 0)
        wanted = sum(n for (t, _), n in pairs.items() if t == c)
        found = sum(n for (_, p), n in pairs.items() if p == c)
        if wanted + found:
            ious.append(both / (wanted + found - both))
        if wanted:
            recalls.append(both / wanted)
        right, total = right + both, total + wanted
    values = sum(ious) / len(ious), sum(recalls) / len(recalls), right / total
    return [100 * value for value in values], pairs


class TestValues:
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
    def test_equal_a_loop_over_pixels(self, dtype):
        maps = images()
        values = measured(*maps, dtype=dtype).compute()
        assert list(values) == ["miou", "macc", "aacc"]
        assert list(values.values()) == pytest.approx(by_pixels(*maps)[0])

    def test_areas_are_summed_over_the_images(self):
        """One pixel of a small image is wrong: the mean over images would be far lower."""
        predictions = [np.zeros((100, 100), int), np.zeros((1, 1), int)]
        targets = [np.zeros((100, 100), int), np.ones((1, 1), int)]
        assert measured(predictions, targets).compute()["aacc"] == pytest.approx(100 * 10000 / 10001)

    def test_a_class_that_is_predicted_only_lowers_miou_and_not_macc(self):
        values = measured([np.array([[0, 4]])], [np.array([[0, 0]])]).compute()
        assert values == pytest.approx({"miou": 25, "macc": 50, "aacc": 50})

    def test_all_ignored(self):
        metrics = measured(*images(ignored=2), boundary=True)
        assert metrics.compute() == {"miou": 0, "macc": 0, "aacc": 0}
        report = metrics.report()
        assert (report["per_class"], report["confusion"], report["boundary_iou"]) == ([], [], 0)
        assert metrics.scores().tolist() == [100] * 4

    def test_no_images(self):
        metrics = SegmentationMetrics(NAMES, boundary=True)
        metrics.update([[]], [])
        assert metrics.compute() == {}
        assert metrics.report() == {"images": 0, "per_class": [], "class_names": NAMES, "confusion": []}
        assert metrics.scores().shape == (0,)

    def test_predictions_may_be_one_tensor(self):
        metrics, expected = SegmentationMetrics(NAMES), SegmentationMetrics(NAMES)
        predictions, targets = (torch.randint(0, 6, (3, 5, 4)) for _ in range(2))
        metrics.update([predictions], targets)
        expected.update([list(predictions)], list(targets))
        assert metrics.compute() == expected.compute()

    def test_scores_are_the_mean_iou_of_the_classes_in_each_image(self):
        predictions, targets = images()
        scores = measured(predictions, targets).scores().tolist()
        for score, prediction, target in zip(scores, predictions, targets, strict=True):
            counted = target != IGNORE
            ious = [
                ((target == c) & (prediction == c)).sum() / (counted & ((target == c) | (prediction == c))).sum()
                for c in np.unique(target[counted])
            ]
            assert score == pytest.approx(100 * np.mean(ious) if ious else 100)

    def test_several_devices(self):
        predictions, targets = images()
        alone, devices = measured(predictions, targets, boundary=True), []
        for device in range(3):  # the third has no image
            metrics = SegmentationMetrics(NAMES, boundary=True)
            if device < 2:
                metrics.update([tensors(predictions[device::2])], tensors(targets[device::2]))
            devices.append(metrics)
        states = [device.state() for device in devices]
        devices[2].merge(states)
        assert devices[2].report() == alone.report()
        assert sorted(devices[2].scores().tolist()) == sorted(alone.scores().tolist())


class TestReport:
    def test_confusion_equals_scikit_learns(self):
        predictions, targets = images()
        report = measured(predictions, targets).report()
        found = np.zeros((6, 6), int)
        for label, prediction, pixels in report["confusion"]:
            found[label, prediction] = pixels
        flat = [np.concatenate([one.ravel() for one in maps]) for maps in (targets, predictions)]
        counted = flat[0] != IGNORE
        expected = sklearn_confusion(flat[0][counted], flat[1][counted], labels=range(6))
        np.testing.assert_array_equal(found, expected)
        assert all(pixels for _, _, pixels in report["confusion"])

    def test_per_class(self):
        maps = images()
        report = measured(*maps).report()
        pairs = by_pixels(*maps)[1]
        assert [one["name"] for one in report["per_class"]] == list("abcde")
        for c, one in enumerate(report["per_class"]):
            both = pairs.get((c, c), 0)
            wanted = sum(n for (t, _), n in pairs.items() if t == c)
            found = sum(n for (_, p), n in pairs.items() if p == c)
            assert one == {
                "name": NAMES[c],
                "pixels": wanted,
                "iou": pytest.approx(100 * both / (wanted + found - both)),
                "accuracy": pytest.approx(100 * both / wanted) if wanted else None,
                "precision": pytest.approx(100 * both / found) if found else None,
            }
        assert report["per_class"][4]["accuracy"] is None
        assert report["miou"] == pytest.approx(np.mean([one["iou"] for one in report["per_class"]]))
        assert "boundary_iou" not in report
        json.dumps(report, allow_nan=False)


def border(mask, reach):
    """A mask without its erosion, by definition."""
    return mask & ~ndimage.binary_erosion(mask, np.ones((2 * reach + 1,) * 2), border_value=0)


class TestBoundary:
    @pytest.mark.parametrize("reach", [1, 2, 5])
    @pytest.mark.parametrize("size", [*SIZES, (64, 90)], ids=str)
    def test_near_border_is_what_erosion_removes_of_all_classes(self, size, reach):
        labels = blobs(size, 4, 0)
        labels[size[0] // 3 :, size[1] // 4 :] = 2  # an object that is larger than the reach
        expected = np.any([border(labels == c, reach) for c in range(4)], 0)
        assert size != (64, 90) or not expected.all()  # a test of an erosion that leaves something
        np.testing.assert_array_equal(near_border(torch.from_numpy(labels), reach).numpy(), expected)

    @pytest.mark.parametrize("size", [(1, 1), (7, 5), (150, 201), (90, 61)], ids=str)
    def test_boundary_iou(self, size):
        predictions, targets = images([size, size[::-1]], ignored=0.01)
        if size[0] > 50:
            for maps in (predictions, targets):
                maps[0][20:70, 5:50] = 1
                maps[1][3:50, 10:70] = 2
            targets[0][30:40, 8:30] = IGNORE
        reach = max(1, round(0.02 * (size[0] ** 2 + size[1] ** 2) ** 0.5))
        both, union = np.zeros(6), np.zeros(6)
        for prediction, target in zip(predictions, targets, strict=True):
            for c in range(6):
                wanted = border(target == c, reach)
                found = border((prediction == c) & (target != IGNORE), reach)
                both[c] += (wanted & found).sum()
                union[c] += (wanted | found).sum()
        report = measured(predictions, targets, boundary=True).report()
        found = {one["name"]: one["boundary_iou"] for one in report["per_class"]}
        expected = {name: 100 * both[c] / union[c] for c, name in enumerate(NAMES) if union[c]}
        assert found == pytest.approx(expected)
        assert report["boundary_iou"] == pytest.approx(np.mean(list(expected.values())))

    def test_a_prediction_that_is_right_where_pixels_count_has_100(self):
        target = blobs((60, 80), 4, 0)
        prediction = target.copy()
        target[20:50, 30:60] = IGNORE
        prediction[20:50, 30:60] = 5
        report = measured([prediction], [target], boundary=True).report()
        assert report["boundary_iou"] == report["miou"] == 100

    def test_it_sees_a_wrong_border_more_than_iou_does(self):
        target, prediction = np.zeros((2, 200, 200), int)
        target[50:150, 50:150] = 1
        prediction[52:152, 50:150] = 1
        report = measured([prediction], [target], boundary=True).report()
        assert report["per_class"][1]["iou"] == pytest.approx(100 * 98 / 102)
        assert report["per_class"][1]["boundary_iou"] < 85


class TestConfusion:
    def test_in_parts(self, monkeypatch):
        (prediction,), (target,) = images([(37, 41)])
        expected = confusion_matrix(*tensors([prediction, target]), 6)
        monkeypatch.setattr(module, "AT_ONCE", 100)
        assert torch.equal(confusion_matrix(*tensors([prediction, target]), 6), expected)

    def test_counts_are_exact_where_float32_is_not(self):
        metrics = SegmentationMetrics(NAMES)
        metrics.update([[torch.zeros(1, 1, dtype=torch.int64)]], [torch.ones(1, 1, dtype=torch.int64)])
        metrics.add(0, confusion=torch.diag(torch.tensor([2**40, 0, 0, 0, 0, 0])))
        metrics.update([[torch.zeros(1, 1, dtype=torch.int64)]], [torch.zeros(1, 1, dtype=torch.int64)])
        assert metrics.report()["confusion"] == [[0, 0, 2**40 + 1], [1, 0, 1]]

    @pytest.mark.parametrize(
        ("prediction", "target", "message"),
        [
            ([[0, 6]], [[0, 0]], "the prediction has the label 6, which is none of 6 classes"),
            ([[0, -1]], [[0, 0]], "the prediction has the label -1"),
            ([[0, 0]], [[0, 255]], "the target has the label 255"),
            ([[0, 0]], [[0, -2]], "the target has the label -2"),
            ([[0, 0]], [[0], [0]], r"the prediction has \(1, 2\) pixels, its target \(2, 1\)"),
        ],
    )
    def test_what_is_no_label_map(self, prediction, target, message):
        with pytest.raises(ValueError, match=message):
            confusion_matrix(torch.tensor(prediction), torch.tensor(target), 6)

    def test_what_is_predicted_at_ignored_pixels_does_not_matter(self):
        counts = confusion_matrix(torch.tensor([[255, 0]]), torch.tensor([[IGNORE, 1]]), 2)
        assert counts.tolist() == [[0, 0], [1, 0]]
