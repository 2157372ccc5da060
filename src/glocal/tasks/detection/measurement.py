"""Measurements of detection."""

from dataclasses import replace
from typing import Any

import torch

from glocal.data.samples import DataSource
from glocal.tasks.matching import outputs_of
from glocal.tasks.measurement import of_data
from glocal.tasks.task import Match, Measurement, Trained


def match(source: DataSource, trained: Trained) -> Match:
    """Match classes by name: the data may lack some of the model's classes."""
    places = torch.tensor(outputs_of(source, trained))

    def apply(outputs, targets):
        return outputs, [
            target | {"labels": places.to(target["labels"].device)[target["labels"]]} for target in targets
        ]

    return Match(trained.descriptions, apply)


def measurement(config: Any, trained: Trained) -> Measurement:
    """The measurement that the options of `glocal eval` ask for."""
    asked = {} if config.score_threshold is None else {"score_threshold": config.score_threshold}
    found, args = of_data(config, trained), trained.task_args | asked
    for each in found.passes:
        each.args = asked
        each.metrics.threshold = args["score_threshold"]
        each.metrics.voc = config.voc or "voc" in each.about
    return replace(found, facts=found.facts | asked)
