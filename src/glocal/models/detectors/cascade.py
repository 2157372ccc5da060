"""Cascade Mask R-CNN (arXiv 1712.00726, 1906.09756): three box and mask heads, each on the boxes of the one before.

The mean of their logits gives the class, that of their probabilities the mask; the last gives the box.
"""

from collections.abc import Sequence
from typing import Any, Literal

from glocal.models.arguments import Width
from glocal.models.detectors.rcnn import RCNN, Stage

BOX_HEADS = {"2fc": {"agnostic": True}, "4conv1fc": {"convs": 4, "linears": 1}}
HEAD_ARGS: dict[str, Any] = {"box_head": Literal[tuple(BOX_HEADS)], "width": Width, "hidden": Width}

STAGES = (
    Stage(0.5, (0.1, 0.1, 0.2, 0.2)),
    Stage(0.6, (0.05, 0.05, 0.1, 0.1), weight=0.5),
    Stage(0.7, (0.033, 0.033, 0.067, 0.067), weight=0.25),
)


def cascade_mask_rcnn(
    dims: Sequence[int], num_classes: int, box_head: str = "2fc", width: int = 256, hidden: int = 1024
) -> RCNN:
    """Boxes and masks in three stages.

    Args:
        dims: channels of the four maps, fine to coarse.
        num_classes: classes.
        box_head: "2fc", with a correction of boxes for all classes, trained on their codes; or "4conv1fc", with one for
            each class, trained on the boxes' GIoU.
        width: channels of the pyramid.
        hidden: width of the linear layers of the box heads.
    """
    return RCNN(
        dims,
        num_classes,
        masks=True,
        stages=STAGES,
        decoded=box_head == "4conv1fc",
        beta=1.0,
        proposals={"inside": True, "beta": 1 / 9, "training_proposals": 2000},
        boxes={**BOX_HEADS[box_head], "hidden": hidden},
        width=width,
    )
