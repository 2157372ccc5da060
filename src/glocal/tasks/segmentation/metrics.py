"""mIoU, mAcc and aAcc of segmentation, and IoU of borders."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glocal.data.masks import IGNORE
from glocal.tasks.metrics import Metrics

BORDER = 0.02  # of an image's diagonal: how far its border reaches into an object, as in Boundary IoU's paper
AT_ONCE = 2**24  # pixels that are counted at a time, so that a large image needs little memory


class SegmentationMetrics(Metrics):
    """Metrics of label maps; memory is a number per pair of classes and one per image.

    boundary: also compute the IoU of the borders (Boundary IoU: Cheng et al., arXiv 2103.16562), which takes several
    times as long as everything else.
    """

    def __init__(self, class_names: Sequence[str], boundary: bool = False):
        self.boundary = boundary
        super().__init__(class_names)

    def reset(self) -> None:
        super().reset()
        classes = len(self.class_names)
        self.add(0, confusion=torch.zeros(classes, classes, dtype=torch.int64))
        if self.boundary:
            self.add(0, borders=torch.zeros(3, classes, dtype=torch.int64))

    def update(self, outputs: Sequence[Iterable[Tensor]], targets: Sequence[Tensor]) -> None:
        """Add a batch of B images; B may be 0.

        outputs: a list whose first entry holds the predicted label maps, B tensors (H, W) of any integer type.
        targets: B label maps with IGNORE, each of the size of its prediction.
        Raises ValueError if sizes differ, or if a label is neither a class nor IGNORE.
        """
        if not len(targets):
            return
        classes, scores = len(self.class_names), []
        for prediction, target in zip(outputs[0], targets, strict=True):
            confusion = confusion_matrix(prediction, target, classes).cpu()
            scores.append(_mean_of_present(confusion))
            self.add(0, confusion=confusion)
            if self.boundary:
                self.add(0, borders=border_areas(prediction, target, classes))
        self.keep(score=torch.stack(scores))

    def compute(self) -> dict[str, float]:
        """miou, macc and aacc in percent; empty without images.

        Areas are summed over all images, without ignored pixels. miou: mean IoU of the classes whose union is not
        empty. macc: mean share of the right pixels, of the classes that occur in the targets. aacc: share of all pixels
        that are right. If all pixels are ignored, each is 0.
        """
        if not self.images:
            return {}
        areas = Areas.of(self.added("confusion"))
        return {
            "miou": 100 * _mean(areas.right / areas.union, areas.union > 0),
            "macc": 100 * _mean(areas.right / areas.targets, areas.targets.bool()),
            "aacc": 100 * (areas.right.sum() / areas.targets.sum().clamp(min=1)).item(),
        }

    def report(self) -> dict[str, Any]:
        """miou, macc, aacc (percent), images, per_class, class_names and confusion; boundary_iou if it was asked for.

        per_class: of the classes whose union is not empty, name, pixels (of the targets), iou, accuracy, precision and
        boundary_iou (percent); None where it is 0 / 0. boundary_iou: mean of the classes whose borders' union is not
        empty. confusion: [label, prediction, pixels] for every pair that occurs, as indices into `class_names`.
        """
        confusion = self.added("confusion")
        areas = Areas.of(confusion)
        columns = {
            "pixels": areas.targets.long().tolist(),
            "iou": _percent(areas.right, areas.union),
            "accuracy": _percent(areas.right, areas.targets),
            "precision": _percent(areas.right, areas.predictions),
        }
        mean = {}
        if self.boundary:
            right, union = self.added("borders")[0].double(), _union(self.added("borders").double())
            columns["boundary_iou"] = _percent(right, union)
            mean = {"boundary_iou": 100 * _mean(right / union, union > 0)}
        present = (areas.union > 0).nonzero()[:, 0].tolist()
        pairs = confusion.nonzero()
        return {
            **super().report(),
            **(mean if self.images else {}),
            "per_class": [
                {"name": self.class_names[c], **{name: column[c] for name, column in columns.items()}} for c in present
            ],
            "class_names": list(self.class_names),
            "confusion": torch.cat([pairs, confusion[pairs.unbind(1)][:, None]], 1).tolist(),
        }

    def scores(self) -> Tensor:
        """(N,) in percent: of each image, in their order, the mean IoU of the classes that its target has.

        An image whose pixels are all ignored has 100: nothing in it is wrong.
        """
        return self.kept("score") if self.images else torch.zeros(0)


class Areas(NamedTuple):
    """Of each class, (C,) float64: pixels that are right, that targets have, that were predicted."""

    right: Tensor
    targets: Tensor
    predictions: Tensor

    @classmethod
    def of(cls, confusion: Tensor) -> "Areas":
        """confusion: (C, C), pixels by label and prediction."""
        counts = confusion.double()  # exact up to 2^53 pixels
        return cls(counts.diagonal(), counts.sum(1), counts.sum(0))

    @property
    def union(self) -> Tensor:
        return _union(self)


def confusion_matrix(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """(C, C) int64: number of pixels by label and prediction, without ignored ones.

    prediction, target: (H, W), integers; target with IGNORE. ValueError if the sizes differ, or if a label is neither
    a class nor IGNORE; what is predicted at ignored pixels may be anything.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"the prediction has {tuple(prediction.shape)} pixels, its target {tuple(target.shape)}")
    counts = torch.zeros(classes * classes, dtype=torch.int64, device=target.device)
    parts = (labels.flatten().split(AT_ONCE) for labels in (prediction, target))
    for predicted, wanted in zip(*parts, strict=True):
        predicted, wanted = predicted.long(), wanted.long()
        counted = wanted != IGNORE
        predicted, wanted = predicted[counted], wanted[counted]
        for name, found in (("prediction", predicted), ("target", wanted)):
            if len(found) and not 0 <= found.min() <= found.max() < classes:
                wrong = found[(found < 0) | (found >= classes)][0].item()
                raise ValueError(f"the {name} has the label {wrong}, which is none of {classes} classes")
        counts += (wanted * classes + predicted).bincount(minlength=classes * classes)
    return counts.view(classes, classes)


