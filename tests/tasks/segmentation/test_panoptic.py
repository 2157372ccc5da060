"""Panoptic quality equals a naive program by the paper's definition, pixel sets and all."""

import numpy as np
import pytest
import torch

from glocal.data.masks import IGNORE
from glocal.tasks.segmentation.panoptic import PanopticMetrics, Segments, panoptic_quality

NAMES, THINGS = ["cat", "dog", "sky", "road", "never"], [True, True, False, False, True]


def by_definition(images):
    """Of each class: sum of IoU, matched, false, missed. images: pairs of lists of (class, pixels, crowd), void."""
    counts = {c: [0.0, 0, 0, 0] for c in range(len(NAMES))}
    for predicted, wanted, void in images:
        matched_predictions, matched_targets = set(), set()
        for i, (class_p, pixels_p, _) in enumerate(predicted):
            for j, (class_t, pixels_t, crowd) in enumerate(wanted):
                if class_p != class_t or crowd:
                    continue
                union = len((pixels_p | pixels_t) - void)
                iou = len(pixels_p & pixels_t) / union if union else 0
                if iou > 0.5:
                    counts[class_p][0] += iou
                    counts[class_p][1] += 1
                    assert i not in matched_predictions  # the paper's theorem
                    assert j not in matched_targets
                    matched_predictions.add(i)
                    matched_targets.add(j)
        for i, (class_p, pixels_p, _) in enumerate(predicted):
            excused = set(void)
            for class_t, pixels_t, crowd in wanted:
                if crowd and class_t == class_p:
                    excused |= pixels_t
            if i not in matched_predictions and len(pixels_p & excused) / len(pixels_p) <= 0.5:
                counts[class_p][2] += 1
        for j, (class_t, _, crowd) in enumerate(wanted):
            if j not in matched_targets and not crowd:
                counts[class_t][3] += 1
    return counts


def as_sets(segments):
    """(class, pixels, crowd) of each segment that has a pixel."""
    crowd = [False] * len(segments.classes) if segments.crowd is None else segments.crowd.tolist()
    found = []
    for i, c in enumerate(segments.classes.tolist()):
        pixels = set(map(tuple, (segments.ids == i).nonzero().tolist()))
        if pixels:
            found.append((c, pixels, crowd[i]))
    return found, set(map(tuple, (segments.ids == IGNORE).nonzero().tolist()))


