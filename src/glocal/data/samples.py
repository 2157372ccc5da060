"""A data set: samples with labels, in splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from glocal.data.bands import Bands
from glocal.data.image import read_image
from glocal.data.raster import Raster
from glocal.data.shards import ShardedSamples


@dataclass(frozen=True)
class Opening:
    """How data is opened, beside its name.

    val_fraction, seed: the part to hold out of data without a validation part, and the seed of its drawing.
    group: a column of a table, or a regular expression for names; images of one group stay on one side of the split.
    args: what the user says about a layout, for instance the names of folders; the format checks them.
    """

    val_fraction: float | None = None
    seed: int = 0
    group: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Samples:
    """Images, and an annotation for each, as their task has it.

    An annotation is the index of a class, a tuple of indices where an image has several labels, or an object that the
    task reads when it is needed, such as the `LabelMap` of `glocal.data.masks`.

    An image is a path, an (H, W, 3) uint8 array, or an object that is decoded when it is needed: its `load()` returns
    an RGB image, or the bands of a raster (`glocal.data.raster`), or raises UnreadableImageError; its `str()` is its
    name.
    """

    images: list
    labels: list

    def __len__(self) -> int:
        return len(self.labels)

    def __add__(self, other: "Samples") -> "Samples":
        return Samples([*self.images, *other.images], [*self.labels, *other.labels])

    @property
    def in_memory(self) -> bool:
        """Whether the images are there as pixels, so that no process is needed to read them."""
        return bool(self.images) and isinstance(self.images[0], np.ndarray)

    def subset(self, indices) -> "Samples":
        return Samples([self.images[i] for i in indices], [self.labels[i] for i in indices])

    def relabel(self, new: Sequence[int]) -> "Samples":
        """The same images, with `new[label]` in the place of each label."""
        return Samples(
            self.images,
            [tuple(new[i] for i in label) if isinstance(label, tuple) else new[label] for label in self.labels],
        )

    def load(self, index: int) -> Image.Image | np.ndarray:
        """The image at `index`: as RGB, or the bands of a raster (H, W, C); raises UnreadableImageError."""
        image = self.images[index]
        if isinstance(image, str):
            return read_image(image)
        return Image.fromarray(image) if isinstance(image, np.ndarray) else image.load()

    def name(self, index: int) -> str:
        """What to call the image at `index`: its path or name; "image 12" for pixels in memory."""
        image = self.images[index]
        return f"image {index}" if isinstance(image, np.ndarray) else str(image)

    def content(self) -> tuple:
        """What tells the samples from others, wherever they lie: the names of files, and the annotations."""
        names = [Path(str(image)).name for image in self.images if isinstance(image, (str, Raster))]
        return names, [_content(label) for label in self.labels]


def _content(annotation: Any) -> Any:
    """What tells an annotation from others: an array by its bytes, as `repr` shortens it; an object by `content()`."""
    if isinstance(annotation, int):  # most are
        return annotation
    if isinstance(annotation, np.ndarray):
        digest = sha256(np.ascontiguousarray(annotation).tobytes()).hexdigest()
        return annotation.dtype.str, annotation.shape, digest
    if isinstance(annotation, Mapping):
        return {name: _content(value) for name, value in annotation.items()}
    if type(annotation) in (list, tuple):
        return type(annotation)(map(_content, annotation))
    return annotation.content() if hasattr(annotation, "content") else annotation


@dataclass(frozen=True)
class DataSource:
    """A data set.

    splits: "train" and "val", or "all" where nothing is held out.
    held_out: how `splits` was drawn from one set, so that the same can be drawn again; None where it was given.
    img_size, hflip: what suits the images, where that is known; None leaves it to the model and the recipe.
    notes: what the user should know about the data, one line each.
    task: the name of the task that the annotations are for. class_names: empty where there are no classes.
    about: what else the data says about its classes, ready for JSON: `colors`, `ids`, `things`, …
    bands: what is read of images that are rasters; None: they are RGB.
    """

    name: str
    class_names: list[str]
    splits: Mapping[str, Samples] | Mapping[str, ShardedSamples]
    held_out: dict | None = None
    img_size: int | None = None
    hflip: float | None = None
    notes: Sequence[str] = ()
    task: str = "classification"
    about: dict = field(default_factory=dict)
    bands: Bands | None = None

    def __post_init__(self):
        object.__setattr__(self, "splits", MappingProxyType(dict(self.splits)))
        object.__setattr__(self, "notes", tuple(self.notes))

    def with_notes(self, *notes: str) -> "DataSource":
        """The same with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def with_splits(self, **splits: Samples | ShardedSamples) -> "DataSource":
        """The same with further splits."""
        return replace(self, splits={**self.splits, **splits})
