"""Where the encoder's attention is, as sines and cosines."""

import torch
from torch import Tensor, nn

from glocal.models.detectors.boxes import upcast


class SinePositions(nn.Module):
    """As transformers' own module of this call, which makes graphs for a single size of images: its sizes are numbers.

    `forward(width, height, device, dtype)` returns (1, height · width, dim): sines and cosines of the row, then of the
    column, dim/4 of each, with frequencies from 1 down to nearly 1 / temperature.
    """

    def __init__(self, dim: int, temperature: float):
        super().__init__()
        self.dim, self.temperature = dim, temperature

    def forward(self, width: int, height: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        kind = upcast(torch.empty(0, dtype=dtype)).dtype
        quarter = self.dim // 4
        frequencies = self.temperature ** -(torch.arange(quarter, dtype=kind, device=device) / quarter)
        places = torch.meshgrid(
            *(torch.arange(side, dtype=kind, device=device) for side in (height, width)), indexing="ij"
        )
        angles = [place.reshape(-1, 1) * frequencies for place in places]
        codes = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1)
        return codes.unsqueeze(0).to(dtype)
