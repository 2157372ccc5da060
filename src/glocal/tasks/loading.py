"""Loading models: from published weights, or from a checkpoint."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config
from torch import nn

from glocal.backbone import Backbone
from glocal.errors import InvalidValueError, WorkError
from glocal.models import check_model_arguments, official
from glocal.models.build import NoWeightsError, classes_in_file, log_new_classifier, reading_weights
from glocal.tasks.checkpoint import find_checkpoint, read_info, read_shapes, read_weights
from glocal.tasks.creation import LETTERS, check_name, create_model
from glocal.tasks.description import DEFAULT, CheckpointInfo
from glocal.tasks.registry import find_task
from glocal.tasks.task import Task, Trained
from glocal.wording import one_line, quoted


def check_finite(values: torch.Tensor) -> torch.Tensor:
    """A model's values, unchanged; RuntimeError for NaN and infinity."""
    if not values.isfinite().all():
        raise WorkError("the model gives non-finite values (nan or inf): its weights are damaged or diverged")
    return values


def check_weights(model: nn.Module, source: str | Path | None) -> None:
    """Raise RuntimeError if weights of a model are NaN or infinite. source: where they come from."""
    broken = [
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if broken:
        raise WorkError(f"{source} has weights that are not finite (nan or inf): {quoted(broken, 2)}")


def load_trained(checkpoint: str | Path | None = None, model: str | None = None) -> Trained:
    """Load a trained model.

    checkpoint: a run folder or file of `glocal train`; or a file of the authors' or timm's weights for `model`.
    model: name of the model; needed if the file does not name it. Without a checkpoint, its published weights are used.

    Raises FileNotFoundError if the file is missing, ValueError if it does not fit, RuntimeError if weights are NaN or
    infinite: some models would then find nothing, silently.
    """
    trained = _load(checkpoint, model)
    check_weights(trained.model, model if checkpoint is None else checkpoint)
    return trained


def _load(checkpoint: str | Path | None, model: str | None) -> Trained:
    if checkpoint is None:
        if model is None:
            raise InvalidValueError("give --checkpoint, or --model for a model's published weights")
        return _of_published_weights(model, _pretrained(model))
    path = find_checkpoint(checkpoint)
    info = read_info(path)
    if info is not None:
        check_model_name(path, info, model)
        return _of_run(path, info)
    if path.suffix == ".ckpt":
        raise InvalidValueError(
            f"{path} keeps the state of a training; its weights for use are model.safetensors beside it"
        )
    if model is None:
        raise InvalidValueError(f"{path} does not say of which model it is: give --model too")
    known = classes_in_file(model, path)
    return _of_published_weights(model, _pretrained(model, path, **({} if known is None else {"num_classes": known})))


def load_for_finetuning(
    name: str,
    checkpoint: str | Path | None,
    task: Task,
    class_names: list[str],
    task_args: dict | None = None,
    **kwargs,
) -> nn.Module:
    """Create a model for a task, with the weights of a checkpoint or the published weights.

    If the weights are for another number of classes, all weights except the classifier's are used, and a note says so.
    Raises ValueError if the weights belong to a task with another head. task_args: those of `Task.model_args`.
    """
    path, args = find_checkpoint(checkpoint) if checkpoint is not None else None, task_args or {}
    info = read_info(path) if path is not None else None
    if info is not None:
        check_model_name(path, info, name)
    if type(task).backbone is not Task.backbone:
        return _with_own_backbone(name, path, info, task, class_names, args, **kwargs)
    outputs = task.num_outputs(class_names)
    if info is not None:
        other = _task_of(path, info)
        known = other.num_outputs(info.class_names)
        if other is not task and (not known or type(other).model is not Task.model):
            raise InvalidValueError(
                f"{path} is of the task {other.name}: a training of {task.name} cannot start from it"
            )
        if other is task and not outputs and info.class_names != class_names:
            raise InvalidValueError(f"{path} was trained for other classes than those of the data")
        model = rebuild(path, replace(info, model=name), **kwargs)
        if other is not task:  # a classifier of timm's contract: the task puts its own head on it
            if info.class_names != class_names or known != outputs:
                model.reset_classifier(outputs)
                if outputs:
                    log_new_classifier(path, known, outputs)
            return task.model(model, class_names, **args)
    else:
        known = classes_in_file(name, path) if path is not None else None
        classes = {"num_classes": known or outputs}
        if path is not None:
            model = _pretrained(name, path, **classes, **kwargs)
        else:
            model = _or_random(lambda: _pretrained(name, **classes, **kwargs))
            known = model.pretrained_cfg.get("num_classes")
    if known is not None and known != outputs:
        if model.num_classes != outputs:
            model.reset_classifier(outputs)
        if outputs:
            log_new_classifier(path or f"the published {name}", known, outputs)
    return model if info is not None else task.model(model, class_names, **args)


def _with_own_backbone(
    name: str,
    path: Path | None,
    info: CheckpointInfo | None,
    task: Task,
    class_names: list[str],
    args: dict,
    **kwargs,
) -> nn.Module:
    """As `load_for_finetuning`, for a task that builds its backbone itself."""
    if info is not None and info.task == task.name and (info.class_names, info.task_args) == (class_names, args):
        return rebuild(path, replace(info, model=name), **kwargs)

    def build(name: str, **arguments) -> nn.Module:
        return task.backbone(name, class_names, **arguments)

    if path is None:
        return task.model(_or_random(lambda: _pretrained(name, build=build, **kwargs)), class_names, **args)
    model = task.model(build(name, **kwargs), class_names, **args)
    task.load(model, name, path, args)
    return model


def _or_random(load: Callable[[], nn.Module]) -> nn.Module:
    """What `load` gives; if there are no published weights, the error says how to do without them."""
    try:
        return load()
    except ValueError as error:
        if error.__cause__ is None:  # an unknown name
            raise
        raise InvalidValueError(f"{error}; --no-pretrained starts from random weights") from error


def _task_of(path: Path, info: CheckpointInfo) -> Task:
    """The task of a checkpoint; ValueError, naming the file, if it is not registered."""
    try:
        return find_task(info.task)
    except InvalidValueError as error:
        raise InvalidValueError(f"{path}: {error}") from None


def arguments_of(checkpoint: str | Path | None) -> dict:
    """The model arguments that a checkpoint describes; empty for files that `glocal train` did not write."""
    info = read_info(find_checkpoint(checkpoint)) if checkpoint is not None else None
    return {} if info is None else dict(info.model_args)


def check_model_name(path: Path, info: CheckpointInfo, model: str | None) -> None:
    """Raise ValueError if a checkpoint belongs to another model than `model`."""
    if model is not None and model.partition(".")[0] != info.model.partition(".")[0]:
        raise InvalidValueError(f"{path} is of the model {info.model}, not {model}")


def check_input_size(model: nn.Module, input_size: tuple[int, int, int], option: str = "--img-size") -> None:
    """Raise ValueError, which names `option`, if the model cannot take images of (channels, height, width)."""
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, *input_size))
    except (RuntimeError, AssertionError, ValueError) as error:
        size = "×".join(map(str, input_size[1:]))
        raise InvalidValueError(
            f"{option}: the model does not take images of {size} pixels: {one_line(error, LETTERS)}"
        ) from error
    finally:
        model.train(training)


