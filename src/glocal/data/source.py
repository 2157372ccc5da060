"""What a data set is here: samples with labels, in splits, and how a name, a file or a folder becomes one."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from glocal.data.image import read_image
from glocal.data.walk import entries, is_folder

if TYPE_CHECKING:
    from glocal.data.shards import ShardedSamples

EMBEDDED = ("digits",)
DEFAULT_VAL_FRACTION = 0.2


@dataclass(frozen=True)
class Samples:
    """Images, and for each the index of its class or, with several labels per image, a tuple of indices.

    An image is a path, an (H, W, 3) uint8 array, or an object that is decoded when it is needed: its `load()` returns
    an RGB image or raises UnreadableImageError, its `str()` is its name.
    """

    images: list
    labels: list[int] | list[tuple[int, ...]]

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

    def load(self, index: int) -> Image.Image:
        """The image at `index` as RGB; raises UnreadableImageError."""
        image = self.images[index]
        if isinstance(image, str):
            return read_image(image)
        return Image.fromarray(image) if isinstance(image, np.ndarray) else image.load()

    def content(self) -> tuple:
        """What tells the samples from others, wherever they lie: the names of files, and the labels."""
        return [Path(image).name for image in self.images if isinstance(image, str)], self.labels

    def name(self, index: int) -> str:
        image = self.images[index]
        return f"embedded image {index}" if isinstance(image, np.ndarray) else str(image)


@dataclass(frozen=True)
class DataSource:
    """A classification data set.

    splits: "train" and "val", or "all" where nothing is held out.
    held_out: how `splits` was drawn from one set, so that the same can be drawn again; None where it was given.
    img_size, hflip: what suits the images, where that is known; None leaves it to the model and the recipe.
    notes: what the user should know about the data, one line each.
    multi_label: whether an image may have several labels, or none.
    """

    name: str
    class_names: list[str]
    splits: "dict[str, Samples] | dict[str, ShardedSamples]"
    held_out: dict | None = None
    img_size: int | None = None
    hflip: float | None = None
    notes: list[str] = field(default_factory=list)
    multi_label: bool = False


def open_for_training(data: str, val_fraction: float | None = None, seed: int = 0) -> DataSource:
    """Open a data set with the splits "train" and "val".

    data: a folder of images, a .csv file of paths and labels, WebDataset shards (a pattern such as
        "dir/train-{0000..0099}.tar", addresses, or a folder of .tar files), a folder of the four files of MNIST's
        format, "hf:" and the name or the folder of a Hugging Face data set, or the name of an embedded set.
    val_fraction: the part of every class to hold out of data without a validation part (default 0.2), drawn with
        `seed`; of shards, a part of the files.

    Raises ValueError or OSError, before any image is read, for data that cannot be trained on, and ImportError where
    an extra is missing.
    """
    kind = _kind_of(data)
    if kind in ("embedded", "idx"):
        if val_fraction is not None:
            raise ValueError(f"--val-fraction does not apply to {data}: its split is fixed")
        return _open_embedded(data) if kind == "embedded" else _open_idx(data)
    if kind == "csv":
        from glocal.data.table import open_training_table

        return open_training_table(Path(data), val_fraction, seed)
    if kind == "shards":
        from glocal.data.shard_files import open_training_shards

        return open_training_shards(data, val_fraction, seed)
    if kind == "hf":
        from glocal.data.huggingface import open_training_hub

        return open_training_hub(data, val_fraction, seed)
    from glocal.data.folder import open_training_folder

    return open_training_folder(Path(data), val_fraction, seed)


def open_for_evaluation(data: str, split: str = "auto", held_out: dict | None = None) -> tuple[DataSource, str]:
    """Open a data set to measure a model on it; returns it with the name of the split to use.

    split: "train", "val", "all", or "auto": "val" where the data set has one, "all" otherwise.
    held_out: `DataSource.held_out` of the model's training; where the data holds the same files, its split is drawn
        again, so that "auto" measures on the images that the model has not seen.
    """
    kind = _kind_of(data)
    if kind == "embedded":
        source = _open_embedded(data)
    elif kind == "idx":
        source = _open_idx(data)
    elif kind == "csv":
        from glocal.data.table import open_evaluation_table

        source = open_evaluation_table(Path(data), held_out)
    elif kind == "shards":
        from glocal.data.shard_files import open_evaluation_shards

        source = open_evaluation_shards(data, held_out)
    elif kind == "hf":
        from glocal.data.huggingface import open_evaluation_hub

        source = open_evaluation_hub(data, held_out)
    else:
        from glocal.data.folder import open_evaluation_folder

        source = open_evaluation_folder(Path(data), held_out)
    if len(source.splits) == 1:
        source.splits["all"] = next(iter(source.splits.values()))
    if split == "all" and "all" not in source.splits:
        source.splits["all"] = source.splits["train"] + source.splits["val"]
    if split == "auto":
        split = "val" if "val" in source.splits else "all"
    if split not in source.splits:
        raise ValueError(f"{data} has no split {split!r}: it has {' and '.join(source.splits)}")
    return source, split


def hold_out(source: DataSource, val_fraction: float | None, seed: int, files: str) -> DataSource:
    """Divide the split "all" into "train" and "val"; `files` is the `fingerprint` of what it is drawn from."""
    val_fraction = DEFAULT_VAL_FRACTION if val_fraction is None else val_fraction
    divided = hold_out_again(source, {"val_fraction": val_fraction, "seed": seed, "files": files})
    if not divided.splits["val"].labels:
        raise ValueError(f"{source.name}: every class has a single image, so that none can be held out")
    single = [name for label, name in enumerate(source.class_names) if label not in _occurring(divided.splits["val"])]
    if single:
        few = "too few images of their own" if source.multi_label else "a single image, kept for training"
        source.notes.append(f"{quoted(single)}: {few}; none is held out")
    return divided


def hold_out_again(source: DataSource, held_out: dict) -> DataSource:
    """Divide the split "all" as a training did, whose `DataSource.held_out` is given."""
    samples = source.splits["all"]
    train, val = stratified_split(samples.labels, held_out["val_fraction"], held_out["seed"])
    splits = {"train": samples.subset(train), "val": samples.subset(val)}
    return DataSource(
        source.name, source.class_names, splits, held_out, notes=source.notes, multi_label=source.multi_label
    )


def check_classes(source: DataSource) -> None:
    """Raise ValueError for a single class, and for one that "val" has and "train" has not; note what val lacks."""
    names = source.class_names
    if len(names) < 2:
        held = f"a single class, {names[0]!r}" if names else "no labels"
        raise ValueError(f"{source.name} holds {held}: there is nothing to tell apart")
    train, val = _occurring(source.splits["train"]), _occurring(source.splits["val"])
    unknown = [name for label, name in enumerate(names) if label in val - train]
    if unknown:
        raise ValueError(f"{source.name}: val holds classes that train does not: {quoted(unknown)}")
    missing = [name for label, name in enumerate(names) if label not in val]
    if missing and source.held_out is None:
        source.notes.append(f"{source.name}: no validation images of {quoted(missing)}")


def stratified_split(
    labels: list[int] | list[tuple[int, ...]], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Draw `fraction` of every class's samples, at least one and never all; returns the indices (kept, drawn).

    A class with a single sample keeps it. The same labels, fraction and seed give the same split for ever
    (numpy freezes RandomState's stream). For several labels per sample, see `_multi_label_draw`.
    """
    random = np.random.RandomState(seed)
    if any(isinstance(label, tuple) for label in labels):
        drawn = _multi_label_draw(labels, fraction, random)
    else:
        drawn = []
        numbers = np.asarray(labels)
        for label in np.unique(numbers):
            members = np.flatnonzero(numbers == label)
            count = min(max(1, round(fraction * len(members))), len(members) - 1)
            drawn.extend(random.permutation(members)[:count].tolist())
    return sorted(set(range(len(labels))) - set(drawn)), sorted(drawn)


