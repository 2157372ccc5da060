"""Label maps over images."""

import numpy as np
import pytest
from PIL import Image

from glocal.data.masks import IGNORE, distinct_colors
from glocal.tasks import find_task
from glocal.tasks.drawing import HATCHED
from glocal.tasks.segmentation.overlay import OPACITY, at_size, colors_of, legend, overlay

COLORS = [[0, 0, 0], [200, 10, 30], [10, 220, 40]]
NAMES = ["ground", "square", "disc"]


def labels_of(*rows):
    return np.array([[" 012".index(cell) - 1 for cell in row] for row in rows], np.int32)


LABELS = labels_of("0011", "0112", "0 22")


def image_of(labels, scale=1):
    side = labels.shape[1] * scale, labels.shape[0] * scale
    return Image.fromarray(np.random.RandomState(0).randint(0, 256, (side[1], side[0], 3), np.uint8))


@pytest.mark.parametrize("scale", [1, 7])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_a_class_has_its_colour_where_its_mask_is(scale, kind):
    image = image_of(LABELS, scale)
    found = np.asarray(overlay(image, LABELS.astype(kind), COLORS)).astype(int)
    expected = (
        np.asarray(image) * (1 - OPACITY)
        + np.array([*COLORS, [0, 0, 0]])[LABELS].repeat(scale, 0).repeat(scale, 1) * OPACITY
    )
    where = (LABELS != IGNORE).repeat(scale, 0).repeat(scale, 1)
    assert abs(found - expected)[where].max() <= 1


def test_labels_of_a_result_are_small_numbers():
    labels = np.array([[0, 2]], np.uint8)
    assert np.asarray(overlay(image_of(labels), labels, [[0] * 3, [9] * 3, [255] * 3]))[0, 1].min() > 255 * OPACITY - 1


def test_ignored_pixels_are_dark_with_lines():
    labels = np.full((40, 40), IGNORE)
    labels[:20] = 0
    image = Image.new("RGB", (40, 40), (150, 150, 150))
    found = np.asarray(overlay(image, labels, COLORS))[20:]
    levels, counts = np.unique(found, return_counts=True)
    assert levels.tolist() == [50, 200]
    assert counts[0] == 3 * counts[1]


@pytest.mark.parametrize("size", [(3, 4), (30, 40), (1, 1), (7, 3), (100, 5)], ids=str)
def test_labels_are_taken_at_the_centres_of_pixels(size):
    found = at_size(LABELS, size)
    for y in range(size[0]):
        for x in range(size[1]):
            row, column = int((y + 0.5) * 3 / size[0]), int((x + 0.5) * 4 / size[1])
            assert found[y, x] == LABELS[row, column]


def test_the_legend_has_the_classes_that_occur():
    entries = legend(LABELS, COLORS, NAMES)
    assert [entry.text for entry in entries] == ["ground  33.3 %", "square  33.3 %", "disc  25.0 %", "ignored  8.3 %"]
    assert [entry.fill for entry in entries] == [*map(tuple, COLORS), HATCHED]
    assert [entry.text for entry in legend(labels_of("22"), COLORS, NAMES)] == ["disc  100.0 %"]


def test_the_legend_of_many_classes_says_how_many_more():
    labels = np.arange(20).reshape(4, 5)
    entries = legend(labels, distinct_colors(20), [f"class {number}" for number in range(20)])
    assert len(entries) == 13
    assert entries[-1].text == "and 8 more classes"


def test_colours_are_the_datas_or_distinct():
    assert colors_of({"colors": COLORS}, 3) == COLORS
    assert colors_of({"colors": COLORS}, 4) == distinct_colors(4)
    assert colors_of({}, 4) == distinct_colors(4)


def test_a_target_is_drawn_beside_its_image():
    import torch

    image = image_of(LABELS, 60)
    task = find_task("segmentation")
    drawn = np.asarray(task.draw_target(image, torch.from_numpy(LABELS).long(), NAMES, {"colors": COLORS}))
    assert np.array_equal(drawn[: image.height, : image.width], np.asarray(image))
    grey = image.convert("L").convert("RGB")
    shown = drawn[: image.height, image.width : 2 * image.width]
    assert np.array_equal(shown, np.asarray(overlay(grey, LABELS, COLORS)))
