"""Which query should find which object: the assignment with the smallest sum of costs (arXiv 2005.12872, eq. 1)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from glocal.models.detectors.boxes import giou, upcast
from glocal.models.detectors.dino.box_logits import corners, from_corners, scale_of

CLASS_COST, BOX_COST, GIOU_COST = 2.0, 5.0, 2.0
ALPHA, EPS = 0.25, 1e-12  # of the focal cost

Matched = tuple[Tensor, Tensor]  # the queries, ascending, and the objects that they are matched to, both (n,)


def matching_cost(class_logits: Tensor, boxes: Tensor, target: Mapping[str, Tensor], size: Tensor) -> Tensor:
    """What it costs to take each query for each object of one image, (…, Q, objects).

    class_logits: (…, Q, classes). boxes: (…, Q, 4), (cx, cy, w, h) relative to the image. target: `boxes` (N, 4),
    corners in pixels, `labels` (N,). size: (2,), (height, width).
    """
    boxes = upcast(boxes)
    scale = scale_of(size, boxes)
    wanted = target["boxes"].to(boxes)
    p = upcast(class_logits)[..., target["labels"]].sigmoid()
    classes = ALPHA * (1 - p) ** 2 * -(p + EPS).log() - (1 - ALPHA) * p**2 * -(1 - p + EPS).log()
    distance = (boxes.unsqueeze(-2) - from_corners(wanted / scale)).abs().sum(-1)
    overlap = giou((corners(boxes) * scale).unsqueeze(-2), wanted)
    return CLASS_COST * classes + BOX_COST * distance - GIOU_COST * overlap


@torch.no_grad()
def match(
    class_logits: Tensor, boxes: Tensor, targets: Sequence[Mapping[str, Tensor]], sizes: Tensor
) -> list[list[Matched]]:
    """The matches of each layer and image: `found[layer][image]`. An object is left out if no query is left.

    class_logits: (layers, B, Q, classes); boxes: (layers, B, Q, 4); targets, sizes: see `matching_cost`, of B images.
    """
    from scipy.optimize import linear_sum_assignment

    found = []
    for image, (target, size) in enumerate(zip(targets, sizes, strict=True)):
        costs = matching_cost(class_logits[:, image], boxes[:, image], target, size).cpu().double().numpy()
        # What is not a number fits nothing: the loss, which is none either, says it better than scipy.
        costs = np.nan_to_num(costs, nan=1e9, posinf=1e9, neginf=-1e9)
        found.append([_on(boxes.device, linear_sum_assignment(cost)) for cost in costs])
    return [list(of_layer) for of_layer in zip(*found, strict=True)]


def _on(device: torch.device, indices: tuple[np.ndarray, np.ndarray]) -> Matched:
    queries, objects = (torch.from_numpy(one).to(device) for one in indices)
    return queries, objects