def border_areas(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """(3, C) int64: of each class's borders the pixels of both, of the target, and of the prediction.

    The border of a mask is the mask minus its erosion by a square that reaches 2 % of the image's diagonal to each
    side, at least 1 pixel; outside the image is no mask (arXiv 2103.16562, section 4, and the authors' code). Ignored
    pixels are taken out of both masks before, so that a prediction that is right everywhere else has IoU 1.
    """
    height, width = target.shape
    reach = max(1, round(BORDER * (height**2 + width**2) ** 0.5))
    target = target.long()
    prediction = prediction.long().masked_fill(target == IGNORE, IGNORE)
    of_target, of_prediction = (near_border(labels, reach) & (labels != IGNORE) for labels in (target, prediction))
    both = of_target & of_prediction & (target == prediction)
    pixels = target[both], target[of_target], prediction[of_prediction]
    return torch.stack([labels.bincount(minlength=classes) for labels in pixels])


def near_border(labels: Tensor, reach: int) -> Tensor:
    """(H, W) bool: whether a square that reaches `reach` pixels to each side has other labels or leaves the image.

    Of all pixels with a label, these are the ones that an erosion of the label's mask by the square removes.
    """
    padded = labels.new_full([side + 2 * reach for side in labels.shape], IGNORE - 1)  # no label outside
    padded[reach : padded.shape[0] - reach, reach : padded.shape[1] - reach] = labels
    across, down = padded[:, 1:] != padded[:, :-1], padded[1:] != padded[:-1]
    changes = across[1:] | across[:-1] | down[:, 1:] | down[:, :-1]  # within 2 × 2 pixels
    sums = torch.zeros([side + 1 for side in changes.shape], dtype=torch.int64, device=labels.device)
    sums[1:, 1:] = changes.cumsum(0).cumsum(1)
    side = 2 * reach  # so many 2 × 2 pixels lie in the square, in each direction
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return inside > 0


def _union(areas: Sequence[Tensor]) -> Tensor:
    both, targets, predictions = areas
    return targets + predictions - both


def _mean(values: Tensor, where: Tensor) -> float:
    return values[where].mean().item() if where.any() else 0.0


def _percent(part: Tensor, whole: Tensor) -> list[float | None]:
    return [100 * a / b if b else None for a, b in zip(part.tolist(), whole.tolist(), strict=True)]


def _mean_of_present(confusion: Tensor) -> Tensor:
    """A number in percent, float64."""
    areas = Areas.of(confusion)
    ious = (areas.right / areas.union)[areas.targets.bool()]
    return 100 * ious.mean() if len(ious) else ious.new_tensor(100.0)
