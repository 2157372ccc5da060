"""What the launches of Triton kernels share."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor


def launching(x: Tensor):
    """A context in which a kernel starts on the device of `x`, which need not be the current one."""
    return torch.cuda.device_of(x) if x.is_cuda else nullcontext()


def channels_are_neighbours(x: Tensor) -> bool:
    """Whether the channels of a position lie side by side in memory, as in channels_last."""
    return x.stride(1) == 1 and x.shape[1] > 1


def register_norm_gradients(op: Callable, backward_op: Callable) -> None:
    """Let autograd differentiate a norm.

    op(x, weight, bias, eps) returns the result, and each statistic that backward_op(x, weight, g, *statistics) needs;
    that returns the gradient of x, and those of weight and bias, (2, C) in float32.
    """

    def save(ctx, inputs, output):
        ctx.set_materialize_grads(False)
        x, weight, bias, _ = inputs
        ctx.bias_dtype = bias.dtype
        ctx.save_for_backward(x, weight, *output[1:])

    def gradients(ctx, g, *_):
        x, weight, *statistics = ctx.saved_tensors
        gx, parameters = backward_op(x, weight, g, *statistics)
        return gx, parameters[0].to(weight.dtype), parameters[1].to(ctx.bias_dtype), None

    op.register_autograd(gradients, setup_context=save)

    @backward_op.register_fake
    def _(x, weight, g, *statistics):
        return torch.empty_like(x), x.new_empty((2, x.shape[1]), dtype=torch.float32)
