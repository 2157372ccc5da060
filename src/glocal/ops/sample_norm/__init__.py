"""GroupNorm with one group: each sample of a batch of maps is normalised as a whole."""

from functools import partial

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.sample_norm import reference

__all__ = ["sample_norm"]


def sample_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise each sample of (B, C, H, W) over C, H and W, then scale and shift by `weight` and `bias`, both (C,)."""
    if not torch.jit.is_scripting():  # noqa: SIM102 (by itself, TorchScript compiles nothing of it)
        if dispatch.can_use_triton("sample_norm", [x, weight, bias], partial(_limits, x, weight, bias)):
            return _by_triton(x, weight, bias, eps)
    return reference.sample_norm(x, weight, bias, eps)


def _limits(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    shape = (x.shape[1],)
    return dispatch.other_shapes(weight=(weight, shape), bias=(bias, shape)) or dispatch.too_many(x.shape[0])


def _by_triton(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    from glocal.ops.sample_norm import triton

    if torch.is_autocast_enabled(x.device.type):  # torch's group norm is computed and returned in float32 there too
        x, weight, bias = x.float(), weight.float(), bias.float()
    return triton.sample_norm(x, weight, bias, eps)
