"""A small data set of segmentation: squares and discs on photographs of several sizes."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

NAMES = ["ground", "square", "disc"]


def draw(folder, count=24, seed=0):
    random = np.random.RandomState(seed)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        width, height = (int(side) for side in random.randint(40, 90, 2))
        image = Image.fromarray(random.randint(90, 160, (height, width, 3), np.uint8))
        mask = Image.new("L", image.size, 0)
        for label, shape in ((1, "rectangle"), (2, "ellipse")):
            x, y, side = random.randint(0, width - 24), random.randint(0, height - 24), random.randint(12, 24)
            box = tuple(map(int, (x, y, x + side, y + side)))
            for target, fill in ((image, (250, 30, 30) if label == 1 else (30, 30, 250)), (mask, label)):
                getattr(ImageDraw.Draw(target), shape)(box, fill=fill)
        image.save(folder / "images" / f"{number:03}.png")
        mask.save(folder / "masks" / f"{number:03}.png")
    (folder / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("segmentation") / "data")


@pytest.fixture(scope="session", params=["semantic_fpn"])
def run(data, tmp_path_factory, request):
    """A short training."""
    import torch

    from glocal.cli import main

    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("segmentation") / request.param
    options = ["--model", "van_pico", "--img-size", "48", "--epochs", "2", "--batch-size", "4", "--workers", "0"]
    assert main(["train", str(data), "--output", str(output), "--head", request.param, *options]) == 0
    return output
