"""Parts of a model that a training leaves as they are."""

import re

from torch import nn

from glocal.errors import InvalidValueError


def freeze(model: nn.Module, parts: str) -> list[nn.Module]:
    """Take the parts out of the training and into eval mode, where their batch norms keep their statistics.

    Returns them.

    parts: names of modules, separated by commas, with ranges: "stem,stages.0-2", "stages.1.blocks.0-3".

    Raises ValueError for a name that the model does not have, and where nothing is left to train.
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
    """The names that a pattern with at most one range "a-b" stands for."""
    found = re.search(r"\b(\d+)-(\d+)\b", pattern)
    if not found:
        return [pattern]
    numbers = range(int(found[1]), int(found[2]) + 1)
    return [pattern[: found.start()] + str(number) + pattern[found.end() :] for number in numbers] or [pattern]
