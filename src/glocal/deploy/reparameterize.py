"""Re-parameterise a model for inference."""

from timm.utils import reparameterize_model
from torch import nn


def fuse(model: nn.Module) -> nn.Module:
    """A copy in eval mode that computes the same in fewer steps.

    Batch norms, LayerScales and the identities beside depthwise convolutions become part of the convolutions next to
    them, if this is exact at every position, also at the edges. Layers with hooks, and layers that replace a plain
    layer (an adapter, say), stay unchanged. The copy is not for training, and its state dict differs from the model's.
    """
    return reparameterize_model(model).eval()
