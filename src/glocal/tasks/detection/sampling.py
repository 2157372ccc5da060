"""How often each image of a training is drawn, and which images are in a batch together."""

from torch import Tensor

from glocal.data.samples import Samples
from glocal.data.sampling import aspect_groups, repeat_factors
from glocal.data.shards import ShardedSamples
from glocal.errors import InvalidValueError

THRESHOLD = 1.0  # every class counts as rare: a folder has a few classes, and LVIS's 0.001 would name none of them


def weights_of_images(samples: Samples | ShardedSamples) -> Tensor:
    """(N,): how often each image is drawn, more often if it has rare classes; see `rare_class_weights`."""
    if isinstance(samples, ShardedSamples):
        raise InvalidValueError("--balanced looks at all objects before the training, which shards do not give")
    classes = max((int(objects.labels.max()) + 1 for objects in samples.labels if len(objects)), default=1)
    return repeat_factors(samples.labels, classes, THRESHOLD)


def groups_of_images(samples: Samples | ShardedSamples) -> Tensor | None:
    """The group of each image, (N,): wide or not, so that batches have little padding; None for shards."""
    if isinstance(samples, ShardedSamples):
        return None
    return aspect_groups([objects.size for objects in samples.labels])
