"""Samples as tensors, in batches. A file that cannot be read is replaced in training and left out in evaluation."""

import os
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from glocal.data.image import UnreadableImageError
from glocal.data.source import Samples

MAX_REPLACEMENTS = 100


class ImageDataset(Dataset):
    """Samples through a transform: (image tensor, label, unread).

    unread is -1, or the index of the sample that could not be read. In training (`replace=True`) another sample then
    takes its place, always the same one; otherwise, and when 100 others cannot be read either, the label is -1 and the
    image blank.
    """

    def __init__(self, samples: Samples, transform: Callable[[Image.Image], Tensor], replace: bool = False):
        self.samples = samples
        self.transform = transform
        self.replace = replace

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        unread = -1
        for step in range(min(MAX_REPLACEMENTS, len(self)) if self.replace else 1):
            # Neighbours share a class, and often a fault: a stride that is no divisor of a usual size leaves both.
            place = (index + step * 7919) % len(self)
            try:
                return self.transform(self.samples.load(place)), self.samples.labels[place], unread
            except UnreadableImageError:
                unread = index
        return self.transform(Image.new("RGB", (32, 32))), -1, unread

    def reason(self, index: int) -> str:
        """Why the sample at `index` cannot be read, with its name."""
        try:
            self.samples.load(index)
        except UnreadableImageError as error:
            return str(error)
        return f"{self.samples.name(index)}: could not be read before"


def leave_out_unread(items: list[tuple[Tensor, int, int]]) -> tuple[Tensor, Tensor, list[int]]:
    """Make a batch of those that could be read, and the list of the others' indices.

    Images are (B, C, H, W), labels (B,); B is 0 where none could be read.
    """
    unread = [index for _, _, index in items if index >= 0]
    images = torch.stack([image for image, _, _ in items])
    labels = torch.tensor([label for _, label, _ in items])
    return images[labels >= 0], labels[labels >= 0], unread


def training_loader(
    samples: Samples, transform: Callable, batch_size: int, workers: int, seed: int, pin_memory: bool = False
) -> DataLoader:
    """Batches in an order drawn from `seed`, anew every epoch; an incomplete last batch is dropped."""
    return DataLoader(
        ImageDataset(samples, transform, replace=True),
        batch_size=batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        drop_last=len(samples) >= batch_size,
        collate_fn=default_collate,
    )


def evaluation_loader(
    samples: Samples, transform: Callable, batch_size: int, workers: int, pin_memory: bool = False
) -> DataLoader:
    """All samples once, in order; see `leave_out_unread` for a batch."""
    return DataLoader(
        ImageDataset(samples, transform),
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        collate_fn=leave_out_unread,
    )


def default_workers(samples: Samples) -> int:
    """No processes for images in memory, otherwise one per core that this process may use, at most 8."""
    if not isinstance(samples.images[0], str):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)
