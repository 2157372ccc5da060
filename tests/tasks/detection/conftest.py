"""A small data set of detection: squares and discs of strong colours on noise, as COCO's JSON."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

NAMES = ["square", "disc"]
IDS = [3, 7]  # of the categories: with gaps


def draw(folder, count=24, seed=0, names=NAMES, sides=(40, 90), empty=5):
    """Images and their annotations; every `empty`-th image has no object."""
    random = np.random.RandomState(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        width, height = (int(side) for side in random.randint(*sides, 2))
        image = Image.fromarray(random.randint(90, 160, (height, width, 3), np.uint8))
        name = f"{number:03}.png"
        images.append({"id": number + 1, "file_name": name, "width": width, "height": height})
        for label in range(0 if empty and number % empty == empty - 1 else 2):
            x, y, side = (int(random.randint(0, most)) for most in (width - 24, height - 24, 12))
            side += 12
            box = (x, y, x + side - 1, y + side - 1)
            shape, fill = (("rectangle", (250, 30, 30)), ("ellipse", (30, 30, 250)))[label % 2]
            getattr(ImageDraw.Draw(image), shape)(box, fill=fill)
            corners = [x, y, x + side, y, x + side, y + side, x, y + side]
            if shape == "ellipse":
                turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
                middle = np.array([x, y]) + side / 2
                corners = (middle + side / 2 * np.stack([np.cos(turns), np.sin(turns)], 1)).round(2).ravel().tolist()
            about = {"bbox": [x, y, side, side], "area": side * side, "iscrowd": 0, "segmentation": [corners]}
            annotations.append({"id": len(annotations) + 1, "image_id": number + 1, "category_id": IDS[label]} | about)
        image.save(folder / "images" / name)
    categories = [{"id": id, "name": name} for id, name in zip(IDS, names, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("detection") / "data")


@pytest.fixture(scope="session")
def run(data, tmp_path_factory):
    """A short training."""
    import torch

    from glocal.cli import main

    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("detection") / "run"
    assert main(["train", str(data), "--output", str(output), "--epochs", "1", *LEARNING, *SMALL]) == 0
    return output


SMALL = ["--model", "van_pico", "--img-size", "48", "--batch-size", "4", "--workers", "0", "--device", "cpu"]
SMALL += ["--head-args", "{width: 32, depth: 1}", "--compile", "never"]
LEARNING = ["--epoch-steps", "20", "--lr", "0.004", "--warmup-epochs", "0"]  # enough to find some objects
