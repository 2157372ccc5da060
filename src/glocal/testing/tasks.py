"""`check_task`: the properties that every task must have, checked on any task with a small data set of its own."""

import json
import math
import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from operator import length_hint
from pathlib import Path
from tempfile import TemporaryDirectory
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from glocal.data.batch import Example
from glocal.data.image import UnreadableImageError
from glocal.data.open import open_for_evaluation
from glocal.data.prepare import Prepare
from glocal.data.samples import Samples
from glocal.deploy.config import KIND
from glocal.deploy.graph import axes_of, some_sizes, takes_sizes, trace, with_embedding
from glocal.deploy.runtimes import as_list
from glocal.errors import UserError
from glocal.evaluation.config import MeasureOptions
from glocal.options import joined
from glocal.tasks.metrics import Metrics
from glocal.tasks.task import Line, Measure, Measured, Objective, Result, ResultTable, Task, Writer
from glocal.testing.agreement import difference, failing_as, problem
from glocal.testing.task_case import IMAGES, TaskCase
from glocal.training.config import LoopOptions

NEARLY = 1e-4  # relative, in float32: a batch is computed in another order than its images
RESULT_TYPES = (str, int, float)  # and lists of them: what CSV, Parquet, JSON and OpenAPI have
PLAIN_TYPES = (bool, int, float, str, NoneType)


def check_task(
    task: Task, data: str | Path, model: str = "van_pico", img_size: int = 32, skip: Sequence[str] = ()
) -> None:
    """Check that all commands can take a task.

    Args:
        task: need not be registered.
        data: a data set that `glocal train` could take for this task, with a validation part or one to hold out; a few
            images of either are looked at.
        model: name of the backbone.
        img_size: height and width of its input in pixels.
        skip: properties, of `PROPERTIES`, that are not checked.

    Raises:
        AssertionError: a property does not hold; the message is one sentence that begins with the name of the task's
            class.
        ValueError: an unknown name in `skip`.
    """
    unknown = sorted(set(skip) - set(PROPERTIES))
    if unknown:
        raise ValueError(f"skip may hold {', '.join(PROPERTIES)}, not {', '.join(unknown)}")
    with failing_as(task if isinstance(task, type) else type(task)), torch.random.fork_rng(devices=[]):
        require(isinstance(task, Task), "is no object of a subclass of glocal.tasks.task.Task.")
        case = TaskCase(task, str(data), model, img_size)
        for name, holds in PROPERTIES.items():
            if name not in skip:
                torch.manual_seed(0)
                holds(case)


def require(holds: object, sentence: str) -> None:
    if not holds:
        raise AssertionError(sentence)


def tried(call: Callable[[], Any], sentence: str) -> Any:
    """What a call returns; AssertionError with a sentence, and the error in it, if it raises one."""
    try:
        return call()
    except Exception as error:
        raise AssertionError(f"{sentence} ({problem(error)}).") from error


def refuses(write: Callable[[], Iterable], sentence: str) -> bool:
    """Whether reading what a call returns is refused by a `UserError`; AssertionError for any other error."""
    try:
        list(write())
    except UserError:
        return True
    except Exception as error:
        raise AssertionError(f"{sentence} ({problem(error)}).") from error
    return False


# What the task says of itself


def has_names(case: TaskCase) -> None:
    task = case.task
    for name in ("name", "summary", "measures", "fields"):
        require(hasattr(task, name), f"has no {name}.")
    require(
        re.fullmatch(r"[a-z][a-z0-9_-]*", str(task.name)), f"has the name {task.name!r}, not one of lower-case letters."
    )
    require(task.summary.strip(), "has an empty summary.")
    require(len(task.headings) == 2, f"has {len(task.headings)} headings, not 2: a result's lines have two columns.")


def has_measures(case: TaskCase) -> None:
    measures = case.task.measures
    require(measures, "has no measure, so that no epoch can be chosen.")
    for measure in measures:
        require(isinstance(measure, Measure), f"has {type(measure).__name__} among its measures, not only Measure.")
    keys = [measure.key for measure in measures]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    require(twice is None, f"has the measure {twice!r} twice.")


