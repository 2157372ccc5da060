"""Measurements of classification: data sets, ImageNet's robustness sets, and corrupted images."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glocal.data.corruptions import (
    ALEXNET_ERROR,
    SEVERITIES,
    Corruption,
    check_corruptions,
    corrupt_transform,
    corruption_error,
)
from glocal.data.samples import DataSource
from glocal.errors import InvalidValueError
from glocal.tasks.classification.metrics import AcceptedLabelsMetrics
from glocal.tasks.classification.robustness import (
    SUBSETS,
    imagenet_classes,
    open_corrupted,
    open_real,
    open_robustness_set,
)
from glocal.tasks.matching import display_names, outputs_of
from glocal.tasks.measurement import inputs, new_pass, note, opened, task_of
from glocal.tasks.task import Match, Measurement, Pass, Task, Trained

log = logging.getLogger(__name__)


def match(source: DataSource, trained: Trained, subset: bool = False) -> Match:
    """Match classes by name. subset: the model can predict only the data's classes."""
    outputs = outputs_of(source, trained)
    if subset:
        return Match(display_names(trained, outputs), lambda logits, labels: (logits[:, outputs], labels))
    places = torch.tensor(outputs)
    names = display_names(trained, range(len(trained.class_names)))
    return Match(names, lambda logits, labels: (logits, places.to(labels.device)[labels]))


def measurement(config: Any, trained: Trained) -> Measurement | None:
    """The measurement of --set or of --corruptions; None without both."""
    if config.set == "imagenet-c":
        return of_imagenet_c(config, trained)
    if config.set == "real":
        return of_real(config, trained)
    if config.set is not None:
        return of_robustness_set(config, trained)
    return with_corruptions(config, trained) if config.corruptions else None


def of_robustness_set(config: Any, trained: Trained) -> Measurement:
    """ImageNet-A, -R, -Sketch or -V2."""
    source = open_robustness_set(config.set, Path(config.data), trained.class_names)
    note(source)
    task, matched = task_of(source, trained), match(source, trained, config.set in SUBSETS)
    samples = source.splits["all"]
    passes = [new_pass(samples, preprocessing, task, matched) for preprocessing in inputs(config, trained)]
    return Measurement(passes, {"split": "all", "set": config.set})


def of_real(config: Any, trained: Trained) -> Measurement:
    """ImageNet's validation images with the accepted labels of each."""
    samples, accepted, unlabelled = open_real(Path(config.data))
    known = {name: output for output, name in enumerate(trained.class_names)}
    ids = imagenet_classes()
    if not set(ids) <= set(known):
        raise InvalidValueError(f"--set real needs a model of ImageNet's 1000 classes, and {trained.name} is none")
    table = torch.zeros(len(accepted), len(ids), dtype=torch.bool)
    for place, labels in enumerate(accepted):
        table[place, list(labels)] = True
    outputs = [known[name] for name in ids]

    def apply(logits: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        return logits[:, outputs], table[places.cpu()].to(logits.device)

    matched = Match(list(ids), apply)
    passes = [
        new_pass(samples, preprocessing, trained.task, matched, metrics=AcceptedLabelsMetrics(ids))
        for preprocessing in inputs(config, trained)
    ]
    return Measurement(passes, {"split": "all", "set": config.set, "unlabelled": unlabelled})


def with_corruptions(config: Any, trained: Trained) -> Measurement:
    """A data set without changes, and with each corruption and severity, which are made on the fly."""
    source, split = opened(config, trained)
    task = task_of(source, trained)
    if task is not trained.task:
        raise InvalidValueError("--corruptions measures the error of one label per image, and the data has several")
    (preprocessing,) = inputs(config, trained)
    names = config.corruption_list()
    check_corruptions(names, preprocessing.input_size)
    made = partial(new_pass, source.splits[split], preprocessing, task, match(source, trained))
    passes = [made()]
    for condition in [(name, severity) for name in names for severity in SEVERITIES]:
        corrupted = made(condition=condition)
        corrupted.transform.path = corrupt_transform(corrupted.transform.path, Corruption(*condition))
        passes.append(corrupted)
    imagenet = _is_imagenet(source)

    def results(passes: list[Pass]) -> list[tuple[Pass, dict]]:
        return [(passes[0], passes[0].values() | _errors(passes[1:], task, imagenet, len(source.class_names)))]

    return Measurement(passes, {"split": split}, results)


def of_imagenet_c(config: Any, trained: Trained) -> Measurement:
    """ImageNet-C on disk. Its images are already cropped."""
    sources = open_corrupted(Path(config.data))
    complete = len(ALEXNET_ERROR) * len(SEVERITIES)
    if len(sources) < complete:
        log.warning(
            "%s holds %d of %d corruptions and severities: there is no mCE", config.data, len(sources), complete
        )
    preprocessing = replace(inputs(config, trained)[0], crop_pct=1.0)
    task, passes = trained.task, []
    for condition, source in sources.items():
        note(source)
        matched = match(source, trained)
        passes.append(new_pass(source.splits["all"], preprocessing, task, matched, condition=condition))
    imagenet = all(map(_is_imagenet, sources.values()))
    classes = min(len(source.class_names) for source in sources.values())

    def results(passes: list[Pass]) -> list[tuple[Pass, dict]]:
        found = [each.values() for each in passes]
        total = sum(values["images"] for values in found)
        keys = [measure.key for measure in task.measures if all(measure.key in values for values in found)]
        means = {key: sum(values[key] * values["images"] for values in found) / total for key in keys if key != "ece"}
        speed = total / sum(each.seconds for each in passes)
        together = {**means, "images": total, "images_per_second": speed}
        return [(passes[0], together | _errors(passes, task, imagenet, classes))]

    return Measurement(passes, {"split": "all", "set": config.set}, results)


def _is_imagenet(source: DataSource) -> bool:
    return set(source.class_names) <= set(imagenet_classes())


def _errors(passes: list[Pass], task: Task, imagenet: bool, classes: int) -> dict:
    """The errors of passes by corruption and severity; for ImageNet's classes also relative to AlexNet's errors."""
    if imagenet and classes < len(imagenet_classes()):
        log.warning("AlexNet's errors are of 1000 classes; the data has %d, so that its CE are not comparable", classes)
    errors = {each.condition: 100 - each.metrics.compute()[task.headline.key] for each in passes}
    return corruption_error(errors, imagenet)
