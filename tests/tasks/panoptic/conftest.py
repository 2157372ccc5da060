"""A small data set in COCO's panoptic format: squares and discs on a ground, crowds, and pixels of no segment."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

CATEGORIES = [
    {"id": 9, "name": "ground", "isthing": 0},
    {"id": 3, "name": "square", "isthing": 1},
    {"id": 5, "name": "disc", "isthing": 1},
]
GROUND, VOID = 40, 0


def draw(folder, parts):
    """parts: the number of images of each part."""
    random = np.random.RandomState(0)
    for part, count in parts.items():
        annotations = []
        masks = folder / "annotations" / f"panoptic_{part}"
        for place in (folder / part, masks):
            place.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            width, height = (int(side) for side in random.randint(40, 70, 2))
            image = Image.fromarray(random.randint(90, 160, (height, width, 3), np.uint8))
            ids, segments = Image.new("I", image.size, GROUND), [{"id": GROUND, "category_id": 9}]
            for one, (category, shape) in enumerate(
                [(3, "rectangle"), (5, "ellipse"), (5, "ellipse"), (3, "rectangle")]
            ):
                x, y, side = random.randint(0, width - 24), random.randint(0, height - 24), random.randint(12, 24)
                box = tuple(map(int, (x, y, x + side, y + side)))
                key = VOID if one == 3 else 300 + one
                for target, fill in ((image, (250, 30, 30) if category == 3 else (30, 30, 250)), (ids, key)):
                    getattr(ImageDraw.Draw(target), shape)(box, fill=fill)
                if key != VOID:
                    segments.append({"id": key, "category_id": category, "iscrowd": int(one == 2)})
            values = np.asarray(ids)
            segments = [one for one in segments if (values == one["id"]).any()]
            image.save(folder / part / f"{number:03}.png")
            colors = np.stack([values % 256, values // 256 % 256, values // 65_536], -1).astype(np.uint8)
            Image.fromarray(colors).save(masks / f"{number:03}.png")
            annotations.append({"image_id": number, "file_name": f"{number:03}.png", "segments_info": segments})
        content = {
            "images": [{"id": number, "file_name": f"{number:03}.png"} for number in range(count)],
            "annotations": annotations,
            "categories": CATEGORIES,
        }
        (folder / "annotations" / f"panoptic_{part}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("panoptic") / "data", {"train2017": 4, "val2017": 2})


@pytest.fixture(scope="session")
def run(data, tmp_path_factory):
    """A training of one step."""
    import torch

    from glocal.cli import main

    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("panoptic") / "run"
    options = ["--model", "van_pico", "--img-size", "32", "--epochs", "1", "--batch-size", "4", "--workers", "0"]
    assert main(["train", str(data), "--task", "panoptic", "--output", str(output), *options]) == 0
    return output
