"""Pure-PyTorch computation of a function part by part."""

from collections.abc import Callable

import torch
from torch import Tensor


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor, numbers_per_row: int, most: int) -> Tensor:
    return torch.cat([function(part) for part in x.split(max(1, most // numbers_per_row))])
