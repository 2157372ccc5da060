"""From an image and its objects to an example.

A target is a dict of tensors. Of training: size, (2,) int64, the height and the width of the changed image; boxes,
(N, 4) float32 in its pixels; labels, (N,) int64; for instances masks, (N, H, W) bool. Crowds are left out.

Of measuring: the same in pixels of the image as it is, boxes float64, with crowds, which are marked in crowd, (N,)
bool; areas, (N,) float64; and for instances, in the place of masks, rles, (bytes,) uint8, the run lengths of all
objects as COCO's texts one after the other, and lengths, (N,) int64, of each.
"""

from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as v2

from glocal.data.batch import Example, padded
from glocal.data.geometry import Geometry
from glocal.data.image import UnreadableImageError
from glocal.data.objects import Objects
from glocal.data.prepare import Pixels, Prepare, size_of, to_tensor
from glocal.data.preprocessing import Preprocessing
from glocal.data.samples import DataSource
from glocal.data.shards import ShardedSamples
from glocal.errors import InvalidValueError
from glocal.tasks.detection.augmentation import DetectionAugmentation, whole_number
from glocal.tasks.detection.masks import texts_of_objects, to_bytes
from glocal.tasks.detection.picture import Picture
from glocal.tasks.segmentation.transform import photometric_distortion

TRIES = 10  # other images that are looked at, where one cannot be read


class TrainingTransform:
    """Makes an `Example` of an image and its objects, changed at random.

    masks: whether targets have them. The geometry is that of the changed image in the example's tensor.
    """

    def __init__(self, preprocessing: Preprocessing, augmentation: DetectionAugmentation, masks: bool = False):
        self.preprocessing = preprocessing
        self.mean, self.std = list(preprocessing.mean), list(preprocessing.std)
        self.augmentation = augmentation
        self.masks = masks

    def __call__(self, image: Pixels, annotation: Objects) -> Example:
        """Raises UnreadableImageError if the annotation is of an image of another size, or has no masks."""
        picture = self.augmentation(self._picture(image, annotation), self._draw).single_precision()
        pixels = v2.to_dtype(picture.pixels, torch.float32, scale=True)
        if self.augmentation.photometric and self.preprocessing.bands is None:
            pixels = photometric_distortion(pixels)
        pixels = v2.normalize(pixels, self.mean, self.std)
        size = picture.size
        tensor_size = self.preprocessing.whole.padded(size)
        target = {"boxes": picture.boxes, "labels": picture.labels, "size": torch.tensor(size)}
        if self.masks:
            target["masks"] = picture.masks
        geometry = Geometry(size, size, (0, 0, *size), None if tensor_size == size else tensor_size)
        return Example(padded(pixels, tensor_size), target, geometry)

    def _picture(self, image: Pixels, annotation: Objects) -> Picture:
        check_size(annotation, size_of(image))
        annotation = annotation.subset(~annotation.crowd)
        masks = None
        if self.masks or self.augmentation.copy_paste:
            masks = torch.from_numpy(masks_of(annotation, size_of(image)))
        pixels = to_tensor(image, self.preprocessing)
        boxes, labels = torch.from_numpy(annotation.boxes.copy()), torch.from_numpy(annotation.labels.copy())
        return Picture(pixels, boxes, labels, masks).visible()

    def _draw(self) -> Picture:
        """Another image of the training, as it is; UnreadableImageError if ten in a row cannot be read."""
        others = self.augmentation.others
        for left in reversed(range(TRIES)):
            place = whole_number(0, len(others) - 1)
            try:
                return self._picture(others.load(place), others.labels[place])
            except UnreadableImageError:
                if not left:
                    raise


class MeasuringTransform:
    """Makes an `Example` of an image and its objects; the target has the size of the image.

    masks: whether it has the run lengths of the objects' masks.
    """

    def __init__(self, preprocessing: Preprocessing, masks: bool = False):
        self.prepare = Prepare(preprocessing)
        self.masks = masks

    def __call__(self, image: Pixels, annotation: Objects) -> Example:
        """Raises UnreadableImageError if the annotation is of an image of another size, or has no masks."""
        size = size_of(image)
        check_size(annotation, size)
        target = {
            name: torch.from_numpy(getattr(annotation, name).copy()) for name in ("boxes", "labels", "crowd", "areas")
        }
        target["size"] = torch.tensor(size)
        if self.masks:
            if not annotation.has_segments:
                raise UnreadableImageError("", "its objects have boxes and no masks")
            target["rles"], target["lengths"] = to_bytes(texts_of_objects(annotation, size))
        return self.prepare(image, target)


def check_size(annotation: Objects, size: tuple[int, int]) -> None:
    """Raise UnreadableImageError if an annotation is of an image of another (height, width)."""
    if annotation.size is not None and tuple(annotation.size) != tuple(size):
        (height, width), (rows, columns) = size, annotation.size
        raise UnreadableImageError(
            "", f"the image is {width}×{height} pixels, and its objects are of {columns}×{rows} (width × height)"
        )


def masks_of(annotation: Objects, size: tuple[int, int]) -> np.ndarray:
    """The masks (N, H, W) of objects; UnreadableImageError if they have none."""
    try:
        return annotation.masks(size)
    except InvalidValueError as error:
        raise UnreadableImageError("", str(error)) from None


def check_others(options: Any, source: DataSource) -> None:
    """Raise ValueError if a training cannot take other images, or their masks, into an image."""
    if isinstance(source.splits["train"], ShardedSamples):
        raise InvalidValueError("--copy-paste and --mosaic take images in any order, which shards do not give")
    if options.copy_paste and not source.about.get("masks"):
        raise InvalidValueError(f"--copy-paste needs masks, and {source.name} has boxes alone")
