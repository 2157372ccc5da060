"""Token mixers: each is built as `mixer(dim, proj_drop=…)` and maps (B, C, H, W) to (B, C, H, W)."""

from glocal.layers.token_mixers.aggregated_attention import AggregatedAttention, CosineAttention
from glocal.layers.token_mixers.conv_modulation import ConvModulation
from glocal.layers.token_mixers.d_mixer import DMixer
from glocal.layers.token_mixers.hierarchical_attention import HierarchicalAttention
from glocal.layers.token_mixers.large_kernel_attention import LargeKernelAttention

__all__ = [
    "AggregatedAttention",
    "ConvModulation",
    "CosineAttention",
    "DMixer",
    "HierarchicalAttention",
    "LargeKernelAttention",
]
