"""The box heads of R-CNNs: the features of regions to scores of classes and corrections of boxes."""

from itertools import pairwise

from torch import Tensor, nn

from glocal.layers.conv_norm import ConvNorm

SIDE = 7


class BoxHead(nn.Module):
    """Convolutions with batch norm, linear layers, and two linear outputs.

    Args:
        dim: channels of the features.
        num_classes: K; the scores have one more, the background, which is the last.
        convs: 3×3 convolutions with batch norm and ReLU before the linear layers.
        linears: linear layers with ReLU, at least 1.
        agnostic: whether all classes share the corrections.
        hidden: width of the linear layers.

    `forward(x)` returns for (N, dim, 7, 7) the logits (N, K + 1) and corrections (N, 4·K), or (N, 4) if agnostic.
    Sources: "2fc" is arXiv 1612.03144, section 4.2; "4conv1fc" arXiv 1803.08494, section 4.2 (with batch norm).
    """

    def __init__(
        self, dim: int, num_classes: int, convs: int = 0, linears: int = 2, agnostic: bool = False, hidden: int = 1024
    ):
        super().__init__()
        self.convs = nn.ModuleList(ConvNorm(dim, dim, 3) for _ in range(convs))
        widths = [dim * SIDE * SIDE] + [hidden] * linears
        self.linears = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.act = nn.ReLU()
        self.classifier = nn.Linear(hidden, num_classes + 1)
        self.regressor = nn.Linear(hidden, 4 if agnostic else 4 * num_classes)
        self.reset_parameters()

    def reset_parameters(self):
        for block in self.convs:
            nn.init.kaiming_normal_(block.conv.weight, mode="fan_out", nonlinearity="relu")
        for linear in self.linears:
            nn.init.xavier_uniform_(linear.weight)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.normal_(self.regressor.weight, std=0.001)
        for linear in (*self.linears, self.classifier, self.regressor):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.convs:
            x = block(x)
        x = x.flatten(1)
        for linear in self.linears:
            x = self.act(linear(x))
        return self.classifier(x), self.regressor(x)


# Official names to ours.
RENAMES = [
    (r"\bshared_convs\.(\d)\.conv\.", r"convs.\1.conv."),
    (r"\bshared_convs\.(\d)\.bn\.", r"convs.\1.norm."),
    (r"\bshared_fcs\.", "linears."),
    (r"\bfc_cls\.", "classifier."),
    (r"\bfc_reg\.", "regressor."),
]
