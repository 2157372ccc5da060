"""DINO's query selection: the encoder's surest positions say where the queries begin."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from glocal.models.detectors.boxes import upcast
from glocal.models.detectors.dino.positions import Tokens
from glocal.ops import pad_to_length

FIRST_SIDE = 0.05  # of the boxes that the positions of the first map stand for; doubled from map to map
MARGIN = 0.01  # boxes and their centres within it of 0 or 1 are no candidates


class Selected(NamedTuple):
    """index: (B, Q), the chosen positions, the surest first. class_logits: (B, Q, classes). box_logits: (B, Q, 4),
    of (cx, cy, w, h) relative to the image, infinite where the position is no candidate."""

    index: Tensor
    class_logits: Tensor
    box_logits: Tensor


class QuerySelection(nn.Module):
    """The `num_queries` positions with the highest logit of any class, and their boxes.

    A position in the padding is no candidate, nor is one whose own box (see `candidates`) is within the margins: its
    memory counts as zero and its box is (1, 1, 1, 1). Such positions are chosen where too few others are. If the maps
    have fewer positions than there are queries, further positions of this kind fill up (the authors' code fails).
    """

    def __init__(self, dim: int, num_queries: int):
        super().__init__()
        self.num_queries = num_queries
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def reset_parameters(self):
        nn.init.xavier_uniform_(self.proj.weight)

    def forward(self, memory: Tensor, tokens: Tokens, classifier: nn.Module, regressor: nn.Module) -> Selected:
        """memory: (B, N, dim). classifier, regressor: of positions, (…, dim) → (…, classes) and (…, 4)."""
        boxes = candidates(tokens)
        memory = memory.masked_fill(boxes[..., :1].isinf(), 0.0)
        x = self.norm(self.proj(pad_to_length(memory, self.num_queries)))
        boxes = pad_to_length(boxes, self.num_queries, torch.inf)
        class_logits = classifier(x)
        index = class_logits.amax(-1).topk(self.num_queries, dim=1).indices

        def chosen(rows: Tensor) -> Tensor:
            return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[2]))

        return Selected(index, chosen(class_logits), upcast(regressor(chosen(x))) + chosen(boxes))


def candidates(tokens: Tokens) -> Tensor:
    """Logits of the boxes that the positions stand for, (B, N, 4), infinite where a position is no candidate.

    The boxes are squares in shares of the image's sides, 0.05 wide on the first map, twice as wide on each next one.
    """
    sides = torch.cat(
        [
            tokens.places.new_full((height * width,), FIRST_SIDE * 2**level)
            for level, (height, width) in enumerate(tokens.sizes)
        ]
    )
    boxes = torch.cat((tokens.places, sides.view(1, -1, 1).expand_as(tokens.places)), -1)
    inside = ((boxes > MARGIN) & (boxes < 1 - MARGIN)).all(-1) & ~tokens.padding
    return (boxes / (1 - boxes)).log().masked_fill(~inside.unsqueeze(-1), torch.inf)
