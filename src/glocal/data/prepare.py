"""The one path from an image to a model's input, for measuring and predicting."""

from typing import Any

import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from glocal.data.batch import Example
from glocal.data.geometry import Geometry, geometry_of
from glocal.data.preprocessing import Preprocessing


class Prepare:
    """Makes an `Example` of an RGB image: the normalised tensor, with its geometry.

    >>> prepare = Prepare(preprocessing)
    >>> prepare(image).image.shape
    torch.Size([3, 224, 224])
    """

    def __init__(self, preprocessing: Preprocessing):
        self.preprocessing = preprocessing
        self.path = preprocessing.transform() if preprocessing.whole is None else self._whole

    def __call__(self, image: Image.Image, target: Any = None) -> Example:
        geometry = geometry_of(self.preprocessing, image.size[::-1])
        return Example(self.path(image), target, geometry)

    def _whole(self, image: Image.Image) -> Tensor:
        preprocessing, whole = self.preprocessing, self.preprocessing.whole
        interpolation = InterpolationMode(preprocessing.interpolation)
        pixels = transforms.pil_to_tensor(image)
        for size in whole.sizes(image.size[::-1]):
            if size != tuple(pixels.shape[1:]):
                pixels = transforms.resize(pixels, list(size), interpolation, antialias=whole.antialias)
        tensor = transforms.to_dtype(pixels, scale=True)
        tensor = transforms.normalize(tensor, list(preprocessing.mean), list(preprocessing.std))
        return padded(tensor, whole.padded(tuple(tensor.shape[1:])))


def padded(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H, W) with zeros at the right and bottom up to (height, width)."""
    height, width = image.shape[1:]
    return image if (height, width) == size else F.pad(image, (0, size[1] - width, 0, size[0] - height))


def own_size(image: Tensor, geometry: Geometry) -> Tensor:
    """The part of a batch's image (C, H, W) that was there before the batch was padded to a common size."""
    height, width = geometry.tensor_size or geometry.input_size
    return image[:, :height, :width]
