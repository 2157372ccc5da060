"""Options of detection and instance segmentation. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from glocal.errors import InvalidValueError
from glocal.options import PART, Range, numbers_of
from glocal.tasks.segmentation.options import SCALES, sides_of
from glocal.wording import shown


@dataclass(frozen=True)
class DetectionOptions:
    """The head, how whole images are taken, and their random changes in training.

    Args:
        head: of segmentation semantic_fpn (small and quick, the default), upernet (with an auxiliary head) or
            mask2former; of detection retinanet (the default), faster_rcnn, dino or d_fine; of instances mask_rcnn (the
            default) or cascade_mask_rcnn
        whole: shorter and longer side of images in measuring and predicting, with their aspect kept, such as 800,1333
            (default: --img-size, 800 without it, and five thirds as much)
        size_multiple: both sides of an image become multiples of it, by zeros at the right and bottom (default: 1 for
            dino, otherwise 32)
        head_args: further arguments of a head for objects, for instance {scales: 5}
        train_scales: factors of the shorter side in measuring of which one is drawn for each training image, for
            instance 0.6,0.8,1 (default: 1)
        detr_crop: cut a random part out of half of the training images before they are resized, as DETR and DINO do
        scale_jitter: smallest and largest random factor of the size of training images, which are then cropped to their
            size without it, for instance 0.1,2 (large-scale jitter)
        hflip: probability of a mirror image (default: 0 for digits, otherwise 0.5)
        photometric: random changes of brightness, contrast, saturation and hue
        label_resize: how masks are resized in training: nearest-exact, by the centres of pixels; or nearest, by their
            upper left corners, as in the published trainings
        class_weights: weights of the classes in the loss, of segmentation by their pixels in the training images, of
            detection and instances by their objects: none, balanced (1 / frequency) or sqrt (1 / √frequency)
        balanced: draw images of rare classes more often
        skip_empty: leave out training images without objects; a crowd counts as an object
        skip_small: leave out training images with a side of fewer pixels, for instance 32; 0 for none
        copy_paste: probability of objects of another image in a training image; the data must have masks
        mosaic: probability of four images in the place of a training image
        score_threshold: pictures show objects with at least this score
    """

    RANGES: ClassVar[dict[str, Range]] = {
        "size_multiple": Range(1, most=1024),
        "skip_small": Range(0, most=1 << 20),
        "hflip": PART,
        "copy_paste": PART,
        "mosaic": PART,
        "score_threshold": PART,
    }
    REQUESTS: ClassVar[tuple[str, ...]] = (
        "head",
        "head_args",
        "whole",
        "train_scales",
        "detr_crop",
        "scale_jitter",
        "copy_paste",
        "mosaic",
        "class_weights",
        "balanced",
        "skip_empty",
        "skip_small",
    )

    head: str | None = None
    head_args: dict = field(default_factory=dict)
    whole: str | None = None
    size_multiple: int | None = None
    train_scales: str | None = None
    detr_crop: bool = False
    scale_jitter: str | None = None
    hflip: float | None = None
    photometric: bool = True
    copy_paste: float = 0.0
    mosaic: float = 0.0
    label_resize: Literal["nearest-exact", "nearest"] = "nearest-exact"
    class_weights: Literal["none", "balanced", "sqrt"] = "none"
    balanced: bool = False
    skip_empty: bool = False
    skip_small: int = 0
    score_threshold: float = 0.3

    def __post_init__(self):
        sides_of(self.whole)
        train_scales_of(self.train_scales)
        factors_of(self.scale_jitter)


@dataclass(frozen=True)
class DetectionEvalOptions:
    """What pictures and the confusion of classes count of what is found, and further measures.

    Args:
        score_threshold: objects with at least this score (default: as in the training)
        voc: also measure PASCAL VOC's AP50; of data with VOC's XML files it is always measured
    """

    RANGES: ClassVar[dict[str, Range]] = {"score_threshold": PART}

    score_threshold: float | None = None
    voc: bool = False


def train_scales_of(text: str | None) -> tuple[float, ...]:
    """The factors of --train-scales, in order; none for None, ValueError for any other text."""
    return () if text is None else tuple(numbers_of(text, "--train-scales", "factors such as 0.6,0.8,1", SCALES))


def factors_of(text: str | None) -> tuple[float, float] | None:
    """(smallest, largest) of --scale-jitter; ValueError for any other text."""
    if text is None:
        return None
    found = numbers_of(text, "--scale-jitter", "two factors such as 0.1,2", SCALES)
    if len(found) != 2 or found[0] > found[1]:
        raise InvalidValueError(f"--scale-jitter must be two factors such as 0.1,2, got {shown(text)}")
    return found[0], found[1]
