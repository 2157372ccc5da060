"""What every launch of a Triton kernel needs."""

from contextlib import nullcontext

import torch
from torch import Tensor


def launching(x: Tensor):
    """A context in which a kernel starts on the device of `x`, which need not be the current one."""
    return torch.cuda.device_of(x) if x.is_cuda else nullcontext()
