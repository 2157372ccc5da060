"""Functions on tensors, one folder per op; the package of that name is the op, and the only place that chooses.

`reference.py` is pure PyTorch and right; `triton.py`, `cpu.py` and `graph.py`, if an op has them, compute the same
faster on a GPU, faster on a CPU, and in the form that exporters like. `dispatch.py` answers what can run;
`listing.py` reads the list of ops from the folders.
"""

from glocal.ops.adaptive_average_pool import adaptive_average_pool, pooled_side
from glocal.ops.aggregated_attention import aggregated_attention
from glocal.ops.biased_attention import biased_attention
from glocal.ops.by_rows import by_rows
from glocal.ops.channel_norm import channel_norm
from glocal.ops.cosine_attention import cosine_attention
from glocal.ops.deformable_attention import deformable_attention
from glocal.ops.depthwise_conv import depthwise_conv, multi_scale_depthwise_conv
from glocal.ops.dispatch import can_keep_results, full_precision, records_calls
from glocal.ops.grid_attention import grid_attention
from glocal.ops.grouped_nms import grouped_nms
from glocal.ops.log_offsets import log_offsets
from glocal.ops.mixed_kernels import kernel_contexts, mixed_kernels, mixture
from glocal.ops.multi_scale_ffn import FFNParameters, multi_scale_ffn
from glocal.ops.offset_bias import offset_bias, written_as_a_whole
from glocal.ops.pad_to_even import pad_to_even
from glocal.ops.pad_to_length import pad_to_length
from glocal.ops.pointwise_conv import pointwise_conv, pointwise_halves, pointwise_of_large_map
from glocal.ops.recompute import recompute, recompute_large_map
from glocal.ops.resize_bias import resize_bias, resized_in_parts
from glocal.ops.sample_norm import sample_norm
from glocal.ops.sample_points import sample_points
from glocal.ops.silu import silu

__all__ = [
    "FFNParameters",
    "adaptive_average_pool",
    "aggregated_attention",
    "biased_attention",
    "by_rows",
    "can_keep_results",
    "channel_norm",
    "cosine_attention",
    "deformable_attention",
    "depthwise_conv",
    "full_precision",
    "grid_attention",
    "grouped_nms",
    "kernel_contexts",
    "log_offsets",
    "mixed_kernels",
    "mixture",
    "multi_scale_depthwise_conv",
    "multi_scale_ffn",
    "offset_bias",
    "pad_to_even",
    "pad_to_length",
    "pointwise_conv",
    "pointwise_halves",
    "pointwise_of_large_map",
    "pooled_side",
    "recompute",
    "recompute_large_map",
    "records_calls",
    "resize_bias",
    "resized_in_parts",
    "sample_norm",
    "sample_points",
    "silu",
    "written_as_a_whole",
]
