"""The result of a task of labels for an image."""

from dataclasses import dataclass, field

from glocal.tasks.task import Line, Result


@dataclass(frozen=True)
class Prediction(Result):
    """The most probable classes of an image, most probable first."""

    labels: list[str] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)

    @property
    def label(self) -> str | None:
        """The most probable class; None for an unreadable image."""
        return self.labels[0] if self.labels else None

    def lines(self) -> list[Line]:
        pairs = zip(self.labels, self.probabilities, strict=True)
        return [Line(label, f"{100 * probability:.1f} %", probability) for label, probability in pairs]
