"""Tasks: what a backbone learns, and what its outputs mean. Read `task.py` first."""

from glocal.tasks.classification.task import CLASSIFICATION
from glocal.tasks.detection.task import DETECTION
from glocal.tasks.instances.task import INSTANCES
from glocal.tasks.multilabel.task import MULTILABEL
from glocal.tasks.panoptic.task import PANOPTIC
from glocal.tasks.registry import find_task, register_task, registered_tasks
from glocal.tasks.segmentation.task import SEGMENTATION

for _task in (CLASSIFICATION, MULTILABEL, SEGMENTATION, PANOPTIC, DETECTION, INSTANCES):
    register_task(_task)

__all__ = ["find_task", "register_task", "registered_tasks"]
