"""What a measurement gives."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvalResult:
    """A measurement: accuracies, errors and the calibration error in percent; None where it does not apply.

    images_per_second includes reading them. images counts those measured, unread names those that could not be read,
    unlabelled counts those without a ReaL label. per_class, calibration and confusion: see `glocal.tasks.metrics`;
    confusion refers to class_names, the classes that could be predicted. map, and no top1: of several labels per image.
    corruptions, mean_error, mce: see `glocal.data.corruptions.corruption_error`.
    """

    model: str
    data: str
    split: str
    img_size: list[int]
    device: str
    images: int
    unread: list[str]
    images_per_second: float
    set: str | None = None
    top1: float | None = None
    top5: float | None = None
    map: float | None = None
    loss: float | None = None
    ece: float | None = None
    unlabelled: int | None = None
    mean_error: float | None = None
    mce: float | None = None
    corruptions: dict | None = None
    calibration: list[dict] | None = None
    per_class: list[dict] | None = None
    class_names: list[str] | None = None
    confusion: list[list[int]] | None = None

    def to_dict(self) -> dict:
        """What applies of it."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def worst_classes(self, limit: int = 10) -> list[dict]:
        """The entries of per_class with the lowest accuracy or average precision."""
        score = "accuracy" if self.map is None else "average_precision"
        return sorted(self.per_class or [], key=lambda one: one[score])[:limit]

    def confusions(self, limit: int = 10) -> list[tuple[str, str, int]]:
        """The most frequent mistakes: class, prediction, images."""
        mistakes = [cell for cell in self.confusion or [] if cell[0] != cell[1]]
        mistakes.sort(key=lambda cell: -cell[2])
        return [(self.class_names[label], self.class_names[other], images) for label, other, images in mistakes[:limit]]