def scene(seed, segments, size=(60, 70), side=6, crowds=True):
    """Random squares as the target, and a prediction that is the target, shifted and partly renamed."""
    random = np.random.RandomState(seed)
    rows, columns = -(-size[0] // side), -(-size[1] // side)
    ids = random.randint(-1, segments, (rows, columns))
    if segments >= rows * columns:
        ids = np.arange(rows * columns).reshape(rows, columns)
    ids = ids.repeat(side, 0).repeat(side, 1)[: size[0], : size[1]]
    classes = random.randint(0, 4, segments)
    crowd = (random.random_sample(segments) < 0.15) & crowds
    moved = np.roll(ids, (1, random.randint(0, 3)), (0, 1))
    moved = np.where(random.random_sample(size) < 0.05, IGNORE, moved)
    other = np.where(random.random_sample(segments) < 0.2, random.randint(0, 4, segments), classes)
    tensor = torch.from_numpy
    return Segments(tensor(moved), tensor(other)), Segments(tensor(ids), tensor(classes), tensor(crowd))


def measured(scenes):
    metrics = PanopticMetrics(NAMES, THINGS)
    for prediction, target in scenes:
        metrics.update([prediction], [target])
    return metrics


def expected_values(scenes):
    images = [(as_sets(prediction)[0], *as_sets(target)) for prediction, target in scenes]
    return by_definition(images)


@pytest.mark.parametrize(("segments", "side"), [(1, 6), (5, 9), (20, 6), (300, 4)])
def test_counts_are_those_of_the_definition(segments, side):
    prediction, target = scene(segments, segments, side=side)
    assert segments < 300 or len(target.ids.unique()) >= 255  # more instances than a byte counts
    found = panoptic_quality(prediction, target, len(NAMES))
    for c, (iou, *counts) in expected_values([(prediction, target)]).items():
        assert found.iou[c].item() == pytest.approx(iou)
        assert [part[c].item() for part in found[1:]] == counts


def test_values_over_several_images():
    scenes = [scene(seed, 12) for seed in range(6)]
    counts = expected_values(scenes)
    quality = {
        c: (100 * iou / (tp + fp / 2 + fn / 2), 100 * iou / tp, 100 * tp / (tp + fp / 2 + fn / 2))
        for c, (iou, tp, fp, fn) in counts.items()
        if tp
    }
    assert list(quality) == [0, 1, 2, 3]
    values = measured(scenes).compute()
    assert [values["pq"], values["sq"], values["rq"]] == pytest.approx(np.mean(list(quality.values()), 0).tolist())
    assert values["pq_things"] == pytest.approx((quality[0][0] + quality[1][0]) / 2)
    assert values["pq_stuff"] == pytest.approx((quality[2][0] + quality[3][0]) / 2)


def test_report():
    scenes = [scene(seed, 12) for seed in range(3)]
    counts = expected_values(scenes)
    report = measured(scenes).report()
    assert report["images"] == 3
    assert [(one["name"], one["thing"]) for one in report["per_class"]] == list(zip(NAMES, THINGS, strict=True))[:4]
    for one, (iou, *expected) in zip(report["per_class"], counts.values(), strict=False):
        assert [one["matched"], one["false"], one["missed"]] == expected
        assert one["sq"] == pytest.approx(100 * iou / expected[0])


def test_a_class_that_is_only_missed_or_only_false_has_0():
    one = Segments(torch.zeros(4, 4, dtype=torch.int64), torch.tensor([0]))
    other = Segments(torch.zeros(4, 4, dtype=torch.int64), torch.tensor([2]))
    assert measured([(one, other)]).compute() == {"pq": 0, "sq": 0, "rq": 0, "pq_things": 0, "pq_stuff": 0}
    assert [(row["false"], row["missed"]) for row in measured([(one, other)]).report()["per_class"]] == [(1, 0), (0, 1)]


@pytest.mark.parametrize(
    ("prediction", "target", "classes", "crowd", "expected"),
    [  # the prediction is a segment of class 0; expected: of class 0, matched, false, missed
        ([0, 0, 0, 0], [0, 0, IGNORE, IGNORE], [0], [False], (1, 0, 0)),  # ignored pixels are not in the union
        ([0, 0, 0, IGNORE], [0, 0, 0, 0], [0], [False], (1, 0, 0)),  # pixels without a prediction are
        ([0, 0, IGNORE, IGNORE], [0, 0, 0, 0], [0], [False], (0, 1, 1)),  # an IoU of 0.5 is no match
        ([0, 0, 0, IGNORE], [IGNORE, IGNORE, 0, 0], [1], [False], (0, 0, 0)),  # mostly in ignored pixels: no error
        ([0, 0, 0, IGNORE], [IGNORE, 0, 0, 0], [1], [True], (0, 1, 0)),  # a crowd of another class is no excuse
        ([0, 0, 0, 0], [0, 0, 0, 1], [0, 1], [True, False], (0, 0, 0)),  # mostly in a crowd; a crowd is never missed
        ([0, 0, 0, 0], [0, 0, 1, 1], [0, 1], [True, False], (0, 1, 0)),  # half in a crowd: an error
        ([0, 0, 0, 0], [IGNORE, 0, 0, 1], [0, 1], [True, False], (0, 0, 0)),  # crowd and ignored pixels together
    ],
)
def test_small_cases(prediction, target, classes, crowd, expected):
    found = panoptic_quality(
        Segments(torch.tensor([prediction]), torch.tensor([0])),
        Segments(torch.tensor([target]), torch.tensor(classes), torch.tensor(crowd)),
        len(NAMES),
    )
    assert (found.matched[0].item(), found.false[0].item(), found.missed[0].item()) == expected


def test_nothing():
    nothing = Segments(torch.full((3, 4), IGNORE), torch.zeros(0, dtype=torch.int64))
    assert measured([]).compute() == {}
    assert measured([(nothing, nothing)]).compute() == {"pq": 0, "sq": 0, "rq": 0, "pq_things": 0, "pq_stuff": 0}
    assert measured([(nothing, nothing)]).report()["per_class"] == []


def test_several_devices():
    scenes = [scene(seed, 12) for seed in range(5)]
    alone, devices = measured(scenes), [measured(scenes[:2]), measured([]), measured(scenes[2:])]
    devices[1].merge([device.state() for device in devices])
    assert devices[1].images == 5
    assert devices[1].compute() == pytest.approx(alone.compute())


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("ids", "classes", "message"),
    [([[0, 1]], [0], "segment 0 or 1 is none of 1"), ([[0]], [5], "class 5"), ([[-2, 0]], [0], "segment -2")],
)
def test_what_are_no_segments(ids, classes, message, order):
    wrong = Segments(torch.tensor(ids), torch.tensor(classes))
    right = Segments(torch.zeros_like(wrong.ids), torch.tensor([0]))
    with pytest.raises(ValueError, match=message):
        panoptic_quality(*(wrong, right)[::order], len(NAMES))


def test_sizes_differ():
    one, other = (Segments(torch.zeros(shape, dtype=torch.int64), torch.tensor([0])) for shape in ((2, 3), (3, 2)))
    with pytest.raises(ValueError, match=r"the prediction has \(2, 3\) pixels, its target \(3, 2\)"):
        panoptic_quality(one, other, len(NAMES))
