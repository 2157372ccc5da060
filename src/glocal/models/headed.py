"""What models of a backbone and a head have in common: the four maps, and timm's contract for training."""

from typing import Any

import torch
from timm.layers import Format
from torch import Tensor, nn

from glocal.backbone import inside
from glocal.errors import InvalidValueError


class HeadedModel(nn.Module):
    """A backbone and a head.

    Args:
        backbone: of timm's `features_only`: images to maps at strides 4, 8, 16 and 32.
        head: takes the four maps.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.channels_last = getattr(backbone, "output_fmt", None) == Format.NHWC

    def maps(self, images: Tensor) -> list[Tensor]:
        """The four maps of the backbone, each (B, C, H, W), fine to coarse."""
        maps = self.backbone(images)
        return [x.permute(0, 3, 1, 2) for x in maps] if self.channels_last else list(maps)

    # timm's contract, so far as a training needs it

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        return self.backbone.pretrained_cfg

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's blocks in the backward pass instead of keeping their activations."""
        if not hasattr(self.backbone, "set_grad_checkpointing"):
            raise InvalidValueError("this backbone cannot recompute its blocks (grad checkpointing)")
        self.backbone.set_grad_checkpointing(enable)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer decay: those of the backbone, then the head."""
        if not hasattr(self.backbone, "group_matcher"):
            raise InvalidValueError("this backbone does not say which layers follow each other (layer decay)")
        return inside("backbone", self.backbone.group_matcher(coarse))

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters with two or more axes that the backbone's authors trained without weight decay."""
        found = self.backbone.no_weight_decay() if hasattr(self.backbone, "no_weight_decay") else ()
        return {f"backbone.{name}" for name in found}
