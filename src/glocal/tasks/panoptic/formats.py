"""The formats whose annotations tell objects apart, opened for this task.

Their label maps are `glocal.data.segment_maps.SegmentMap`, with `things` in `DataSource.about`. Without --task, their
data is opened for segmentation: the same annotations tell the class of every pixel.
"""

from glocal.data.formats import coco_panoptic, shapes
from glocal.data.open import OpenedFor

FORMATS = tuple(OpenedFor(one, "segmentation", "panoptic") for one in (coco_panoptic, shapes))
