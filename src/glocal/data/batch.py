"""What a loader gives: images with their targets, and the files that could not be read."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from glocal.data.geometry import Geometry


class Example(NamedTuple):
    """An image as a model takes it, (C, H, W), its target, and where it lies in its file's image; None: not said.

    more: the same image at other scales, as examples, for tasks that measure with several.
    """

    image: Tensor
    target: Any = None
    geometry: Geometry | None = None
    more: tuple["Example", ...] = ()


class Item(NamedTuple):
    """What a data set gives for a place: an example, why the file of that place could not be read, or both or neither.

    Both: another example took its place. Neither: the place fills a device's share, and holds nothing.
    name: of the example's image. index: its place in the samples; None in a stream.
    """

    example: Example | None
    skipped: str | None = None
    name: str = ""
    index: int | None = None


Transform = Callable[[Image.Image, Any], Example]  # of an RGB image and its annotation


@dataclass(frozen=True)
class Batch:
    """images (B, C, H, W), targets as the task has them, and of each image its geometry.

    Images of several sizes have zeros at the right and bottom up to a common size; `glocal.data.prepare.own_size` cuts
    them off. skipped: why each unreadable file was left out, with its name. Nothing stands for it in the other fields,
    so that B may be 0; images are then of shape (0,). more: of each image, the same at other scales. names: of the
    images. indices: their places in the samples; None in a stream.
    """

    images: Tensor
    targets: Any
    geometry: list[Geometry | None]
    skipped: list[str]
    more: list[tuple[Example, ...]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    indices: list[int | None] = field(default_factory=list)

    @classmethod
    def of(cls, examples: list[Example]) -> "Batch":
        """Examples as a batch without targets."""
        geometry, more = [example.geometry for example in examples], [example.more for example in examples]
        return cls(stack([example.image for example in examples]), None, geometry, [], more)

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The same in memory from which a GPU copies faster; a DataLoader asks for it."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        more = [tuple(one._replace(image=change(one.image)) for one in scales) for scales in self.more]
        return replace(self, images=change(self.images), targets=_changed(self.targets, change), more=more)


def stack(images: list[Tensor]) -> Tensor:
    """(B, C, H, W) of images (C, h, w); those of several sizes get zeros at the right and bottom."""
    if len({image.shape for image in images}) > 1:
        height, width = (max(image.shape[side] for image in images) for side in (1, 2))
        images = [padded(image, (height, width)) for image in images]
    return default_collate(images)


def padded(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(…, H, W) with zeros at the right and bottom up to (height, width)."""
    height, width = images.shape[-2:]
    return images if (height, width) == size else F.pad(images, (0, size[1] - width, 0, size[0] - height))


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A value with each of its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _changed(one, change) for name, one in value.items()}
    if isinstance(value, list):
        return [_changed(one, change) for one in value]
    return value


class Collate:
    """Items to a `Batch`.

    fill: readable examples of the batch take the place of those that are lacking, in turn, so that every batch of a
    training is whole. targets: puts a list of targets together.
    """

    def __init__(self, fill: bool = False, targets: Callable[[list], Any] = default_collate):
        self.fill = fill
        self.targets = targets

    def __call__(self, items: list[Item]) -> Batch:
        skipped = [item.skipped for item in items if item.skipped is not None]
        found = [item for item in items if item.example is not None]
        if self.fill and found:
            fill = iter(found * len(items))
            found = [next(fill) if item.example is None else item for item in items]
        examples = [item.example for item in found]
        if not examples:
            return Batch(torch.zeros(0), [], [], skipped)
        targets = [example.target for example in examples]
        return Batch(
            stack([example.image for example in examples]),
            None if targets[0] is None else self.targets(targets),
            [example.geometry for example in examples],
            skipped,
            [example.more for example in examples],
            [item.name for item in found],
            [item.index for item in found],
        )
