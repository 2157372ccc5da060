"""What a head is trained on: the objects of each image, as the caller gives them and as the losses need them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from glocal.errors import InvalidValueError
from glocal.wording import counted

Target = Mapping[str, Tensor]


def checked(
    targets: Sequence[Target], sizes: Sequence[Sequence[int]], num_classes: int, masks: bool, like: Tensor
) -> list[dict[str, Tensor]]:
    """Targets on the device of a tensor, with boxes in its type, in single precision at least, and labels in int64.

    A wrong box makes a loss infinite, and a wrong label would be background: both are a ValueError, which names the
    target.

    Args:
        targets: of each image `boxes` (N, 4), `labels` (N,), and `masks` (N, h, w) if they are needed.
        sizes: (height, width) of each image.
        num_classes: labels are below.
        masks: whether the targets need masks.
        like: any tensor.
    """
    if len(targets) != len(sizes):
        raise InvalidValueError(f"there are {counted(len(targets), 'target')} for {counted(len(sizes), 'image')}")
    found = []
    for place, (target, size) in enumerate(zip(targets, sizes, strict=True)):
        try:
            found.append(_checked_one(target, num_classes, like))
            if masks:
                found[-1]["masks"] = _checked_masks(target, size).to(like.device)
        except InvalidValueError as error:
            raise InvalidValueError(f"targets[{place}]: {error}") from None
    return found


def _checked_one(target: Target, num_classes: int, like: Tensor) -> dict[str, Tensor]:
    boxes = target["boxes"].to(like.device, torch.promote_types(like.dtype, torch.float32))
    labels = target["labels"].to(like.device, torch.int64)
    if not boxes.numel():
        boxes = boxes.reshape(0, 4)
    if boxes.shape != (*labels.shape, 4):
        raise InvalidValueError(f"boxes are {tuple(boxes.shape)}, and labels {tuple(labels.shape)}")
    right = boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    if not right.all():
        raise InvalidValueError(f"{boxes[~right][0].tolist()} is no box x1, y1, x2, y2 with an extent")
    right = labels.clamp(0, num_classes - 1) == labels
    if not right.all():
        raise InvalidValueError(f"there is a label {int(labels[~right][0])}, and labels are 0 to {num_classes - 1}")
    return {"boxes": boxes, "labels": labels}


def _checked_masks(target: Target, size: Sequence[int]) -> Tensor:
    if "masks" not in target:
        raise InvalidValueError("there are no masks, on which this head is trained")
    masks, (height, width) = target["masks"], size
    count = len(target["labels"])
    if masks.ndim != 3 or len(masks) != count or masks.shape[1] < height or masks.shape[2] < width:
        raise InvalidValueError(f"masks are {tuple(masks.shape)}, not ({count}, {height}, {width}) or larger")
    return masks
