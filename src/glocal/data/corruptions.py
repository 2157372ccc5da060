"""The 15 corruptions of ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261), made on the fly."""

import io
import zlib
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from glocal.errors import InvalidValueError, MissingExtraError

if TYPE_CHECKING:  # the names of the corruptions are options, which are to be known without torch
    from torchvision.transforms import Compose

SEVERITIES = (1, 2, 3, 4, 5)
# AlexNet's top-1 error, the mean over the severities: the authors' figures, from their repository hendrycks/robustness.
ALEXNET_ERROR = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
SMALLEST = 32  # pixels; the library refuses less
SEEDED = ("impulse_noise", "glass_blur")  # draw from a generator of their own, the others from NumPy's
JPEG_QUALITY = 85  # in which ImageNet-C's authors saved their images


class Corruption:
    """Corrupts an RGB image; the same image always in the same way."""

    def __init__(self, name: str, severity: int):
        self.name = name
        self.severity = severity

    def __call__(self, image: Image.Image) -> Image.Image:
        from imagecorruptions import corrupt

        from glocal.data.seeds import random_state  # brings torch

        pixels = np.asarray(image)
        seed = zlib.crc32(pixels.tobytes(), zlib.crc32(f"{self.name}-{self.severity}".encode()))
        own = {"seed": seed} if self.name in SEEDED else {}
        with random_state(seed):
            pixels = corrupt(pixels, self.severity, self.name, **own)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
        return Image.open(file)


def corrupt_transform(transform: "Compose", corruption: Corruption) -> "Compose":
    """`transform` with the corruption between its crop and its conversion to a tensor, where ImageNet-C has it."""
    steps = list(transform.transforms)
    to_tensor = next(place for place, step in enumerate(steps) if "ToTensor" in type(step).__name__)
    return type(transform)([*steps[:to_tensor], corruption, *steps[to_tensor:]])


def check_corruptions(names: list[str], input_size: tuple[int, int, int]) -> None:
    """Prepare for making corruptions; ImportError without the library, ValueError for images that it does not take."""
    try:
        import imagecorruptions  # noqa: F401 (only whether it is there)
    except ImportError as error:
        missing = f"--corruptions needs imagecorruptions-imaug ({error}): pip install 'glocal[robustness]'"
        raise MissingExtraError(missing) from None
    if min(input_size[1:]) < SMALLEST:
        size = "×".join(map(str, input_size[1:]))
        raise InvalidValueError(f"--corruptions needs images of at least {SMALLEST} pixels, the model takes {size}")
    if "glass_blur" in names:  # compiled here once, not in every process that reads images
        Corruption("glass_blur", 1)(Image.new("RGB", (SMALLEST, SMALLEST)))


def corruption_error(errors: dict[tuple[str, int], float], alexnet: bool) -> dict:
    """What ImageNet-C reports of top-1 errors in percent per (corruption, severity).

    corruptions: for each its errors (by severity, None where not measured), mean, and with `alexnet` ce = Σ errors /
    Σ errors of AlexNet, in percent. mean_error: over all. mce: mean of ce, if all 15 corruptions have all 5 severities.
    """
    by_name = {}
    for name in dict.fromkeys(name for name, _ in errors):
        row = [errors.get((name, severity)) for severity in SEVERITIES]
        known = [error for error in row if error is not None]
        by_name[name] = {"errors": row, "mean": sum(known) / len(known)}
        if alexnet and len(known) == len(SEVERITIES):
            by_name[name]["ce"] = by_name[name]["mean"] / ALEXNET_ERROR[name]
    result = {"corruptions": by_name, "mean_error": sum(errors.values()) / len(errors)}
    ratios = [one["ce"] for one in by_name.values() if "ce" in one]
    if len(ratios) == len(ALEXNET_ERROR):
        result["mce"] = sum(ratios) / len(ratios)
    return result
