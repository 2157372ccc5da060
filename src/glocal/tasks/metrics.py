"""The base class of metrics: batch by batch, and on several devices."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Metrics(ABC):
    """Collects a model's outputs for the images of a data set, and computes the measures.

    A subclass keeps rows on the CPU, or adds up sums; `merge` joins those of several devices for every subclass.
    `images` counts the images so far.
    """

    def __init__(self, class_names: Sequence[str] = ()):
        self.class_names = class_names
        self.reset()

    def reset(self) -> None:
        self.images = 0
        self._kept: dict[str, list[Tensor]] = {}
        self._sums: dict[str, Tensor] = {}

    @abstractmethod
    def update(self, outputs: Any, targets: Any) -> None:
        """Add a batch: outputs of the task's `outputs` module, and targets; B may be 0."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The value of each measure, by its key; empty without images."""

    def report(self) -> dict[str, Any]:
        """All that `glocal eval` writes: the values, `images`, and further results of a subclass."""
        return {**self.compute(), "images": self.images}

    def scores(self) -> Tensor | None:
        """(N,): how well each image was predicted, in the order of `update`; the lowest is the worst. None: not known.

        The task's `score` says what it is; of a measure that is lower for a better model, it is the negative.
        """
        return None

    def keep(self, images: int | None = None, **rows: Tensor) -> None:
        """Keep tensors (rows, …) of a batch under their names.

        images: how many images the batch has; by default, as many as the first tensor has rows.
        """
        self.images += len(next(iter(rows.values()))) if images is None else images
        for name, tensor in rows.items():
            self._kept.setdefault(name, []).append(tensor.detach().cpu())

    def add(self, images: int, **sums: Tensor) -> None:
        """Add tensors, such as a confusion matrix, to the sums of these names. images: how many images they are of."""
        self.images += images
        for name, tensor in sums.items():
            tensor = tensor.detach().cpu()
            self._sums[name] = self._sums[name] + tensor if name in self._sums else tensor

    def added(self, name: str) -> Tensor:
        """The sum of all tensors that were added under a name; at least one must have been added."""
        return self._sums[name]

    def kept(self, name: str) -> Tensor:
        """(N, …): all rows that were kept under a name; at least a batch must have been kept."""
        parts = self._kept[name]
        if len(parts) > 1:
            self._kept[name] = parts = [torch.cat(parts)]
        return parts[0]

    def state(self) -> dict[str, Any]:
        """All that was kept and added, to send it to other devices."""
        return {"images": self.images, "kept": {name: self.kept(name) for name in self._kept}, "sums": self._sums}

    def merge(self, states: Sequence[dict[str, Any]]) -> None:
        """Replace what this device has by what all devices have. states: of each device, also of this device."""
        self.reset()
        for state in states:
            self.keep(state["images"], **state["kept"])
            self.add(0, **state["sums"])
