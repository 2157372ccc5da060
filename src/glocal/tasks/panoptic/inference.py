"""The segments of images at their own sizes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from glocal.data.batch import Batch
from glocal.data.geometry import Geometry
from glocal.models.heads.mask2former import QueryPredictions
from glocal.models.heads.queries import PanopticSegments, panoptic
from glocal.models.heads.resize import resize_to
from glocal.tasks.segmentation.inference import outputs_of_images


def predict(compute: Callable[[Tensor], Any], batch: Batch, args: dict[str, Any]) -> list[list[Tensor]]:
    """The ids (H, W) int32, classes (S,) and scores (S,) of each image: three lists of B tensors.

    compute: images (B, C, h, w) to the pair of Mask2Former. args: those of `PanopticArgs`.
    """
    things = [label for label, is_thing in enumerate(args["things"]) if is_thing]
    thresholds = args["segment_threshold"], args["overlap_threshold"]
    found: list[PanopticSegments | None] = [None] * len(batch)
    for i, outputs in outputs_of_images(compute, batch):
        queries = QueryPredictions(*(output.float() for output in outputs))
        geometry = batch.geometry[i]
        (found[i],) = panoptic(queries, geometry.size, things, *thresholds, resize=partial(at_image, geometry))
    return [[one.ids.int() for one in found], [one.classes for one in found], [one.scores for one in found]]


def at_image(geometry: Geometry, mask_logits: Tensor, size: Sequence[int]) -> Tensor:
    """Mask logits (1, Q, h, w) at the size of the image: resized to the input, cut to what shows the image, resized."""
    height, width = geometry.input_size
    at_input = resize_to(mask_logits, geometry.tensor_size or geometry.input_size)
    return resize_to(at_input[..., :height, :width], size)
