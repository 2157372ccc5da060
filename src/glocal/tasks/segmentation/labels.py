"""How many pixels of each class the label maps of a data set have."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from glocal.data.image import UnreadableImageError
from glocal.data.loaders import default_workers
from glocal.data.masks import IGNORE
from glocal.data.prepare import size_of
from glocal.data.samples import Samples
from glocal.data.sampling import rare_class_weights
from glocal.data.shards import ShardedSamples
from glocal.errors import InvalidValueError

log = logging.getLogger(__name__)


def weights_of_images(samples: Samples | ShardedSamples) -> Tensor:
    """(N,): how often each image is drawn, more often if it has rare classes; see `rare_class_weights`."""
    return rare_class_weights(torch.from_numpy(pixels_of_classes(samples) > 0))


def pixels_of_classes(samples: Samples | ShardedSamples, classes: int = 0) -> np.ndarray:
    """(N, classes) int64: the pixels of each class in each label map; 0 for a map that cannot be read.

    classes: their number, if it is more than the label maps have.
    """
    if isinstance(samples, ShardedSamples):
        raise InvalidValueError(
            "--balanced and --class-weights look at all label maps before the training, which shards do not give"
        )
    if len(samples) > 1000:
        log.warning("counting the classes in %s label maps", f"{len(samples):,}")

    def count(index: int) -> np.ndarray:
        try:
            image = samples.images[index]
            size = image.shape[:2] if isinstance(image, np.ndarray) else size_of(samples.load(index))
            labels = samples.labels[index].load(size)
        except UnreadableImageError:
            return np.zeros(0, np.int64)
        return np.bincount(labels.ravel() - IGNORE)[1:]

    with ThreadPoolExecutor(max(1, default_workers(samples))) as threads:
        counts = list(threads.map(count, range(len(samples))))
    classes = max(classes, *map(len, counts))
    return np.stack([np.pad(row, (0, classes - len(row))) for row in counts])
