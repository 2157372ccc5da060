"""DINO's encoder: the positions of all maps attend to each other."""

from torch import Tensor, nn

from glocal.layers.deformable_attention import DeformableEncoderLayer
from glocal.models.detectors.dino.positions import Tokens


class Encoder(nn.Module):
    """Layers of deformable attention; `forward(tokens)` gives the memory (B, N, dim)."""

    def __init__(self, depth: int, dim: int, num_heads: int, levels: int, points: int, hidden: int):
        super().__init__()
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(dim, num_heads, levels, points, hidden) for _ in range(depth)
        )

    def forward(self, tokens: Tokens) -> Tensor:
        reference = tokens.places.unsqueeze(2) * tokens.shares.unsqueeze(1)  # (B, N, levels, 2)
        x = tokens.x
        for layer in self.layers:
            x = layer(x, tokens.position, reference, tokens.sizes, tokens.padding)
        return x
