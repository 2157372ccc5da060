"""SiLU of a tensor that its caller does not use again."""

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.silu import reference

__all__ = ["silu"]

NO_KERNEL = "it is torch's own"


def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x), of any shape, written over x if no gradient and no observer needs x.

    The caller owns x: nothing else may read it afterwards.
    """
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if dispatch.can_use_inference_ops(x):
            return F.silu(x, inplace=True)
    return reference.silu(x)
