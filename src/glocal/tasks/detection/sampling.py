"""Which images of a training are taken, how often each is drawn, and which are in a batch together."""

import logging

import torch
from torch import Tensor

from glocal.data.samples import Samples
from glocal.data.sampling import aspect_groups, repeat_factors
from glocal.data.shards import ShardedSamples
from glocal.errors import InvalidValueError

log = logging.getLogger(__name__)

THRESHOLD = 1.0  # every class counts as rare: a folder has a few classes, and LVIS's 0.001 would name none of them


def chosen(samples: Samples | ShardedSamples, skip_empty: bool, skip_small: int) -> Samples | ShardedSamples:
    """The samples that have an object, a crowd included, and no side of fewer pixels than `skip_small`.

    skip_empty: whether those without an object are left out. An image whose size is not known is not small. Logs the
    numbers of images that are left out; ValueError if none is left. As the configs of the published detectors filter
    images (mmdetection 2.28: filter_empty_gt, min_size).
    """
    if not skip_empty and not skip_small:
        return samples
    if isinstance(samples, ShardedSamples):
        raise InvalidValueError(
            "--skip-empty and --skip-small look at all objects before the training, which shards do not give: "
            "--no-skip-empty --skip-small 0 trains on all images"
        )
    empty = [skip_empty and not len(objects) for objects in samples.labels]
    small = [objects.size is not None and min(objects.size) < skip_small for objects in samples.labels]
    kept = [place for place in range(len(samples)) if not (empty[place] or small[place])]
    said = {f"without objects (--skip-empty): {sum(empty):,}": any(empty)}
    said[f"with a side below {skip_small} pixels (--skip-small): {sum(small):,}"] = any(small)
    about = ", ".join(text for text, there in said.items() if there)
    if not kept:
        raise InvalidValueError(f"no training image is left; {about}")
    if about:
        log.warning("left out of %s training images %s", f"{len(samples):,}", about)
    return samples.subset(kept)


def weights_of_images(samples: Samples | ShardedSamples) -> Tensor:
    """(N,): how often each image is drawn, more often if it has rare classes; see `rare_class_weights`."""
    if isinstance(samples, ShardedSamples):
        raise InvalidValueError("--balanced looks at all objects before the training, which shards do not give")
    classes = max((int(objects.labels.max()) + 1 for objects in samples.labels if len(objects)), default=1)
    return repeat_factors(samples.labels, classes, THRESHOLD)


def objects_of_classes(samples: Samples | ShardedSamples, classes: int) -> Tensor:
    """(classes,) int64: the objects of each class, without crowds."""
    if isinstance(samples, ShardedSamples):
        raise InvalidValueError("--class-weights looks at all objects before the training, which shards do not give")
    labels = [torch.from_numpy(objects.labels[~objects.crowd]) for objects in samples.labels]
    return torch.cat([torch.zeros(0, dtype=torch.int64), *labels]).bincount(minlength=classes)


def groups_of_images(samples: Samples | ShardedSamples) -> Tensor | None:
    """The group of each image, (N,): wide or not, so that batches have little padding; None for shards."""
    if isinstance(samples, ShardedSamples):
        return None
    return aspect_groups([objects.size for objects in samples.labels])
