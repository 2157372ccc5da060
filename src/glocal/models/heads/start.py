"""The values from which the convolutional heads of the papers start."""

from torch import nn

from glocal.layers.conv_norm import ConvNorm


def start_head(head: nn.Module) -> None:
    """Initialise a head: Kaiming normal by fan-out in its convolutions, normal with std 0.01 in its classifier."""
    for module in head.modules():
        if isinstance(module, ConvNorm) and module.conv.bias is None:
            nn.init.kaiming_normal_(module.conv.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(head.classifier.weight, std=0.01)
    nn.init.zeros_(head.classifier.bias)
