"""Merging of linear steps that follow each other, for inference.

A layer that has such steps merges them in `reparameterize()`, in place; `glocal.deploy.fuse` and timm's
`reparameterize_model` call it on every layer of a model. The functions here change the weights of a convolution
so that it also does the work of its neighbour. They return the module that replaces the neighbour. They compute in
float64. They leave a module as it is if it is not plain or has a hook: merging would, for instance, lose an adapter.

A layer names two of its convolutions: `input_conv` is the first that sees its input, `output_conv` the last that
changes its output. A `Block` may merge them with a norm or a LayerScale.
"""

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from glocal.layers.conv import is_plain, is_pointwise
from glocal.layers.norm import BatchNorm2d
from glocal.layers.scale import LayerScale

BATCH_NORMS = (BatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)  # the last is what timm freezes to


def absorb_norm(conv: nn.Conv2d, norm: nn.Module) -> nn.Module:
    """Let a convolution do the batch norm after it."""
    if not is_plain(conv) or not _is_affine(norm):
        return norm
    factor, shift = _affine(norm)
    _set(conv, factor.view(-1, 1, 1, 1) * conv.weight.double(), factor * _bias(conv) + shift)
    return nn.Identity()


def absorb_input_norm(norm: nn.Module, conv: nn.Conv2d) -> nn.Module:
    """Let a 1×1 convolution do the batch norm before it. (A larger one pads with zeros after the norm.)"""
    if not is_pointwise(conv) or not _is_affine(norm):
        return norm
    factor, shift = _affine(norm)
    weight = conv.weight.double()
    _set(conv, weight * factor.view(1, -1, 1, 1), _bias(conv) + weight[:, :, 0, 0] @ shift)
    return nn.Identity()


def absorb_scale(layer: nn.Module, scale: nn.Module) -> nn.Module:
    """Let the `output_conv` of a layer do the LayerScale after the layer.

    A layer that ends with a sum has `scale_input(weight)` too, for its other term.
    """
    name = getattr(layer, "output_conv", None)
    if name is None or not is_plain(scale, LayerScale) or not is_plain(layer.get_submodule(name)):
        return scale
    if not all(is_plain(part, type(part)) for part in layer.modules()):  # some hook would see other numbers
        return scale
    conv = layer.get_submodule(name)
    if hasattr(layer, "scale_input"):  # what the convolution's result is added to
        layer.scale_input(scale.weight)
    factor = scale.weight.detach().double().flatten()
    shift = 0.0 if scale.bias is None else scale.bias.detach().double().flatten()
    _set(conv, factor.view(-1, 1, 1, 1) * conv.weight.double(), factor * _bias(conv) + shift)
    return nn.Identity()


def absorb_residual(conv: nn.Conv2d) -> None:
    """Let a depthwise convolution (`is_depthwise`) add its input to its result: one more at the central tap."""
    weight = conv.weight.detach().double().clone()
    weight[:, 0, weight.shape[2] // 2, weight.shape[3] // 2] += 1
    _set(conv, weight, None if conv.bias is None else _bias(conv))


def _is_affine(norm: nn.Module) -> bool:
    """Whether a norm in eval mode is a batch norm with statistics of its own, and not the batch's."""
    return type(norm) in BATCH_NORMS and is_plain(norm, type(norm)) and norm.running_var is not None


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Factor and shift of a batch norm in eval mode."""
    factor = 1 / (norm.running_var.double() + norm.eps).sqrt()
    if norm.weight is not None:
        factor = norm.weight.detach().double() * factor
    shift = -norm.running_mean.double() * factor
    return factor, shift if norm.bias is None else norm.bias.detach().double() + shift


def _bias(conv: nn.Conv2d) -> Tensor:
    if conv.bias is None:
        return torch.zeros(conv.out_channels, dtype=torch.float64, device=conv.weight.device)
    return conv.bias.detach().double()


def _set(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    dtype, form = conv.weight.dtype, torch.preserve_format
    conv.weight = nn.Parameter(weight.detach().to(dtype, memory_format=form), conv.weight.requires_grad)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().to(dtype), conv.weight.requires_grad)
