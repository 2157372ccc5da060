"""From an image and its label map to a training example, changed at random as in published segmentation trainings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from glocal.backbone import Backbone
from glocal.data.batch import Example
from glocal.data.masks import IGNORE, LabelMap
from glocal.data.prepare import Pixels, Prepare, ignore_void, size_of, to_tensor
from glocal.data.preprocessing import Preprocessing, Whole, resized

TRIES = 10  # crops that are looked at; the next is taken as it is
# Photometric distortion: each change has the probability 0.5. Levels of 255 for brightness, factors for contrast and
# saturation, degrees of 180 for the hue.
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32, (0.5, 1.5), (0.5, 1.5), 18


@dataclass(frozen=True)
class SegmentationAugmentation:
    """Random changes of training images and their label maps.

    resize_range: smallest and largest r; an image is resized to the largest size that fits into `scale` · r.
    scale: (longer side, shorter side) in pixels, whichever way the image lies; None: the size of the crop.
    max_class_share: a crop is drawn again where the largest class has this share or more of the pixels that are not
    ignored, or where it is alone; 1 to take every crop. hflip: probability of a mirror image.
    photometric: change brightness, contrast, saturation and hue.
    label_interpolation: "nearest-exact" takes the label at the centre of a pixel; "nearest" takes it at its upper left
    corner, as OpenCV and thereby the published trainings do, which moves labels by up to half a pixel.
    """

    resize_range: tuple[float, float]
    scale: tuple[int, int] | None
    max_class_share: float
    hflip: float
    photometric: bool
    label_interpolation: Literal["nearest-exact", "nearest"] = "nearest-exact"


class JointTransform:
    """Changes an image and a map of its pixels alike, at random, to (C, h, w) float32 and (h, w) int64.

    The image is RGB, or bands of a raster, which get no photometric distortion. (h, w) is the input size of the
    preprocessing. Changes in order: resize, crop, flip, photometric distortion,
    normalisation, padding at the right and at the bottom with 0, and with IGNORE in the map. The rules are those of
    the trainings of TransNeXt, VAN and TransXNet (docs/decisions/segmentation-augmentation.md). All random numbers are
    torch's.
    """

    def __init__(self, preprocessing: Preprocessing, augmentation: SegmentationAugmentation):
        self.size = tuple(preprocessing.input_size[1:])
        self.mean, self.std = list(preprocessing.mean), list(preprocessing.std)
        self.augmentation = augmentation
        self.preprocessing = preprocessing

    def change(self, image: Pixels, labels: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The changed image, and the changed map of labels (H, W), int32 with IGNORE.

        classes: the class of each label, for the choice of the crop; None: the labels are classes.
        """
        change = self.augmentation
        pixels = to_tensor(image, self.preprocessing)

        scale = change.scale or (max(self.size), min(self.size))
        size = resized(tuple(labels.shape), scale, _uniform(*change.resize_range))
        pixels = v2.resize(pixels, size, InterpolationMode.BILINEAR, antialias=False)
        labels = v2.resize(labels[None], size, InterpolationMode(change.label_interpolation))[0]

        of_classes = labels if classes is None else table_of(classes)[labels]
        place = crop_place(of_classes, self.size, change.max_class_share)
        pixels, labels = pixels[..., place[0], place[1]], labels[place]
        if _chance(change.hflip):
            pixels, labels = pixels.flip(-1), labels.flip(-1)
        if pixels.dtype == torch.uint8:
            pixels = pixels.float() / 255
        if change.photometric and self.preprocessing.bands is None:
            pixels = photometric_distortion(pixels)
        pixels = v2.normalize(pixels, self.mean, self.std)
        border = (0, self.size[1] - labels.shape[1], 0, self.size[0] - labels.shape[0])  # left, right, top, bottom
        return F.pad(pixels, border), F.pad(labels.long(), border, value=IGNORE)


class TrainingTransform(JointTransform):
    """Makes an `Example` of an image and its label map: image (C, h, w) float32, target (h, w) int64."""

    def __call__(self, image: Pixels, annotation: LabelMap) -> Example:
        """Raises UnreadableImageError if the annotation has no label map of the image's size."""
        return Example(*self.change(image, label_tensor(image, annotation)))


