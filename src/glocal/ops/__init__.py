"""Functions on tensors, one folder per op: `reference.py` is pure PyTorch and always right; the package is the op."""

from glocal.ops.aggregated_attention import aggregated_attention
from glocal.ops.channel_norm import channel_norm
from glocal.ops.depthwise_conv import depthwise_conv, taps_within_reach
from glocal.ops.grid_attention import grid_attention

__all__ = ["aggregated_attention", "channel_norm", "depthwise_conv", "grid_attention", "taps_within_reach"]
