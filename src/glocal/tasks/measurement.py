"""Measuring a trained model: what is run through, and what comes out."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from glocal.data.batch import Batch, Transform
from glocal.data.loaders import evaluation_loader
from glocal.data.open import open_for_evaluation
from glocal.data.preprocessing import Preprocessing
from glocal.data.samples import DataSource, Samples
from glocal.data.shards import ShardedSamples
from glocal.errors import InvalidValueError
from glocal.tasks.loading import Trained, check_input_size
from glocal.tasks.metrics import Metrics
from glocal.tasks.task import Match, Task, all_formats, find_task

log = logging.getLogger(__name__)


@dataclass
class Pass:
    """Once through some images. condition: what tells it from the others of its measurement."""

    samples: Samples | ShardedSamples
    preprocessing: Preprocessing
    transform: Transform
    metrics: Metrics
    match: Match
    task: Task
    condition: tuple | None = None
    seconds: float = 0.0
    unreadable: list[str] = field(default_factory=list)

    def batches(self, batch_size: int, workers: int | None) -> Iterator[Batch]:
        """The images in batches; keeps in `unreadable` why some could not be read."""
        for batch in evaluation_loader(self.samples, self.transform, batch_size, workers, targets=self.task.collate):
            self.unreadable += batch.skipped
            yield batch

    def update(self, outputs: Tensor | Sequence[Tensor], targets: Any) -> None:
        """Add a batch, whose targets are as the data has them."""
        self.metrics.update(*self.match.apply(outputs, targets))

    def values(self) -> dict:
        """All that is to be said of the pass, with its speed."""
        return {**self.metrics.report(), "images_per_second": self.metrics.images / self.seconds}


@dataclass(frozen=True)
class Measurement:
    """What is run through, and how results are made of it.

    facts: what is known of the data before. results: makes of the passes the values of each result, with the pass that
    it is of; by default one for each pass.
    """

    passes: list[Pass]
    facts: dict
    results: Callable[[list[Pass]], list[tuple[Pass, dict]]] = lambda passes: [(one, one.values()) for one in passes]


@dataclass(frozen=True)
class Measured:
    """The result of a measurement. The values are attributes too.

    images: how many were measured. unreadable: the files that could not be read, with the reasons. images_per_second:
    reading included. values: the task's measures by key, and whatever else its metrics report.
    """

    task: Task
    model: str
    data: str
    split: str
    img_size: list[int]
    device: str
    images: int
    unreadable: list[str]
    images_per_second: float
    values: dict

    def __getattr__(self, name: str):
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(f"the result has no {name!r}") from None

    def to_dict(self) -> dict:
        """All of it, ready for JSON: the task's measures before its further values."""
        names = {"unreadable": "unread"}  # the key in files, since version 0.1
        facts = {names.get(name, name): fact for name, fact in vars(self).items() if name not in ("task", "values")}
        keys = [measure.key for measure in self.task.measures]
        order = sorted(self.values, key=lambda name: keys.index(name) if name in keys else len(keys))
        return facts | {name: self.values[name] for name in order}


def of_data(config: Any, trained: Trained) -> Measurement:
    """A pass through the data that `glocal eval` names, or one for each of several sizes."""
    held_out = trained.info.data.get("held_out") if trained.info else None
    source, split = open_for_evaluation(config.data, config.split, held_out, all_formats())
    note(source)
    task = task_of(source, trained)
    if config.plots is not None and type(task).plots is Task.plots and config.sizes is None:
        raise InvalidValueError(f"--plots: a measurement of {task.name} has no pictures, but for those of --sizes")
    passes = [
        new_pass(source.splits[split], one, task, trained, task.match(source, trained))
        for one in inputs(config, trained)
    ]
    return Measurement(passes, {"split": split})


def task_of(source: DataSource, trained: Trained) -> Task:
    """The task that a model is measured by on a data set; ValueError for data of a task that it cannot do."""
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


def new_pass(samples, preprocessing: Preprocessing, task: Task, trained: Trained, match: Match, **changes) -> Pass:
    """A pass as a task makes it, with changes."""
    transform = task.transform(preprocessing, match.class_names)
    metrics = task.metrics(match.class_names)
    return replace(Pass(samples, preprocessing, transform, metrics, match, task), **changes)


def inputs(config: Any, trained: Trained) -> list[Preprocessing]:
    """The model's own preprocessing, or with another size; one per size of --sizes."""
    own = Preprocessing(**trained.preprocessing)
    sizes = config.size_list() or ([] if config.img_size is None else [config.img_size])
    resized = [replace(own, input_size=(own.input_size[0], size, size)) for size in sizes]
    for one in resized:
        option = "--sizes" if config.sizes else "--img-size"
        check_input_size(trained.task.outputs(trained.model), one.input_size, option)
    return resized or [own]
