"""Models for dense tasks: a backbone that gives four maps, and a head on them."""

from collections.abc import Collection, Sequence
from typing import Any

import timm
import torch
from timm.models import is_model
from torch import Tensor, nn

from glocal.errors import InvalidTypeError, InvalidValueError
from glocal.models import family_of
from glocal.models.headed import HeadedModel
from glocal.models.heads.mask2former import Mask2FormerHead, QueryPredictions
from glocal.models.heads.queries import Instances, PanopticSegments, instances, panoptic
from glocal.models.heads.resize import resize_to
from glocal.wording import one_line, quoted

STRIDES = (4, 8, 16, 32)
CHOSEN = ("features_only", "out_indices", "pretrained")  # arguments of timm that are not the user's


class DenseModel(HeadedModel):
    """A backbone and a head for every position of an image.

    Args:
        backbone: of timm's `features_only`: images to maps at strides 4, 8, 16 and 32.
        head: takes the four maps.
        auxiliary: a second head, for the loss alone; None for none.

    `model(images)` gives for (B, 3, H, W) images what the head says: logits (B, classes, ⌈H/4⌉, ⌈W/4⌉), or the
    `QueryPredictions` of Mask2Former. `model(images, for_loss=True)` gives a pair: the same, or Mask2Former's
    predictions of all layers; and the logits of the auxiliary head, None if there is none.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, auxiliary: nn.Module | None = None):
        super().__init__(backbone, head)
        self.auxiliary = auxiliary

    def forward(
        self, images: Tensor, for_loss: bool = False
    ) -> Tensor | QueryPredictions | tuple[Tensor | list[QueryPredictions], Tensor | None]:
        maps = self.maps(images)
        if not for_loss:
            return self.head(maps)
        outputs = self.head.all_predictions(maps) if isinstance(self.head, Mask2FormerHead) else self.head(maps)
        return outputs, None if self.auxiliary is None else self.auxiliary(maps)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the tensors that `model(images)` gives."""
        return QueryPredictions._fields if isinstance(self.head, Mask2FormerHead) else ("logits",)

    @staticmethod
    def decode(outputs: Tensor | QueryPredictions, size: Sequence[int]) -> Tensor:
        """What the model says as a score for every class and pixel at a size, (B, classes, H, W).

        Logits become probabilities: resized (bilinear), then softmax. Queries become the sum of the probability of the
        class times that of the mask, which lies between 0 and the number of queries.

        outputs: what the model returns; logits may be of any size. size: (H, W).
        """
        if not isinstance(outputs, tuple):
            return resize_to(outputs, size).softmax(1)
        class_logits, mask_logits = outputs
        classes = class_logits.softmax(-1)[..., :-1]
        return torch.einsum("bqc,bqhw->bchw", classes, resize_to(mask_logits, size).sigmoid())

    @staticmethod
    def instances(outputs: QueryPredictions, size: Sequence[int]) -> list[Instances]:
        """The objects in each image, the surest first, with masks of a size; only for Mask2Former.

        See `glocal.models.heads.queries.instances`.
        """
        return instances(outputs, size)

    @staticmethod
    def panoptic(outputs: QueryPredictions, size: Sequence[int], things: Collection[int]) -> list[PanopticSegments]:
        """The segments of each image: each pixel belongs to one of them or to none; only for Mask2Former.

        things: the classes whose objects are counted. See `glocal.models.heads.queries.panoptic`.
        """
        return panoptic(outputs, size, things)


def dense_backbone(name: str, pretrained: bool = False, /, **args: Any) -> nn.Module:
    """The backbone `name` for dense heads: images to normed maps at strides 4, 8, 16 and 32.

    Where the authors' segmentation code differs from their classification code, ours follows it. args: of the model,
    they come before everything else.

    Raises:
        ValueError: there is no such model, or it has no maps at these strides.
        TypeError: an argument that the model does not have.
    """
    architecture = name.rpartition(":")[2].partition(".")[0]
    if not is_model(architecture):
        raise InvalidValueError(f"there is no backbone {name!r}: `glocal list` shows ours, timm.list_models() its own")
    family = family_of(architecture)
    if family is not None:
        args = {"feature_cfg": {"norm": True}, **getattr(family, "DENSE", {}), **args}
    if chosen := [key for key in args if key in CHOSEN]:
        raise InvalidTypeError(f"{name} does not take these arguments: the head decides on {quoted(chosen)}")
    no_maps = f"{name} has no maps at the strides {', '.join(map(str, STRIDES))}, which the heads need"
    try:
        with torch.device("meta"):
            strides = timm.create_model(name, features_only=True, **args).feature_info.reduction()
    except TypeError as error:
        raise InvalidTypeError(f"{name} does not take these arguments: {error}") from error
    except InvalidValueError:
        raise
    except (ValueError, AttributeError, RuntimeError) as error:
        reason = one_line(error)
        raise InvalidValueError(f"{no_maps} ({reason})" if family is None else f"{name}: {reason}") from error
    if not set(STRIDES) <= set(strides):
        raise InvalidValueError(no_maps)
    indices = [strides.index(stride) for stride in STRIDES]
    return timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=indices, **args)
