"""1×1 convolution on a CPU: in channels_last a linear layer on a view of the map."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.recompute.cpu import gradients

LARGEST_LINEAR = 28 * 28  # positions up to which a matrix product of MKL's is faster than oneDNN's convolution


def pointwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    if x.is_contiguous(memory_format=torch.channels_last):
        positions = x.permute(0, 2, 3, 1)
        if gelu and dispatch.can_use_onednn(x, weight, bias):
            joined = torch.ops.mkldnn._linear_pointwise(positions, weight.flatten(1), bias, "gelu", [], "none")
            return joined.permute(0, 3, 1, 2)
        if x.shape[-2] * x.shape[-1] <= LARGEST_LINEAR:
            y = F.linear(positions, weight.flatten(1), bias).permute(0, 3, 1, 2)
            return F.gelu(y) if gelu else y
    y = F.conv2d(x, weight, bias)
    return F.gelu(y) if gelu else y


def pointwise_of(function: Callable[..., Tensor], weight: Tensor, bias: Tensor, *tensors: Tensor) -> Tensor:
    """1×1 convolution of function(*tensors), which is computed again for the gradient."""
    return _PointwiseOf.apply(function, weight, bias, *tensors)


class _PointwiseOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], weight: Tensor, bias: Tensor, *tensors: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(weight, bias, *tensors)
        return pointwise_conv(function(*tensors), weight, bias, False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        again, needed = torch.is_grad_enabled(), ctx.needs_input_grad[1:]
        with torch.enable_grad():
            weight, bias, *tensors = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]  # none is of another
            x = ctx.function(*tensors)
            if again or dispatch.transforms_are_active():  # second derivatives, vmap over gradients
                y = F.conv2d(x, weight, bias)
                return None, *gradients(y, [weight, bias, *tensors], needed, grad, again)
            y = _Product.apply(x, weight, bias)
        del x  # each map of the function is then freed as soon as its part of the gradient is known
        return None, *gradients(y, [weight, bias, *tensors], needed, grad)


class _Product(torch.autograd.Function):
    """The 1×1 convolution of a map, for its gradients alone: the result holds no numbers."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return x.new_empty(()).expand(len(x), len(weight), *x.shape[2:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor):
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return torch.ops.aten.convolution_backward(
            grad, x, weight, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, ctx.needs_input_grad
        )