def has_options(case: TaskCase) -> None:
    for kind, loop in (("Options", LoopOptions), ("EvalOptions", MeasureOptions)):
        options = getattr(case.task, kind)
        frozen = is_dataclass(options) and options.__dataclass_params__.frozen
        require(frozen, f"has {kind} that are no frozen dataclass.")
        hints, taken = get_type_hints(options), {field.name for field in fields(loop)}
        text = "\n".join(one.__doc__ or "" for one in options.__mro__)
        for field in fields(options):
            name = f"{kind}.{field.name}"
            require(field.name not in taken, f"has an option {name}, a name that the library's own options have.")
            default = field.default is not MISSING or field.default_factory is not MISSING
            require(default, f"has an option {name} without a default.")
            require(is_option_type(hints[field.name]), f"has an option {name} of a type that no file of options holds.")
            require(re.search(rf"^\s+{field.name}: \S", text, re.MULTILINE), f"does not explain {name} under `Args:`.")
        tried(lambda loop=loop, options=options: joined("Joined", "", loop, options)(), f"refuses its own {kind}")


def is_option_type(hint: Any) -> bool:
    """Whether an option of a type can be given on the command line and in a file."""
    if get_origin(hint) in (Union, UnionType):
        return all(is_option_type(one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return all(isinstance(one, str) for one in get_args(hint))
    return hint in (*PLAIN_TYPES, dict, list[str])


def has_fields(case: TaskCase) -> None:
    task, kind = case.task, case.task.result_class
    frozen = isinstance(kind, type) and issubclass(kind, Result) and is_dataclass(kind)
    require(frozen and kind.__dataclass_params__.frozen, "has a result_class that is no frozen dataclass of Result.")
    error = UnreadableImageError("image.png", "no image")
    empty = tried(lambda: kind("image.png", error), "has a result_class whose own fields have no defaults")
    for name, hint in task.fields.items():
        require(hasattr(empty, name), f"has the field {name!r}, but {kind.__name__} has no such attribute.")
        plain = hint
        for _ in range(2):
            plain = get_args(plain)[0] if get_origin(plain) is list else plain
        require(
            plain in RESULT_TYPES, f"has the field {name!r} of another type than str, int, float and lists of them."
        )
    for name, hint in task.answer_fields.items():
        require(
            task.fields.get(name) == hint,
            f"has {name!r} among its answer_fields, but not among its fields.",
        )
    for top_k in (1, 3):
        columns = ["source", "error", *task.columns(top_k)]
        twice = next((column for column in columns if columns.count(column) > 1), None)
        require(twice is None, f"has the column {twice!r} of a CSV file twice.")


def describes_its_outputs(case: TaskCase) -> None:
    about = case.task.metadata(case.trained)
    tried(lambda: json.dumps(about, allow_nan=False), "has metadata that is not ready for JSON")


# Data


def opens_its_data(case: TaskCase) -> None:
    task, source = case.task, tried(lambda: case.source, "does not open the data")
    require(source.task == task.name, f"opens data of the task {source.task!r}, not {task.name!r}.")
    for split in ("train", "val"):
        require(source.splits.get(split), f"opens data for training without {split!r} images.")
    held_out = tried(lambda: json.loads(json.dumps(source.held_out)), "has a held_out that is not ready for JSON")
    again, split = tried(
        lambda: open_for_evaluation(case.data, "auto", held_out, formats=task.formats),
        "does not open the data for evaluation",
    )
    require(again.task == task.name, f"opens data for evaluation of the task {again.task!r}, not {task.name!r}.")
    same = split == "val" and again.splits["val"].content() == source.splits["val"].content()
    require(same, "does not hold out the same images when the data is opened for evaluation.")


def has_data_for_processes(case: TaskCase) -> None:
    """The processes that read images get the samples, and give examples."""
    samples = case.source.splits["train"]
    copied = tried(lambda: pickle.loads(pickle.dumps(samples)), "has samples that cannot be pickled")
    same = isinstance(copied, Samples) and copied.content() == samples.content()
    require(same, "has samples whose annotations differ after they are pickled.")
    for example in case.examples("train"):
        tried(lambda example=example: pickle.dumps(example), "makes examples that cannot be pickled")


def transforms_images(case: TaskCase) -> None:
    preprocessing = case.preprocessing
    training_size = preprocessing.input_size if case.task.training_crops else None
    for split, size in (("train", training_size), ("val", preprocessing.fixed_size)):
        examples = tried(lambda split=split: case.examples(split), f"does not transform the {split} images")
        for example in examples:
            require(isinstance(example, Example), f"transforms an image to {type(example).__name__}, not an Example.")
            shape = tuple(example.image.shape)
            require(size in (None, shape), f"transforms a {split} image to the shape {shape}, not {size}.")
            require(example.target is not None, f"gives no target for a {split} image.")
    prepare = Prepare(preprocessing)
    for example, (image, _), geometry in zip(case.examples(), case.images(), case.geometry, strict=True):
        same = torch.equal(example.image, prepare(image).image)
        require(same, "prepares an image for measuring in another way than for predicting: not by preprocessing.")
        require(example.geometry in (None, geometry), "gives another geometry than geometry_of the preprocessing.")


def collates_targets(case: TaskCase) -> None:
    examples = case.examples("train")
    for count in (1, len(examples)):
        batch = tried(lambda count=count: case.batch(examples=examples[:count]), "does not collate its targets")
        foreign = kind_that_stays(batch.targets)
        require(
            foreign is None,
            f"collates targets to {foreign}, which stays where it is when a batch goes to a GPU: "
            "tensors, lists and dicts go with it.",
        )
        if isinstance(batch.targets, Tensor):
            rows = batch.targets.shape[:1]
            require(
                rows == (count,), f"collates {count} targets to a tensor of the shape {tuple(batch.targets.shape)}."
            )


def kind_that_stays(targets: Any) -> str | None:
    """The type, somewhere in the targets, whose tensors `Batch.to` does not move; None if there is no such."""
    if isinstance(targets, list | dict):
        parts = targets.values() if isinstance(targets, dict) else targets
        return next((kind for kind in map(kind_that_stays, parts) if kind is not None), None)
    return None if isinstance(targets, (Tensor, *PLAIN_TYPES)) else type(targets).__name__


# The model


def builds_its_model(case: TaskCase) -> None:
    outputs = case.task.num_outputs(case.class_names)
    require(isinstance(outputs, int) and outputs >= 0, f"has {outputs!r} outputs, which is no number from 0 on.")
    model = tried(lambda: case.model, "does not build its model")
    require(isinstance(model, nn.Module), f"builds {type(model).__name__}, not a module.")

    def rebuilt() -> nn.Module:
        with torch.device("meta"):
            return case.build()

    args = case.task_args
    tried(lambda: json.dumps(args, allow_nan=False), "has model_args that are not ready for JSON")
    tried(lambda: case.task.check_model_args(json.loads(json.dumps(args))), "refuses its own model_args")
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    again = tried(rebuilt, "does not build its model on the meta device")
    same = {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes
    require(same, "builds a model with another state dict when it builds it again, on the meta device.")


def gives_outputs(case: TaskCase) -> None:
    images = case.batch().images
    outputs = tried(lambda: case.outputs(images), "has outputs that do not take images")
    listed = isinstance(outputs, list | tuple)
    require(listed or isinstance(outputs, Tensor), f"has outputs that give {type(outputs).__name__}, not tensors.")
    for output in as_list(outputs):
        require(isinstance(output, Tensor), f"has {type(output).__name__} among its outputs, not only tensors.")
        rows = output.shape[:1]
        require(rows == (len(images),), f"has an output of the shape {tuple(output.shape)} for {len(images)} images.")
    names = len(case.task.output_names)
    require(names == len(as_list(outputs)), f"has {names} output_names for {len(as_list(outputs))} outputs.")
    served = tried(lambda: with_embedding(case.trained)(images), "has outputs that the service cannot compute")
    served = served[:names]  # an embedding may follow
    wrong = [difference(*pair, NEARLY) for pair in zip(served, as_list(outputs), strict=True)]
    require(not any(wrong), f"has other outputs in the service: {next(filter(None, wrong), '')}.")


def exports_its_outputs(case: TaskCase) -> None:
    images = case.batch().images
    expected = as_list(case.outputs(images))
    size, fixed = case.preprocessing.input_size, case.preprocessing.fixed_size
    outputs = case.task.outputs(case.model)
    inputs = (images,)
    if takes_sizes(outputs):
        inputs = images[:1], some_sizes(images[:1])
        expected = as_list(outputs(*inputs))
    dynamic = [axis for axis in axes_of(outputs, None) if fixed is None or axis == "batch"]
    program = tried(lambda: trace(outputs, size, dynamic=dynamic), "has outputs that torch.export does not take")
    exported = as_list(program.module()(*inputs))
    wrong = [difference(*pair, NEARLY) for pair in zip(exported, expected, strict=True)]
    require(not any(wrong), f"has other outputs after they are exported: {next(filter(None, wrong), '')}.")


# Training and measuring


def has_an_objective(case: TaskCase) -> None:
    task, config, source = case.task, case.config, case.source
    tried(lambda: task.check(config, IMAGES), "refuses its own defaults")
    objective = tried(
        lambda: task.objective(config, source, case.preprocessing), "does not make its objective from its defaults"
    )
    require(isinstance(objective, Objective), f"has {type(objective).__name__} instead of an Objective.")
    model, batch = case.build().train(), case.batch("train")
    parts = tried(lambda: objective(model, batch), "has an objective that fails on a batch")
    require(isinstance(parts, dict) and "loss" in parts, 'has an objective that gives no "loss".')
    loss = parts["loss"]
    scalar = isinstance(loss, Tensor) and loss.ndim == 0
    require(scalar, "has an objective whose loss is no tensor of a single number.")
    require(loss.isfinite(), f"has an objective whose loss is {loss.item()}.")
    require(loss.requires_grad, "has an objective whose loss has no gradient.")
    loss.backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        require(parameter.grad is not None, f"has an objective that gives no gradient to {name}.")
        require(parameter.grad.isfinite().all(), f"has an objective that gives {name} a gradient that is not finite.")


def measures_on_any_devices(case: TaskCase) -> None:
    task = case.task
    whole, devices = task.metrics(case.class_names), [task.metrics(case.class_names) for _ in range(3)]
    require(isinstance(whole, Metrics), f"has {type(whole).__name__} instead of Metrics.")
    empty = tried(whole.compute, "has metrics that fail without images")
    require(empty == {}, f"has metrics that give {empty} without images, not an empty dict.")
    examples = case.examples()
    for part, metrics in ((examples, whole), (examples[1::2], devices[0]), (examples[::2], devices[1])):
        updated(case, metrics, part)  # the third device has no image
    require(whole.images == len(examples), f"has metrics that count {whole.images} of {len(examples)} images.")
    values = tried(whole.compute, "has metrics that fail")
    keys = {measure.key for measure in task.measures}
    require(task.headline.key in values, f"has metrics without its first measure, {task.headline.key!r}.")
    for key, value in values.items():
        require(key in keys, f"has metrics that give {key!r}, which is not among its measures.")
        finite = type(value) in (int, float) and math.isfinite(value)
        require(finite, f"has metrics that give {value!r} for {key!r}, which is no finite number.")
    devices[0].merge([metrics.state() for metrics in devices])
    merged = devices[0].compute()
    require(merged.keys() == values.keys(), "has metrics that give other measures after those of devices are merged.")
    for key, value in values.items():
        near = math.isclose(merged[key], value, rel_tol=NEARLY, abs_tol=1e-6)
        require(near, f"has metrics that give {merged[key]} for {key!r} on several devices, and {value} on one.")
    whole.reset()
    require(not whole.images and whole.compute() == {}, "has metrics that keep images when they are reset.")


def updated(case: TaskCase, metrics: Metrics, examples: Sequence[Example]) -> None:
    """Measure examples, two at a time."""
    for first in range(0, len(examples), 2):
        batch = case.batch(examples=examples[first : first + 2])
        outputs = case.predicted(batch) if case.changes_outputs else case.outputs(batch.images)
        tried(lambda batch=batch, outputs=outputs: metrics.update(outputs, batch.targets), "has metrics that fail")


def reports(case: TaskCase) -> None:
    """What `glocal eval` makes of the metrics."""
    task = case.task
    require(task.measures_on(task), "does not measure on data of its own.")
    match = tried(lambda: task.match(case.source, case.trained), "does not match its own data with its model")
    metrics, batch = task.metrics(match.class_names), case.batch()
    outputs = case.predicted(batch) if case.changes_outputs else case.outputs(batch.images)
    tried(
        lambda: metrics.update(*match.apply(outputs, batch.targets)),
        "has metrics that do not take what its match gives",
    )
    report = tried(metrics.report, "has metrics that fail to report")
    tried(lambda: json.dumps(report, allow_nan=False), "has metrics whose report is not ready for JSON")
    size = list(case.preprocessing.input_size[1:])
    values = {name: value for name, value in report.items() if name != "images"}
    measured = Measured(task, case.model_name, case.data, "val", size, "cpu", len(batch), [], 1.0, values)
    for table in tried(lambda: task.tables(measured), "does not make tables of a measurement"):
        require(isinstance(table, ResultTable), f"has {type(table).__name__} among its tables, not only ResultTable.")
        for row in table.rows:
            cells = f"{len(row)} cells under {len(table.columns)} columns"
            require(len(row) == len(table.columns), f"has a row of {cells} in the table {table.heading!r}.")


# Results


def gives_a_result_for_each_image(case: TaskCase) -> None:
    task, images = case.task, case.prepared.images
    results = tried(lambda: case.results(), "does not make results of its outputs")
    require(len(results) == len(images), f"gives {len(results)} results for {len(images)} images.")
    for result in results:
        kind = type(result).__name__
        require(isinstance(result, task.result_class), f"gives {kind}, not {task.result_class.__name__}.")
    outputs = case.predicted(case.prepared)
    for place, geometry in enumerate(case.geometry):
        rows = [output[place : place + 1] for output in outputs]
        (alone,) = task.results(rows, [geometry], case.trained, 3)
        require(alone == results[place], "gives another result for an image when it is alone.")


def refuses_non_finite_outputs(case: TaskCase) -> None:
    def spoilt(outputs: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        if isinstance(outputs, Tensor):
            return torch.full_like(outputs, math.nan)
        return [torch.full_like(output, math.nan) for output in outputs]

    try:
        outputs = case.predicted(case.prepared, spoilt)
        results = case.task.results(outputs, case.geometry, case.trained, 3)
    except RuntimeError:
        return
    except Exception as error:
        raise AssertionError(f"raises no RuntimeError for outputs of NaN, but another ({problem(error)}).") from error
    raise AssertionError(f"raises no RuntimeError for outputs of NaN, but gives {len(results)} results.")


def shows_its_results(case: TaskCase) -> None:
    for result, (image, _) in zip(case.results(), case.images(), strict=True):
        lines = tried(result.lines, "has a result that gives no lines")
        require(lines, "has a result without a line.")
        for line in lines:
            texts = isinstance(line, Line) and isinstance(line.text, str) and isinstance(line.value, str)
            require(texts, "has a result with a line that is no Line of two texts.")
            share = line.share is None or 0 <= line.share <= 1
            require(share, f"has a result with a line whose share is {line.share}, not a number from 0 to 1.")
            color = line.color is None or re.fullmatch("#[0-9a-f]{6}", line.color)
            require(color, f"has a result with a line whose color is {line.color!r}, not like '#00ff7f'.")
        before = image.copy()
        drawn = tried(lambda result=result, image=image: result.draw(image), "has a result that cannot be drawn")
        require(drawn.size == image.size, f"draws on an image of {image.size} pixels, and gives one of {drawn.size}.")
        require(drawn.mode == "RGB", f"draws an image of mode {drawn.mode}, not RGB.")
        require(image.tobytes() == before.tobytes(), "draws into the image that it is given, not into a copy.")
        overlay = tried(result.overlay, "has a result whose overlay fails")
        fits = overlay is None or (overlay.mode, overlay.size) == ("RGBA", image.size)
        require(fits, "has a result with an overlay that is no RGBA image of the image's size.")


def draws_targets(case: TaskCase) -> None:
    """What `glocal train --show-batch` and `glocal eval --pictures` show."""
    for split in ("train", "val"):
        for example, (image, _) in zip(case.examples(split), case.images(split), strict=True):
            image = image.resize(example.image.shape[:0:-1]) if split == "train" else image
            before = image.copy()
            drawn = tried(
                lambda image=image, example=example: case.task.draw_target(
                    image, example.target, case.class_names, case.task_args
                ),
                "has a target that cannot be drawn",
            )
            require(drawn.mode == "RGB", f"draws a target on an image of mode {drawn.mode}, not RGB.")
            larger = drawn.width >= image.width and drawn.height >= image.height
            require(larger, f"draws a target on an image of {image.size} pixels, and gives one of {drawn.size}.")
            require(image.tobytes() == before.tobytes(), "draws a target into the image that it is given.")


def writes_its_results(case: TaskCase) -> None:
    task = case.task
    for result in case.results():
        for name, hint in task.fields.items():
            value = getattr(result, name)
            require(is_of(value, hint), f"has a result with {value!r} in the field {name!r}, which is of another type.")
        answer = {name: getattr(result, name) for name in task.answer_fields}
        tried(lambda answer=answer: json.dumps(answer, allow_nan=False), "has a result that is not ready for JSON")
    for top_k in (1, 3):
        columns = task.columns(min(top_k, len(case.class_names) or 1))
        for result in case.results(top_k):
            cells = task.cells(result)
            require(len(cells) <= len(columns), f"has {len(cells)} cells for the {len(columns)} columns of a CSV file.")


def writes_its_files(case: TaskCase) -> None:
    unreadable = case.task.result_class("image.png", UnreadableImageError("image.png", "no image"))
    for kind, writer in case.task.writers.items():
        require(isinstance(writer, Writer), f"has {type(writer).__name__} among its writers, not only Writer.")
        require(KIND.fullmatch(str(kind)), f"has a writer {kind!r}, a name that --save cannot have.")
        with TemporaryDirectory() as folder:
            place = Path(folder) / f"written{writer.endings[0] if writer.endings else ''}"
            if not writer.endings:
                place.mkdir()
            fails, results = f"has the writer {kind!r}, which fails", [unreadable, *case.results()]
            left = iter(results)
            if writer.georeferenced:
                write = partial(writer.write, left, place, case.trained)
                require(refuses(write, fails), f"has the writer {kind!r}, which takes images that have no coordinates.")
                continue
            passed = tried(partial(writer.write, left, place, case.trained), fails)
            for number, result in enumerate(results, 1):
                given = tried(partial(next, passed, None), fails)
                require(given is result, f"has the writer {kind!r}, which does not pass results on as they are.")
                ahead = length_hint(left) != len(results) - number
                require(not ahead, f"has the writer {kind!r}, which takes results before they are asked for.")
            tried(partial(list, passed), fails)
            written = place.is_file() if writer.endings else any(place.iterdir())
            require(written, f"has the writer {kind!r}, which writes nothing.")


def is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of the type of a field."""
    if get_origin(hint) is list:
        return isinstance(value, list) and all(is_of(one, get_args(hint)[0]) for one in value)
    return type(value) in ((int, float) if hint is float else (hint,))


PROPERTIES: dict[str, Callable[[TaskCase], None]] = {
    "names": has_names,
    "measures": has_measures,
    "options": has_options,
    "fields": has_fields,
    "data": opens_its_data,
    "transform": transforms_images,
    "pickling": has_data_for_processes,
    "collate": collates_targets,
    "metadata": describes_its_outputs,
    "model": builds_its_model,
    "outputs": gives_outputs,
    "export": exports_its_outputs,
    "objective": has_an_objective,
    "metrics": measures_on_any_devices,
    "report": reports,
    "results": gives_a_result_for_each_image,
    "finite": refuses_non_finite_outputs,
    "lines": shows_its_results,
    "targets": draws_targets,
    "rows": writes_its_results,
    "writers": writes_its_files,
}
