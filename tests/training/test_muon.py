"""Muon's matrix products, for whose type timm has no argument."""

import pytest
import timm.optim.muon
import torch

from glocal.training.lightning_module import _compute_muon_in

QUINTIC = (3.4445, -4.7750, 2.0315)


@pytest.fixture
def restored():
    before = timm.optim.muon.zeropower_via_newtonschulz
    yield
    timm.optim.muon.zeropower_via_newtonschulz = before


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_a_step_is_the_newton_schulz_iteration(restored, dtype, close):
    _compute_muon_in(torch.bfloat16)
    _compute_muon_in(dtype)  # the last word counts
    weight = torch.nn.Parameter(torch.zeros(8, 16, dtype=torch.float32))
    weight.grad = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    gradient = weight.grad.double()
    timm.optim.muon.Muon([weight], lr=1.0, momentum=0.0, weight_decay=0.0, ns_coefficients=QUINTIC).step()
    step = weight.detach() / weight.detach().norm()
    expected = newton_schulz(gradient)
    error = (step + expected / expected.norm()).abs().max()
    assert error < close
    if dtype == torch.bfloat16:
        assert error > 1e-5  # or the type would change nothing


def newton_schulz(x, steps=5):
    """Jordan et al. 2024: the quintic iteration."""
    a, b, c = QUINTIC
    x = x / x.norm()
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
