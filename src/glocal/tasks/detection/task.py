"""The task detection: a box around each object of an image, and its class."""

from typing import Any, ClassVar

from glocal.errors import InvalidValueError
from glocal.tasks.detection.options import DetectionEvalOptions, DetectionOptions, factors_of, train_scales_of
from glocal.tasks.detection.result import Detection
from glocal.tasks.headed import HeadedTask
from glocal.tasks.heads import chosen_head
from glocal.tasks.segmentation.options import sides_of
from glocal.tasks.task import Measure, Writer

SHORTER, LONGER = 800, 1333  # pixels of an image's sides, as in the published trainings


def coco_measures(kind: str) -> tuple[Measure, ...]:
    """COCO's measures of boxes or of masks. kind: "box" or "mask"."""
    ends = {
        "ap": "AP",
        "ap50": "AP50",
        "ap75": "AP75",
        "ap_small": "AP, small",
        "ap_medium": "AP, medium",
        "ap_large": "AP, large",
        "ar": "AR",
    }
    return tuple(Measure(f"{kind}_{key}", f"{kind} {title}", " %") for key, title in ends.items())


class DetectionTask(HeadedTask):
    """heads: the names of the heads, the first is the default. args: the kind of `model_args`, by its module's name.
    masks: whether the objects have masks.
    """

    name = "detection"
    summary = "a box and a class for each object"
    Options = DetectionOptions
    EvalOptions = DetectionEvalOptions
    result_class = Detection
    headings = ("object", "score")
    measures = (
        *coco_measures("box"),
        Measure("voc_ap50", "VOC AP50", " %"),
        Measure("voc07_ap50", "VOC2007 AP50", " %"),
    )
    score = Measure("score", "F1", " %", 1)
    fields: ClassVar = {
        "size": list[int],
        "classes": list[str],
        "scores": list[float],
        "boxes": list[list[float]],
    }
    output_names = ("boxes", "scores", "labels")
    training_crops = False
    heads: ClassVar[tuple[str, ...]] = ("retinanet", "faster_rcnn", "dino", "d_fine")
    masks: ClassVar[bool] = False

    @property
    def formats(self):
        from glocal.data.formats.detection import FORMATS

        return FORMATS

    # The model

    def head_of(self, options: Any) -> str:
        """The name of the head that the options ask for."""
        return chosen_head(self.name, self.heads, options.head)

    def model_args(self, options, source):
        args = {"head": self.head_of(options), "score_threshold": options.score_threshold}
        if options.head_args:
            args["head_args"] = dict(options.head_args)
        if source.about.get("ids"):
            args["ids"] = source.about["ids"]
        self.check_model_args(args)
        return args

    def check_model_args(self, args):
        from glocal.tasks.detection.args import check

        check(args, self.heads)

    def model(self, backbone, class_names, head=None, head_args=None, **args):
        from glocal.models.create import add_head

        return add_head(backbone, head or self.heads[0], len(class_names), head_args or {})

    def outputs(self, model):
        from glocal.tasks.detection.outputs import Detections

        return Detections(model)

    def preprocessing(self, model, options, img_size):
        from glocal.data.preprocessing import Whole
        from glocal.tasks.segmentation.transform import preprocessing

        self.refuse_crops(options)
        shorter = img_size or SHORTER
        shorter, longer = sides_of(options.whole) or (shorter, round(LONGER * shorter / SHORTER))
        multiple = options.size_multiple or (1 if self.head_of(options) == "dino" else 32)
        return preprocessing(model, shorter, Whole(shorter, longer, multiple, antialias=False))

    def predict(self, compute, batch, args):
        from glocal.tasks.detection.inference import predict

        return predict(compute, batch, args)

    # Training

    def check(self, options, images_at_once):
        if self.head_of(options) == "d_fine" and options.class_weights != "none":
            raise InvalidValueError("--class-weights: the losses of d_fine are transformers', which have none")

    def augmentation(self, options, source, preprocessing):
        from glocal.tasks.detection.augmentation import DetectionAugmentation
        from glocal.tasks.detection.transform import check_others

        others = source.splits["train"] if options.copy_paste or options.mosaic else None
        if others is not None:
            check_others(options, source)
        hflip = source.hflip if options.hflip is None else options.hflip
        return DetectionAugmentation(
            whole=preprocessing.whole,
            scales=train_scales_of(options.train_scales),
            detr_crop=options.detr_crop,
            scale_jitter=factors_of(options.scale_jitter),
            hflip=0.5 if hflip is None else hflip,
            photometric=options.photometric,
            copy_paste=options.copy_paste,
            mosaic=options.mosaic,
            label_interpolation=options.label_resize,
            others=others,
        )

    def transform(self, preprocessing, class_names, augmentation=None):
        from glocal.tasks.detection.transform import MeasuringTransform, TrainingTransform

        if augmentation is None:
            return MeasuringTransform(preprocessing, self.masks)
        return TrainingTransform(preprocessing, augmentation, self.masks)

    def collate(self, targets):
        return targets  # images have different numbers of objects

    def draw_target(self, image, target, class_names, args):
        from glocal.tasks.detection.targets import drawn

        return drawn(image, target, class_names)

    def training_samples(self, options, samples):
        from glocal.tasks.detection.sampling import chosen

        return chosen(samples, options.skip_empty, options.skip_small)

    def sample_weights(self, options, samples):
        from glocal.tasks.detection.sampling import weights_of_images

        return weights_of_images(samples) if options.balanced else None

    def sample_groups(self, options, samples):
        from glocal.tasks.detection.sampling import groups_of_images

        return groups_of_images(samples)

    def objective(self, options, source, preprocessing):
        from glocal.tasks.detection.objective import DetectionObjective

        return DetectionObjective(options.class_weights, source)

    def metrics(self, class_names):
        from glocal.tasks.detection.metrics import DetectionMetrics

        return DetectionMetrics(class_names)

    # Measuring

    def match(self, source, trained):
        from glocal.tasks.detection.measurement import match

        return match(source, trained)

    def measurement(self, config, trained):
        from glocal.tasks.detection.measurement import measurement

        return measurement(config, trained)

    def tables(self, result):
        from glocal.tasks.detection.tables import tables

        return tables(result)

    def plots(self, result):
        from glocal.tasks.detection.plots import figures

        return figures(result)

    def plot_texts(self, result):
        return result.values.get("class_names", [])

    # Results

    def results(self, outputs, geometry, trained, top_k):
        from glocal.tasks.detection.results import results

        return results(outputs, geometry, trained)

    @property
    def writers(self):
        from glocal.tasks.detection import writers

        return {
            "coco": Writer(writers.write_coco, "a data set of COCO, with scores", (".json",)),
            "yolo": Writer(writers.write_yolo, "a text per image, with the boxes as parts of it"),
            "csv": Writer(writers.write_csv, "a row per object", (".csv",)),
        }

    def join(self, parts, size, trained):
        from glocal.tasks.detection.results import joined

        return joined(parts, size, trained)


DETECTION = DetectionTask()
