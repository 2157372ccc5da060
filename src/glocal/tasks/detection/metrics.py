"""Average precision of boxes and masks, and how classes are taken for others."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from glocal.tasks.detection import voc
from glocal.tasks.detection.confusion import counts
from glocal.tasks.detection.masks import from_bytes
from glocal.tasks.detection.precision import Averages, Rows, averages, measures, of_classes
from glocal.tasks.metrics import Metrics

VOC = ("voc07_ap50", "voc_ap50")  # keys of the parts of `voc.Average`


class DetectionMetrics(Metrics):
    """Metrics of objects, as COCO has them. Memory is about 60 bytes for each object that is found, or annotated.

    threshold: objects with at least this score count for the confusion of classes and the scores of images. voc:
    whether VOC's AP50 of the boxes is measured, too; see `glocal.tasks.detection.voc`.
    """

    kinds = (("box", "bbox"),)  # the beginnings of keys, and what COCO calls it

    def __init__(self, class_names: Sequence[str], threshold: float = 0.3, voc: bool = False):
        self.threshold, self.voc = threshold, voc
        super().__init__(class_names)

    def reset(self) -> None:
        super().reset()
        self._averages: tuple[int, dict[str, Averages]] | None = None
        self._voc: tuple[int, list[voc.Average | None]] | None = None
        size = len(self.class_names) + 1
        self.add(0, confusion=torch.zeros(size, size, dtype=torch.int64))

    def update(self, outputs: Sequence[Sequence[Tensor]], targets: Sequence[dict[str, Tensor]]) -> None:
        """Add a batch of B images; B may be 0.

        outputs: lists of B tensors, boxes (N, 4), scores (N,) and labels (N,), by falling score, in pixels of the
        image. targets: as of `MeasuringTransform`.
        """
        for (boxes, scores, labels, *masks), target in zip(zip(*outputs, strict=True), targets, strict=True):
            boxes, scores, labels = boxes.double().cpu(), scores.double().cpu(), labels.cpu()
            target = {name: value.cpu() for name, value in target.items()}
            sure = scores >= self.threshold
            of_image = counts(boxes[sure], labels[sure], target, len(self.class_names))
            self.add(0, confusion=of_image.confusion)
            about = [target[name].double()[:, None] for name in ("labels", "crowd", "areas")]
            self.keep(
                1,
                score=torch.tensor([of_image.f1], dtype=torch.float64),
                sizes=target["size"][None],
                numbers=torch.tensor([[len(labels), len(target["labels"])]]),
                found=torch.cat([boxes, labels.double()[:, None], scores[:, None]], 1),
                objects=torch.cat([target["boxes"].double(), *about], 1),
                **self.rows_of_masks(masks, target),
            )

    def rows_of_masks(self, masks: Sequence[Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is kept of an image's masks; of boxes alone, nothing."""
        return {}

    def compute(self) -> dict[str, float]:
        """ap, ap50, ap75, ap_small, ap_medium, ap_large and ar of each kind, in percent; empty without images.

        Keys begin with the kind: box_ap. Each is a mean over the classes that have objects; ap_small, ap_medium and
        ap_large are left out if there is no object of this size. 0 if nothing is found, or if there is no object. With
        `voc`, also voc_ap50 and voc07_ap50.
        """
        if not self.images:
            return {}
        values = {}
        for kind, found in self.averages().items():
            values |= {f"{kind}_{name}": value for name, value in measures(found).items()}
        if self.voc:
            known = [average for average in self.voc_averages() if average is not None]
            for place, key in enumerate(VOC):
                values[key] = sum(average[place] for average in known) / max(1, len(known))
        return values

    def report(self) -> dict[str, Any]:
        """The values, images, per_class, class_names and confusion.

        per_class: name, objects, found (with at least the threshold), ap and ap50 of each kind, and VOC's where it is
        measured (percent; None of a class without an object). confusion: [class, class that was found, objects] for
        every pair that occurs, as indices into `class_names`; the number behind the last is for no object.
        """
        values = super().report()
        confusion = self.added("confusion")
        per_class = [
            {"name": name, "objects": int(confusion[label].sum()), "found": int(confusion[:, label].sum())}
            for label, name in enumerate(self.class_names)
        ]
        for kind, found in self.averages().items() if self.images else ():
            for entry, (ap, ap50) in zip(per_class, of_classes(found), strict=True):
                entry |= {f"{kind}_ap": ap, f"{kind}_ap50": ap50}
        for entry, average in zip(per_class, self.voc_averages(), strict=True) if self.voc and self.images else ():
            entry |= dict(zip(VOC, average or (None, None), strict=True))
        pairs = confusion.nonzero()
        return {
            **values,
            "per_class": per_class,
            "class_names": list(self.class_names),
            "confusion": torch.cat([pairs, confusion[pairs.unbind(1)][:, None]], 1).tolist(),
        }

    def scores(self) -> Tensor:
        """(N,) in percent: of each image the F1 of its boxes; see `glocal.tasks.detection.confusion.counts`."""
        return self.kept("score") if self.images else torch.zeros(0)

    def averages(self) -> dict[str, Averages]:
        """COCO's measures of each kind, computed once for the images so far."""
        if self._averages is None or self._averages[0] != self.images:
            sizes, classes = self.kept("sizes").numpy(), len(self.class_names)
            found, objects = self._rows()
            each = {kind: averages(found, objects, sizes, classes, name) for kind, name in self.kinds}
            self._averages = self.images, each
        return self._averages[1]

    def voc_averages(self) -> list[voc.Average | None]:
        """VOC's AP50 of each class, computed once for the images so far."""
        if self._voc is None or self._voc[0] != self.images:
            self._voc = self.images, voc.averages(*self._rows(), len(self.class_names))
        return self._voc[1]

    def _rows(self) -> tuple[Rows, Rows]:
        """What is found, and what is annotated."""
        found, objects = self.kept("found"), self.kept("objects")
        images = [torch.arange(self.images).repeat_interleave(number).numpy() for number in self.kept("numbers").T]
        texts = [
            from_bytes(self.kept(f"{name}_rles"), self.kept(f"{name}_lengths")) if f"{name}_rles" in self._kept else ()
            for name in ("found", "objects")
        ]
        boxes, labels, scores = found[:, :4].numpy(), found[:, 4].long().numpy(), found[:, 5].numpy()
        answers = Rows(images[0], boxes, labels, scores, masks=texts[0])
        boxes, labels = objects[:, :4].numpy(), objects[:, 4].long().numpy()
        crowd, areas = objects[:, 5].bool().numpy(), objects[:, 6].numpy()
        return answers, Rows(images[1], boxes, labels, crowd=crowd, areas=areas, masks=texts[1])
