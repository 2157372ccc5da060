"""Training options that all tasks of labels for whole images share."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from glocal.options import PART, Range


@dataclass(frozen=True)
class LabelOptions:
    """The loss, and the random changes of training images.

    Args:
        loss: ce, bce (binary cross-entropy per class) or asl (asymmetric loss); by default, ce for a label per image,
            and bce for several labels per image
        label_smoothing: part of each target that is spread over all classes
        crop_scale: smallest part of the image that a random crop keeps (default: 0.6 up to 64 pixels, otherwise 0.35)
        train_interpolation: bilinear, bicubic or random (default: the model's own)
        hflip: probability of a mirror image (default: 0 for digits, otherwise 0.5)
        color_jitter: strength of random changes of brightness, contrast and saturation
        auto_augment: a policy in timm's notation, for instance rand-m9-mstd0.5-inc1
        random_erasing: probability of overwriting a random rectangle
    """

    RANGES: ClassVar[dict[str, Range]] = {
        "label_smoothing": Range(0, 1, below=True),
        "crop_scale": Range(0, 1, above=True),
        "hflip": PART,
        "color_jitter": Range(0, most=100),
        "random_erasing": PART,
    }

    loss: Literal["ce", "bce", "asl"] | None = None
    label_smoothing: float = 0.1
    crop_scale: float | None = None
    train_interpolation: Literal["bilinear", "bicubic", "random"] | None = None
    hflip: float | None = None
    color_jitter: float = 0.0
    auto_augment: str | None = None
    random_erasing: float = 0.0
