"""A small real data set: three of the handwritten digits, as a folder of PNG files."""

import pytest
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    """A folder of 3 classes × 30 images; tests must not change it."""
    root = tmp_path_factory.mktemp("digits_folder")
    digits = load_digits()
    for label, name in enumerate(("zero", "one", "two")):
        (root / name).mkdir()
        for index, image in enumerate(digits.images[digits.target == label][:30]):
            pixels = (image * (255 / 16)).astype("uint8")
            Image.fromarray(pixels).resize((32, 32)).save(root / name / f"{index:02}.png")
    return root
