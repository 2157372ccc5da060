"""The interface of a task. To add a task, you need to read only this file. It imports no torch.

A task puts a head on a backbone, trains it, measures it, and says what its outputs mean. It is an object of a subclass
of `Task`, registered with `glocal.register_task`. Then training, `eval`, `predict`, `export`, `serve`, `bench` and bulk
predictions work with it: they ask the task, and know nothing about classes, boxes or masks.

A task's methods import torch when they are called, so that `glocal train --help` answers at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from glocal.errors import InvalidValueError

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure
    from PIL import Image
    from torch import Tensor, nn

    from glocal.data.batch import Batch, Transform
    from glocal.data.geometry import Geometry
    from glocal.data.image import UnreadableImageError
    from glocal.data.open import Format
    from glocal.data.preprocessing import Preprocessing
    from glocal.data.samples import DataSource, Samples
    from glocal.data.shards import ShardedSamples
    from glocal.data.tiles import Tile
    from glocal.tasks.description import CheckpointInfo
    from glocal.tasks.metrics import Metrics


@dataclass(frozen=True)
class Measure:
    """A number that says how good a model is.

    key: its name in files. title: its name for people. unit: written behind the number, with its space. digits:
    number of digits after the decimal point.
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
    """A line of a result for people: a text and its value as text.

    share: the value as a number in 0…1, if it is a share. color: "#rrggbb" of what the line is about, in `overlay`.
    """

    text: str
    value: str
    share: float | None = None
    color: str | None = None


@dataclass(frozen=True)
class Result:
    """A task's result for one image; a subclass adds the fields that the task's `fields` names.

    source: the image's path or name, "" for an image from memory. error: why the image could not be read; then the
    task's own fields have their defaults. frame, seconds: of an image of a video, its number and time.
    """

    source: str = ""
    error: "UnreadableImageError | None" = None
    frame: int | None = field(default=None, kw_only=True)
    seconds: float | None = field(default=None, kw_only=True)

    def lines(self) -> list[Line]:
        """The result for people: in the terminal, on the page and in `draw`; at least one line."""
        raise NotImplementedError

    def draw(self, image: "Image.Image") -> "Image.Image":
        """The RGB image with the result drawn on it; by default `lines` in the top left corner."""
        from glocal.tasks.drawing import write_lines

        return write_lines(image, self.lines())

    def captioned(self, image: "Image.Image") -> "Image.Image":
        """The RGB image with the result drawn on it, as far as it has a place there, and `lines` below it.

        image: the result's image, at any size.
        """
        from glocal.tasks.drawing import Entry, with_caption

        drawn = image if type(self).draw is Result.draw else self.draw(image)
        return with_caption(drawn, [Entry(f"{line.text}  {line.value}") for line in self.lines()])

    def overlay(self) -> "Image.Image | None":
        """What to show above the upright image, an RGBA image of its size; None if `draw` shows all there is."""
        return None


@dataclass(frozen=True)
class Trained:
    """A model with its weights, ready for use.

    class_names: the names in the data (folder names; WordNet ids for ImageNet), one per output of a classifier; empty
    if the task has no classes. descriptions: the same classes in words for people. preprocessing: fields of
    `glocal.data.preprocessing.Preprocessing`. info: None for weights that `glocal train` did not write.
    """

    model: "nn.Module"
    name: str
    task: "Task"
    class_names: list[str]
    descriptions: list[str]
    preprocessing: dict
    info: "CheckpointInfo | None" = None
    task_args: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Match:
    """How a data set's annotations correspond to a model's outputs.

    class_names: names of the measured outputs. apply: maps a batch's outputs and targets to the metrics' inputs.
    """

    class_names: list[str]
    apply: Callable[[Any, Any], tuple[Any, Any]] = lambda outputs, targets: (outputs, targets)


@dataclass
class Pass:
    """A single pass over some images.

    condition: tells it from the other passes of its measurement. args: what `Task.predict` gets. about: of the
    `DataSource`. indices: places of the measured images in the samples, in their order; None: they are not kept.
    """

    samples: "Samples | ShardedSamples"
    preprocessing: "Preprocessing"
    transform: "Transform"
    metrics: "Metrics"
    match: Match
    task: "Task"
    condition: tuple | None = None
    args: dict = field(default_factory=dict)
    about: dict = field(default_factory=dict)
    seconds: float = 0.0
    unreadable: list[str] = field(default_factory=list)
    indices: list[int | None] | None = None

    def batches(self, batch_size: int, workers: int | None) -> "Iterator[Batch]":
        """The images in batches; adds to `unreadable` the files that could not be read, with the reasons."""
        from glocal.data.loaders import evaluation_loader

        for batch in evaluation_loader(self.samples, self.transform, batch_size, workers, targets=self.task.collate):
            self.unreadable += batch.skipped
            if self.indices is not None:
                self.indices += batch.indices
            yield batch

    @property
    def scores_images(self) -> bool:
        """Whether there will be a score for each image."""
        from glocal.tasks.metrics import Metrics

        return self.task.score is not None and type(self.metrics).scores is not Metrics.scores

    def update(self, outputs: "Tensor | Sequence[Tensor]", targets: Any) -> None:
        """Add a batch to the metrics. outputs: what `Task.predict` gives. targets: as in the data."""
        self.metrics.update(*self.match.apply(outputs, targets))

    def values(self) -> dict:
        """All values of the pass, with its speed."""
        return {**self.metrics.report(), "images_per_second": self.metrics.images / self.seconds}


