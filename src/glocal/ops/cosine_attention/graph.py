"""Length-scaled cosine attention for graphs, which may take other sizes too."""

import torch
from torch import Tensor

from glocal.ops.cosine_attention.reference import attend


def cosine_attention(qkv: Tensor, query_embedding: Tensor, temperature: Tensor, bias: Tensor) -> Tensor:
    height, width = qkv.shape[-2], qkv.shape[-1]
    length = torch.full([], height * width, dtype=temperature.dtype, device=qkv.device)
    x = attend(qkv, query_embedding, temperature * length.log(), bias)
    return x.transpose(2, 3).reshape(-1, qkv.shape[1] // 3, height, width)
