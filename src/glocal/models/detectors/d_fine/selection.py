"""D-FINE's query selection: the positions of the maps with the surest classes say where the queries begin."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glocal.models.detectors.boxes import upcast
from glocal.ops import pad_to_length

FIRST_SIDE = 0.05  # of the boxes that the positions of the first map stand for; doubled from map to map
MARGIN = 0.01  # boxes and their centres within it of 0 or 1 are no candidates


class Selected(NamedTuple):
    """content: (B, Q, C), what the queries begin with. class_logits: (B, Q, classes). box_logits: (B, Q, 4), of
    (cx, cy, w, h) relative to the maps, huge where the position is no candidate."""

    content: Tensor
    class_logits: Tensor
    box_logits: Tensor


class Selection(nn.Module):
    """The `num_queries` positions with the highest logit of any class, and their boxes.

    A position whose own box is within the margins is no candidate: its memory counts as zero, and its box is
    (1, 1, 1, 1). If the maps have fewer positions than there are queries, such positions fill up; transformers' own
    model fails there.

    regressor: of positions, (…, dim) → (…, 4).
    """

    def __init__(self, dim: int, num_classes: int, num_queries: int, regressor: nn.Module):
        super().__init__()
        self.num_queries = num_queries
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, num_classes)
        self.regressor = regressor

    def forward(self, memory: Tensor, sizes: Sequence[tuple[int, int]]) -> Selected:
        """memory: (B, N, dim), the positions of all maps. sizes: (height, width) of each map."""
        boxes = candidates(sizes, upcast(memory))
        memory = memory.masked_fill(boxes[..., :1] == _huge(boxes), 0.0)
        count = memory.shape[1]
        x = self.norm(self.proj(pad_to_length(memory, self.num_queries)))
        class_logits = self.classifier(x)
        surest = class_logits.detach().amax(-1, keepdim=True)[:, :count]
        surest = pad_to_length(surest, self.num_queries, -torch.inf)  # positions that fill up come last
        index = surest.squeeze(-1).topk(self.num_queries, dim=1).indices.unsqueeze(-1)
        boxes = pad_to_length(boxes, self.num_queries, _huge(boxes)).expand(len(x), -1, -1)

        def chosen(rows: Tensor) -> Tensor:
            return rows.gather(1, index.expand(-1, -1, rows.shape[2]))

        content = chosen(x)
        return Selected(content.detach(), chosen(class_logits), upcast(self.regressor(content)) + chosen(boxes))


def candidates(sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Logits of the boxes that the positions stand for, (1, N, 4), in the type of `like`: the largest number where a
    position is no candidate.

    The boxes are squares in shares of the maps' sides, 0.05 wide on the first map, twice as wide on each next one.
    """
    levels = []
    for level, (height, width) in enumerate(sizes):
        y, x = ((torch.arange(side, dtype=like.dtype, device=like.device) + 0.5) / side for side in (height, width))
        y, x = (axis.flatten() for axis in torch.meshgrid(y, x, indexing="ij"))
        side = torch.full_like(x, FIRST_SIDE * 2.0**level)
        levels.append(torch.stack((x, y, side, side), -1))
    boxes = torch.cat(levels).unsqueeze(0)
    inside = ((boxes > MARGIN) & (boxes < 1 - MARGIN)).all(-1, keepdim=True)
    return (boxes / (1 - boxes)).log().masked_fill(~inside, _huge(boxes))


def _huge(like: Tensor) -> float:
    return torch.finfo(like.dtype).max