@dataclass(frozen=True)
class Measurement:
    """The passes of a measurement, and how they become results.

    facts: facts about the data, known before the passes. results: computes each result from the passes, as (pass,
    values); by default, a result per pass.
    """

    passes: list[Pass]
    facts: dict
    results: Callable[[list[Pass]], list[tuple[Pass, dict]]] = lambda passes: [(one, one.values()) for one in passes]


@dataclass(frozen=True)
class Measured:
    """The result of a measurement. The entries of `values` are attributes, too.

    images: number of measured images. unreadable: the files that could not be read, with the reasons.
    images_per_second: includes reading. values: the task's measures by key, and everything else its metrics report.
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
        """All fields, ready for JSON; the task's measures come before the other values."""
        names = {"unreadable": "unread"}  # the key in files, since version 0.1
        facts = {names.get(name, name): fact for name, fact in vars(self).items() if name not in ("task", "values")}
        facts = {"task": self.task.name, **facts}
        keys = [measure.key for measure in self.task.measures]
        order = sorted(self.values, key=lambda name: keys.index(name) if name in keys else len(keys))
        return facts | {name: self.values[name] for name in order}


class ResultTable(NamedTuple):
    """A table for the terminal. columns: titles. rows: cells. left: how many columns, from the left, hold text."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


class Writer(NamedTuple):
    """A kind of files that hold results, for `glocal predict --save KIND=PLACE`.

    write: takes results one by one, writes them, and passes them on; it keeps none, as they may be millions. Its second
    argument is the place: a folder, which is there, or a file, which appears when it is complete
    (`glocal.files.written_atomically`). about: what is written, for people. endings: of the file; none for a folder.
    georeferenced: whether it is for images in georeferenced files alone; it then refuses others by a `UserError`.
    """

    write: "Callable[[Iterator[Result], Path, Trained], Iterator[Result]]"
    about: str
    endings: tuple[str, ...] = ()
    georeferenced: bool = False


@dataclass(frozen=True)
class NoOptions:
    """A task without options of its own."""


class Objective(ABC):
    """The loss that a training minimises."""

    @abstractmethod
    def __call__(self, model: "nn.Module", batch: "Batch") -> "dict[str, Tensor]":
        """Numbers by name: "loss" is what the training minimises; the log has the mean of any other as train_NAME."""

    def to(self, device) -> None:
        """Move the objective's tensors and modules to the device of the training; by default it has none."""
        return


