"""Length-scaled cosine attention on a CPU with the table of its bias, some rows of queries at a time."""

import math

from torch import Tensor

from glocal.ops.cosine_attention.reference import split
from glocal.ops.offset_bias.parts import from_table
from glocal.ops.tiled_attention import tiled_attention


def cosine_attention(
    qkv: Tensor, query_embedding: Tensor, temperature: Tensor, table: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    height, width = qkv.shape[-2], qkv.shape[-1]
    q, k, v = split(qkv, query_embedding, temperature * math.log(height * width))
    out, _ = tiled_attention(q.unflatten(2, (height, width)), k, v, table, from_table(rows, columns))
    return out.permute(0, 1, 4, 2, 3).flatten(1, 2)
