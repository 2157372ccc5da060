"""What a data set is here: samples with labels, in splits, and how a name or a folder becomes one."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from PIL import Image

from glocal.data.image import read_image

EMBEDDED = ("digits",)


@dataclass(frozen=True)
class Samples:
    """Images, as paths or as (H, W, 3) uint8 arrays, and the index of each one's class."""

    images: list
    labels: list[int]

    def __len__(self) -> int:
        return len(self.labels)

    def __add__(self, other: "Samples") -> "Samples":
        return Samples([*self.images, *other.images], [*self.labels, *other.labels])

    def subset(self, indices) -> "Samples":
        return Samples([self.images[i] for i in indices], [self.labels[i] for i in indices])

    def load(self, index: int) -> Image.Image:
        """The image at `index` as RGB; raises UnreadableImageError."""
        image = self.images[index]
        return read_image(image) if isinstance(image, str) else Image.fromarray(image)

    def name(self, index: int) -> str:
        image = self.images[index]
        return image if isinstance(image, str) else f"embedded image {index}"


@dataclass(frozen=True)
class DataSource:
    """A classification data set.

    splits: "train" and "val", or "all" where nothing is held out.
    held_out: how `splits` was drawn from one folder, so that the same can be drawn again; None where it was given.
    img_size, hflip: what suits the images, where that is known; None leaves it to the model and the recipe.
    notes: what the user should know about the data, one line each.
    """

    name: str
    class_names: list[str]
    splits: dict[str, Samples]
    held_out: dict | None = None
    img_size: int | None = None
    hflip: float | None = None
    notes: list[str] = field(default_factory=list)


def open_for_training(data: str, val_fraction: float | None = None, seed: int = 0) -> DataSource:
    """Open a folder of images, or an embedded set by name, with the splits "train" and "val".

    val_fraction: the part of every class to hold out of a folder without `val` (default 0.2), drawn with `seed`.

    Raises ValueError or OSError, before anything is read, for data that cannot be trained on.
    """
    if _is_embedded(data):
        if val_fraction is not None:
            raise ValueError(f"--val-fraction does not apply to {data}: its split is fixed")
        return _open_embedded(data)
    from glocal.data.folder import open_training_folder

    return open_training_folder(Path(data), val_fraction, seed)


def open_for_evaluation(data: str, split: str = "auto", held_out: dict | None = None) -> tuple[DataSource, str]:
    """Open a data set to measure a model on it; returns it with the name of the split to use.

    split: "train", "val", "all", or "auto": "val" where the data set has one, "all" otherwise.
    held_out: `DataSource.held_out` of the model's training; where the folder holds the same files, its split is drawn
        again, so that "auto" measures on the images that the model has not seen.
    """
    if _is_embedded(data):
        source = _open_embedded(data)
    else:
        from glocal.data.folder import open_evaluation_folder

        source = open_evaluation_folder(Path(data), held_out)
    if split == "all" and "all" not in source.splits:
        source.splits["all"] = source.splits["train"] + source.splits["val"]
    if split == "auto":
        split = "val" if "val" in source.splits else "all"
    if split not in source.splits:
        raise ValueError(f"{data} has no split {split!r}: it has {' and '.join(source.splits)}")
    return source, split


def stratified_split(labels: list[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Draw `fraction` of every class's samples, at least one and never all; returns the indices (kept, drawn).

    A class with a single sample keeps it. The same labels, fraction and seed give the same split for ever
    (numpy freezes RandomState's stream).
    """
    random = np.random.RandomState(seed)
    labels = np.asarray(labels)
    drawn = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        drawn.extend(random.permutation(members)[:count].tolist())
    return sorted(set(range(len(labels))) - set(drawn)), sorted(drawn)


def _is_embedded(data: str) -> bool:
    """Whether `data` names an embedded set; raises ValueError where it names neither one nor a folder."""
    if Path(data).exists():
        return False
    if data in EMBEDDED:
        return True
    hint = get_close_matches(data, EMBEDDED, n=1)
    hint = f"did you mean {hint[0]!r}?" if hint else f"embedded sets: {', '.join(EMBEDDED)}"
    raise FileNotFoundError(f"there is no folder {data!r}, and no embedded set of that name ({hint})")


def _open_embedded(data: str) -> DataSource:
    from glocal.data.digits import open_digits

    return open_digits()
