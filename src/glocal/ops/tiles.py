"""Parts of Triton kernels for (B, C, H, W) maps with any strides."""

import triton
import triton.language as tl


@triton.jit
def tile(start_n, start_c, CHANNELS_LAST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    """Positions and channels of a block, shaped to broadcast; neighbours in memory lie along its last axis."""
    n, c = start_n + tl.arange(0, BLOCK_N), start_c + tl.arange(0, BLOCK_C)
    if CHANNELS_LAST:
        n, c = n[:, None], c[None, :]
    else:
        n, c = n[None, :], c[:, None]
    return n, c


@triton.jit
def place(b, n, c, width, sb, sc, sh, sw):
    """Offsets of positions `n` and channels `c` of sample `b`."""
    return b * sb + (n // width) * sh + (n % width) * sw + c * sc


@triton.jit
def load(x, b, n, c, width, sb, sc, sh, sw, real):
    """A block of a map in float32, zero where not `real`."""
    return tl.load(x + place(b, n, c, width, sb, sc, sh, sw), mask=real, other=0.0).to(tl.float32)
