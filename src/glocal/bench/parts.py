"""Where the time of a detector goes: its backbone, the layers of its head, and the choice among boxes."""

import time
from collections import Counter
from collections.abc import Callable

from torch import nn

from glocal.models.detection import DetectionModel
from glocal.models.detectors.rcnn import RCNN

PARTS = ("backbone", "head", "boxes", "results")


class Parts:
    """Seconds that the parts of a model take on a CPU, added up over all calls of `run`.

    model: is changed: its parts note their time.
    run: computes the model, and what follows.
    """

    def __init__(self, model: DetectionModel, run: Callable[[], object]):
        self.seconds: Counter[str] = Counter()
        self.run = self._noted("all", run)
        self._note("model", model, "forward")
        self._note("backbone", model.backbone, "forward")
        for owner, method in _layers(model.head):
            self._note("head", owner, method)

    def reset(self) -> None:
        """Begin anew."""
        self.seconds.clear()

    def shares(self) -> dict[str, float]:
        """The parts of the time, which sum to 1.

        backbone; head: its layers, and the features of regions; boxes: the choice among boxes, such as suppression;
        results: from the model's outputs to objects of the image, of masks to their pixels and run lengths.
        """
        spent = self.seconds
        found = {
            "backbone": spent["backbone"],
            "head": spent["head"],
            "boxes": spent["model"] - spent["backbone"] - spent["head"],
            "results": spent["all"] - spent["model"],
        }
        return {part: found[part] / spent["all"] for part in PARTS}

    def _note(self, part: str, owner: nn.Module, method: str) -> None:
        setattr(owner, method, self._noted(part, getattr(owner, method)))

    def _noted(self, part: str, function: Callable) -> Callable:
        def noted(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[part] += time.perf_counter() - start
            return result

        return noted


def _layers(head: nn.Module) -> list[tuple[nn.Module, str]]:
    """The methods in which a head computes its layers; none calls another of them."""
    if isinstance(head, RCNN):
        return [(head, "pyramid"), (head.rpn, "forward"), (head, "classified"), (head, "mask_logits")]
    return [(head, "outputs")]