def _multi_label_draw(labels: list[tuple[int, ...]], fraction: float, random: np.random.RandomState) -> list[int]:
    """Draw `fraction` of every class as nearly as the overlaps allow; every class keeps at least one sample.

    Classes are served from the rarest on, as rare ones have the fewest samples to choose from (iterative
    stratification, Sechidis et al. 2011); samples without a label come last.
    """
    members: dict[int, list[int]] = {}
    for index in random.permutation(len(labels)).tolist():
        for label in labels[index]:
            members.setdefault(label, []).append(index)
    left = {label: len(of_class) for label, of_class in members.items()}
    undecided, drawn = set(range(len(labels))), []
    for label in sorted(members, key=lambda label: (len(members[label]), label)):
        of_class = members[label]
        wanted = max(1, round(fraction * len(of_class))) - (len(of_class) - left[label])
        for index in of_class:
            if index in undecided and wanted > 0 and all(left[other] > 1 for other in labels[index]):
                drawn.append(index)
                wanted -= 1
                for other in labels[index]:
                    left[other] -= 1
        undecided.difference_update(of_class)
    unlabelled = random.permutation(sorted(undecided)).tolist()
    return drawn + unlabelled[: round(fraction * len(unlabelled))]


def fingerprint(names: Iterable[str]) -> str:
    """Identify a data set by the names of its files, in any order."""
    return hashlib.sha256("\n".join(sorted(names)).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def content_key(source: DataSource) -> str:
    """A text that changes with the classes and with the content of the training part; the data may be moved."""
    content = source.class_names, source.splits["train"].content()
    return hashlib.sha256(repr(content).encode()).hexdigest()


def quoted(names: list[str], limit: int = 5) -> str:
    """The first names, quoted, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _occurring(samples: Samples) -> set[int]:
    labels = samples.labels
    return {i for label in labels for i in label} if labels and isinstance(labels[0], tuple) else set(labels)


def _kind_of(data: str) -> str:
    """What `data` names: embedded, csv, shards, idx, hf or folder; FileNotFoundError where it is nothing."""
    path = Path(data)
    if data.startswith("hf:"):
        return "hf"
    if data.lower().endswith(".csv") and path.is_file():
        return "csv"
    if is_shards(data):
        return "shards"
    if path.is_dir() and is_idx(path):
        return "idx"
    if path.exists():
        return "folder"
    if data in EMBEDDED:
        return "embedded"
    if data.lower().endswith(".csv"):
        raise FileNotFoundError(f"there is no file {data!r}")
    hint = get_close_matches(data, EMBEDDED, n=1)
    hint = f"did you mean {hint[0]!r}?" if hint else f"embedded sets: {', '.join(EMBEDDED)}"
    raise FileNotFoundError(f"there is no folder {data!r}, and no embedded set of that name ({hint})")


def is_shards(data: str) -> bool:
    """Whether `data` names WebDataset shards: an address, a pattern or a name of .tar files, or a folder of them."""
    if data.startswith("pipe:") or "://" in data or data.startswith("file:"):
        return True
    path = Path(data)
    if not path.is_dir():
        return data.rstrip("}").endswith((".tar", ".tar.gz", ".tgz"))
    inside = entries(path)
    return any(entry.name.endswith(".tar") for entry in inside) and not any(is_folder(entry) for entry in inside)


def is_idx(folder: Path) -> bool:
    """Whether a folder holds training images in MNIST's format."""
    return any((folder / f"train-images-idx3-ubyte{ending}").is_file() for ending in ("", ".gz"))


def _open_idx(data: str) -> DataSource:
    from glocal.data.idx import open_idx

    return open_idx(Path(data))


def _open_embedded(data: str) -> DataSource:
    from glocal.data.digits import open_digits

    return open_digits()
