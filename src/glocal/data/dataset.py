"""Samples as tensors, in batches: in training each with a random seed of its own, in an order drawn for every epoch."""

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from glocal.data.image import UnreadableImageError
from glocal.data.samples import Samples
from glocal.data.seeds import random_state

MAX_REPLACEMENTS = 100


class ImageDataset(Dataset):
    """Samples through a transform: (image tensor, label, unread).

    The label is the class's index; with `classes` (several labels per image), a tensor (classes,) of zeros and ones.
    unread is -1, or the index of the sample that could not be read. In training (`replace=True`) another sample then
    takes its place, always the same one; otherwise, and when 100 others cannot be read either, the label is -1 and the
    image blank.

    An item is asked for by its index, or by (index, seed): the seed then decides every random change of the image,
    whichever process makes it. The index None stands for nothing: a blank image that fills a batch.
    """

    def __init__(
        self,
        samples: Samples,
        transform: Callable[[Image.Image], Tensor],
        replace: bool = False,
        classes: int | None = None,
    ):
        self.samples = samples
        self.transform = transform
        self.replace = replace
        self.classes = classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int] | None) -> tuple[Tensor, int | Tensor, int]:
        if isinstance(key, tuple):
            index, seed = key
            with random_state(seed):
                return self[index]
        if key is None:
            return self._blank(), self._label(None), -1
        unread = -1
        for step in range(min(MAX_REPLACEMENTS, len(self)) if self.replace else 1):
            # Neighbours share a class, and often a fault: a stride that is no divisor of a usual size leaves both.
            place = (key + step * 7919) % len(self)
            try:
                return self.transform(self.samples.load(place)), self._label(place), unread
            except UnreadableImageError:
                unread = key
        return self._blank(), self._label(None), unread

    def reason(self, index: int) -> str:
        """Why the sample at `index` cannot be read, with its name."""
        try:
            self.samples.load(index)
        except UnreadableImageError as error:
            return str(error)
        return f"{self.samples.name(index)}: could not be read before"

    def _blank(self) -> Tensor:
        return self.transform(Image.new("RGB", (32, 32)))

    def _label(self, place: int | None) -> int | Tensor:
        if self.classes is None:
            return -1 if place is None else self.samples.labels[place]
        if place is None:
            return torch.full((self.classes,), -1.0)
        target = torch.zeros(self.classes)
        target[list(self.samples.labels[place])] = 1
        return target