def rebuild(path: Path, info: CheckpointInfo, **changes) -> nn.Module:
    """The model that a checkpoint describes, with its weights.

    changes: arguments that replace those of the checkpoint. Raises ValueError if the model's family does not take the
    description, or if the description does not fit the tensors of the file. The shapes are compared before memory is
    allocated, so that a small file cannot ask for a large model.
    """
    check_model_arguments(info.model, info.model_args)
    task = _task_of(path, info)
    task.check_model_args(info.task_args)

    def build() -> nn.Module:
        backbone = task.backbone(info.model, info.class_names, **{**info.model_args, **changes})
        return task.model(backbone, info.class_names, **info.task_args)

    with _explained(path, info):
        with torch.device("meta"):
            model = build()
        misfits = official.misfits(read_shapes(path), {name: t.shape for name, t in model.state_dict().items()})
    if misfits:
        raise InvalidValueError(f"{path} does not fit {info.model}: {misfits}")
    if isinstance(model, Backbone):
        model.to_empty(device="cpu")  # the file has all values of a backbone
    else:
        with _explained(path, info):
            model = build()
    with _explained(path, info):
        model.load_state_dict(read_weights(path))
    return model


@contextmanager
def _explained(path: Path, info: CheckpointInfo):
    """Turn an error about a model's arguments or weights into a line for the user."""
    try:
        yield
    except (RuntimeError, TypeError, AssertionError, ArithmeticError, LookupError, AttributeError) as error:
        raise InvalidValueError(f"{path} does not fit {info.model}: {one_line(error, LETTERS)}") from error
    except ValueError as error:
        raise InvalidValueError(f"{path}: {one_line(error, LETTERS)}") from error


def _of_run(path: Path, info: CheckpointInfo) -> Trained:
    model = rebuild(path, info)
    names, task = info.class_names, _task_of(path, info)
    return Trained(model.eval(), info.model, task, names, names, info.preprocessing, info, info.task_args)


def _of_published_weights(name: str, model: nn.Module) -> Trained:
    subset = infer_imagenet_subset(model)
    own = model.pretrained_cfg.get("label_names")
    if own:
        class_names = descriptions = list(own)
    elif subset is None:
        class_names = descriptions = [str(index) for index in range(model.num_classes)]
    else:
        imagenet = ImageNetInfo(subset)
        class_names = imagenet.label_names()
        descriptions = [imagenet.index_to_description(index) for index in range(len(class_names))]
    preprocessing = resolve_model_data_config(model)
    return Trained(model.eval(), name, find_task(DEFAULT), class_names, descriptions, preprocessing)


def _pretrained(
    name: str, path: Path | None = None, build: Callable[..., nn.Module] | None = None, **kwargs
) -> nn.Module:
    """A model with published weights, from the file `path` or from their published address."""
    check_name(name)
    overlay: dict = {"file": str(path)} if path is not None else {}
    if path is not None and "num_classes" in kwargs:
        overlay["num_classes"] = kwargs["num_classes"]  # the number in the file, so that its classifier is kept
    overlay = {"pretrained_cfg_overlay": overlay} if overlay else {}
    try:
        with reading_weights():
            return (build or create_model)(name, pretrained=True, **overlay, **kwargs)
    except NoWeightsError as error:
        raise InvalidValueError(error.message("give it with --checkpoint FILE")) from error
    except TypeError:
        raise  # an argument that the model does not have
    except Exception as error:  # unpickling a foreign file may raise any error
        if path is not None:
            raise InvalidValueError(f"{path} cannot be loaded into {name}: {one_line(error, LETTERS)}") from error
        raise InvalidValueError(
            f"no weights for {name}: {one_line(error, LETTERS)} (--checkpoint FILE takes them from a file)"
        ) from error
