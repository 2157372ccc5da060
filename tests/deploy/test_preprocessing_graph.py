"""Preprocessing in a graph is what Pillow does, to a level of 255 here and there."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from glocal.data.preprocessing import Preprocessing
from glocal.deploy import export, runtimes
from glocal.deploy.preprocessing_graph import PreprocessingGraph

pytestmark = pytest.mark.usefixtures("one_thread")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESSINGS = {
    "center": Preprocessing((3, 64, 64), MEAN, STD, "bicubic", 0.875),
    "odd": Preprocessing((3, 49, 49), MEAN, STD, "bicubic", 0.95),
    "whole": Preprocessing((3, 32, 32), MEAN, STD, "bicubic", 1.0),
    "bilinear": Preprocessing((3, 64, 64), MEAN, STD, "bilinear", 0.9),
    "squash": Preprocessing((3, 48, 80), MEAN, STD, "bicubic", 0.9, "squash"),
}
SIZES = [(64, 64), (97, 131), (300, 200), (30, 41), (1, 1), (1, 40), (9, 200), (700, 3)]


def photo(height, width):
    """Waves with noise and hard edges."""
    random = np.random.RandomState(height * width)
    y, x = np.mgrid[:height, :width]
    waves = 128 + 90 * np.sin(x / 7)[..., None] * np.cos(y[..., None] / np.array([5, 9, 14]))
    pixels = waves + random.randint(-40, 40, (height, width, 3))
    pixels[: height // 3, : width // 4] = 255
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_is_what_pillow_does(name, size):
    preprocessing = PREPROCESSINGS[name]
    pixels = photo(*size)
    image = Image.fromarray(pixels)
    if preprocessing.crop_mode == "squash":  # Pillow 13 squashes some shapes columns first: here always rows first
        image = image.resize((88, image.height), Image.Resampling.BICUBIC)  # 80 pixels are 0.9 of it
    expected = preprocessing.transform()(image)
    found = PreprocessingGraph(preprocessing)(torch.from_numpy(pixels)[None])[0]
    assert found.shape == expected.shape
    levels = ((found - expected) * torch.tensor(STD).view(3, 1, 1) * 255).abs()
    assert levels.max() < 1.01
    assert (levels > 0.01).double().mean() < 0.004


class Small(nn.Module):
    """Sees where an image is bright."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, 8)

    def forward(self, x):
        return self.conv(x).flatten(1)


@pytest.mark.parametrize("ending", [".onnx", *(pytest.param(one, marks=pytest.mark.slow) for one in (".xml", ".pt2"))])
def test_in_a_file(tmp_path, ending):
    torch.manual_seed(0)
    model, preprocessing = Small().eval(), PREPROCESSINGS["center"]
    result = export(model, tmp_path / f"model{ending}", preprocessing=preprocessing)
    assert {shape[0] for shape in result.compared} == {1, 3}
    run = runtimes.load(result.path)
    for size in [(97, 131), (30, 41), (700, 30)]:
        pixels = photo(*size)
        expected = model(preprocessing.transform()(Image.fromarray(pixels))[None]).detach().numpy()
        assert run(pixels[None])[0] == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize(
    ("preprocessing", "message"),
    [
        (Preprocessing((1, 8, 8), (0.5,), (0.5,)), "for RGB images, the model takes 1 channels"),
        (Preprocessing((3, 8, 8), MEAN, STD, "lanczos"), "resizes bilinear or bicubic, not lanczos"),
        (Preprocessing((3, 8, 8), MEAN, STD, crop_mode="border"), "crops squares from the centre or squashes, not"),
        (Preprocessing((3, 8, 9), MEAN, STD), "crops squares from the centre or squashes, not 'center' of 8×9"),
    ],
)
def test_what_is_not_built(preprocessing, message):
    with pytest.raises(ValueError, match=message):
        PreprocessingGraph(preprocessing)


def test_a_fixed_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="takes images of any size: dynamic must leave it open"):
        export(Small(), tmp_path / "model.onnx", dynamic=("batch",), preprocessing=PREPROCESSINGS["center"])
    assert not list(tmp_path.iterdir())
