"""The one path from an image to a model's input, for measuring and predicting."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from glocal.data.bands import WHITE
from glocal.data.batch import Example, padded
from glocal.data.geometry import Geometry, geometry_of
from glocal.data.preprocessing import Preprocessing
from glocal.errors import InvalidValueError

Pixels = Image.Image | np.ndarray  # an RGB image, or the (H, W, C) bands of a raster, masked where they hold no data


class Prepare:
    """Makes an `Example` of an RGB image or of a raster's bands: the normalised tensor, with its geometry.

    >>> prepare = Prepare(preprocessing)
    >>> prepare(image).image.shape
    torch.Size([3, 224, 224])
    """

    def __init__(self, preprocessing: Preprocessing):
        self.preprocessing = preprocessing
        self.path = preprocessing.transform() if preprocessing.whole is None else self._whole

    def __call__(self, image: Pixels, target: Any = None) -> Example:
        geometry = geometry_of(self.preprocessing, size_of(image))
        return Example(self.path(image), target, geometry)

    def _whole(self, image: Pixels) -> Tensor:
        preprocessing, whole = self.preprocessing, self.preprocessing.whole
        interpolation = InterpolationMode(preprocessing.interpolation)
        pixels = to_tensor(image, preprocessing)
        for size in whole.sizes(size_of(image)):
            if size != tuple(pixels.shape[1:]):
                pixels = transforms.resize(pixels, list(size), interpolation, antialias=whole.antialias)
        tensor = transforms.to_dtype(pixels, scale=True)
        tensor = transforms.normalize(tensor, list(preprocessing.mean), list(preprocessing.std))
        return padded(tensor, whole.padded(tuple(tensor.shape[1:])))


def size_of(image: Pixels) -> tuple[int, int]:
    """(height, width)."""
    return image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]


def to_tensor(image: Pixels, preprocessing: Preprocessing) -> Tensor:
    """The pixels (C, H, W): of an RGB image uint8, of bands float32 in 0…1, the mean where they hold no data.

    Raises ValueError for an image of another kind than the model takes.
    """
    bands = preprocessing.bands
    if not isinstance(image, np.ndarray):
        if bands is not None or preprocessing.input_size[0] != 3:
            takes = bands or f"{preprocessing.input_size[0]} channels"
            raise InvalidValueError(f"the model takes {takes}, not RGB images")
        return transforms.pil_to_tensor(image)
    if bands is None or image.shape[2:] != (len(bands.numbers),) or image.dtype != bands.pixels:
        found = f"{image.shape[-1]} bands of the type {image.dtype}"
        raise InvalidValueError(f"the model takes {bands or 'RGB images'}, not {found}")
    pixels = np.ma.getdata(image).astype(np.float32) / np.float32(WHITE[bands.pixels])
    if np.ma.is_masked(image):
        pixels = np.where(np.ma.getmaskarray(image), np.float32(preprocessing.mean), pixels)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def ignore_void(labels: np.ndarray, image: Pixels, ignore: int) -> np.ndarray:
    """The labels (H, W) with `ignore` where the image holds no data."""
    if isinstance(image, np.ma.MaskedArray):
        labels = np.where(image.mask.any(2), ignore, labels)
    return labels


def own_size(image: Tensor, geometry: Geometry) -> Tensor:
    """The part of a batch's image (C, H, W) that was there before the batch was padded to a common size."""
    height, width = geometry.tensor_size or geometry.input_size
    return image[:, :height, :width]
