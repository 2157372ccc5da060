"""Measuring a trained model on a data set, for any task."""

import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch

from glocal.data.image import set_strict
from glocal.device import resolve_device
from glocal.errors import InvalidValueError
from glocal.evaluation import pictures
from glocal.evaluation.config import MeasureOptions
from glocal.figures import check_matplotlib
from glocal.files import check_target, make_folder
from glocal.tasks.loading import load_trained
from glocal.tasks.measurement import of_data
from glocal.tasks.registry import refuse_foreign_options
from glocal.tasks.run_files import own_data
from glocal.tasks.task import Measured, Measurement, Pass, Trained
from glocal.wording import printable

log = logging.getLogger(__name__)

Track = Callable[[Iterable, int], Iterable]
BATCH_SIZE = 64


def evaluate(config: MeasureOptions, track: Track | None = None) -> Measured | list[Measured]:
    """Measure a model as an `EvalConfig` says, and write `json`, `plots` and `pictures`.

    With `sizes`, returns a result for each.
    track: passes the batches on and may show the progress; its second argument is their number.

    Classes are matched by name, so the data may lack some of the model's classes. Raises ValueError or OSError if the
    model cannot be measured.
    """
    config, _ = with_data(config)
    _check_outputs(config)
    set_strict(config.strict)
    device = resolve_device(config.device)
    trained = load_trained(config.checkpoint, config.model)
    refuse_foreign_options(config, trained.task, "EvalOptions")
    measurement = trained.task.measurement(config, trained) or of_data(config, trained)
    drawn = None if config.pictures is None else pictures.check(measurement)
    _run(measurement.passes, trained, device, config, track)
    results = _results(measurement, trained, config.data, str(device))
    result = results if config.sizes is not None else results[0]
    if drawn is not None:
        worst = pictures.worst_of(drawn)
        result.values["worst"] = [{"image": printable(one.name), "score": one.score} for one in worst]
        pictures.write(drawn, worst, trained, device, Path(config.pictures))
    if config.json is not None:
        Path(config.json).write_text(_to_json(result), encoding="utf-8")
    if config.plots is not None:
        from glocal.evaluation.plots import draw

        draw(result, Path(config.plots))
    return result


def with_data(config: MeasureOptions) -> tuple[MeasureOptions, Path | None]:
    """The options with the data to measure on. Without data, it is the run's; the file that names it is the second."""
    if config.data is not None:
        return config, None
    if config.checkpoint is None:
        weights = "give --checkpoint, or --model for a model's published weights"
        raise InvalidValueError("give DATA, the images to measure on" if config.model is not None else weights)
    data, args, file = own_data(config.checkpoint)
    return replace(config, data=data, data_args=config.data_args or args), file


def _check_outputs(config: MeasureOptions) -> None:
    """Raise an error, before hours of measuring, if the results cannot be written."""
    if config.json is not None:
        check_target("--json", config.json)
    if config.plots is not None:
        check_matplotlib()
    for option, folder in (("--plots", config.plots), ("--pictures", config.pictures)):
        if folder is not None:
            make_folder(option, folder)


def _run(
    passes: list[Pass], trained: Trained, device: torch.device, config: MeasureOptions, track: Track | None
) -> None:
    """Measure all passes, with a single progress bar."""
    model = trained.task.outputs(trained.model).to(device, memory_format=torch.channels_last).eval()
    batch_size = config.batch_size or trained.task.images_at_once or BATCH_SIZE
    batches = ((each, batch) for each in passes for batch in each.batches(batch_size, config.workers))
    total = sum(-(-len(each.samples) // batch_size) for each in passes)
    with torch.inference_mode():
        start = time.perf_counter()
        for each, batch in batches if track is None else track(batches, total):
            if len(batch):
                batch = batch.to(device)
                batch = replace(batch, images=batch.images.to(memory_format=torch.channels_last))
                each.update(trained.task.predict(model, batch, trained.task_args | each.args), batch.targets)
            now = time.perf_counter()
            each.seconds += now - start
            start = now
    for reason in _unreadable(passes):
        log.warning("skipped %s", reason)
    for each in passes:
        if not each.metrics.images:
            raise InvalidValueError(f"none of the {len(each.samples)} images of {config.data} can be read")


def _unreadable(passes: list[Pass]) -> list[str]:
    return list(dict.fromkeys(reason for each in passes for reason in each.unreadable))


def _results(measurement: Measurement, trained: Trained, data: str, device: str) -> list[Measured]:
    pairs = measurement.results(measurement.passes)
    results = []
    for each, found in pairs:
        values = dict(found)
        images, speed = values.pop("images"), values.pop("images_per_second")
        further = {name: fact for name, fact in measurement.facts.items() if name != "split"}
        results.append(
            Measured(
                task=each.task,
                model=trained.name,
                data=data,
                split=measurement.facts["split"],
                img_size=list(each.preprocessing.input_size[1:]),
                device=device,
                images=images,
                unreadable=_unreadable([each] if len(pairs) > 1 else measurement.passes),
                images_per_second=speed,
                values=further | values,
            )
        )
    return results


def _to_json(result: Measured | list[Measured]) -> str:
    """Indented JSON, but each list of numbers is on a line."""
    values = [each.to_dict() for each in result] if isinstance(result, list) else result.to_dict()
    text = json.dumps(values, indent=2, ensure_ascii=False)
    return re.sub(r"\[\n[-+.,\seE\dnul]*\]", lambda numbers: re.sub(r"\s+", " ", numbers[0]), text) + "\n"
