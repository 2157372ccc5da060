"""Freezing parts of a model."""

import re

from torch import nn

from glocal.errors import InvalidValueError


def freeze(model: nn.Module, parts: str) -> list[nn.Module]:
    """Exclude parts from training and put them into eval mode, so that their batch norms keep their statistics.

    parts: names of modules, separated by commas, with ranges: "stem,stages.0-2", "stages.1.blocks.0-3".

    Returns the frozen modules. Raises ValueError if the model does not have a name, or if nothing is left to train.
    """
    modules = dict(model.named_modules())
    frozen = []
    for pattern in parts.split(","):
        for name in _expand(pattern.strip()):
            if name not in modules or not name:
                known = ", ".join(name for name, _ in model.named_children())
                raise InvalidValueError(f"--freeze: the model has no part {name!r}; it has {known}")
            frozen.append(modules[name].requires_grad_(False).eval())
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InvalidValueError(f"--freeze {parts} leaves nothing to train")
    return frozen


def _expand(pattern: str) -> list[str]:
    """The names that a pattern matches. It has at most one range "a-b"."""
    found = re.search(r"\b(\d+)-(\d+)\b", pattern)
    if not found:
        return [pattern]
    numbers = range(int(found[1]), int(found[2]) + 1)
    return [pattern[: found.start()] + str(number) + pattern[found.end() :] for number in numbers] or [pattern]
