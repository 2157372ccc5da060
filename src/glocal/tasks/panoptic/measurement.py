"""Measurements of panoptic segmentation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from glocal.data.samples import DataSource
from glocal.tasks.matching import outputs_of
from glocal.tasks.measurement import of_data
from glocal.tasks.segmentation.panoptic import PanopticMetrics, Segments
from glocal.tasks.task import Match, Measurement, Trained

THRESHOLDS = ("segment_threshold", "overlap_threshold")


class SegmentMetrics(PanopticMetrics):
    """`PanopticMetrics` of what the task predicts, and of its targets."""

    def update(self, outputs: Sequence[Sequence[Tensor]], targets: Sequence[dict[str, Tensor]]) -> None:
        ids, classes, _ = outputs
        super().update(map(Segments, ids, classes), [Segments(**target) for target in targets])


def match(source: DataSource, trained: Trained) -> Match:
    """Match classes by name: the data may lack some of the model's classes."""
    places = torch.tensor(outputs_of(source, trained))

    def apply(outputs, targets):
        return outputs, [
            target | {"classes": places.to(target["classes"].device)[target["classes"]]} for target in targets
        ]

    return Match(trained.descriptions, apply)


def measurement(config: Any, trained: Trained) -> Measurement:
    """The measurement that the options of `glocal eval` ask for."""
    args = {name: getattr(config, name) for name in THRESHOLDS if getattr(config, name) is not None}
    found = of_data(config, trained)
    for each in found.passes:
        each.args = args
        each.metrics = SegmentMetrics(each.match.class_names, trained.task_args["things"])
    return replace(found, facts=found.facts | args)
