"""The task classification: a label for each image."""

from glocal.errors import InvalidValueError
from glocal.tasks.classification.options import NAME, ClassificationOptions, RobustnessOptions
from glocal.tasks.labels.task import LabelTask
from glocal.tasks.task import LOSS, Measure


class Classification(LabelTask):
    name = NAME
    summary = "one label for each image"
    Options = ClassificationOptions
    EvalOptions = RobustnessOptions
    measures = (
        Measure("top1", "top-1", " %"),
        Measure("top5", "top-5", " %"),
        LOSS,
        Measure("ece", "ECE", " %", higher_is_better=False),
        Measure("mean_error", "mean error, corrupted", " %", higher_is_better=False),
        Measure("mce", "mCE", " %", higher_is_better=False),
    )

    score = Measure("score", "probability of the true label", " %")

    def transform(self, preprocessing, class_names, augmentation=None):
        from glocal.tasks.labels.transform import LabelTransform

        return LabelTransform(preprocessing, augmentation)

    def check(self, options, images_at_once):
        mixed = bool(options.mixup or options.cutmix)
        if mixed and images_at_once == 1:
            raise InvalidValueError(
                "--mixup and --cutmix need two images at a time on each device: give a larger --batch-size or a "
                "smaller --accumulate"
            )
        if mixed and options.loss == "asl":
            raise InvalidValueError("--loss asl takes no mixed labels: --mixup 0 --cutmix 0")

    def sample_weights(self, options, samples):
        from glocal.data.sampling import class_balance
        from glocal.data.shards import ShardedSamples

        if not options.balanced:
            return None
        if isinstance(samples, ShardedSamples):
            raise InvalidValueError("--balanced needs images in any order, which shards do not give")
        return class_balance(samples.labels)

    def objective(self, options, source, preprocessing):
        from glocal.tasks.classification.objective import ClassificationObjective, find_teacher

        return ClassificationObjective(options, len(source.class_names), find_teacher(options, source, preprocessing))

    def metrics(self, class_names):
        from glocal.tasks.classification.metrics import ClassificationMetrics

        return ClassificationMetrics(class_names)

    def match(self, source, trained):
        from glocal.tasks.classification.measurement import match

        return match(source, trained)

    def measurement(self, config, trained):
        from glocal.tasks.classification.measurement import measurement

        return measurement(config, trained)

    def tables(self, result):
        from glocal.tasks.classification.tables import tables

        return tables(result)

    def plots(self, result):
        from glocal.tasks.classification.plots import figures

        return figures(result)

    def plot_texts(self, result):
        from glocal.tasks.classification.plots import texts

        return texts(result)

    def results(self, outputs, geometry, trained, top_k):
        from glocal.tasks.labels.results import predictions

        return predictions(outputs[0].float().softmax(-1), trained.descriptions, top_k)


CLASSIFICATION = Classification()
