"""--show-batch for segmentation: the label maps lie where the classes are."""

import numpy as np
import pytest
from PIL import Image

from glocal.cli import main
from glocal.data.masks import IGNORE, distinct_colors
from glocal.tasks.drawing import GAP
from glocal.tasks.segmentation.overlay import OPACITY
from glocal.training import first_batch

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 5 * 48  # pixels of an image in a cell


@pytest.fixture
def made(data, tmp_path, monkeypatch):
    """The picture, and the images and targets that were drawn."""
    runs = []
    write = first_batch.write
    monkeypatch.setattr(first_batch, "write", lambda run, file: runs.append(run) or write(run, file))
    place = tmp_path / "batch.png"
    options = ["--model", "van_pico", "--img-size", "48", "--batch-size", "4", "--workers", "0", "--device", "cpu"]
    assert main(["train", str(data), *options, "--show-batch", str(place)]) == 0
    return np.asarray(Image.open(place)).astype(int), list(first_batch.first_images(runs[0]))


def tops(picture, rows):
    """Where a grid row begins: the images of a cell are the only pixels in the second column of the first cell."""
    filled = (picture[:, GAP + SIDE // 2 : GAP + SIDE // 2 + 4] != 255).any((1, 2))
    starts = [y for y in range(1, len(picture) - SIDE) if filled[y : y + SIDE].all() and not filled[y - 1]]
    assert len(starts) == rows
    return starts


def test_a_class_has_its_colour_where_its_mask_is(made):
    picture, images = made
    width = 2 * SIDE + GAP
    columns = (picture.shape[1] - GAP) // width
    starts = tops(picture, -(-len(images) // columns))
    colors = np.array([*distinct_colors(3), [0, 0, 0]])
    seen = set()
    for number, (_, target, _) in enumerate(images):
        top, left = starts[number // columns], GAP + number % columns * width + SIDE
        cell = picture[top : top + SIDE, left : left + SIDE]
        labels = target.numpy().repeat(5, 0).repeat(5, 1)
        tint = cell - np.rint(OPACITY * colors[labels])
        grey = abs(tint - tint.mean(-1, keepdims=True)).max(-1)
        assert grey[labels != IGNORE].max() <= 1.5
        assert set(np.unique(cell[labels == IGNORE])) <= {*range(256 // 3 + 1), 200}
        seen |= set(np.unique(labels))
    assert seen >= {0, 1, 2}
