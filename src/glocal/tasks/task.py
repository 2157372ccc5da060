"""What a task is. The only page to read before you add one; imports no torch.

A task puts a head on a backbone, trains it, measures it, and says what its outputs mean. It is an object of a subclass
of `Task`, registered with `glocal.register_task`. Everything else in the library asks the task and knows nothing of
classes, boxes or masks. Training, `eval`, `predict`, `export`, `serve`, `bench` and bulk work then take it.

A task's methods import torch when they are called, so that `glocal train --help` answers at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image
    from torch import Tensor, nn

    from glocal.data.batch import Batch, Transform
    from glocal.data.geometry import Geometry
    from glocal.data.image import UnreadableImageError
    from glocal.data.open import Format
    from glocal.data.preprocessing import Augmentation, Preprocessing
    from glocal.data.samples import DataSource, Samples
    from glocal.data.shards import ShardedSamples
    from glocal.tasks.description import CheckpointInfo
    from glocal.tasks.metrics import Metrics


@dataclass(frozen=True)
class Measure:
    """A number that says how good a model is.

    key: its name in files. title: its name for people. unit: stands behind the number, with a space where it needs one.
    digits: shown after the decimal point.
    """

    key: str
    title: str
    unit: str = ""
    digits: int = 2
    higher_is_better: bool = True

    def shown(self, value: float) -> str:
        """The value for people, with its unit."""
        return f"{value:,.{self.digits}f}{self.unit}"


LOSS = Measure("loss", "loss", digits=4, higher_is_better=False)  # of every task


class Line(NamedTuple):
    """A line of a result for people: what, its value as text, and as a share of 1 where it is one."""

    text: str
    value: str
    share: float | None = None


@dataclass(frozen=True)
class Result:
    """What a task says of one image; a subclass adds the fields that the task's `fields` names.

    source: the image's path or name, "" for one from memory. error: why it could not be read; the task's own fields
    then have their defaults.
    """

    source: str = ""
    error: "UnreadableImageError | None" = None

    def lines(self) -> list[Line]:
        """The result for people, for the terminal, the page and `draw`; at least one line."""
        raise NotImplementedError

    def draw(self, image: "Image.Image") -> "Image.Image":
        """The RGB image with the result on it; by default its lines in the top left corner."""
        from glocal.tasks.drawing import write_lines

        return write_lines(image, self.lines())


@dataclass(frozen=True)
class Trained:
    """A model with its weights, ready for use.

    class_names: as the data calls them (folder names; WordNet ids for ImageNet), one per output of a classifier; empty
    for a task without classes. descriptions: the same for people to read. preprocessing: fields of
    `glocal.data.preprocessing.Preprocessing`. info: None for weights that `glocal train` did not write.
    """

    model: "nn.Module"
    name: str
    task: "Task"
    class_names: list[str]
    descriptions: list[str]
    preprocessing: dict
    info: "CheckpointInfo | None" = None


@dataclass(frozen=True)
class Match:
    """How a data set's annotations belong to a model's outputs.

    class_names: of the outputs that are measured. apply: outputs and targets of a batch to those for the metrics.
    """

    class_names: list[str]
    apply: Callable[[Any, Any], tuple[Any, Any]] = lambda outputs, targets: (outputs, targets)


@dataclass
class Pass:
    """Once through some images. condition: what tells it from the others of its measurement."""

    samples: "Samples | ShardedSamples"
    preprocessing: "Preprocessing"
    transform: "Transform"
    metrics: "Metrics"
    match: Match
    task: "Task"
    condition: tuple | None = None
    seconds: float = 0.0
    unreadable: list[str] = field(default_factory=list)

    def batches(self, batch_size: int, workers: int | None) -> "Iterator[Batch]":
        """The images in batches; keeps in `unreadable` why some could not be read."""
        from glocal.data.loaders import evaluation_loader

        for batch in evaluation_loader(self.samples, self.transform, batch_size, workers, targets=self.task.collate):
            self.unreadable += batch.skipped
            yield batch

    def update(self, outputs: "Tensor | Sequence[Tensor]", targets: Any) -> None:
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

    task: "Task"
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


class ResultTable(NamedTuple):
    """A table for the terminal: heading, titles of the columns, and rows of cells; `left` columns are not numbers."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclass(frozen=True)
class NoOptions:
    """A task without options of its own."""


class Objective(ABC):
    """What a training minimises."""

    @abstractmethod
    def __call__(self, model: "nn.Module", batch: "Batch") -> "dict[str, Tensor]":
        """The parts of the loss by name, and their sum or mean, which is minimised, as "loss"."""

    def to(self, device) -> None:
        """Bring what the loss needs to the device of the training; by default nothing."""
        return


