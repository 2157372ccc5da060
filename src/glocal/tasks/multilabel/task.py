"""The task multilabel: any number of labels for each image."""

from functools import partial

from glocal.errors import InvalidValueError
from glocal.tasks.labels.options import LabelOptions
from glocal.tasks.labels.task import LabelTask
from glocal.tasks.task import LOSS, Match, Measure


class Multilabel(LabelTask):
    name = "multilabel"
    summary = "any number of labels for each image"
    Options = LabelOptions
    measures = (Measure("map", "mAP", " %"), LOSS)
    score = LOSS
    several_labels = True
    old_mark = LabelTask.SEVERAL

    def transform(self, preprocessing, class_names, augmentation=None):
        from glocal.tasks.labels.transform import LabelTransform, multi_hot

        return LabelTransform(preprocessing, augmentation, partial(multi_hot, classes=len(class_names)))

    def check(self, options, images_at_once):
        if options.loss == "ce":
            raise InvalidValueError("--loss ce is for one label per image: bce and asl take several")

    def objective(self, options, source, preprocessing):
        from glocal.tasks.multilabel.objective import MultilabelObjective

        return MultilabelObjective(options)

    def metrics(self, class_names):
        from glocal.tasks.multilabel.metrics import MultilabelMetrics

        return MultilabelMetrics(class_names)

    def match(self, source, trained):
        from glocal.tasks.matching import display_names, outputs_of

        outputs = outputs_of(source, trained)
        return Match(display_names(trained, outputs), lambda logits, targets: (logits[:, outputs], targets))

    def tables(self, result):
        from glocal.tasks.labels.tables import table_of_worst

        return table_of_worst(result, "average_precision")

    def results(self, outputs, geometry, trained, top_k):
        from glocal.tasks.labels.results import predictions

        return predictions(outputs[0].float().sigmoid(), trained.descriptions, top_k)


MULTILABEL = Multilabel()
