"""The base of the tasks of labels for whole images, so far as it needs no torch."""

from typing import ClassVar

from glocal.errors import InvalidValueError
from glocal.tasks.labels.prediction import Prediction
from glocal.tasks.task import Task


class LabelTask(Task):
    """A task whose outputs are one number per class, and whose results are the most probable classes."""

    result_class = Prediction
    headings = ("class", "probability")
    ranks = True
    fields: ClassVar = {"label": str, "labels": list[str], "probabilities": list[float]}

    SEVERAL: ClassVar = "multi_label"  # in files: whether an image may have several labels
    several_labels: ClassVar[bool] = False

    def num_outputs(self, class_names):
        if not class_names:
            raise InvalidValueError(f"the task {self.name} needs the names of its classes")
        return len(class_names)

    def augmentation(self, options, source, preprocessing):
        from glocal.tasks.labels.transform import augmentation

        return augmentation(options, source, preprocessing)

    def metadata(self, trained):
        return {**super().metadata(trained), self.SEVERAL: self.several_labels}

    def measures_on(self, other):
        return isinstance(other, LabelTask)

    def draw_target(self, image, target, class_names, args):
        from glocal.tasks.drawing import Entry, with_caption

        return with_caption(image, [Entry(name) for name in self.names_of(target, class_names)])

    def draw_comparison(self, image, target, result, class_names, args):
        from glocal.tasks.drawing import Entry, with_caption

        truth = [Entry(f"truth: {', '.join(self.names_of(target, class_names))}")]
        found = [Entry(f"{line.text}  {line.value}") for line in result.lines()]
        found[0] = Entry(f"prediction: {found[0].text}")
        return with_caption(with_caption(image, truth), found)

    def names_of(self, target, class_names) -> list[str]:
        """The classes of a target, a number or for several labels (classes,); what to say if there is none."""
        if not self.several_labels:
            return [class_names[int(target)]]
        return [name for name, there in zip(class_names, target.tolist(), strict=True) if there] or ["(no label)"]

    @property
    def answer_fields(self):
        return {name: self.fields[name] for name in ("labels", "probabilities")}

    def columns(self, top_k):
        numbers = ["", *(f"_{place}" for place in range(2, top_k + 1))]
        return [f"{name}{number}" for number in numbers for name in ("label", "probability")]

    def cells(self, result):
        return [cell for pair in zip(result.labels, result.probabilities, strict=True) for cell in pair]
