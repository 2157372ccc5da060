"""Average pooling to a given size."""

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.ops.adaptive_average_pool import cpu, graph, reference

__all__ = ["adaptive_average_pool", "pooled_side"]

NO_KERNEL = "it is torch's pooling"


def adaptive_average_pool(x: Tensor, rows: int, columns: int) -> Tensor:
    """Average (B, C, H, W) over rows × columns windows of about equal size, to (B, C, rows, columns).

    Window i of an axis begins at ⌊i · length / parts⌋ and ends before ⌈(i + 1) · length / parts⌉, as in
    `F.adaptive_avg_pool2d`.
    """
    if not torch.jit.is_scripting():
        if dispatch.exporting():
            return graph.adaptive_average_pool(x, rows, columns)
        if dispatch.can_use_cpu(x) and cpu.is_faster(x):
            return cpu.adaptive_average_pool(x, rows, columns)
    return reference.adaptive_average_pool(x, rows, columns)


def pooled_side(side: int, reduction: int) -> int:
    """⌊side / reduction⌋, but at least 1."""
    pooled = side // reduction
    return pooled if pooled > 0 else 1  # not max: runtimes know none of symbols
