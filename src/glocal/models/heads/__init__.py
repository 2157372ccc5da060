"""The papers' heads for dense tasks: four maps of a backbone to an output at stride 4.

A head's file has the module, and `RENAMES`, official names to ours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from glocal.models.heads import fcn, mask2former, semantic_fpn, upernet


@dataclass(frozen=True)
class Head:
    """A head for semantic segmentation, and how the authors' files name its parts.

    build: called with the channels of the four maps and the number of classes. auxiliary: the same for a second head,
    which only the loss uses; None for none.
    parts: for each of the authors' prefixes, ours and (regular expression, replacement) below it, in order.
    head_args: the arguments of the head that a user may give, with their types; so far none has some.
    """

    build: Callable[[Sequence[int], int], nn.Module]
    parts: dict[str, tuple[str, Sequence[tuple[str, str]]]]
    auxiliary: Callable[[Sequence[int], int], nn.Module] | None = None
    head_args: Mapping[str, Any] = field(default_factory=dict)


HEADS: dict[str, Head] = {
    "semantic_fpn": Head(
        semantic_fpn.SemanticFPN,
        {"decode_head.": ("head.", semantic_fpn.RENAMES), "neck.": ("head.neck.", semantic_fpn.NECK_RENAMES)},
    ),
    "upernet": Head(
        upernet.UPerNetHead,
        {"decode_head.": ("head.", upernet.RENAMES), "auxiliary_head.": ("auxiliary.", fcn.RENAMES)},
        fcn.FCNHead,
    ),
    "mask2former": Head(mask2former.Mask2FormerHead, {"decode_head.": ("head.", mask2former.RENAMES)}),
}
