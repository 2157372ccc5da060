"""Plots show the numbers of the measurement: what is drawn is read from the figures, not from their files."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="plots need the extra [train]")
from glocal.evaluation import plots
from glocal.figures import draw_confusion
from glocal.tasks import find_task
from glocal.tasks.classification import plots as class_plots
from glocal.tasks.detection import plots as object_plots
from glocal.tasks.segmentation import plots as pixel_plots
from glocal.tasks.task import Measured

COMMON = dict(
    model="van_b0", data="photos", split="val", device="cpu", images=20, unreadable=[], images_per_second=9.0,
    img_size=[32, 32],
)  # fmt: skip


def result(**more):
    facts = {name: more.pop(name) for name in list(more) if name in (*COMMON, "task")}
    return Measured(**{"task": find_task("classification"), **COMMON, **facts, "values": more})


@pytest.fixture
def classified():
    bins = [{"low": b / 5, "high": (b + 1) / 5, "images": 0, "confidence": None, "accuracy": None} for b in range(5)]
    bins[1] |= {"images": 4, "confidence": 0.25, "accuracy": 0.5}
    bins[4] |= {"images": 16, "confidence": 0.875, "accuracy": 0.75}
    return result(
        top1=70.0,
        top5=100.0,
        ece=15.0,
        calibration=bins,
        class_names=["ant", "bee", "cat", "dog"],
        confusion=[[0, 0, 6], [0, 2, 2], [2, 2, 8], [2, 0, 3], [3, 3, 1]],  # of no bee, and nothing is taken for one
    )


def test_confusion_is_the_part_of_each_class(classified):
    axes = class_plots.draw_images(classified).axes[0]
    shown = np.asarray(axes.images[0].get_array())
    assert shown == pytest.approx(np.array([[75, 25, 0], [300 / 11, 800 / 11, 0], [0, 0, 100]]))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ant", "cat", "dog"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ant", "cat", "dog"]
    counts = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}  # (column, row)
    assert counts == {(0, 0): "6", (1, 0): "2", (0, 1): "3", (1, 1): "8", (2, 2): "1"}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "class")


@pytest.mark.parametrize(
    ("plots", "title", "columns", "rows", "rates"),
    [
        (class_plots, "images of the class (%)", "predicted class", ["ant", "cat"], [[75, 25], [0, 100]]),
        (pixel_plots, "pixels of the class (%)", "predicted class", ["ant", "cat"], [[75, 25], [0, 100]]),
        (
            object_plots,
            "objects of the class (%)",
            "found class",
            ["ant", "cat", "nothing"],  # the row and the column of what is no object, even if they are empty
            [[75, 25, 0], [0, 100, 0], [0, 0, 0]],
        ),
    ],
    ids=["images", "pixels", "objects"],
)
def test_confusion_says_what_is_counted(plots, title, columns, rows, rates):
    values = dict(confusion=[[0, 0, 6], [0, 2, 2], [2, 2, 8]], class_names=["ant", "bee", "cat"])
    entry = {"name": "ant", "iou": 50.0, "box_ap": 20.0, "box_ap50": 50.0}
    kind = {class_plots: "classification", pixel_plots: "segmentation", object_plots: "detection"}[plots]
    measured = result(**values, task=find_task(kind), miou=50.0, per_class=[entry])
    axes, bar = plots.figures(measured)["confusion"].axes
    assert np.asarray(axes.images[0].get_array()).tolist() == rates
    assert [label.get_text() for label in axes.get_yticklabels()] == rows
    assert (axes.get_xlabel(), bar.get_ylabel()) == (columns, title)
    assert {text.get_text() for text in axes.texts} == {"6", "2", "8"}


def test_numbers_and_names_that_do_not_fit_are_left_out():
    axes = draw_confusion([(0, 0, 123_456), (1, 1, 2)], ["ant", "bee"], "pixels", "").axes[0]
    assert not axes.texts
    many = draw_confusion([(label, label, 1) for label in range(61)], [f"class {i}" for i in range(61)], "pixels", "")
    assert many.axes[0].get_xlabel() == "predicted class (the 61 that occur, in order)"
    assert "class 0" not in [label.get_text() for label in many.axes[0].get_yticklabels()]


def test_reliability_is_accuracy_by_confidence(classified):
    above, below = class_plots.draw_reliability(classified).axes
    bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in above.patches]
    assert bars == [pytest.approx((0.3, 0.5)), pytest.approx((0.9, 0.75))]
    points = next(line for line in above.lines if line.get_marker() == "o")
    assert points.get_xydata() == pytest.approx(np.array([[0.25, 0.5], [0.875, 0.75]]))
    assert [bar.get_height() for bar in below.patches] == [4, 16]
    assert "15.00 %" in above.get_title()


def test_accuracy_by_size():
    figures = {64: (50.0, 80.0), 32: (40.0, 70.0), 128: (55.0, 85.0)}
    results = [result(img_size=[size, size], top1=one, top5=five) for size, (one, five) in figures.items()]
    (axes,) = plots.draw_sizes(results).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn == {
        "top-1": [[64, 50], [32, 40], [128, 55]],
        "top-5": [[64, 80], [32, 70], [128, 85]],
    }


def test_error_by_corruption_and_severity():
    corruptions = {
        "fog": {"errors": [10.0, 20.0, 30.0, 40.0, 50.0], "mean": 30.0},
        "zoom_blur": {"errors": [15.0, None, None, None, 95.5], "mean": 55.25},
    }
    axes = class_plots.draw_corruptions(result(corruptions=corruptions, mean_error=42.6)).axes[0]
    shown = np.ma.filled(axes.images[0].get_array().astype(float), np.nan)
    expected = np.array([[10, 20, 30, 40, 50], [15, np.nan, np.nan, np.nan, 95.5]])
    np.testing.assert_allclose(shown, expected)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fog", "zoom blur"]
    written = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    assert written[4, 1] == "95.5"
    assert len(written) == 7
    assert "42.6 %" in axes.get_title()


def test_files_are_pictures_of_what_applies(classified, tmp_path):
    written = plots.draw(classified, tmp_path)
    assert [path.name for path in written] == ["confusion.png", "reliability.png"]
    for path in written:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) > 200
        assert 0.01 < (pixels < 250).mean() < 0.9
