"""How a model is measured, batch by batch and on several devices."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Metrics(ABC):
    """What a model makes of the images of a data set, kept until `compute`.

    A subclass keeps tensors with a row per image; they stay on the CPU, and what several devices kept is put together
    in one way. `images` counts the images so far.
    """

    def __init__(self, class_names: Sequence[str] = ()):
        self.class_names = class_names
        self.reset()

    def reset(self) -> None:
        self.images = 0
        self._kept: dict[str, list[Tensor]] = {}

    @abstractmethod
    def update(self, outputs: Any, targets: Any) -> None:
        """Add a batch: what the task's `outputs` give for it, and its targets; B may be 0."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The value of each measure, by its key; empty without images."""

    def report(self) -> dict[str, Any]:
        """All that `glocal eval` writes: the values, `images`, and what else there is to tell."""
        return {**self.compute(), "images": self.images}

    def keep(self, **rows: Tensor) -> None:
        """Keep tensors (B, …) of a batch under their names."""
        self.images += len(next(iter(rows.values())))
        for name, tensor in rows.items():
            self._kept.setdefault(name, []).append(tensor.detach().cpu())

    def kept(self, name: str) -> Tensor:
        """(N, …): what was kept under a name. There has to be something."""
        parts = self._kept[name]
        if len(parts) > 1:
            self._kept[name] = parts = [torch.cat(parts)]
        return parts[0]

    def state(self) -> dict[str, Tensor]:
        """All that was kept, to be sent to other devices."""
        return {name: self.kept(name) for name in self._kept}

    def merge(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Take what several devices kept, this one included, in the place of what this one did."""
        self.reset()
        for state in states:
            if state:
                self.keep(**state)
