"""Measurements of segmentation: whole images, windows, and means over sizes and mirror images."""

from dataclasses import replace
from typing import Any

import torch

from glocal.data.bands import Bands
from glocal.data.masks import IGNORE
from glocal.data.preprocessing import Preprocessing
from glocal.data.samples import DataSource
from glocal.errors import InvalidValueError
from glocal.tasks.matching import outputs_of
from glocal.tasks.measurement import of_data
from glocal.tasks.segmentation.metrics import SegmentationMetrics
from glocal.tasks.segmentation.options import scales_of, window_of
from glocal.tasks.segmentation.transform import MeasuringTransform
from glocal.tasks.task import Match, Measurement, Trained


def match(source: DataSource, trained: Trained) -> Match:
    """Match classes by name: the data may lack some of the model's classes."""
    bands = Preprocessing(**trained.preprocessing).bands
    if _kind_of(source.bands) != _kind_of(bands):
        raise InvalidValueError(
            f"the model takes {bands or 'RGB images'}, and {source.name} has {source.bands or 'RGB images'}: "
            "--data-args '{bands: [1, 2, 3]}' chooses bands"
        )
    places = torch.tensor([*outputs_of(source, trained), IGNORE])  # the last is the place of IGNORE, -1

    def apply(outputs, targets):
        return outputs, [places.to(target.device)[target.long()] for target in targets]

    return Match(trained.descriptions, apply)


def _kind_of(bands: Bands | None) -> tuple[int, str]:
    """How many channels an image has, and the type of its pixels."""
    return (3, "RGB") if bands is None else (len(bands.numbers), bands.pixels)


def measurement(config: Any, trained: Trained) -> Measurement:
    """The measurement that the options of `glocal eval` ask for."""
    args: dict[str, Any] = {"flip": config.flip}
    if config.window is not None:
        window = None if config.window == "none" else window_of(config.window)
        if window is not None and trained.task_args["head"] == "mask2former":
            raise InvalidValueError("--window is for heads that give logits, and mask2former gives masks of queries")
        args["window"] = window
    found, scales = of_data(config, trained), scales_of(config.scales)
    for each in found.passes:
        each.args = args
        if scales:
            each.transform = MeasuringTransform(each.preprocessing, scales)
        if config.boundary:
            each.metrics = SegmentationMetrics(each.match.class_names, boundary=True)
    how = {"flip": config.flip or None, "scales": scales or None, "window": args.get("window")}
    return replace(found, facts=found.facts | {name: value for name, value in how.items() if value})
