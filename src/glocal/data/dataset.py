"""Samples as examples for a model, read and changed when they are asked for."""

from torch.utils.data import Dataset

from glocal.data.batch import Example, Item, Transform
from glocal.data.image import UnreadableImageError
from glocal.data.samples import Samples
from glocal.data.seeds import random_state

MAX_REPLACEMENTS = 100


class ImageDataset(Dataset):
    """Samples through a transform, as an `Item` for each.

    In training (`replace=True`) another sample takes the place of an unreadable one, always the same one, unless 100
    others cannot be read either.

    An item is asked for by its index, or by (index, seed): the seed then decides every random change of the image,
    whichever process makes it. The index None gives the item that holds nothing.
    """

    def __init__(self, samples: Samples, transform: Transform, replace: bool = False):
        self.samples = samples
        self.transform = transform
        self.replace = replace

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int] | None) -> Item:
        if isinstance(key, tuple):
            index, seed = key
            with random_state(seed):
                return self[index]
        if key is None:
            return Item(None)
        skipped = None
        for step in range(min(MAX_REPLACEMENTS, len(self)) if self.replace else 1):
            # Neighbours share a class, and often a fault: a stride that is no divisor of a usual size leaves both.
            place = (key + step * 7919) % len(self)
            try:
                return Item(self._example(place), skipped, self.samples.name(place), place)
            except UnreadableImageError as error:
                skipped = skipped or str(error.of(self.samples.name(place)))
        return Item(None, skipped)

    def _example(self, place: int) -> Example:
        return self.transform(self.samples.load(place), self.samples.labels[place])
