"""The papers' detectors: four maps of a backbone to boxes, classes and masks of objects.

A head's file has the module, and `RENAMES`, official names to ours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from glocal.models.detectors import cascade, rcnn, retinanet
from glocal.models.detectors.d_fine import head as d_fine
from glocal.models.detectors.dino import head as dino


@dataclass(frozen=True)
class Detector:
    """A head for detection, and how the authors' files name its parts.

    build: called with the channels of the four maps, the number of classes, and `head_args` by name.
    parts: for each of the authors' prefixes, ours and (regular expression, replacement) below it, in order.
    head_args: the arguments of the head by name, each with its type and range, for msgspec.
    """

    build: Callable[..., nn.Module]
    parts: Mapping[str, tuple[str, Sequence[tuple[str, str]]]]
    head_args: Mapping[str, Any] = field(default_factory=dict)


DETECTORS: dict[str, Detector] = {
    "retinanet": Detector(
        retinanet.RetinaNetHead,
        {"bbox_head.": ("head.", retinanet.RENAMES), "neck.": ("head.neck.", retinanet.NECK_RENAMES)},
        retinanet.HEAD_ARGS,
    ),
    "faster_rcnn": Detector(rcnn.faster_rcnn, rcnn.PARTS, rcnn.HEAD_ARGS),
    "mask_rcnn": Detector(rcnn.mask_rcnn, rcnn.PARTS, rcnn.HEAD_ARGS),
    "cascade_mask_rcnn": Detector(cascade.cascade_mask_rcnn, rcnn.PARTS, cascade.HEAD_ARGS),
    "dino": Detector(dino.DINOHead, dino.PARTS, dino.HEAD_ARGS),
    "d_fine": Detector(d_fine.DFineHead, d_fine.PARTS, d_fine.HEAD_ARGS),
}
