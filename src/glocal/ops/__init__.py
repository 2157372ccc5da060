"""Functions on tensors, one folder per op: `reference.py` is pure PyTorch and right.

The package of that name is the op; `triton.py` and `cpu.py`, where there are, compute the same faster on a GPU and on a
CPU; `dispatch.py` chooses.
"""

from glocal.ops.aggregated_attention import aggregated_attention
from glocal.ops.channel_norm import channel_norm
from glocal.ops.depthwise_conv import depthwise_conv, multi_scale_depthwise_conv, taps_within_reach
from glocal.ops.grid_attention import grid_attention
from glocal.ops.pointwise_conv import pointwise_conv
from glocal.ops.sample_norm import sample_norm

__all__ = [
    "aggregated_attention",
    "channel_norm",
    "depthwise_conv",
    "grid_attention",
    "multi_scale_depthwise_conv",
    "pointwise_conv",
    "sample_norm",
    "taps_within_reach",
]
