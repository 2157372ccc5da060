"""Builds a registered model: timm's builder, with the library's rules for weights and features."""

import argparse
import logging
import os
import pathlib
import pickle
import pickletools
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import (
    build_model_with_cfg,
    get_pretrained_cfg,
    load_state_dict,
    model_entrypoint,
    resolve_pretrained_cfg,
)
from timm.models._hub import load_state_dict_from_path
from torch import nn

from glocal.backbone import FeatureBackbone
from glocal.errors import InvalidValueError, MissingPathError, WorkError
from glocal.models import official

logger = logging.getLogger("glocal")

numpy_scalar = (np._core if hasattr(np, "_core") else np.core).multiarray.scalar

# Names that training scripts pickle beside the weights, and that cannot run code.
SAFE_GLOBALS = [
    argparse.Namespace,
    pathlib.PosixPath,
    (numpy_scalar, "numpy._core.multiarray.scalar"),
    (numpy_scalar, "numpy.core.multiarray.scalar"),  # its name before NumPy 2
    np.dtype,
    *(type(np.dtype(name)) for name in ("float16", "float32", "float64", "int32", "int64", "bool")),
]


class NoWeightsError(WorkError):
    """No program can download the weights of a model.

    name: of the model. source: address of the page where a person can get the file; None if no file is published.
    """

    def __init__(self, name: str, source: str | None):
        super().__init__(name, source)
        self.name = name
        self.source = source

    def __str__(self) -> str:
        return self.message("pass pretrained_cfg_overlay=dict(file='…')")

    def message(self, how: str) -> str:
        """The message. how: says what to do with the file after a person has got it."""
        if self.source is None:
            return f"no weights of {self.name} have been published"
        return (
            f"the weights of {self.name} cannot be downloaded by a program: get the file from {self.source} and {how}"
        )


