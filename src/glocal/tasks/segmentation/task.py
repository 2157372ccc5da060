"""The task segmentation: a class for every pixel of an image."""

from typing import ClassVar

from glocal.errors import InvalidValueError
from glocal.tasks.heads import chosen_head
from glocal.tasks.segmentation.dense import DenseTask
from glocal.tasks.segmentation.options import SegmentationEvalOptions, SegmentationOptions, window_of
from glocal.tasks.segmentation.result import Segmentation
from glocal.tasks.task import Measure, Writer

HEADS = ("semantic_fpn", "upernet", "mask2former")


class SegmentationTask(DenseTask):
    name = "segmentation"
    summary = "a class for every pixel"
    Options = SegmentationOptions
    EvalOptions = SegmentationEvalOptions
    result_class = Segmentation
    headings = ("class", "of the pixels")
    measures = (
        Measure("miou", "mIoU", " %"),
        Measure("macc", "mAcc", " %"),
        Measure("aacc", "aAcc", " %"),
        Measure("boundary_iou", "boundary IoU", " %"),
    )
    score = Measure("score", "mean IoU", " %", 1)
    fields: ClassVar = {
        "size": list[int],
        "classes": list[str],
        "shares": list[float],
        "confidences": list[float],
        "rles": list[str],
    }

    @property
    def formats(self):
        from glocal.data.formats import coco_panoptic, coco_segments, huggingface, mask_folders, shapes, shards

        masks = mask_folders, mask_folders.BY_NAMES
        return (huggingface, shards, coco_panoptic, coco_segments.STUFF_FILES, coco_segments, *masks, shapes)

    # The model

    def head_of(self, options):
        return chosen_head(self.name, HEADS, options.head)

    def model_args(self, options, source):
        head, window = self.head_of(options), window_of(options.window)
        if window is not None and head == "mask2former":
            raise InvalidValueError("--window is for heads that give logits, and mask2former gives masks of queries")
        args = {"head": head, "colors": source.about.get("colors", []), "ids": source.about.get("ids", [])}
        return args if window is None else {**args, "window": list(window)}

    def check_model_args(self, args):
        from glocal.tasks.segmentation.args import check

        check(args)

    def predict(self, compute, batch, args):
        from glocal.tasks.segmentation.inference import predict

        return predict(compute, batch, args)

    # Training

    def transform(self, preprocessing, class_names, augmentation=None):
        from glocal.tasks.segmentation.transform import MeasuringTransform, TrainingTransform

        return TrainingTransform(preprocessing, augmentation) if augmentation else MeasuringTransform(preprocessing)

    def collate(self, targets):
        from torch.utils.data import default_collate

        same = len({target.shape for target in targets}) == 1
        return default_collate(targets) if same else targets  # in measuring, each has the size of its image

    def drawn_map(self, target, class_names, args):
        from glocal.tasks.segmentation.overlay import colors_of

        return target.numpy(), colors_of(args, len(class_names)), class_names

    def check(self, options, images_at_once):
        from glocal.tasks.segmentation.losses import find_loss

        find_loss(options.mask_loss)
        if options.window is not None and options.strategy == "fsdp":
            raise InvalidValueError(
                "--window with --strategy fsdp: images have different numbers of windows, and all devices must compute "
                "equally often: give --window to glocal eval"
            )
        if self.head_of(options) == "mask2former" and (options.mask_loss != "ce" or options.class_weights != "none"):
            raise InvalidValueError("--mask-loss and --class-weights are for logits: mask2former has a loss of its own")

    def sample_weights(self, options, samples):
        from glocal.tasks.segmentation.labels import weights_of_images

        return weights_of_images(samples) if options.balanced else None

    def objective(self, options, source, preprocessing):
        from glocal.tasks.segmentation.objective import Mask2FormerObjective, SegmentationObjective

        queries = self.head_of(options) == "mask2former"
        return Mask2FormerObjective() if queries else SegmentationObjective(options, source)

    def metrics(self, class_names):
        from glocal.tasks.segmentation.metrics import SegmentationMetrics

        return SegmentationMetrics(class_names)

    # Measuring

    def match(self, source, trained):
        from glocal.tasks.segmentation.measurement import match

        return match(source, trained)

    def measurement(self, config, trained):
        from glocal.tasks.segmentation.measurement import measurement

        return measurement(config, trained)

    def tables(self, result):
        from glocal.tasks.segmentation.tables import tables

        return tables(result)

    def plots(self, result):
        from glocal.tasks.segmentation.plots import figures

        return figures(result)

    def plot_texts(self, result):
        return result.values.get("class_names", [])

    # Results

    def results(self, outputs, geometry, trained, top_k):
        from glocal.tasks.segmentation.results import results

        return results(outputs, trained)

    @property
    def writers(self):
        from glocal.tasks.segmentation import geo, writers

        return {
            "labels": Writer(writers.write_labels, "a PNG per image, with the numbers of the classes"),
            "ids": Writer(writers.write_ids, "a PNG per image, with the values of the data's masks"),
            "coco": Writer(writers.write_coco, "a data set of COCO, with run lengths", (".json",)),
            "polygons": Writer(writers.write_polygons, "polygons in pixels", (".geojson", ".json")),
            "geotiff": Writer(
                geo.write_geotiff, "a GeoTIFF per image, with the numbers of the classes", georeferenced=True
            ),
            "geojson": Writer(geo.write_geojson, "polygons in longitude and latitude", (".geojson", ".json"), True),
        }

    def join(self, parts, size, trained):
        from glocal.tasks.segmentation.results import joined

        return joined(parts, size, trained)


SEGMENTATION = SegmentationTask()
