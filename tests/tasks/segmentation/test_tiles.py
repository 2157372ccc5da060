"""Large images by tiles: as in one pass, and within bounded memory."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from torch import nn

from glocal.cli import main
from glocal.data.segments import mask_of_text
from glocal.deploy.predictor import Predictor
from peak_memory import peak_of


class Pixelwise(nn.Module):
    """The largest channel of a pixel is its class."""

    def forward(self, images):
        return 10 * images


@pytest.fixture
def predictor(run, monkeypatch):
    predictor = Predictor(run, engine="torch", tile=48, overlap=16)
    monkeypatch.setattr(predictor, "_outputs", Pixelwise())
    return predictor


@pytest.mark.parametrize("size", [(48, 48), (49, 97), (200, 150), (30, 300)], ids=str)
def test_tiles_give_what_one_pass_gives(predictor, size):
    pixels = np.random.RandomState(0).randint(0, 256, (*size, 3), np.uint8)
    if min(size) < 48 and max(size) > 48:  # a tile of fewer rows is resized as an image of its own
        pixels = pixels.repeat(2, 0)[:48]
    (result,) = predictor([pixels])
    scaled = (pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    assert np.array_equal(result.labels, scaled.argmax(2))
    assert sum(result.shares) == pytest.approx(1)
    for number, text in zip(result.numbers, result.rles, strict=True):
        assert np.array_equal(mask_of_text(text, result.size), result.labels == number)


def test_several_images_and_one_that_is_none(run, tmp_path, capsys):
    Image.new("RGB", (130, 60), "red").save(tmp_path / "large.png")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no image")
    place = tmp_path / "out.json"
    images = [str(tmp_path / name) for name in ("large.png", "text.png", "small.png")]
    options = ["--checkpoint", str(run), "--tile", "48", "--output", str(place)]
    assert main(["predict", *images, *options]) == 1
    rows = json.loads(place.read_text())
    assert [row["size"] for row in rows] == [[60, 130], None, [30, 40]]
    assert rows[1]["error"] == "not an image"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--tile", "48", "--overlap", "48"], "--overlap needs a larger --tile"),
        (["--overlap", "8"], "--overlap needs a larger --tile"),
        (["--tile", "4"], "--tile must be at least 16"),
    ],
)
def test_wrong_options_are_refused_in_a_line(run, options, error, capsys):
    assert main(["predict", "x.png", "--checkpoint", str(run), *options]) == 2
    assert error in capsys.readouterr().err


def test_a_task_of_whole_images_refuses_tiles(tmp_path, capsys):
    assert main(["train", "digits", "--model", "van_pico", "--quick", "--epochs", "1", "--output", str(tmp_path)]) == 0
    Image.new("RGB", (130, 60)).save(tmp_path / "large.png")
    assert main(["predict", str(tmp_path / "large.png"), "--checkpoint", str(tmp_path), "--tile", "48"]) == 2
    assert "--tile: the task classification takes whole images" in capsys.readouterr().err


@pytest.mark.slow
def test_400_megapixels_within_3_gigabytes(run, tmp_path):
    image = Image.new("RGB", (20_000, 20_000), (120, 90, 60))
    image.paste((250, 30, 30), (5_000, 5_000, 9_000, 12_000))
    image.save(tmp_path / "large.png", compress_level=1)
    del image
    options = ["--checkpoint", str(run), "--tile", "1024", "--output", str(tmp_path / "out.json"), "--engine", "torch"]
    command = [sys.executable, "-m", "glocal", "predict", str(tmp_path / "large.png"), *options]
    peak = peak_of(command)
    (row,) = json.loads((tmp_path / "out.json").read_text())
    assert row["size"] == [20_000, 20_000]
    assert peak < 3
