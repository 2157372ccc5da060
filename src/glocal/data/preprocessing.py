"""From an RGB image to a model's input: the fixed path for measuring and the random one for training."""

from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from typing import Literal

import timm.data
from PIL import Image
from torch import nn
from torchvision import transforms

from glocal.data.bands import Bands
from glocal.errors import InvalidValueError

# Of an image longer than this many times its width, both ends are cut off before resizing. A centre crop looks at the
# middle square only, and resizing would make a 20,000×20 image 256,000 pixels wide; with borders, 0 pixels high.
MAX_ASPECT = 16


@dataclass(frozen=True)
class Whole:
    """Images keep their aspect and are not cropped, so that each has a size of its own.

    An image is resized until its shorter side has `shorter` pixels, or its longer side `longer`, if that is smaller.
    multiple: then both sides become multiples of it. align: "pad" puts zeros at the right and bottom of the normalised
    image; "resize" resizes once more, to the next multiples. antialias: whether pixels are averaged when an image gets
    smaller.
    """

    shorter: int
    longer: int
    multiple: int = 1
    align: Literal["pad", "resize"] = "pad"
    antialias: bool = True

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """The sizes to which an image of (height, width) is resized, in succession: one, or two."""
        height, width = resized(size, (self.longer, self.shorter))
        found = [(height, width)]
        if self.align == "resize" and (aligned := self.padded((height, width))) != found[0]:
            found.append(aligned)
        return found

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """The next multiples of (height, width)."""
        height, width = (-(-side // self.multiple) * self.multiple for side in size)
        return height, width

    def scaled(self, ratio: float) -> "Whole":
        """The same for images that are `ratio` times as large."""
        return replace(self, shorter=max(1, int(self.shorter * ratio)), longer=max(1, int(self.longer * ratio)))


def resized(size: tuple[int, int], scale: tuple[int, int], ratio: float = 1.0) -> list[int]:
    """The (height, width) of an image that is resized to fit into scale · ratio, with its aspect kept.

    scale: (longer side, shorter side).
    """
    factor = min(max(scale) / max(size), min(scale) / min(size)) * ratio
    return [max(1, int(side * factor + 0.5)) for side in size]


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its images: everything that `predict` must repeat of the training.

    input_size is (channels, height, width); mean and std are per channel, of pixels in 0…1. whole: images are not
    cropped to `input_size`, which is then the size of the crops in training. bands: of rasters, instead of RGB.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    whole: Whole | None = None
    bands: Bands | None = None

    def __post_init__(self):
        for name in ("input_size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.whole, dict):
            object.__setattr__(self, "whole", Whole(**self.whole))
        if isinstance(self.bands, dict):
            object.__setattr__(self, "bands", Bands(**self.bands))

    @classmethod
    def of_model(cls, model: nn.Module, img_size: int | None = None) -> "Preprocessing":
        """What the model's configuration says, at another input size if one is given.

        Up to 64 pixels nothing is cropped: small images have no margin to spare.
        """
        config = timm.data.resolve_model_data_config(model, args={"img_size": img_size} if img_size else None)
        if config["input_size"][-1] <= 64:
            config["crop_pct"] = 1.0
        return cls(**config)

    @property
    def fixed_size(self) -> tuple[int, int, int] | None:
        """The size of every prepared image, (channels, height, width); None if each has its own."""
        return self.input_size if self.whole is None else None

    def resized(self, size: int) -> "Preprocessing":
        """The same with another input size, a square; for whole images, this is the shorter side."""
        whole = self.whole and self.whole.scaled(size / self.whole.shorter)
        return replace(self, input_size=(self.input_size[0], size, size), whole=whole)

    def to_dict(self) -> dict:
        """The fields, ready for JSON; `whole` and `bands` only where they are set, as earlier versions lack them."""
        new = ("whole", "bands")
        return {name: value for name, value in asdict(self).items() if name not in new or value is not None}

    def transform(self) -> transforms.Compose:
        """The path for measuring and predicting: RGB image to a float tensor of `input_size`.

        ValueError if images are taken whole: use `glocal.data.prepare.Prepare`.
        """
        if self.whole is not None:
            raise InvalidValueError("images that are taken whole have no fixed size")
        path = timm.data.create_transform(**self.to_dict(), is_training=False)
        if self.crop_mode != "squash":
            path.transforms.insert(0, crop_extreme_aspect)
        return path

    def training_transform(self, augmentation: "Augmentation") -> transforms.Compose:
        """The path for training: the same with random changes; ValueError for an unknown `auto_augment`."""
        try:
            return self._training_transform(augmentation)
        except (AssertionError, KeyError, IndexError, ValueError) as error:
            if augmentation.auto_augment is None:
                raise
            policy = augmentation.auto_augment
            raise InvalidValueError(
                f"--auto-augment {policy!r} is no policy that timm knows, such as rand-m9-mstd0.5"
            ) from error

    def _training_transform(self, augmentation: "Augmentation") -> transforms.Compose:
        path = timm.data.create_transform(
            self.input_size,
            is_training=True,
            scale=(augmentation.crop_scale, 1.0),
            ratio=(augmentation.crop_ratio, 1 / augmentation.crop_ratio),
            hflip=augmentation.hflip,
            color_jitter=augmentation.color_jitter or None,  # 0 would be a step that does nothing, slowly
            auto_augment=augmentation.auto_augment,
            re_prob=augmentation.random_erasing,
            re_mode="pixel",
            interpolation=augmentation.interpolation or self.interpolation,
            mean=self.mean,
            std=self.std,
        )
        for step in path.transforms:
            for operation in [*getattr(step, "ops", ()), *chain.from_iterable(getattr(step, "policy", ()))]:
                _keep_a_bit(operation)
        return path


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    crop_scale: smallest part of the image's area that a crop keeps; crop_ratio: its smallest width over height.
    hflip: probability of a mirror image. color_jitter: strength, 0 for none. auto_augment: timm's notation, for
    instance "rand-m9-mstd0.5". random_erasing: probability. interpolation: bilinear, bicubic, random, or None for the
    model's own.
    """

    crop_scale: float
    crop_ratio: float
    hflip: float
    color_jitter: float
    auto_augment: str | None
    random_erasing: float
    interpolation: str | None = None


def _keep_a_bit(operation) -> None:
    """Let an operation of a RandAugment leave 1 bit at least.

    At its greatest strength timm 1.0 asks Pillow for 0 bits, which was a black image and is an error from Pillow 13 on.
    """
    if getattr(operation, "aug_fn", None) is timm.data.auto_augment.posterize:
        operation.level_fn = partial(_bits, operation.level_fn)


def _bits(level_fn, level: float, hparams: dict) -> tuple[int]:
    return (max(1, level_fn(level, hparams)[0]),)


def crop_extreme_aspect(image: Image.Image) -> Image.Image:
    """Cut both ends off an image that is more than MAX_ASPECT times as long as wide; others pass unchanged."""
    width, height = image.size
    limit = MAX_ASPECT * min(width, height)
    if max(width, height) <= limit:
        return image
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, top, left + min(width, limit), top + min(height, limit)))
