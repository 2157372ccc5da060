"""Masks of objects as COCO's run lengths, many of them in a tensor.

COCO's own rule says which pixels lie in a polygon, so that measures are the same as those of its program; it differs by
half a pixel from the middles of pixels, by which trainings take them (`glocal.data.segments`).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from glocal.data.image import UnreadableImageError
from glocal.data.objects import Objects, Runs
from glocal.data.segments import mask_of_text, runs_of_mask, text_of_runs
from glocal.errors import InvalidValueError
from glocal.tasks.detection.library import coco_masks
from glocal.wording import one_line

AT_ONCE = 2**25  # pixels of masks that are in memory together


def texts_of_objects(annotation: Objects, size: tuple[int, int]) -> list[bytes]:
    """The run lengths of each object's mask. size: (height, width). UnreadableImageError for a broken segment."""
    try:
        return [_text_of(annotation.segmentation(place), size) for place in range(len(annotation))]
    except (ValueError, TypeError) as error:
        raise UnreadableImageError("", f"a segment is broken ({one_line(error)})") from None


def _text_of(segmentation: Runs | list[list[float]], size: tuple[int, int]) -> bytes:
    masks = coco_masks()
    if isinstance(segmentation, Runs):
        numbers = segmentation.numbers
        if tuple(segmentation.size) != tuple(size) or sum(numbers) != size[0] * size[1] or min(numbers) < 0:
            raise InvalidValueError(f"the run lengths do not fill {size[1]}×{size[0]} pixels")
        return masks.frPyObjects({"size": list(size), "counts": list(numbers)}, *size)["counts"]
    return masks.merge(masks.frPyObjects(segmentation, *size))["counts"]


def texts_of_masks(found: Tensor) -> list[bytes]:
    """The run lengths of masks (N, H, W) bool."""
    return [_text_of_mask(mask) for mask in found.cpu().numpy()]


def _text_of_mask(mask: np.ndarray) -> bytes:
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(0))  # an object is mostly in a few columns of an image
    if not len(columns):
        return text_of_runs([mask.size]).encode()
    first, last = int(columns[0]), int(columns[-1]) + 1
    runs = runs_of_mask(mask[:, first:last])
    runs[0] += first * height
    rest = (width - last) * height
    if len(runs) % 2:
        runs[-1] += rest
    elif rest:
        runs.append(rest)
    return text_of_runs(runs).encode()


def masks_of_texts(texts: Sequence[bytes], size: Sequence[int]) -> np.ndarray:
    """The masks (N, H, W) bool of run lengths. size: (height, width)."""
    height, width = size
    found = np.zeros((len(texts), height, width), bool)
    for mask, text in zip(found, texts, strict=True):
        mask[:] = mask_of_text(text.decode(), (height, width))
    return found


def to_bytes(texts: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    """Texts as (bytes,) uint8, one after the other, and (N,) int64, the length of each."""
    joined = np.frombuffer(b"".join(texts), np.uint8)
    return torch.from_numpy(joined.copy()), torch.tensor([len(text) for text in texts], dtype=torch.int64)


def from_bytes(joined: Tensor, lengths: Tensor) -> list[bytes]:
    """The texts of `to_bytes`."""
    content, ends = joined.cpu().numpy().tobytes(), lengths.cumsum(0).tolist()
    return [content[begin:end] for begin, end in pairwise([0, *ends])]


def masks_of_target(target: dict[str, Tensor]) -> np.ndarray | None:
    """The masks (N, H, W) bool of a target of training or measuring; None if it has none."""
    if "masks" in target:
        return target["masks"].cpu().numpy().astype(bool)
    if "rles" in target:
        return masks_of_texts(from_bytes(target["rles"], target["lengths"]), target["size"].tolist())
    return None
