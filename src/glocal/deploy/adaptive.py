"""PyTorch for a few images, a compiled engine for many."""

import time
from collections.abc import Callable

from torch import Tensor, nn

from glocal.deploy.engine import cached_file, choose_for, compile, seconds_to_compile

SAVED = 0.5  # part of PyTorch's time that an engine saves: 0.6 for transxnet_t (docs/performance.md)


class Adaptive:
    """An `Engine` that starts with PyTorch, and changes to a compiled engine when the number of images pays for it.

    Compiling pays if it takes less time than the compiled engine saves. The saving is estimated from the time that
    PyTorch has taken so far. If the number of images to come is unknown, as many are expected as were computed. If the
    cache holds the compiled model, it is used from the first image.

    to_come: gives the number of images that are still to be computed, with the present images.
    """

    def __init__(
        self, model: nn.Module, input_size: tuple[int, int, int], threads: int | None, to_come: Callable[[], int]
    ):
        self._compile = lambda engine: compile(model, engine, input_size, threads)
        self._to_come = to_come
        self._best = choose_for(model)
        self._computed, self._seconds = 0, 0.0
        self._price = 0.0 if self._best == "torch" else seconds_to_compile(model, self._best, input_size)
        compiled = self._best != "torch" and cached_file(model, self._best, input_size).exists()
        self._engine = self._compile("auto" if compiled else "torch")
        self._final = compiled or self._best == "torch"

    @property
    def name(self) -> str:
        """The name of the engine that computes now."""
        return self._engine.name

    def __call__(self, images: Tensor, sizes: Tensor | None = None) -> Tensor | list[Tensor]:
        if not self._final and self._pays():
            self._engine, self._final = self._compile("auto"), True
        start = time.perf_counter()
        results = self._engine(images, sizes)
        self._seconds += time.perf_counter() - start
        self._computed += len(images)
        return results

    def _pays(self) -> bool:
        expected = max(self._to_come(), self._computed)
        return self._computed > 0 and expected * SAVED * self._seconds / self._computed > self._price
