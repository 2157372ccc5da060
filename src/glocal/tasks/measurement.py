"""The passes of a measurement over the images of a data set."""

import logging
from dataclasses import replace
from typing import Any

from glocal.data.open import format_of, open_for_evaluation
from glocal.data.preprocessing import Preprocessing
from glocal.data.samples import DataSource, Opening
from glocal.errors import InvalidValueError
from glocal.tasks.loading import check_input_size
from glocal.tasks.registry import all_formats, find_task
from glocal.tasks.task import Match, Measurement, Pass, Task, Trained
from glocal.trust import leads_out, texts_in
from glocal.wording import quoted

log = logging.getLogger(__name__)


def of_data(config: Any, trained: Trained) -> Measurement:
    """A pass over the data that `glocal eval` names, or a pass for each of several sizes."""
    source, split = opened(config, trained)
    task = task_of(source, trained)
    if config.plots is not None and type(task).plots is Task.plots and config.sizes is None:
        raise InvalidValueError(f"--plots: a measurement of {task.name} has no pictures, but for those of --sizes")
    passes = [
        new_pass(source.splits[split], preprocessing, task, task.match(source, trained), about=source.about)
        for preprocessing in inputs(config, trained)
    ]
    return Measurement(passes, {"split": split})


def opened(config: Any, trained: Trained) -> tuple[DataSource, str]:
    """The data that `glocal eval` names, opened as that of the training, and the split to measure on."""
    about = trained.info.data if trained.info else {}
    args = config.data_args or _args_of_file(about.get("args") or {}, config.data, trained.task)
    source, split = open_for_evaluation(
        config.data, config.split, about.get("held_out"), Opening(args=args), all_formats(trained.task)
    )
    note(source)
    return source, split


def _args_of_file(args: dict, data: str, task: Task) -> dict:
    """The arguments that a checkpoint of a task gives for the layout of its data, as far as it may do so for `data`.

    Where the user names the data, and a stranger's file the arguments, these name nothing outside the data.
    """
    if not args:
        return {}
    known = getattr(format_of(data, all_formats(task), args), "ARGS", ())
    if not set(args) <= set(known):
        log.warning("%s has another layout than the data of the training: opened without %s", data, quoted(list(args)))
        return {}
    for name, value in args.items():
        for text in filter(leads_out, texts_in(value)):
            raise InvalidValueError(
                f"the checkpoint says --data-args {name}: {text!r}, which is outside its data: type --data-args"
            )
    shown = ", ".join(f"{name}: {value}" for name, value in args.items())
    log.warning("%s is opened with --data-args {%s}, as the checkpoint says", data, shown)
    return args


def task_of(source: DataSource, trained: Trained) -> Task:
    """The task by which a model is measured on a data set; ValueError if the model cannot do the data's task."""
    task = find_task(source.task)
    if not trained.task.measures_on(task):
        raise InvalidValueError(
            f"{source.name} is for {task.name}, and {trained.name} was trained for {trained.task.name}"
        )
    return task


def note(source: DataSource) -> None:
    """Log what the user should know about the data."""
    for text in source.notes:
        log.warning(text)


def new_pass(samples, preprocessing: Preprocessing, task: Task, match: Match, **changes) -> Pass:
    """A pass with the transform and the metrics of a task. changes: fields that replace these."""
    transform = task.transform(preprocessing, match.class_names)
    metrics = task.metrics(match.class_names)
    return replace(Pass(samples, preprocessing, transform, metrics, match, task), **changes)


def inputs(config: Any, trained: Trained) -> list[Preprocessing]:
    """The model's own preprocessing, or with the size of --img-size, or one for each size of --sizes."""
    own = Preprocessing(**trained.preprocessing)
    sizes = config.size_list() or ([] if config.img_size is None else [config.img_size])
    resized = [own.resized(size) for size in sizes]
    for preprocessing in resized:
        option = "--sizes" if config.sizes else "--img-size"
        check_input_size(trained.task.outputs(trained.model), preprocessing.input_size, option)
    return resized or [own]
