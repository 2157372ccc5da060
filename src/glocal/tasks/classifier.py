"""A classifier ready for use: a timm-contract model with its weights and the names of its classes."""

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import timm
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config
from torch import nn

import glocal.models  # noqa: F401 (registers the models)
from glocal.models.build import NoWeightsError, reading_weights
from glocal.tasks.checkpoint import CheckpointInfo, find_checkpoint, read_info, read_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classifier:
    """A model with its weights.

    class_names: one per output, as the data calls them (folder names; WordNet ids for ImageNet).
    descriptions: the same for people to read. preprocessing: fields of `glocal.data.preprocessing.Preprocessing`.
    info: None for weights that `glocal train` did not write.
    """

    model: nn.Module
    name: str
    class_names: list[str]
    descriptions: list[str]
    preprocessing: dict
    info: CheckpointInfo | None = None

    @property
    def multi_label(self) -> bool:
        """Whether an image may show several classes."""
        return bool(self.info and self.info.data.get("multi_label"))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, classes) to the same: of each class by itself with several labels. RuntimeError for NaN and infinity."""
        return check_finite(logits.sigmoid() if self.multi_label else logits.softmax(-1))


def check_finite(values: torch.Tensor) -> torch.Tensor:
    """The values that a model gives, as they are; RuntimeError for NaN and infinity."""
    if not values.isfinite().all():
        raise RuntimeError("the model gives non-finite values (nan or inf): its weights are damaged or diverged")
    return values


def check_name(name: str) -> None:
    """Raise ValueError for a name, or a tag of weights, that timm does not know; says the closest ones."""
    if ":" in name:  # hf-hub: and local-dir: are timm's business
        return
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists the names"
        raise ValueError(f"unknown model {name!r}: {hint}")
    tags = timm.models.get_arch_pretrained_cfgs(architecture)
    if tag and name not in tags:
        known = ", ".join(known for known in tags if known != architecture) or "none"
        raise ValueError(f"unknown weights {name!r}: {architecture} has {known}")


def create_model(name: str, **kwargs) -> nn.Module:
    """timm.create_model with errors for people: ValueError for an unknown name, TypeError for an unknown argument."""
    check_name(name)
    try:
        return timm.create_model(name, **kwargs)
    except TypeError as error:
        if "unexpected keyword argument" in str(error):
            raise TypeError(f"{name}: {error}") from None
        raise


def load_classifier(checkpoint: str | Path | None = None, model: str | None = None) -> Classifier:
    """Load a classifier.

    checkpoint: a run folder or file of `glocal train`; or a file of the authors' or timm's weights for `model`.
    model: name of the model; needed for weights that do not know it. Without a checkpoint, its published weights.

    Raises FileNotFoundError for a missing file, ValueError for one that does not fit.
    """
    if checkpoint is None:
        if model is None:
            raise ValueError("give --checkpoint, or --model for a model's published weights")
        return _of_published_weights(model, _pretrained(model))
    path = find_checkpoint(checkpoint)
    info = read_info(path)
    if info is not None:
        check_model_name(path, info, model)
        return _of_run(path, info)
    if path.suffix == ".ckpt":
        raise ValueError(f"{path} keeps the state of a training; its weights for use are model.safetensors beside it")
    if model is None:
        raise ValueError(f"{path} does not say of which model it is: give --model too")
    return _of_published_weights(model, _pretrained(model, path))


def load_for_finetuning(name: str, checkpoint: str | Path | None, num_classes: int, **kwargs) -> nn.Module:
    """Create a model for `num_classes` and start it from a checkpoint, or from its published weights.

    Of a checkpoint for other classes, all but the classifier is taken.
    """
    path = find_checkpoint(checkpoint) if checkpoint is not None else None
    info = read_info(path) if path is not None else None
    if info is None:
        return _pretrained(name, path, num_classes=num_classes, **kwargs)
    check_model_name(path, info, name)
    model = create_model(name, num_classes=len(info.class_names), **kwargs)
    _load_strictly(path, info, model)
    if len(info.class_names) != num_classes:
        model.reset_classifier(num_classes)
        known = len(info.class_names)
        log.warning("%s is for %d classes, the data has %d: the classifier starts anew", path, known, num_classes)
    return model


def check_model_name(path: Path, info: CheckpointInfo, model: str | None) -> None:
    """Raise ValueError where a checkpoint is of another model than the one asked for."""
    if model is not None and model.partition(".")[0] != info.model.partition(".")[0]:
        raise ValueError(f"{path} is of the model {info.model}, not {model}")


def check_input_size(model: nn.Module, input_size: tuple[int, int, int], option: str = "--img-size") -> None:
    """Raise ValueError, naming `option`, for images of (channels, height, width) that the model cannot take."""
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, *input_size))
    except (RuntimeError, AssertionError, ValueError) as error:
        size = "×".join(map(str, input_size[1:]))
        raise ValueError(f"{option}: the model does not take images of {size} pixels: {_one_line(error)}") from error
    finally:
        model.train(training)


def resolve_device(device: str) -> torch.device:
    """ "auto" (an accelerator if there is one), "cpu", "cuda", "cuda:1", "mps", …; ValueError for one not there."""
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ValueError(f"there is no device {device!r} here") from None
    if resolved.type == "meta":
        raise ValueError("the device 'meta' computes nothing")
    return resolved


@contextmanager
def torch_threads(count: int | None):
    """Let torch compute with so many threads for a while; None leaves it as it is."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _of_run(path: Path, info: CheckpointInfo) -> Classifier:
    model = create_model(info.model, num_classes=len(info.class_names), **info.model_args)
    _load_strictly(path, info, model)
    return Classifier(model.eval(), info.model, info.class_names, info.class_names, info.preprocessing, info)


def _load_strictly(path: Path, info: CheckpointInfo, model: nn.Module) -> None:
    try:
        model.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {info.model}: {_one_line(error)}") from None


def _of_published_weights(name: str, model: nn.Module) -> Classifier:
    subset = infer_imagenet_subset(model)
    if subset is None:
        class_names = descriptions = [str(index) for index in range(model.num_classes)]
    else:
        imagenet = ImageNetInfo(subset)
        class_names = imagenet.label_names()
        descriptions = [imagenet.index_to_description(index) for index in range(len(class_names))]
    return Classifier(model.eval(), name, class_names, descriptions, resolve_model_data_config(model))


def _pretrained(name: str, path: Path | None = None, **kwargs) -> nn.Module:
    """A model with published weights, from `path` or from where they are published."""
    check_name(name)
    overlay = {"pretrained_cfg_overlay": {"file": str(path)}} if path is not None else {}
    try:
        with reading_weights():
            return create_model(name, pretrained=True, **overlay, **kwargs)
    except NoWeightsError as error:
        raise ValueError(error.message("give it with --checkpoint FILE")) from error
    except TypeError:
        raise  # an argument that the model does not have
    except Exception as error:  # unpickling a foreign file raises nearly anything
        if path is not None:
            raise ValueError(f"{path} cannot be loaded into {name}: {_one_line(error)}") from error
        raise ValueError(
            f"no weights for {name}: {_one_line(error)} (--checkpoint FILE takes them from a file)"
        ) from error


def _one_line(error: BaseException, limit: int = 300) -> str:
    text = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    text = text or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
