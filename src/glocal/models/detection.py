"""Models that find objects: a backbone that gives four maps, and the head of a detector on them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from glocal.models.detectors.head import DetectionHead
from glocal.models.detectors.paste import paste
from glocal.models.headed import HeadedModel


class DetectionModel(HeadedModel):
    """A backbone and the head of a detector.

    Args:
        backbone: of timm's `features_only`: images to maps at strides 4, 8, 16 and 32.
        head: takes the four maps.

    `model(images, sizes, targets)` takes images (B, 3, H, W), normalised, and padded at the right and at the bottom;
    `sizes` (B, 2), a tensor or a list, (height, width) before padding, None if nothing is padded; and gives what the
    head says: in eval mode a list of boxes, scores, labels and perhaps masks for each image; in training mode, which
    needs `targets`, a dict of losses, in which classes may have weights. See
    `glocal.models.detectors.head.DetectionHead`.
    """

    paste = staticmethod(paste)

    def __init__(self, backbone: nn.Module, head: DetectionHead):
        super().__init__(backbone, head)
        for place in range(head.first_map):  # distributed training stops at parameters that nothing uses
            for name, parameter in backbone.named_parameters():
                if f"stages.{place}.output_norm." in name:
                    parameter.requires_grad_(False)

    def forward(
        self,
        images: Tensor,
        sizes: Tensor | Sequence[Sequence[int]] | None = None,
        targets: Sequence[Mapping[str, Tensor]] | None = None,
        class_weights: Tensor | None = None,
    ) -> list[dict[str, Tensor]] | dict[str, Tensor]:
        if sizes is None:
            sizes = torch.tensor(images.shape[2:], device=images.device).expand(len(images), 2)
        return self.head(self.maps(images), sizes, targets, class_weights)
