import io
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.data.corruptions import (
    ALEXNET_ERROR,
    SEVERITIES,
    Corruption,
    check_corruptions,
    corrupt_transform,
    corruption_error,
)
from glocal.data.preprocessing import Preprocessing

os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # compiling glass_blur takes longer than running it on small images


@pytest.fixture(scope="module")
def picture():
    """A gradient with stripes, 40×32 pixels."""
    y, x = np.mgrid[:32, :40]
    return Image.fromarray(np.stack([6 * x, 7 * y, 128 + 90 * np.sin(x / 3)], -1).astype(np.uint8))


def change(picture, corruption):
    return np.abs(np.asarray(corruption(picture), float) - np.asarray(picture)).mean()


@pytest.mark.parametrize("name", ALEXNET_ERROR)
def test_corrupts_always_in_the_same_way(picture, name):
    np.random.seed(1)
    first = np.asarray(Corruption(name, 3)(picture))
    np.random.seed(2)
    state = np.random.get_state()[1].copy()
    assert (np.asarray(Corruption(name, 3)(picture)) == first).all()
    assert (np.random.get_state()[1] == state).all()  # what others draw does not depend on it
    assert first.shape == (32, 40, 3)
    assert (first != np.asarray(picture)).any()


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "contrast"])
def test_grows_with_severity(picture, name):
    changes = [change(picture, Corruption(name, severity)) for severity in SEVERITIES]
    assert changes == sorted(changes)


def test_comes_as_a_jpeg_of_imagenet_cs_quality(picture):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    assert Corruption("fog", 1)(picture).quantization == Image.open(file).quantization


def test_other_images_and_severities_get_other_noise(picture):
    grey = [np.asarray(Corruption("gaussian_noise", s)(Image.new("RGB", (40, 32), "grey")), float) for s in (1, 2)]
    one, two = ((noisy - noisy.mean()).ravel() for noisy in grey)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.1


def test_contrast_by_its_formula(picture):
    pixels = np.asarray(picture) / 255
    mean = pixels.mean((0, 1), keepdims=True)
    expected = 255 * ((pixels - mean) * 0.4 + mean)
    assert np.abs(np.asarray(Corruption("contrast", 1)(picture)) - expected).mean() < 4  # it was a JPEG in between


def test_corrupts_what_the_crop_leaves():
    seen = []

    def spy(image):
        seen.append(image.size)
        return image

    preprocessing = Preprocessing((3, 48, 48), (0.5,) * 3, (0.5,) * 3, crop_pct=0.5)
    tensor = corrupt_transform(preprocessing.transform(), spy)(Image.new("RGB", (200, 100)))
    assert seen == [(48, 48)]
    assert tensor.shape == (3, 48, 48)
    assert torch.equal(tensor, preprocessing.transform()(Image.new("RGB", (200, 100))))


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 32 pixels, the model takes 28×28"):
        check_corruptions(["fog"], (3, 28, 28))


def test_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ImportError, match=r"--corruptions needs imagecorruptions-imaug .*glocal\[robustness\]"):
        check_corruptions(["fog"], (3, 224, 224))


# AlexNet's top-1 errors as published in hendrycks/robustness, in the order of the corruptions.
ALEXNET = dict(
    gaussian_noise=0.886428, shot_noise=0.894468, impulse_noise=0.922640, defocus_blur=0.819880, glass_blur=0.826268,
    motion_blur=0.785948, zoom_blur=0.798360, snow=0.866816, frost=0.826572, fog=0.819324, brightness=0.564592,
    contrast=0.853204, elastic_transform=0.646056, pixelate=0.717840, jpeg_compression=0.606500,
)  # fmt: skip

# Published of a ResNet-50: top-1 accuracy over the severities, and CE.
PUBLISHED = {
    "brightness": (68.02, 56.64),
    "contrast": (39.06, 71.43),
    "defocus_blur": (38.75, 74.71),
    "elastic_transform": (45.25, 84.75),
    "fog": (45.83, 66.11),
    "frost": (38.14, 74.84),
    "gaussian_noise": (29.29, 79.77),
    "glass_blur": (26.79, 88.61),
    "impulse_noise": (23.81, 82.58),
}


class TestError:
    @pytest.mark.parametrize("name", PUBLISHED)
    def test_relative_to_alexnet(self, name):
        accuracy, ce = PUBLISHED[name]
        errors = {(name, s): 100 - accuracy + 2 * (s - 3) for s in SEVERITIES}  # the mean counts
        assert corruption_error(errors, True)["corruptions"][name]["ce"] == pytest.approx(ce, abs=0.01)

    def test_alexnets_errors_are_the_published_ones(self):
        assert ALEXNET_ERROR == ALEXNET
        assert list(ALEXNET_ERROR) == list(ALEXNET)

    def test_alexnet_has_a_hundred(self):
        errors = {(name, s): 100 * error for name, error in ALEXNET.items() for s in SEVERITIES}
        result = corruption_error(errors, True)
        assert result["mce"] == pytest.approx(100)
        assert result["mean_error"] == pytest.approx(78.89930666666667)

    def test_by_hand(self):
        errors = {("fog", 1): 10.0, ("fog", 3): 40.0, ("snow", 2): 70.0}
        assert corruption_error(errors, True) == {
            "corruptions": {
                "fog": {"errors": [10.0, None, 40.0, None, None], "mean": 25.0},
                "snow": {"errors": [None, 70.0, None, None, None], "mean": 70.0},
            },
            "mean_error": 40.0,
        }

    def test_nothing_relative_to_alexnet_for_other_classes(self):
        errors = {(name, s): 50.0 for name in ALEXNET_ERROR for s in SEVERITIES}
        result = corruption_error(errors, False)
        assert "mce" not in result
        assert all("ce" not in one for one in result["corruptions"].values())
