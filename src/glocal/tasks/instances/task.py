"""The task instances: a box, a class and a mask for each object of an image."""

from typing import ClassVar

from glocal.tasks.detection.task import DetectionTask, coco_measures
from glocal.tasks.instances.result import Instances
from glocal.tasks.task import Writer


class InstancesTask(DetectionTask):
    name = "instances"
    summary = "a mask, a box and a class for each object"
    result_class = Instances
    measures = (*coco_measures("mask"), *DetectionTask.measures)
    fields: ClassVar = {**DetectionTask.fields, "rles": list[str]}
    output_names = (*DetectionTask.output_names, "masks")
    heads = ("mask_rcnn", "cascade_mask_rcnn")
    masks = True

    @property
    def formats(self):
        from glocal.data.formats.detection import INSTANCE_FORMATS

        return INSTANCE_FORMATS

    def predict(self, compute, batch, args):
        from glocal.tasks.instances.inference import predict

        return predict(compute, batch, args)

    def metrics(self, class_names):
        from glocal.tasks.instances.metrics import InstanceMetrics

        return InstanceMetrics(class_names)

    def results(self, outputs, geometry, trained, top_k):
        from glocal.tasks.instances.results import results

        return results(outputs, geometry, trained)

    @property
    def writers(self):
        from glocal.tasks.detection import writers

        about = "a data set of COCO, with scores and run lengths"
        return {**super().writers, "coco": Writer(writers.write_coco, about, (".json",))}

    def join(self, parts, size, trained):
        from glocal.tasks.instances.results import joined

        return joined(parts, size, trained)


INSTANCES = InstancesTask()
