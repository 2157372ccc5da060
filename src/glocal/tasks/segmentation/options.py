"""Options of segmentation."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from glocal.errors import InvalidValueError
from glocal.options import PART, PIXELS, Range, numbers_of, whole_numbers
from glocal.wording import shown

SCALES = Range(0, most=16, above=True)


@dataclass(frozen=True)
class DenseOptions:
    """How whole images are taken, and their random changes in training.

    Args:
        whole: shorter and longer side of images in measuring and predicting, with their aspect kept, for instance
            512,2048 (default: --img-size and four times as much, of detection five thirds); for segmentation, images of
            a training are resized to this size times --resize-range, and then cropped to --img-size
        size_multiple: both sides of an image become multiples of it in measuring and predicting, of detection also in
            training (default: 32 for mask2former, retinanet and the R-CNNs, otherwise 1)
        size_align: how they do: pad (zeros at the right and bottom) or resize (a little larger)
        resize_range: smallest and largest random factor of the size of training images
        max_class_share: draw a crop again, up to 10 times, if a class covers this part of it
        hflip: probability of a mirror image (default: 0 for digits, otherwise 0.5)
        photometric: random changes of brightness, contrast, saturation and hue
        label_resize: how label maps are resized in training: nearest-exact, by the centres of pixels; or nearest, by
            their upper left corners, as in the published trainings
    """

    RANGES: ClassVar[dict[str, Range]] = {
        "size_multiple": Range(1, most=1024),
        "max_class_share": Range(0, 1, above=True),
        "hflip": PART,
    }
    REQUESTS: ClassVar[tuple[str, ...]] = ("whole",)

    whole: str | None = None
    size_multiple: int | None = None
    size_align: Literal["pad", "resize"] = "pad"
    resize_range: str = "0.5,2"
    max_class_share: float = 0.75
    hflip: float | None = None
    photometric: bool = True
    label_resize: Literal["nearest-exact", "nearest"] = "nearest-exact"

    def __post_init__(self):
        sides_of(self.whole)
        range_of_sizes(self.resize_range)


@dataclass(frozen=True)
class SegmentationOptions(DenseOptions):
    """The head, its loss, how images are taken, and their random changes in training.

    Args:
        head: of segmentation semantic_fpn (small and quick, the default), upernet (with an auxiliary head) or
            mask2former; of detection retinanet (the default), faster_rcnn, dino or d_fine; of instances mask_rcnn (the
            default) or cascade_mask_rcnn
        mask_loss: loss of semantic_fpn and upernet: ce (cross-entropy), dice, focal or lovasz, or a sum such as ce+dice
        aux_weight: weight of the auxiliary head's loss
        class_weights: weights of the classes in the loss, of segmentation by their pixels in the training images, of
            detection and instances by their objects: none, balanced (1 / frequency) or sqrt (1 / √frequency)
        window: compute large images in windows, side and stride in pixels, for instance 512,341 (default: whole images)
        balanced: draw images of rare classes more often
    """

    RANGES: ClassVar[dict[str, Range]] = {**DenseOptions.RANGES, "aux_weight": Range(0, most=100)}
    REQUESTS: ClassVar[tuple[str, ...]] = ("head", "mask_loss", "class_weights", "whole", "window", "balanced")

    head: str | None = None
    mask_loss: str = "ce"
    aux_weight: float = 0.4
    class_weights: Literal["none", "balanced", "sqrt"] = "none"
    window: str | None = None
    balanced: bool = False

    def __post_init__(self):
        super().__post_init__()
        window_of(self.window)


@dataclass(frozen=True)
class SegmentationEvalOptions:
    """How a segmentation model sees the images.

    Args:
        window: compute images in windows, side and stride in pixels, for instance 512,341; none for whole images
            (default: as in the training)
        scales: take the mean of the probabilities at several sizes, as factors of the model's own, for instance
            0.5,0.75,1,1.25,1.5,1.75
        flip: take the mean of the probabilities of images and mirror images
        boundary: also measure the IoU of the borders, which takes longer
    """

    window: str | None = None
    scales: str | None = None
    flip: bool = False
    boundary: bool = False

    def __post_init__(self):
        if self.window != "none":
            window_of(self.window)
        scales_of(self.scales)


def sides_of(text: str | None) -> tuple[int, int] | None:
    """(shorter, longer) of --whole; ValueError for any other text."""
    if text is None:
        return None
    sides = whole_numbers(text, "--whole", "two sides in pixels such as 512,2048", PIXELS)
    if len(sides) == 1 and text.count(",") == 1:  # the same side twice
        sides = sides * 2
    if len(sides) != 2 or sides[0] > sides[1]:
        raise InvalidValueError(f"--whole must be the shorter and the longer side such as 512,2048, got {shown(text)}")
    return sides[0], sides[1]


def window_of(text: str | None) -> tuple[int, int] | None:
    """(side, stride) of --window; ValueError for any other text, or if windows would leave gaps."""
    if text is None:
        return None
    numbers = whole_numbers(text, "--window", "a side and a stride in pixels such as 512,341", PIXELS)
    if len(numbers) == 1 and text.count(",") == 1:
        numbers = numbers * 2
    if len(numbers) != 2 or numbers[1] > numbers[0]:
        raise InvalidValueError(
            f"--window must be a side and a stride that is not larger, such as 512,341, got {shown(text)}"
        )
    return numbers[0], numbers[1]


def range_of_sizes(text: str) -> tuple[float, float]:
    """(smallest, largest) of --resize-range; ValueError for any other text."""
    found = numbers_of(text, "--resize-range", "two factors such as 0.5,2", SCALES)
    if len(found) != 2 or found[0] > found[1]:
        raise InvalidValueError(f"--resize-range must be two factors such as 0.5,2, got {shown(text)}")
    return found[0], found[1]


def scales_of(text: str | None) -> list[float]:
    """The factors of --scales, in order; ValueError for any other text."""
    return [] if text is None else numbers_of(text, "--scales", "factors such as 0.5,1,1.5", SCALES)
