"""The formats whose annotations tell objects apart, opened for this task."""

from dataclasses import dataclass, replace

from glocal.data.formats import coco_panoptic, shapes
from glocal.data.open import Format
from glocal.data.samples import DataSource, Opening


@dataclass(frozen=True)
class SegmentFormat:
    """A format of label maps that are `glocal.data.segment_maps.SegmentMap`, with `things` in `DataSource.about`.

    Without --task, its data is opened for segmentation: the same annotations tell the class of every pixel.
    """

    one: Format

    @property
    def ARGS(self) -> tuple[str, ...]:
        return self.one.ARGS

    def matches(self, data: str) -> bool:
        return self.one.matches(data)

    def open_training(self, data: str, how: Opening) -> DataSource:
        return replace(self.one.open_training(data, how), task="panoptic")

    def open_evaluation(self, data: str, how: Opening, held_out: dict | None) -> DataSource:
        return replace(self.one.open_evaluation(data, how, held_out), task="panoptic")


FORMATS = (SegmentFormat(coco_panoptic), SegmentFormat(shapes))
