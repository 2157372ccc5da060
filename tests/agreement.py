"""Short names for the tests: what the library compares functions and modules with."""

from collections.abc import Sequence

import torch
from torch import Tensor

from glocal.testing.agreement import assert_agree, inside_nan, poisoned, random, randomised, run

__all__ = ["assert_agree", "assert_many_gradients", "inside_nan", "poisoned", "random", "randomised", "run"]


def assert_many_gradients(out: Tensor, leaves: Sequence[Tensor]) -> None:
    """Gradients of three sums of `out`, computed together by vmap, must be those of each alone."""
    probes = random(3, *out.shape)

    def gradients(probe):
        return torch.autograd.grad(out, leaves, probe, retain_graph=True)

    together = torch.func.vmap(gradients)(probes)
    for i, probe in enumerate(probes):
        torch.testing.assert_close([gradient[i] for gradient in together], list(gradients(probe)))
