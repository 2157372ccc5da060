"""Training options of classification."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from glocal.errors import InvalidValueError
from glocal.options import PART, RATE, Range, exclude
from glocal.tasks.labels.options import LabelOptions

NAME = "classification"
SETS = ("imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-v2", "imagenet-c", "real")


@dataclass(frozen=True)
class ClassificationOptions(LabelOptions):
    """Mixed images, distillation, and the drawing of samples.

    Args:
        mixup: alpha of mixup, 0 for none
        cutmix: alpha of CutMix, 0 for none
        mixup_prob: part of the batches that are mixed
        mixup_switch_prob: probability of CutMix, if both mixup and CutMix are on
        teacher: timm's name of the teacher, with its published weights or the weights of --teacher-checkpoint
        teacher_checkpoint: weights of the teacher; takes the same files as --checkpoint
        distillation: soft (from the teacher's probabilities) or hard (from its decisions)
        distillation_weight: the teacher's part of the loss
        distillation_temperature: temperature of the probabilities in soft distillation
        balanced: draw all classes equally often
    """

    RANGES: ClassVar[dict[str, Range]] = LabelOptions.RANGES | {
        "mixup": RATE,
        "cutmix": RATE,
        "mixup_prob": PART,
        "mixup_switch_prob": PART,
        "distillation_weight": PART,
        "distillation_temperature": Range(0, most=1000, above=True),
    }
    MODELS: ClassVar[tuple[str, ...]] = ("teacher",)
    FILES: ClassVar[tuple[str, ...]] = ("teacher_checkpoint",)
    REQUESTS: ClassVar[tuple[str, ...]] = ("mixup", "cutmix", "teacher", "teacher_checkpoint", "balanced")

    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    teacher: str | None = None
    teacher_checkpoint: str | None = None
    distillation: Literal["soft", "hard"] = "soft"
    distillation_weight: float = 0.5
    distillation_temperature: float = 1.0
    balanced: bool = False

    def __post_init__(self):
        if self.teacher_checkpoint is None and self.teacher is None and self.distillation != "soft":
            raise InvalidValueError("--distillation needs a --teacher or a --teacher-checkpoint")


@dataclass(frozen=True)
class RobustnessOptions:
    """Measurements of robustness.

    Args:
        set: DATA is a robustness set of ImageNet in its published layout: imagenet-a, imagenet-r, imagenet-sketch,
            imagenet-v2, imagenet-c or real
        corruptions: measure DATA also with ImageNet-C's corruptions, made on the fly: all, or some of them, for
            instance fog,snow
    """

    set: str | None = None
    corruptions: str | None = None

    def __post_init__(self):
        if self.set is not None and self.set not in SETS:
            raise InvalidValueError(f"--set must be {', '.join(SETS[:-1])} or {SETS[-1]}, got {self.set!r}")
        if self.set is not None and self.split not in ("auto", "all"):
            raise InvalidValueError(f"--split {self.split} does not apply to --set {self.set}, which is one part")
        if self.set is not None and self.data_args:
            raise InvalidValueError(f"--data-args does not apply to --set {self.set}, whose layout is known")
        exclude(self, "sizes", "corruptions")
        exclude(self, "set", "corruptions")
        if self.set == "imagenet-c":
            exclude(self, "sizes", "set")
        if self.set is not None and self.data is None:
            raise InvalidValueError(f"--set {self.set} needs DATA, the folder of that set")
        self.corruption_list()

    def corruption_list(self) -> list[str]:
        """The corruptions of --corruptions; ValueError for an unknown one."""
        if self.corruptions is None:
            return []
        from glocal.data.corruptions import ALEXNET_ERROR  # brings NumPy and Pillow

        if self.corruptions == "all":
            return list(ALEXNET_ERROR)
        names = list(dict.fromkeys(part.strip() for part in self.corruptions.split(",")))
        for name in names:
            if name not in ALEXNET_ERROR:
                raise InvalidValueError(f"--corruptions: {name!r} is none of {', '.join(ALEXNET_ERROR)} (or all)")
        return names
