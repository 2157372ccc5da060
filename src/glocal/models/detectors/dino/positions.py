"""What of DINO's maps is image and what padding, and where in the image each position is."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from glocal.layers.places import cells, extent, sine_features, tokens
from glocal.models.detectors.boxes import upcast

TEMPERATURE = 20.0  # of the codes of positions; those of boxes have the usual 10000


class Tokens(NamedTuple):
    """The positions of all maps as one sequence, fine to coarse, row by row.

    x, position: (B, N, dim), content and code of the place. padding: (B, N), true where there is no image.
    places: (B, N, 2), the (x, y) of each position in its own image, 0 and 1 at its borders; beyond 1 in the padding.
    shares: (B, levels, 2), the part of each map's (width, height) that is image. sizes: (h, w) of each map.
    """

    x: Tensor
    position: Tensor
    padding: Tensor
    places: Tensor
    shares: Tensor
    sizes: list[tuple[int, int]]


def padded_size(first: Tensor, stride: int, sizes: Tensor) -> Tensor:
    """(height, width) of a batch of images, (2,), of its first map and the images' own sizes (B, 2).

    The largest image says it, if that agrees with the map; else the batch was padded further, to the map's extent.
    """
    full = stride * extent(first.shape[2], first.shape[3], first).flip(0).to(sizes.dtype)
    largest = sizes.amax(0)
    return torch.where((full - largest).abs() < stride, largest, full)


def padding_of(sizes: Tensor, batch_size: Tensor, height: int, width: int) -> Tensor:
    """Which positions of a map are padding, (B, height, width): the nearest pixel of the batch is none of the image.

    sizes: (B, 2), (height, width) of each image; batch_size: (2,). The nearest pixel is found as torch's
    interpolation to a size finds it, in float32 whatever the type of the map.
    """
    inside = []
    for axis, length in enumerate((height, width)):
        index = torch.arange(length, device=sizes.device, dtype=torch.float32)
        scale = batch_size[axis].float() / (index[-1] + 1)
        inside.append((index * scale).floor() < sizes[:, axis, None])
    rows, columns = inside
    return ~(rows.unsqueeze(2) & columns.unsqueeze(1))


def sine_positions(padding: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Codes of the places in the images, (B, H·W, dim): half of the channels for y, then half for x.

    padding: (B, H, W). The places run from 1/n to 1 over the n rows or columns that are image, times 2π. Source: arXiv
    2005.12872, appendix A.4.
    """
    image = (~padding).to(torch.promote_types(dtype, torch.float32))
    codes = []
    for axis in (1, 2):
        count = image.cumsum(axis)
        last = count.narrow(axis, count.shape[axis] - 1, 1)
        codes.append(sine_features(count * (2 * math.pi) / (last + 1e-6), dim // 2, TEMPERATURE))
    return torch.cat(codes, -1).flatten(1, 2).to(dtype)


def as_tokens(maps: Sequence[Tensor], level_embed: Tensor, sizes: Tensor, batch_size: Tensor) -> Tokens:
    """The maps (B, dim, h, w) as one sequence.

    level_embed: (levels, dim), added to the codes. sizes: (B, 2), (height, width) of each image before padding;
    batch_size: (2,), after it.
    """
    positions, paddings, places, shares = [], [], [], []
    like = upcast(level_embed)  # a place in a large map needs more digits than lower precision has
    for x, embed in zip(maps, level_embed, strict=True):
        dim, height, width = x.shape[1:]
        padding = padding_of(sizes, batch_size, height, width)
        count = torch.stack(((~padding[:, 0]).sum(1), (~padding[:, :, 0]).sum(1)), -1).to(like)  # (w, h) that count
        positions.append(sine_positions(padding, dim, x.dtype) + embed)
        paddings.append(padding.flatten(1))
        places.append(cells(height, width, like) / count.unsqueeze(1))
        shares.append(count / extent(height, width, like))
    return Tokens(
        torch.cat([tokens(x) for x in maps], 1),
        torch.cat(positions, 1),
        torch.cat(paddings, 1),
        torch.cat(places, 1),
        torch.stack(shares, 1),
        [(x.shape[2], x.shape[3]) for x in maps],
    )
