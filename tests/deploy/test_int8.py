"""Integer arithmetic: a smaller file that says the same on images like those it was calibrated on."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from glocal.data.image import read_image
from glocal.data.open import open_for_evaluation
from glocal.data.preprocessing import Preprocessing
from glocal.deploy import export, files, runtimes
from glocal.deploy.calibration import calibration_images

pytest.importorskip("nncf", reason="needs the extra [int8]")
pytestmark = pytest.mark.usefixtures("one_thread")

PREPROCESSING = Preprocessing((3, 16, 16), (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def folder(tmp_path):
    """Stripes across and stripes down, ten of each, and a file that is no image."""
    random = np.random.RandomState(0)
    for name in ("across", "down"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(10):
            pixels = random.randint(0, 60, (16, 16, 3)) + 150 * (np.arange(16) // 2 % 2)[:, None, None]
            pixels = (pixels if name == "across" else pixels.transpose(1, 0, 2)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    (tmp_path / "photos" / "across" / "broken.png").write_text("no image")
    return tmp_path / "photos"


@pytest.fixture
def stripes():
    """Tells one kind of stripes from the other: differences down and across, squared by ReLUs, averaged."""
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    torch.manual_seed(0)
    model.append(nn.Linear(64, 2))
    with torch.no_grad():
        down = torch.tensor([[-1.0, -1, -1], [0, 0, 0], [1, 1, 1]])
        for place in range(64):
            sign = 1 if place % 4 < 2 else -1
            model[0].weight[place] = sign * (down if place % 2 else down.T) / 9
        model[2].weight.copy_(torch.eye(64).view(64, 64, 1, 1))
        model[5].weight.copy_(torch.stack([torch.arange(64) % 2, torch.arange(1, 65) % 2]).float())
        for layer in (model[0], model[2], model[5]):
            layer.bias.zero_()
    return model.eval()


@pytest.mark.parametrize("ending", [".xml", ".onnx"])
def test_says_the_same_and_is_smaller(folder, stripes, tmp_path, ending):
    images = [image[None] for image in calibration_images(str(folder), 300, PREPROCESSING)]
    assert len(images) == 20
    whole = export(stripes, tmp_path / f"fp32{ending}", input_size=(3, 16, 16))
    given = np.concatenate(images) if ending == ".xml" else images
    result = export(stripes, tmp_path / f"int8{ending}", input_size=(3, 16, 16), precision="int8", calibration=given)
    assert 1e-4 < result.difference < 0.5  # the first: it does compute with integers
    assert result.compared == [(1, 3, 16, 16)]
    run = runtimes.load(result.path)
    for image in images:
        assert run(image)[0].argmax() == stripes(torch.from_numpy(image)).argmax()
    kinds = result.path.read_bytes()
    assert b"FakeQuantize" in kinds or b"QuantizeLinear" in kinds
    assert whole.difference < 1e-4


def test_images_are_always_the_same_and_no_more_than_asked_for(folder):
    first, again = (calibration_images(str(folder), 7, PREPROCESSING) for _ in range(2))
    assert len(first) == 7
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


def test_images_are_drawn_from_all_classes(folder):
    """Of files in the order of their classes; what cannot be read takes nobody's place."""
    prepare = PREPROCESSING.transform()
    known = {prepare(read_image(path)).numpy().tobytes(): path.parent.name for path in folder.glob("*/[0-9].png")}
    drawn = [known[image.tobytes()] for image in calibration_images(str(folder), 8, PREPROCESSING)]
    assert 2 <= drawn.count("across") <= 6
    every = [known[image.tobytes()] for image in calibration_images(str(folder), 300, PREPROCESSING)]
    assert sorted(every) == ["across"] * 10 + ["down"] * 10


def test_a_data_set_gives_its_training_part():
    splits, prepare = open_for_evaluation("digits")[0].splits, PREPROCESSING.transform()
    of_split = {
        part: {prepare(samples.load(index)).numpy().tobytes() for index in range(len(samples))}
        for part, samples in splits.items()
    }
    images = [image.tobytes() for image in calibration_images("digits", 50, PREPROCESSING)]
    assert len(images) == 50
    assert all(image in of_split["train"] for image in images)
    assert not any(image in of_split["val"] for image in images)


def test_no_image_at_all(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match="can be read: int8 needs some for calibration"):
        calibration_images(str(tmp_path), 5, PREPROCESSING)


@pytest.mark.parametrize(
    ("precision", "calibration"), [("int8", None), ("int8", []), ("fp32", [np.zeros((1, 3, 8, 8))])]
)
def test_calibration_is_for_int8(stripes, tmp_path, precision, calibration):
    with pytest.raises(ValueError, match="int8 needs images for calibration, other precisions none"):
        export(stripes, tmp_path / "model.onnx", precision=precision, calibration=calibration)


def test_a_file_that_says_something_else_is_not_kept(folder, stripes, tmp_path, monkeypatch):
    images = [image[None] for image in calibration_images(str(folder), 20, PREPROCESSING)]
    load = runtimes.load
    monkeypatch.setattr(runtimes, "load", lambda path: lambda x: [-3 * load(path)(x)[0]])
    with pytest.raises(files.ExportMismatchError, match="more than 2e"):
        export(stripes, tmp_path / "model.xml", input_size=(3, 16, 16), precision="int8", calibration=images)
    assert not list(tmp_path.glob("model*"))


def test_without_nncf(stripes, tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None if name == "nncf" else True)
    with pytest.raises(ImportError, match=r"int8 needs nncf: pip install 'glocal\[int8\]'"):
        export(stripes, tmp_path / "model.xml", precision="int8", calibration=[np.zeros((1, 3, 8, 8), np.float32)])


def test_attention_stays_right(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("hat_net_pico", num_classes=10, depths=(1, 1, 1, 1)).eval()
    images = [image[None] for image in calibration_images("digits", 8, Preprocessing.of_model(model, 32))]
    options = {"input_size": (3, 32, 32), "dynamic": (), "precision": "int8", "calibration": images}
    assert 1e-4 < export(model, tmp_path / "int8.xml", **options).difference < 0.5
