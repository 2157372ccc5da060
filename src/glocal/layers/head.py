"""The classification head."""

import torch
import torch.nn as nn
from timm.layers import SelectAdaptivePool2d
from torch import Tensor

from glocal.layers.conv import in_turn, pointwise
from glocal.layers.norm import LayerNorm2d


class ClassifierHead(nn.Module):
    """Global pooling, dropout and a linear classifier over (B, C, H, W).

    Args:
        dim: channels of the map.
        num_classes: 0 leaves the classifier out.
        global_pool: timm's pool types; '' hands the unpooled map on, and the classifier then works at each position.
        hidden_size: width of a 1×1 convolution + GELU + LayerNorm before the pooling (Conv2Former), 0 for none.
    """

    def __init__(self, dim: int, num_classes: int, global_pool: str, drop_rate: float, hidden_size: int = 0):
        super().__init__()
        self.hidden_size = hidden_size
        self.unpooled = not global_pool
        self.hidden = nn.Identity()
        if hidden_size > 0:
            self.hidden = nn.Sequential(pointwise(dim, hidden_size), nn.GELU(), LayerNorm2d(hidden_size))
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        self.drop = nn.Dropout(drop_rate)
        self.out_dim = (hidden_size or dim) * self.global_pool.feat_mult()  # width of the pre-logits
        self.fc = nn.Linear(self.out_dim, num_classes) if num_classes > 0 else nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.hidden(x) if torch.jit.is_scripting() else in_turn(self.hidden, x)
        x = self.drop(self.global_pool(x))
        if pre_logits:
            return x
        if self.unpooled:
            return self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (B, num_classes, H, W)
        return self.fc(x)
