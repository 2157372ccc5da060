"""glocal eval --pictures of segmentation."""

import json

import numpy as np
import pytest
from PIL import Image

from glocal.cli import main
from glocal.data.masks import distinct_colors
from glocal.deploy.predictor import Predictor
from glocal.tasks.drawing import GAP
from glocal.tasks.segmentation.overlay import overlay

pytestmark = pytest.mark.usefixtures("one_thread")


def mean_iou(prediction, target):
    """In percent, over the classes of the target."""
    pairs = [(prediction == label, target == label) for label in np.unique(target)]
    return 100 * np.mean([(one & other).sum() / (one | other).sum() for one, other in pairs])


@pytest.mark.parametrize("options", [[], ["--flip", "--scales", "0.5,1.5"]], ids=str)
def test_the_worst_are_shown_with_truth_and_prediction(run, data, options, tmp_path):
    place = tmp_path / "e.json"
    command = ["eval", "--checkpoint", str(run), "--workers", "0", "--device", "cpu", "--json", str(place)]
    assert main([*command, "--pictures", str(tmp_path / "worst"), *options]) == 0
    worst = json.loads(place.read_text())["worst"]
    assert len(worst) == 5  # the held-out images
    scores = [entry["score"] for entry in worst]
    assert scores == sorted(scores)
    paths = [entry["image"] for entry in worst]
    results = [None] * 5 if options else Predictor(run, device="cpu", engine="torch")(paths)
    for number, (entry, result) in enumerate(zip(worst, results, strict=True)):
        image = Image.open(entry["image"])
        target = np.asarray(Image.open(data / "masks" / entry["image"].rpartition("/")[2]))
        if not options:
            assert entry["score"] == pytest.approx(mean_iou(result.labels, target), rel=1e-4)
        picture = np.asarray(Image.open(tmp_path / "worst" / f"{number:02}-{entry['image'][-7:-4]}.png"))
        factor = min(-(-280 // min(image.size)), 640 // max(image.size))
        shown = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        grey = shown.convert("L").convert("RGB")
        panels = [np.asarray(shown), np.asarray(overlay(grey, target, distinct_colors(3)))]
        panels += [] if options else [np.asarray(overlay(grey, result.labels, distinct_colors(3)))]
        tops = set()
        for column, panel in enumerate(panels):
            left = GAP + column * (shown.width + GAP)
            strip = picture[:, left : left + shown.width]
            tops.add(next(y for y in range(len(strip)) if np.array_equal(strip[y : y + shown.height], panel)))
        assert len(tops) == 1
