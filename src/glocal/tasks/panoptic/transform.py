"""From an image and its segment map to an example.

A target is a dict of tensors: ids, (H, W) int64, the place of each pixel's segment in the others, or IGNORE; classes,
(S,) int64; and for measuring crowd, (S,) bool.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glocal.data.batch import Example
from glocal.data.masks import IGNORE
from glocal.data.prepare import Prepare
from glocal.data.preprocessing import Preprocessing
from glocal.data.segment_maps import SegmentMap
from glocal.tasks.segmentation.mask2former_loss import Masks
from glocal.tasks.segmentation.transform import JointTransform, table_of


class TrainingTransform(JointTransform):
    """Makes an `Example` of an RGB image and its segment map, changed at random.

    The target has the segments that the crop shows. Pixels of crowds become pixels of no segment.
    """

    def __call__(self, image: Image.Image, annotation: SegmentMap) -> Example:
        """Raises UnreadableImageError if the annotation has no map of the image's size."""
        found = segments_of(image, annotation)
        pixels, ids = self.change(image, found["ids"].int(), found["classes"])
        shown = ids[ids != IGNORE].unique()
        shown = shown[~found["crowd"][shown]]
        places = torch.full_like(found["classes"], IGNORE)
        places[shown] = torch.arange(len(shown))
        return Example(pixels, {"ids": table_of(places)[ids], "classes": found["classes"][shown]})


class MeasuringTransform:
    """Makes an `Example` of an RGB image and its segment map; the target has all segments, at the size of the image."""

    def __init__(self, preprocessing: Preprocessing):
        self.prepare = Prepare(preprocessing)

    def __call__(self, image: Image.Image, annotation: SegmentMap) -> Example:
        """Raises UnreadableImageError if the annotation has no map of the image's size."""
        return self.prepare(image, segments_of(image, annotation))


def segments_of(image: Image.Image, annotation: SegmentMap) -> dict[str, Tensor]:
    ids, classes, crowd = (np.array(one) for one in annotation.load_segments((image.height, image.width)))
    return {
        "ids": torch.from_numpy(ids).long(),
        "classes": torch.from_numpy(classes).long(),
        "crowd": torch.from_numpy(crowd),
    }


def masks_of_segments(target: dict[str, Tensor]) -> Masks:
    """A mask for each segment of a training target."""
    classes = target["classes"]
    return Masks(classes, target["ids"] == torch.arange(len(classes), device=classes.device)[:, None, None])
