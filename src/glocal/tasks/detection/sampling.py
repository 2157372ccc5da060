"""How often each image of a training is drawn."""

import torch
from torch import Tensor

from glocal.data.samples import Samples
from glocal.data.sampling import rare_class_weights
from glocal.data.shards import ShardedSamples
from glocal.errors import InvalidValueError


def weights_of_images(samples: Samples | ShardedSamples, classes: int) -> Tensor:
    """(N,): how often each image is drawn, more often if it has rare classes; see `rare_class_weights`."""
    if isinstance(samples, ShardedSamples):
        raise InvalidValueError("--balanced looks at all objects before the training, which shards do not give")
    presence = torch.zeros(len(samples), classes, dtype=torch.bool)
    for place, objects in enumerate(samples.labels):
        presence[place, torch.from_numpy(objects.labels[~objects.crowd])] = True
    return rare_class_weights(presence)
