"""Pure-PyTorch mixture of kernels."""

from torch import Tensor


def mixture(logits: Tensor, bank: Tensor) -> Tensor:
    """A bank, (G, C, k, k), mixed with the softmax over G of logits, (B, G · C, k, k), to (B, C, k, k)."""
    groups, channels, rows, columns = bank.shape
    weights = logits.reshape(-1, groups, channels, rows, columns).softmax(dim=1)
    return (weights * bank).sum(dim=1)
