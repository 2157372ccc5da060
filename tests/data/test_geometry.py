"""A point of an image is found where the transform puts it."""

import numpy as np
import pytest
from PIL import Image

from glocal.data.geometry import Geometry, geometry_of
from glocal.data.preprocessing import Preprocessing

SIZES = [(60, 60), (60, 90), (91, 60), (200, 7), (7, 200), (33, 50), (1000, 40)]  # height, width


def preprocessing(size, crop_pct, crop_mode):
    return Preprocessing((3, *size), (0.0,) * 3, (1.0,) * 3, "bilinear", crop_pct, crop_mode)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
@pytest.mark.parametrize("input_size", [(48, 48), (40, 56)])
def test_where_the_transform_puts_a_ramp(size, crop_mode, crop_pct, input_size):
    """The image is a ramp, so that a pixel's value says from where it comes; not at borders, where values are mixed."""
    transform = preprocessing(input_size, crop_pct, crop_mode)
    geometry = geometry_of(transform, size)
    assert (geometry.size, geometry.input_size) == (size, input_size)
    rows, columns = np.meshgrid(*(255 * (np.arange(side) + 0.5) / side for side in size), indexing="ij")
    image = Image.fromarray(np.rint(np.stack([rows, columns, rows], -1)).astype(np.uint8))
    pixels = transform.transform()(image).numpy()
    checked = 0
    for place in np.ndindex(input_size):
        point = geometry.to_image(*(at + 0.5 for at in place))
        step = [(geometry.box[axis + 2] - geometry.box[axis]) / input_size[axis] for axis in (0, 1)]
        margin = [1.5 * max(1, one) for one in step]
        if all(margin[axis] < point[axis] < size[axis] - margin[axis] for axis in (0, 1)):
            checked += 1
            for axis in (0, 1):
                assert pixels[axis][place] == pytest.approx(point[axis] / size[axis], abs=0.007)
    assert checked or min(size) <= 40  # of which a few columns are left


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_there_and_back(size, crop_mode):
    geometry = geometry_of(preprocessing((48, 40), 0.9, crop_mode), size)
    assert geometry.to_input(*geometry.to_image(7.25, 31.5)) == pytest.approx((7.25, 31.5))


def test_the_middle_stays_the_middle():
    geometry = Geometry((100, 200), (50, 50), (0, 50, 100, 150))
    assert geometry.to_image(25, 25) == (50, 100)
    assert geometry.to_input(50, 100) == (25, 25)