def config(stem_conv: str = "stem.conv", size: int = 224, **kwargs: Any) -> dict[str, Any]:
    """A pretrained config for ImageNet-1K in timm's terms; `kwargs` override or add."""
    return {
        "num_classes": 1000,
        "input_size": (3, size, size),
        "pool_size": (-(-size // 32), -(-size // 32)),  # the last stage's map
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": stem_conv,
        "classifier": "head.fc",
        **kwargs,
    }


def build(
    model_cls: type[nn.Module],
    filter_fn: Callable[..., dict[str, torch.Tensor]],
    variant: str,
    pretrained: bool,
    args: dict[str, Any],
    kwargs: dict[str, Any],
    sized: bool = False,
) -> nn.Module:
    """Build `variant` for timm's registry, with weights if `pretrained`.

    Args:
        filter_fn: the family's `checkpoint_filter_fn`.
        args: the model's arguments that make the variant.
        kwargs: timm's arguments (pretrained_cfg, pretrained_cfg_overlay, features_only, out_indices, …), and arguments
            of the model, which replace those in `args`.
        sized: whether the model takes `img_size`; its default is then the size in the pretrained config.

    Raises:
        NoWeightsError: no program can download the weights.
        RuntimeError: the file would run code.
        FileNotFoundError: the file does not exist.
        ValueError: the file holds no weights, or those of another model; or `out_indices` names no stage of the model.
    """
    kwargs = {**args, **kwargs}
    if sized:
        kwargs.setdefault("img_size", input_size(variant, kwargs))
    feature_cfg = dict(out_indices=(0, 1, 2, 3), feature_cls=FeatureBackbone, flatten_sequential=True)
    feature_cfg.update(kwargs.pop("feature_cfg", None) or {})
    features_only = kwargs.get("features_only", False)
    if features_only:
        kwargs.setdefault("num_classes", 0)  # a feature extractor has no classifier
        check_out_indices(kwargs.get("out_indices", feature_cfg["out_indices"]))
    if pretrained:
        config = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
        check_source(variant, config)
        keep_classifier(variant, config, kwargs)
    try:
        with reading_weights():
            return build_model_with_cfg(
                model_cls,
                variant,
                pretrained,
                pretrained_filter_fn=partial(filter_fn, backbone_only=features_only),
                feature_cfg=feature_cfg,
                **kwargs,
            )
    except Exception as error:
        if pretrained and not isinstance(error, ValueError):
            explain_unread(config, error)
        raise


def keep_classifier(variant: str, config: Any, kwargs: dict[str, Any]) -> None:
    """Tell timm how many classes the file of weights is for; otherwise timm drops the classifier without a message.

    If the model has another number of classes, its classifier starts with new weights, and the log says so.
    """
    if not config.file or config.source or kwargs.get("features_only", False):
        return
    overlay = dict(kwargs.get("pretrained_cfg_overlay") or {})
    if "num_classes" not in overlay:
        known = classes_in_file(variant, config.file)
        if known is None:
            return
        kwargs["pretrained_cfg_overlay"] = overlay | {"num_classes": known}
        wanted = kwargs.get("num_classes", known)
        if wanted not in (0, known):
            log_new_classifier(config.file, known, wanted)


def log_new_classifier(source: Any, known: int, wanted: int) -> None:
    """Log that the classifier is not loaded, because the weights are for another number of classes."""
    logger.warning("%s is for %d classes, the data has %d: the classifier starts anew", source, known, wanted)


def classes_in_file(name: str, path: str | os.PathLike) -> int | None:
    """The number of classes in a file of weights for the model `name`; None if no classifier is found."""
    architecture = name.rpartition(":")[2].partition(".")[0]
    cfg = get_pretrained_cfg(architecture, allow_unregistered=True)
    try:
        with reading_weights():
            weights = official.unwrap(load_state_dict(str(path)))
    except Exception:  # a foreign file can raise nearly anything; loading it reports the error
        return None
    if cfg is None or not cfg.classifier:
        return None
    renames = getattr(sys.modules[model_entrypoint(architecture).__module__], "RENAMES", ())
    weights = {official.rename(parameter, renames): tensor for parameter, tensor in weights.items()}
    classifier = cfg.classifier if isinstance(cfg.classifier, str) else cfg.classifier[0]
    weight = weights.get(f"{classifier}.weight")
    if weight is None or weight.ndim < 2 or not len(weight):
        return None
    return max(1, len(weight) - (cfg.label_offset or 0))


@contextmanager
def reading_weights() -> Iterator[None]:
    """Let torch.load accept the names in `SAFE_GLOBALS`, and hide its warning about an old pickle protocol.

    If torch.load cannot read the protocol, it still raises its own error.
    """
    with torch.serialization.safe_globals(SAFE_GLOBALS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
        yield


def input_size(variant: str, kwargs: dict[str, Any]) -> tuple[int, int]:
    """(H, W) of the pretrained config that `kwargs` chooses for `variant`."""
    config = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
    return tuple(config.input_size[-2:])


def explain_unread(config: Any, error: Exception):
    """If the file of weights caused the error, raise an error that says what is wrong with the file."""
    blocked = blocked_global(error, config.file)
    if blocked is not None:
        file = config.file or config.url
        raise WorkError(f"refused to load {file}: it needs {blocked}, which can run code") from error
    if config.file:
        read = load_state_dict_from_path if config.source == "local-dir" else load_state_dict
        try:
            with reading_weights():
                read(config.file)
        except Exception:
            raise InvalidValueError(f"{config.file} is not a checkpoint, or is damaged") from error


def blocked_global(error: BaseException | None, file: str | None) -> str | None:
    """The name that `torch.load(weights_only=True)` refused; None if the error has another cause."""
    while error is not None:
        if isinstance(error, pickle.UnpicklingError):
            found = re.search(r"GLOBAL (\S+)|unrecognized function (\S+)|but got (.+)", str(error))
            if found:
                return next(group for group in found.groups() if group)
            return next(iter(pickled_globals(file)), None) if file else None
        error = error.__cause__
    return None


def pickled_globals(file: str) -> Iterator[str]:
    """Names that unpickling a file would import. For pickle protocols that `torch.load` stops at."""
    strings: list[str] = []
    with open(file, "rb") as stream, suppress(ValueError):
        for opcode, argument, _ in pickletools.genops(stream):
            if isinstance(argument, str):
                strings.append(argument)
            if opcode.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:])


def check_out_indices(indices: int | Sequence[int]):
    if isinstance(indices, int):
        if not 1 <= indices <= 4:
            raise InvalidValueError(f"out_indices must be the last 1 to 4 stages, not {indices}")
    elif not indices or any(not -4 <= index <= 3 for index in indices):
        raise InvalidValueError(f"out_indices must be stages 0 to 3 (or -4 to -1), not {tuple(indices)}")


def check_source(variant: str, config: Any):
    """Raise NoWeightsError if no program can download the weights, and FileNotFoundError if a given file is missing."""
    if config.source == "local-dir":
        if not Path(config.file).is_dir():
            raise MissingPathError(f"there is no folder {str(config.file)!r}")
        return
    if config.file and not os.path.isfile(config.file):
        raise MissingPathError(f"there is no checkpoint {str(config.file)!r}")
    if config.state_dict or config.file or config.url or config.hf_hub_id or config.source:
        return
    name = f"{variant}.{config.tag}" if config.tag else variant
    raise NoWeightsError(name, config.notes[0] if config.notes else None)
