"""What pictures show of targets."""

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from glocal.tasks.detection.drawing import colors_of_classes, entries, scaled, with_boxes, with_masks
from glocal.tasks.detection.masks import masks_of_target
from glocal.tasks.drawing import GREY, with_caption

CROWD = "crowd of"


def drawn(image: Image.Image, target: dict[str, Tensor], class_names: Sequence[str]) -> Image.Image:
    """The RGB image, at any size, with a target's objects on it, and the number of each class below it.

    Crowds are grey.
    """
    colors = colors_of_classes(len(class_names))
    crowd = target["crowd"].tolist() if "crowd" in target else [False] * len(target["labels"])
    labels = target["labels"].tolist()
    names = [
        f"{CROWD} {class_names[label]}" if one else class_names[label] for label, one in zip(labels, crowd, strict=True)
    ]
    shades = [GREY if one else colors[label] for label, one in zip(labels, crowd, strict=True)]
    masks = masks_of_target(target)
    shown = image if masks is None else with_masks(image, masks, shades)
    boxes = scaled(target["boxes"].tolist(), target["size"].tolist(), image)
    return with_caption(with_boxes(shown, boxes, shades), entries(names, shades))
