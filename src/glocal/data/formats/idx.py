"""The four files of MNIST's format (idx), which Fashion-MNIST, KMNIST and EMNIST have too, read into memory."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np

from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.splits import refuse_to_draw
from glocal.errors import InvalidValueError, MissingPathError

SPLITS = {"train": "train", "val": "t10k"}
IMAGES, LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"
SMALLEST = 32  # pixels that the models take


def matches(data: str) -> bool:
    """Whether a folder holds training images in MNIST's format."""
    name = IMAGES.format(SPLITS["train"])
    return any((Path(data) / (name + ending)).is_file() for ending in ("", ".gz"))


def open_training(data: str, how: Opening) -> DataSource:
    refuse_to_draw(data, how, "its split is fixed")
    return _open(Path(data))


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    return _open(Path(data))


def _open(folder: Path) -> DataSource:
    """Open train-… and t10k-…, gzipped or not, as "train" and "val"; the classes are the numbers of the labels.

    Raises FileNotFoundError for a missing file, ValueError for one that is broken or does not fit.
    """
    splits = {}
    for split, name in SPLITS.items():
        images, labels = _read(folder, IMAGES.format(name), 3), _read(folder, LABELS.format(name), 1)
        if len(images) != len(labels):
            raise InvalidValueError(f"{folder}: {len(images)} images and {len(labels)} labels of {name}")
        if not len(images):
            raise InvalidValueError(f"{folder}: there are no images of {name}")
        splits[split] = Samples(list(images), labels.tolist())
    classes = 1 + max(max(samples.labels) for samples in splits.values())
    missing = set(range(classes)) - set(splits["train"].labels)
    if classes < 2 or missing:
        raise InvalidValueError(f"{folder}: training images of class {min(missing, default=1)} are missing")
    return DataSource(
        name=folder.resolve().name,
        class_names=[str(index) for index in range(classes)],
        splits=splits,
        img_size=max(SMALLEST, *splits["train"].images[0].shape[:2]),
    )


def _read(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """The array in a file; of images, (N, H, W, 3) as a view of one grey channel."""
    path = next((folder / (name + ending) for ending in ("", ".gz") if (folder / (name + ending)).is_file()), None)
    if path is None:
        raise MissingPathError(f"{folder} has no {name} or {name}.gz")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise InvalidValueError(f"{path} is not a whole gzip file ({error})") from None
    head = 4 * (1 + dimensions)
    if len(content) < head or content[:4] != bytes([0, 0, 8, dimensions]):
        raise InvalidValueError(f"{path} is not an idx file of bytes with {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:head])
    if len(content) - head != math.prod(shape):
        raise InvalidValueError(f"{path} should hold {math.prod(shape)} values, it holds {len(content) - head}")
    array = np.frombuffer(content, np.uint8, offset=head).reshape(shape)
    return array if dimensions == 1 else np.broadcast_to(array[..., None], (*shape, 3))