def label_tensor(image: Pixels, annotation: LabelMap) -> Tensor:
    """The labels of an image, (H, W) int32, IGNORE also where it holds no data."""
    labels = ignore_void(annotation.load(size_of(image)), image, IGNORE)
    return torch.from_numpy(np.array(labels, np.int32, order="C"))


def table_of(values: Tensor) -> Tensor:
    """Values (N,) and IGNORE after them, so that a map with IGNORE, which is -1, is looked up in it."""
    return torch.cat([values, values.new_tensor([IGNORE])])


def crop_place(labels: Tensor, size: tuple[int, int], max_class_share: float) -> tuple[slice, slice]:
    """A random place of a crop: rows and columns of labels (H, W), fewer than `size` where the map is smaller."""
    place = _random_place(labels, size)
    if max_class_share < 1:
        for _ in range(TRIES):
            counts = (labels[place].flatten() - IGNORE).bincount()[1:]
            if (counts > 0).sum() > 1 and counts.max() < max_class_share * counts.sum():
                break
            place = _random_place(labels, size)
    return place


def _random_place(labels: Tensor, size: tuple[int, int]) -> tuple[slice, slice]:
    starts = [int(torch.randint(max(have - want, 0) + 1, ())) for have, want in zip(labels.shape, size, strict=True)]
    return tuple(slice(start, start + want) for start, want in zip(starts, size, strict=True))


def photometric_distortion(pixels: Tensor) -> Tensor:
    """Random brightness, contrast, saturation and hue of an image (3, H, W) in 0…1 (SSD, arXiv 1512.02325)."""
    if _chance(0.5):
        pixels = (pixels + _uniform(-BRIGHTNESS, BRIGHTNESS) / 255).clamp(0, 1)
    contrast = _uniform(*CONTRAST) if _chance(0.5) else None
    contrast_first = _chance(0.5)
    if contrast is not None and contrast_first:
        pixels = scale_values(pixels, contrast)
    if _chance(0.5):
        pixels = scale_saturation(pixels, _uniform(*SATURATION))
    if _chance(0.5):
        pixels = v2.adjust_hue(pixels, _uniform(-HUE, HUE) / 180)
    if contrast is not None and not contrast_first:
        pixels = scale_values(pixels, contrast)
    return pixels


def scale_values(pixels: Tensor, factor: float) -> Tensor:
    """Pixels (…) in 0…1 times a factor: what published recipes call contrast, and torchvision calls brightness."""
    return v2.adjust_brightness(pixels, factor)


def scale_saturation(pixels: Tensor, factor: float) -> Tensor:
    """Pixels (3, H, W) in 0…1 with their saturation in HSV times a factor, up to 1; hue and value stay.

    torchvision's adjust_saturation mixes with grey of the same luma, which is another change.
    """
    value = pixels.amax(0, keepdim=True)
    chroma = value - pixels.amin(0, keepdim=True)  # the saturation is chroma / value
    factors = (value / chroma.clamp(min=1e-6)).clamp(max=factor)
    return value - (value - pixels) * factors


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def _chance(probability: float) -> bool:
    return torch.rand(()).item() < probability


class MeasuringTransform:
    """Makes an `Example` of an image and its label map for measuring: the target has the size of the image, int32.

    scales: factors of the preprocessing's size; the example then has the image at each of these sizes in `more`.
    """

    def __init__(self, preprocessing: Preprocessing, scales: Sequence[float] = ()):
        self.prepare = Prepare(preprocessing)
        self.scales = [Prepare(replace(preprocessing, whole=preprocessing.whole.scaled(scale))) for scale in scales]

    def __call__(self, image: Pixels, annotation: LabelMap) -> Example:
        """Raises UnreadableImageError if the annotation has no label map of the image's size."""
        labels = label_tensor(image, annotation)
        more = tuple(prepare(image) for prepare in self.scales)
        return self.prepare(image, labels)._replace(more=more)


def preprocessing(model: nn.Module, crop: int, whole: Whole) -> Preprocessing:
    """How images come to a model with a head.

    Of our families, mean and std are those of ImageNet, as in all published trainings, also of VAN, whose classifiers
    have others.
    """
    config = timm.data.resolve_model_data_config(model)
    ours = any(isinstance(part, Backbone) for part in model.modules())
    mean, std = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD) if ours else (config["mean"], config["std"])
    channels = config["input_size"][0]
    if len(mean) != channels:
        mean, std = (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels
    return Preprocessing((channels, crop, crop), mean, std, "bilinear", whole=whole)
