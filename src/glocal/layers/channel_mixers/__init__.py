"""Channel mixers: each is built as `mixer(dim, proj_drop=…)` and maps (B, C, H, W) to (B, C, H, W)."""

from glocal.layers.channel_mixers.conv_ffn import ConvFFN, ResidualConvFFN
from glocal.layers.channel_mixers.conv_glu import ConvGLU
from glocal.layers.channel_mixers.inverted_residual import InvertedResidual
from glocal.layers.channel_mixers.ms_ffn import MSFFN

__all__ = ["MSFFN", "ConvFFN", "ConvGLU", "InvertedResidual", "ResidualConvFFN"]