class Task(ABC):
    """The base class of tasks.

    name: in files and for --task. summary: what it does, for people.
    Options: a torch-free frozen dataclass of training options; they become options of `glocal train`, and its docstring
        their help. EvalOptions: the same for `glocal eval`.
    measures: all that are ever reported; the first chooses the epoch to keep.
    fields: the columns of a result, each with its type (str, int, float, or a list of one of them), as attributes of
        `result_class`.
    headings: of the two columns of a result's lines.
    ranks: whether a result holds several answers, the likeliest first; `top_k` then says how many.
    output_names: of the tensors that `outputs` gives.
    old_mark: the key by which version 0.1 marked its checkpoints' data.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    EvalOptions: ClassVar[type] = NoOptions
    result_class: ClassVar[type[Result]] = Result
    measures: ClassVar[Sequence[Measure]]
    fields: ClassVar[dict[str, Any]]
    headings: ClassVar[tuple[str, str]] = ("result", "value")
    ranks: ClassVar[bool] = False
    output_names: ClassVar[Sequence[str]] = ("logits",)
    old_mark: ClassVar[str | None] = None

    @property
    def formats(self) -> "Sequence[Format]":
        """The data layouts that the task reads, in the order in which they are asked; by default the library's."""
        from glocal.data.open import FORMATS

        return FORMATS

    # The model

    @abstractmethod
    def num_outputs(self, class_names: list[str]) -> int:
        """How many outputs the classifier of a backbone gets; 0 for none, where `model` adds a head."""

    def model(self, backbone: "nn.Module", class_names: list[str]) -> "nn.Module":
        """The backbone with the task's head. Called again, also on the meta device, to load a checkpoint."""
        return backbone

    def outputs(self, model: "nn.Module") -> "nn.Module":
        """What is exported, compiled, served and measured: images (B, C, H, W) to a tensor or a list of tensors."""
        return model

    # Training

    def augmentation(self, options: Any, source: "DataSource", preprocessing: "Preprocessing") -> "Augmentation | None":
        """The random changes of training images; by default none."""
        return None

    @abstractmethod
    def transform(
        self, preprocessing: "Preprocessing", class_names: list[str], augmentation: "Augmentation | None" = None
    ) -> "Transform":
        """From an RGB image and its annotation to an `Example`: with an augmentation for training."""

    def collate(self, targets: list) -> Any:
        """The targets of a batch put together; by default numbers and tensors as a tensor (B, …)."""
        from torch.utils.data import default_collate

        return default_collate(targets)

    def check(self, options: Any, source: "DataSource", images_at_once: int) -> None:
        """Raise ValueError for options that exclude each other, or do not suit the data. Called before training.

        images_at_once: how many images a device computes at a time.
        """
        return

    def sample_weights(self, options: Any, samples: "Samples") -> "Tensor | None":
        """How often each sample is drawn, (N,); None to take each once per epoch."""
        return None

    @abstractmethod
    def objective(self, options: Any, source: "DataSource", preprocessing: "Preprocessing") -> Objective:
        """What a training minimises. options: those of the run, with the fields of `Options` among them."""

    @abstractmethod
    def metrics(self, class_names: list[str]) -> "Metrics":
        """How a model is measured, in training's validation and by `glocal eval`."""

    # Measuring

    def measures_on(self, other: "Task") -> bool:
        """Whether a model of this task can be measured on data of another task."""
        return other is self

    def match(self, source: "DataSource", trained: "Trained") -> "Match":
        """How the annotations of a data set belong to a model's outputs; ValueError where they do not."""
        return Match(trained.descriptions)

    def measurement(self, config: Any, trained: "Trained") -> "Measurement | None":
        """What `glocal eval` runs through; by default None: the data, at each size that is asked for.

        config: the options of `glocal eval`, with the fields of `EvalOptions` among them.
        """
        return None

    def tables(self, result: "Measured") -> list[ResultTable]:
        """What the terminal shows of a measurement below the measures; by default nothing."""
        return []

    def plots(self, result: "Measured") -> "dict[str, Figure]":
        """The figures of a measurement, by the name of their file; by default none."""
        return {}

    def plot_texts(self, result: "Measured") -> list[str]:
        """The texts on the figures that come from the data, so that a font with their letters is taken."""
        return []

    # Results

    @abstractmethod
    def results(
        self, outputs: "Sequence[Tensor]", geometry: "Sequence[Geometry]", class_names: list[str], top_k: int
    ) -> list[Result]:
        """A result for each image of a batch, without its source.

        outputs: the tensors of `outputs`, each (B, …). class_names: for people to read. top_k: how many answers to give
        for an image, where a result ranks several. Raises RuntimeError for NaN and infinity.
        """

    @property
    def answer_fields(self) -> dict[str, Any]:
        """The fields of a result in the service's answers, with their types; by default `fields`."""
        return self.fields

    def columns(self, top_k: int) -> list[str]:
        """The columns of a CSV file, without source and error; by default the names of `fields`."""
        return list(self.fields)

    def cells(self, result: Result) -> list[str | float]:
        """The cells of a readable image in these columns; there may be fewer than columns."""
        return [getattr(result, name) for name in self.fields]

    def metadata(self, class_names: list[str], descriptions: list[str]) -> dict[str, Any]:
        """What an exported file says of its outputs, ready for JSON."""
        return {"class_names": class_names, "descriptions": descriptions} if class_names else {}

    @property
    def headline(self) -> Measure:
        """The measure that chooses the epoch to keep."""
        return self.measures[0]

    def rank(self, values: dict[str, float]) -> tuple[float, float]:
        """Larger for a better model: by the headline, and for equal ones by the loss."""
        value = values[self.headline.key]
        return value if self.headline.higher_is_better else -value, -values.get("loss", 0.0)