class Task(ABC):
    """The base class of tasks.

    name: the name in files and for --task. summary: what the task does, for people.
    Options: a frozen dataclass of training options, without torch; the fields become options of `glocal train`, and the
        docstring their help. EvalOptions: the same for `glocal eval`.
    measures: all measures that the task reports; the first chooses the epoch to keep.
    fields: the columns of a result and their types (str, int, float, or a list, or a list of lists, of one of them);
        also attributes of `result_class`.
    headings: titles of the two columns of a result's lines.
    ranks: whether a result holds several answers, the most probable first; then `top_k` is their number.
    output_names: names of the tensors that `outputs` returns, unless the model has such an attribute of its own.
    score: what the metrics' `scores` say of a single image; None if they give none.
    training_batch, images_at_once: default numbers of images in a batch, for training, and for measuring and
        predicting; None: the command's own. A task whose images have sizes of their own predicts them one by one.
    training_crops: whether training images have the input size of the preprocessing; else each has a size of its own.
    old_mark: the key by which version 0.1 marked the task in a checkpoint's part on the data.
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
    score: ClassVar[Measure | None] = None
    training_batch: ClassVar[int | None] = None
    images_at_once: ClassVar[int | None] = None
    training_crops: ClassVar[bool] = True
    old_mark: ClassVar[str | None] = None

    @property
    def formats(self) -> "Sequence[Format]":
        """The data formats that the task reads, in the order to try them; by default the library's formats."""
        from glocal.data.open import FORMATS

        return FORMATS

    # The model

    @abstractmethod
    def num_outputs(self, class_names: list[str]) -> int:
        """Number of outputs of the backbone's classifier; 0 for no classifier, if `model` adds a head."""

    def backbone(self, name: str, class_names: list[str], pretrained: bool = False, **arguments) -> "nn.Module":
        """The backbone that `model` takes; by default timm's model of this name, with its classifier.

        A task that overrides it also overrides `load`. pretrained: with the published weights.
        """
        from glocal.tasks.creation import create_model

        return create_model(name, num_classes=self.num_outputs(class_names), pretrained=pretrained, **arguments)

    def model_args(self, options: Any, source: "DataSource") -> dict[str, Any]:
        """What `model` and the results need beside the classes, ready for JSON; by default nothing.

        It is kept in the file of a run. options, source: of the training.
        """
        return {}

    def check_model_args(self, args: dict[str, Any]) -> None:
        """Raise ValueError if a file may not give these arguments, which `model` gets; by default, for any."""
        if args:
            raise InvalidValueError(f"the task {self.name} has no arguments, and the file gives {', '.join(args)}")

    def model(self, backbone: "nn.Module", class_names: list[str], **args) -> "nn.Module":
        """The backbone with the task's head. Loading a checkpoint calls it again, also on the meta device.

        args: those of `model_args`.
        """
        return backbone

    def load(self, model: "nn.Module", name: str, path: "Path", args: dict[str, Any]) -> None:
        """Start a training from a file that is no run of the same task and classes.

        Loads all weights that fit into the model, and logs what starts anew. name: of the backbone. args: those of
        `model_args`. Only for tasks with a `backbone` of their own.
        """
        raise NotImplementedError

    def outputs(self, model: "nn.Module") -> "nn.Module":
        """The module to export, compile, serve and measure: images (B, C, H, W) to a tensor or a list of tensors.

        If it has the attribute `takes_sizes`, true, `predict` may give it a second argument: (B, 2) int64, height and
        width of the part of each image that is no padding. Without it, nothing is padding. Such a module gives objects,
        whose number depends on the image; files of it take an image at a time. Therefore it has two more methods:
        `joined(parts)`, the outputs for a batch from those for its images one by one; and `difference(expected,
        found)` of the outputs for some batches, in standard deviations, by which files are compared with the module.
        """
        return model

    def preprocessing(self, model: "nn.Module", options: Any, img_size: int | None) -> "Preprocessing":
        """How images come to the model; by default what the model's configuration says, and --crop-pct, --crop-mode.

        img_size: that of --img-size, else the data's own; None: the model's.
        """
        from glocal.data.preprocessing import Preprocessing

        found = Preprocessing.of_model(model, img_size)
        crop = {"crop_pct": options.crop_pct, "crop_mode": options.crop_mode}
        return replace(found, **{name: value for name, value in crop.items() if value is not None})

    def predict(
        self, compute: "Callable[..., Tensor | Sequence[Tensor]]", batch: "Batch", args: dict[str, Any]
    ) -> "Tensor | Sequence[Any]":
        """What `metrics` and `results` take for a batch of B ≥ 1 images; by default compute(batch.images).

        A task may compute an image in parts, or at several scales. compute: the module of `outputs`, or the same
        compiled. args: those of `model_args`, and over them what `glocal eval` asks for. Returns a tensor (B, …), or a
        list of tensors and of lists with an entry for each image.
        """
        return compute(batch.images)

    # Training

    def augmentation(self, options: Any, source: "DataSource", preprocessing: "Preprocessing") -> Any:
        """What `transform` gets for training images, not None if it changes them; by default None."""
        return None

    @abstractmethod
    def transform(
        self, preprocessing: "Preprocessing", class_names: list[str], augmentation: Any = None
    ) -> "Transform":
        """Maps an RGB image and its annotation to an `Example`. augmentation: given for training only."""

    def collate(self, targets: list) -> Any:
        """Collate the targets of a batch; by default, numbers and tensors become a tensor (B, …)."""
        from torch.utils.data import default_collate

        return default_collate(targets)

    def draw_target(
        self, image: "Image.Image", target: Any, class_names: list[str], args: dict[str, Any]
    ) -> "Image.Image":
        """The RGB image with a target drawn on it, as far as it has a place there, and the rest in lines below it.

        image: what the target is of, at any size. target: of one example, as `transform` gives it; by default, its
        numbers are written. class_names: for people. args: those of `model_args`.
        """
        from glocal.tasks.drawing import Entry, text_of, with_caption

        return with_caption(image, [Entry(text_of(target))])

    def check(self, options: Any, images_at_once: int) -> None:
        """Raise ValueError if options exclude each other or do not suit the batches. Called before training.

        images_at_once: number of images that a device computes at a time.
        """
        return

    def training_samples(self, options: Any, samples: "Samples | ShardedSamples") -> "Samples | ShardedSamples":
        """The samples of a training part that the options leave; by default all. Logs how many are left out."""
        return samples

    def sample_weights(self, options: Any, samples: "Samples") -> "Tensor | None":
        """A weight per sample, (N,), to draw with replacement; None to take each sample once per epoch."""
        return None

    def sample_groups(self, options: Any, samples: "Samples") -> "Tensor | None":
        """A group for each sample, (N,) int64, so that a batch is of one group where it can be; None: no groups."""
        return None

    @abstractmethod
    def objective(self, options: Any, source: "DataSource", preprocessing: "Preprocessing") -> Objective:
        """The loss of a training. options: the run's options, which include the fields of `Options`."""

    @abstractmethod
    def metrics(self, class_names: list[str]) -> "Metrics":
        """The metrics of a model, for the validation in training and for `glocal eval`."""

    # Measuring

    def measures_on(self, other: "Task") -> bool:
        """Whether a model of this task can be measured on data of another task."""
        return other is self

    def match(self, source: "DataSource", trained: "Trained") -> "Match":
        """How a data set's annotations correspond to the model's outputs; ValueError if they do not."""
        return Match(trained.descriptions)

    def measurement(self, config: Any, trained: "Trained") -> "Measurement | None":
        """The measurement of `glocal eval`; by default None: a pass over the data for each image size.

        config: the options of `glocal eval`, which include the fields of `EvalOptions`.
        """
        return None

    def draw_comparison(
        self, image: "Image.Image", target: Any, result: Result, class_names: list[str], args: dict[str, Any]
    ) -> "Image.Image":
        """An image with its target on the left, and with a result on the right; arguments as in `draw_target`.

        target: as `match` gives it, whose classes are `class_names`.
        """
        from glocal.tasks.drawing import Entry, beside, with_caption

        panels = {"truth": self.draw_target(image, target, class_names, args), "prediction": result.captioned(image)}
        return beside([with_caption(panel, [Entry(name)], above=True) for name, panel in panels.items()])

    def tables(self, result: "Measured") -> list[ResultTable]:
        """The tables that the terminal shows below the measures; by default none."""
        return []

    def plots(self, result: "Measured") -> "dict[str, Figure]":
        """The figures of a measurement, by the names of their files; by default none."""
        return {}

    def plot_texts(self, result: "Measured") -> list[str]:
        """The texts in the figures that come from the data; fonts are chosen by their letters."""
        return []

    # Results

    @abstractmethod
    def results(
        self, outputs: "Sequence[Any]", geometry: "Sequence[Geometry]", trained: "Trained", top_k: int
    ) -> list[Result]:
        """A result for each image of a batch, without its source.

        outputs: what `predict` gives, as a list on the CPU. trained: `trained.descriptions` are the classes for people.
        top_k: answers per image, if the task ranks answers. Raises RuntimeError if an output is NaN or infinite.
        """

    def join(self, parts: "Iterable[tuple[Tile, Result]]", size: tuple[int, int], trained: "Trained") -> Result:
        """The result of a large image from those of its tiles; by default ValueError: the task takes whole images.

        parts: tiles with their results, without errors; they are made one after the other. size: (height, width).
        """
        raise InvalidValueError(f"--tile: the task {self.name} takes whole images")

    @property
    def answer_fields(self) -> dict[str, Any]:
        """The fields of a result in the service's answers, with their types; by default `fields`."""
        return self.fields

    def columns(self, top_k: int) -> list[str]:
        """The columns of a CSV file, without source and error; by default the names of `fields`."""
        return list(self.fields)

    def cells(self, result: Result) -> list[str | float]:
        """The cells of a readable image, in the order of `columns`; they may be fewer than the columns."""
        return [getattr(result, name) for name in self.fields]

    @property
    def writers(self) -> Mapping[str, Writer]:
        """Kinds of files, beside tables and pictures, that results can be written to, by name; by default none."""
        return {}

    def metadata(self, trained: "Trained") -> dict[str, Any]:
        """The metadata on the outputs in an exported file, ready for JSON."""
        names, descriptions = trained.class_names, trained.descriptions
        return {"class_names": names, "descriptions": descriptions} if names else {}

    @property
    def headline(self) -> Measure:
        """The measure that chooses the epoch to keep."""
        return self.measures[0]

    def rank(self, values: dict[str, float]) -> tuple[float, float]:
        """Larger for a better model: compares the headline measure; if that is equal, the loss."""
        value = values[self.headline.key]
        return value if self.headline.higher_is_better else -value, -values.get("loss", 0.0)
