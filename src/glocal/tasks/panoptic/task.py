"""The task panoptic: a class and an object for every pixel of an image."""

from typing import ClassVar

from glocal.tasks.panoptic.options import PanopticEvalOptions, PanopticOptions
from glocal.tasks.panoptic.result import Panoptic
from glocal.tasks.segmentation.dense import DenseTask
from glocal.tasks.task import Measure, Writer


class PanopticTask(DenseTask):
    name = "panoptic"
    summary = "a class and an object for every pixel"
    Options = PanopticOptions
    EvalOptions = PanopticEvalOptions
    result_class = Panoptic
    headings = ("segment", "of the pixels")
    measures = (
        Measure("pq", "PQ", " %"),
        Measure("sq", "SQ", " %"),
        Measure("rq", "RQ", " %"),
        Measure("pq_things", "PQ of things", " %"),
        Measure("pq_stuff", "PQ of stuff", " %"),
    )
    score = Measure("score", "PQ", " %", 1)
    fields: ClassVar = {
        "size": list[int],
        "classes": list[str],
        "scores": list[float],
        "shares": list[float],
        "rles": list[str],
    }
    output_names = ("class_logits", "mask_logits")

    @property
    def formats(self):
        from glocal.tasks.panoptic.formats import FORMATS

        return FORMATS

    # The model

    def head_of(self, options):
        return "mask2former"

    def model_args(self, options, source):
        return {
            "head": self.head_of(options),
            "things": source.about["things"],
            "segment_threshold": options.segment_threshold,
            "overlap_threshold": options.overlap_threshold,
            "colors": source.about["colors"],
            "ids": source.about["ids"],
        }

    def check_model_args(self, args):
        from glocal.tasks.panoptic.args import PanopticArgs
        from glocal.tasks.segmentation.args import check

        check(args, PanopticArgs)

    def predict(self, compute, batch, args):
        from glocal.tasks.panoptic.inference import predict

        return predict(compute, batch, args)

    # Training

    def transform(self, preprocessing, class_names, augmentation=None):
        from glocal.tasks.panoptic.transform import MeasuringTransform, TrainingTransform

        return TrainingTransform(preprocessing, augmentation) if augmentation else MeasuringTransform(preprocessing)

    def collate(self, targets):
        return targets  # images have different numbers of segments

    def drawn_map(self, target, class_names, args):
        from glocal.tasks.panoptic.drawing import colors_of_segments

        names = [class_names[label] for label in target["classes"].tolist()]
        return target["ids"].numpy(), colors_of_segments(len(names)), names

    def objective(self, options, source, preprocessing):
        from glocal.tasks.panoptic.transform import masks_of_segments
        from glocal.tasks.segmentation.objective import Mask2FormerObjective

        return Mask2FormerObjective(masks_of_segments)

    def metrics(self, class_names):
        from glocal.tasks.panoptic.measurement import SegmentMetrics

        return SegmentMetrics(class_names)

    # Measuring

    def match(self, source, trained):
        from glocal.tasks.panoptic.measurement import match

        return match(source, trained)

    def measurement(self, config, trained):
        from glocal.tasks.panoptic.measurement import measurement

        return measurement(config, trained)

    def tables(self, result):
        from glocal.tasks.panoptic.tables import tables

        return tables(result)

    # Results

    def results(self, outputs, geometry, trained, top_k):
        from glocal.tasks.panoptic.results import results

        return results(outputs, trained)

    @property
    def writers(self):
        from glocal.tasks.segmentation.writers import write_coco

        return {"coco": Writer(write_coco, "a data set of COCO, with run lengths", (".json",))}


PANOPTIC = PanopticTask()
