"""Converts the authors' checkpoints to ours: unwraps, renames, reshapes, and refuses anything that does not fit."""

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn as nn
from torch import Tensor

from glocal.errors import InvalidValueError

logger = logging.getLogger("glocal")

# The keys under which training scripts keep the weights, averaged weights first; and the prefixes that wrappers add.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
PREFIXES = ("module.", "_orig_mod.", "backbone.")  # the last is a detector's
SHOWN = 5  # names in an error message


def convert(
    state_dict: Mapping[str, Any],
    model: nn.Module,
    family: str,
    renames: Sequence[tuple[str, str]],
    unused: str | None = None,
    adapt: Callable[[str, Tensor, Tensor], Tensor] | None = None,
    dense_norms: str | None = None,
    absent: str | None = None,
    backbone_only: bool = False,
) -> dict[str, Tensor]:
    """Convert the authors' state dict, or ours, to a state dict that `model` loads strictly.

    Args:
        state_dict: as saved, perhaps inside a checkpoint, or with the prefixes of DDP, torch.compile or a detector.
        model: the model that will load it; the names and shapes of its state dict have to match.
        family: name of the family, for messages.
        renames: (regular expression, replacement), applied to every official name in order.
        unused: regular expression for official names of tensors that the authors' models hold but never use.
        adapt: called as `adapt(name, tensor, target)`; returns the tensor in the shape of `target`, the model's own.
        dense_norms: regular expression for names that keep the model's values, if the model has norms for dense heads
            and the weights, a classifier's, have none.
        absent: regular expression for names that the weights may lack, as nothing uses them; they keep the model's
            values.
        backbone_only: ignore the head, in the weights and in the model.

    Raises:
        ValueError: names are missing or left over, or shapes are wrong; the message lists the first few.
    """
    weights = unwrap(state_dict)
    if not any(name.startswith("stages.0.blocks.") for name in weights):  # not ours yet: official names
        weights = {name: tensor for name, tensor in weights.items() if not (unused and re.search(unused, name))}
        weights = {rename(name, renames): tensor for name, tensor in weights.items()}

    target = model.state_dict()
    if backbone_only or model.num_classes == 0:
        weights = {name: tensor for name, tensor in weights.items() if name in target or not name.startswith("head.")}
    if dense_norms and not any(".output_norm." in name for name in weights):
        norms = [name for name in target if re.search(dense_norms, name)]
        if any(".output_norm." in name for name in norms):
            logger.info("the norms of the maps start anew: the weights are a classifier's")
            weights |= {name: target[name] for name in norms}
    if absent and (lacking := [name for name in target if re.search(absent, name) and name not in weights]):
        logger.warning("the weights lack %s, which nothing uses: these keep the model's values", listed(lacking))
        weights |= {name: target[name] for name in lacking}
    for name, tensor in weights.items():
        if name in target:
            tensor = fit_shape(tensor, target[name])
            weights[name] = adapt(name, tensor, target[name]) if adapt is not None else tensor
    check(weights, target, model, family, backbone_only)
    return weights


def pyramid_renames(stages: int = 4) -> list[tuple[str, str]]:
    """From official names to ours, outside attention, for code that follows PVT (`patch_embed1`, `block1`, …)."""
    return [
        (r"^patch_embed1\.proj\.", "stem.conv."),
        (r"^patch_embed1\.norm\.", "stem.norm."),
        *((rf"^patch_embed{i + 1}\.proj\.", f"stages.{i}.downsample.conv.") for i in range(1, stages)),
        *((rf"^patch_embed{i + 1}\.norm\.", f"stages.{i}.downsample.norm.") for i in range(1, stages)),
        *((rf"^block{i + 1}\.(\d+)\.", rf"stages.{i}.blocks.\1.") for i in range(stages)),
        *((rf"^norm{i + 1}\.", f"stages.{i}.norm.") for i in range(stages)),
        (r"^head\.(weight|bias)$", r"head.fc.\1"),
        (r"\.mlp\.dwconv\.dwconv\.", ".channel_mixer.conv."),
        (r"\.mlp\.", ".channel_mixer."),
    ]


def unwrap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The plain state dict of a backbone inside a checkpoint, without the prefixes of wrappers and detectors."""
    return without_prefixes(state_dict(checkpoint), PREFIXES)


def state_dict(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The plain state dict inside a checkpoint, without the prefixes of DDP and torch.compile."""
    for key in WRAPPERS:
        if isinstance(checkpoint.get(key), Mapping):
            return state_dict(checkpoint[key])
    weights = {name: value for name, value in checkpoint.items() if isinstance(value, Tensor)}
    if not weights:
        there = f", only {listed(checkpoint)}" if checkpoint else ": it is empty"
        raise InvalidValueError(f"the checkpoint holds no weights{there}")
    return without_prefixes(weights, PREFIXES[:-1])


def without_prefixes(weights: dict[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    """The tensors below the prefixes, as long as there are some."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in prefixes:
            inside = {name[len(prefix) :]: tensor for name, tensor in weights.items() if name.startswith(prefix)}
            if inside:
                if len(inside) < len(weights):
                    logger.info("took the %d tensors under %s, of %d", len(inside), prefix, len(weights))
                weights, stripped = inside, True
    return weights


def rename(name: str, renames: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def fit_shape(tensor: Tensor, target: Tensor) -> Tensor:
    """Add or drop axes of length 1: a linear layer's (out, in) becomes a 1×1 convolution's (out, in, 1, 1)."""
    same = [n for n in tensor.shape if n != 1] == [n for n in target.shape if n != 1]
    return tensor.reshape(target.shape) if same else tensor


def check(
    weights: Mapping[str, Tensor], target: Mapping[str, Tensor], model: nn.Module, family: str, backbone_only: bool
):
    """Compare names and shapes, except where timm adapts them itself: other numbers of classes and input channels."""
    config = getattr(model, "pretrained_cfg", None) or {}
    adapted = set()
    if model.num_classes != config.get("num_classes", model.num_classes):
        adapted |= {"head.fc.weight", "head.fc.bias"}
    if model.in_chans != config.get("input_size", (model.in_chans,))[0]:
        adapted.add(f"{config.get('first_conv')}.weight")

    def optional(name: str) -> bool:
        return name in adapted or (backbone_only and name.startswith("head."))

    found = misfits(
        {name: tensor.shape for name, tensor in weights.items() if not optional(name)},
        {name: tensor.shape for name, tensor in target.items() if not optional(name)},
    )
    if found:
        raise InvalidValueError(f"not a checkpoint of this {family} model: {found}")


def misfits(shapes: Mapping[str, Sequence[int]], target: Mapping[str, Sequence[int]]) -> str:
    """The differences of these names and shapes from the target's, in one line; "" if they are equal."""
    problems = {
        "missing": [name for name in target if name not in shapes],
        "left over": [name for name in shapes if name not in target],
        "of another shape": [
            f"{name} {tuple(shape)} for {tuple(target[name])}"
            for name, shape in shapes.items()
            if name in target and tuple(shape) != tuple(target[name])
        ],
    }
    return "; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names)


def listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:SHOWN]) + (f", … {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def ceil_sizes(img_size: int | tuple[int, int], stages: int, argument: str = "img_size") -> list[tuple[int, int]]:
    """(H, W) of every stage's map for an image of `img_size`: strides 4, 8, 16, …, rounded up."""
    size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(size) != 2 or min(size) < 1:
        raise InvalidValueError(f"{argument} must be a positive side or (height, width), not {img_size}")
    return [(math.ceil(size[0] / (4 * 2**i)), math.ceil(size[1] / (4 * 2**i))) for i in range(stages)]
