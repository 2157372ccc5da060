"""The base class of metrics: batch by batch, and on several devices."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Metrics(ABC):
    """Collects a model's outputs for the images of a data set, and computes the measures.

    A subclass keeps tensors with a row per image on the CPU; `merge` joins the rows of several devices for every
    subclass. `images` counts the images so far.
    """

    def __init__(self, class_names: Sequence[str] = ()):
        self.class_names = class_names
        self.reset()

    def reset(self) -> None:
        self.images = 0
        self._kept: dict[str, list[Tensor]] = {}

    @abstractmethod
    def update(self, outputs: Any, targets: Any) -> None:
        """Add a batch: outputs of the task's `outputs` module, and targets; B may be 0."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The value of each measure, by its key; empty without images."""

    def report(self) -> dict[str, Any]:
        """All that `glocal eval` writes: the values, `images`, and further results of a subclass."""
        return {**self.compute(), "images": self.images}

    def keep(self, **rows: Tensor) -> None:
        """Keep tensors (B, …) of a batch under their names."""
        self.images += len(next(iter(rows.values())))
        for name, tensor in rows.items():
            self._kept.setdefault(name, []).append(tensor.detach().cpu())

    def kept(self, name: str) -> Tensor:
        """(N, …): all rows that were kept under a name; at least a batch must have been kept."""
        parts = self._kept[name]
        if len(parts) > 1:
            self._kept[name] = parts = [torch.cat(parts)]
        return parts[0]

    def state(self) -> dict[str, Tensor]:
        """All tensors that were kept, to send them to other devices."""
        return {name: self.kept(name) for name in self._kept}

    def merge(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Replace this device's rows by the rows of all devices. states: of each device, also of this device."""
        self.reset()
        for state in states:
            if state:
                self.keep(**state)
