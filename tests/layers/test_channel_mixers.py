"""Channel mixers equal their formulas, written with functional calls on the modules' own weights."""

import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agreement import random, randomised
from glocal.layers.channel_mixers import MSFFN, ConvFFN, ConvGLU, InvertedResidual, ResidualConvFFN
from glocal.layers.conv import halves, pointwise
from glocal.layers.norm import BatchNorm2d, GroupNorm1
from glocal.ops import dispatch

pytestmark = pytest.mark.usefixtures("one_thread")

DIM = 6
SIZES = [(5, 7), (1, 1), (2, 3)]


def pw(conv, x):
    """A 1×1 convolution is a linear layer at each position."""
    weight = conv.weight.flatten(1)
    return F.linear(x.permute(0, 2, 3, 1), weight, conv.bias).permute(0, 3, 1, 2)


def dw(conv, x):
    return F.conv2d(x, conv.weight, conv.bias, padding=conv.weight.shape[-1] // 2, groups=x.shape[1])


def bn(norm, x):
    """As in training: the statistics are the batch's."""
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), keepdim=True, correction=0)
    return (x - mean) / (variance + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


def conv_ffn(m, x):
    return pw(m.fc2, F.gelu(dw(m.conv, pw(m.fc1, x))))


def residual_conv_ffn(m, x):
    y = F.gelu(pw(m.fc1, x))
    return pw(m.fc2, y + F.gelu(dw(m.conv, y)))


def conv_glu(m, x):
    both = pw(m.fc1, x)
    gate, value = both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]
    return pw(m.fc2, F.gelu(dw(m.conv, gate)) * value)


def ms_ffn(m, x):
    y = bn(m.norm1, F.gelu(pw(m.fc1, x)))
    quarter = y.shape[1] // 4
    first = y.shape[1] - 3 * quarter
    bounds = [0, first, first + quarter, first + 2 * quarter, y.shape[1]]
    scales = []
    for i, k in enumerate((1, 3, 5, 7)):
        assert m.convs[i].weight.shape[-1] == k
        scales.append(dw(m.convs[i], y[:, bounds[i] : bounds[i + 1]]))
    y = bn(m.norm2, F.gelu(y + torch.cat(scales, dim=1)))
    return bn(m.norm3, pw(m.fc2, y))


def hat_net_residual(m, x):
    y = F.silu(dw(m.conv, F.silu(pw(m.expand, x))))
    return F.group_norm(pw(m.project, y), 1, m.norm3.weight, m.norm3.bias, 1e-5)


def transcnn_residual(m, x):
    y = F.silu(bn(m.norm2, dw(m.conv, F.silu(bn(m.norm1, pw(m.expand, x))))))
    return bn(m.norm3, pw(m.project, y))


CASES = {
    "conv_ffn": (ConvFFN, conv_ffn),
    "residual_conv_ffn": (ResidualConvFFN, residual_conv_ffn),
    "conv_glu": (ConvGLU, conv_glu),
    "ms_ffn": (MSFFN, ms_ffn),
    "ms_ffn_uneven": (partial(MSFFN, expansion=3.0), ms_ffn),  # 18 channels: 6, 4, 4, 4
    "hat_net_residual": (partial(InvertedResidual, norm=GroupNorm1), hat_net_residual),
    "transcnn_residual": (
        partial(InvertedResidual, norm=BatchNorm2d, inner_norm=BatchNorm2d, kernel_size=5),
        transcnn_residual,
    ),
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_equals_its_formula(case, size):
    build, formula = CASES[case]
    mixer = randomised(build(DIM)).train()
    x = random(2, DIM, *size)
    torch.testing.assert_close(mixer(x), formula(mixer, x))


@pytest.mark.parametrize("proj_drop", [0.0, 1.0])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_conv_glu_equals_its_formula_on_a_large_map(size, proj_drop, monkeypatch):
    """There its gradient computes the inner maps again, unless random numbers were drawn for them."""
    monkeypatch.setattr(dispatch, "KEPT_POSITIONS", 0)
    mixer, x = randomised(ConvGLU(DIM, proj_drop=proj_drop)).train(), random(2, DIM, *size).requires_grad_()
    out, expected = mixer(x), conv_glu(mixer, x) * (1 - proj_drop)
    torch.testing.assert_close(out, expected)
    leaves, probe = [x, *mixer.parameters()], random(*x.shape, seed=1)
    grads = (torch.autograd.grad(y, leaves, probe, allow_unused=True) for y in (out, expected))
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("expansion", [4.0, 3.0])
def test_branches_of_a_graph_equal_the_whole(expansion, size, monkeypatch):
    mixer, x = randomised(MSFFN(DIM, expansion)).eval(), random(2, DIM, *size)
    expected = mixer(x)
    mixer.reparameterize()
    torch.testing.assert_close(mixer(x), expected)
    for module in ("glocal.layers.channel_mixers.ms_ffn", "glocal.ops.multi_scale_ffn"):
        monkeypatch.setattr(sys.modules[module], "multi_scale_depthwise_conv", None)  # not called
    with dispatch.as_exported():
        torch.testing.assert_close(mixer(x), expected)


@pytest.mark.parametrize("fused", [False, True])
def test_another_convolution_in_the_place_of_a_branch_is_called(fused):
    mixer, x = randomised(MSFFN(DIM)).eval(), random(2, DIM, 9, 7)
    mixer.convs[1] = randomised(nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6))
    if fused:
        mixer.reparameterize()
    y = F.gelu(mixer.branch_by_branch(mixer.norm1(F.gelu(mixer.fc1(x)))))
    torch.testing.assert_close(mixer(x), mixer.norm3(mixer.fc2(mixer.norm2(y))))


@pytest.mark.parametrize(
    ("build", "convolutions", "expansion", "hidden"),
    [(ConvFFN, "fc1", 8.0, 48), (ResidualConvFFN, "fc1", 4.0, 24), (MSFFN, "fc1", 6.0, 36), (ConvGLU, "fc2", 8.0, 32)],
)
def test_hidden_width(build, convolutions, expansion, hidden):
    conv = getattr(build(DIM, expansion=expansion), convolutions)
    assert (conv.in_channels if convolutions == "fc2" else conv.out_channels) == hidden


def test_conv_glu_rounds_its_width_down():
    """int(2/3 · 8 · 48) is 256 and int(2/3 · 4 · 7) is 18."""
    assert ConvGLU(48, 8).fc1.out_channels == 2 * 256
    assert ConvGLU(7, 4).fc1.out_channels == 2 * 18


@pytest.mark.parametrize("build", [InvertedResidual, MSFFN])
def test_which_convolutions_have_no_bias(build):
    mixer = build(DIM, norm=GroupNorm1) if build is InvertedResidual else build(DIM)
    names = {name for name, _ in mixer.named_parameters() if name.endswith(".bias") and "norm" not in name}
    assert names == ({f"convs.{i}.bias" for i in range(4)} if build is MSFFN else set())


@pytest.mark.parametrize("case", CASES)
def test_proj_drop_acts_in_training_only(case):
    mixer = randomised(CASES[case][0](DIM, proj_drop=0.5))
    x = random(2, DIM, 5, 7)
    assert torch.equal(mixer.eval()(x), mixer(x))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert (mixer.train()(x) == 0).any()


@pytest.mark.parametrize("inner_norm", [None, BatchNorm2d])
def test_silu_takes_the_place_of_its_input_where_nobody_sees_that(inner_norm, monkeypatch):
    m, x = randomised(InvertedResidual(DIM, GroupNorm1, inner_norm=inner_norm)).eval(), random(2, DIM, 5, 7)
    expected, places, silu = m(x).detach(), [], F.silu

    def watched(x, inplace=False):
        places.append(inplace)
        return silu(x, inplace)

    monkeypatch.setattr(F, "silu", watched)
    with torch.no_grad():
        torch.testing.assert_close(m(x), expected)
        assert places == [True, True]
        m.conv.register_forward_hook(lambda *_: None)
        torch.testing.assert_close(m(x), expected)
        assert places[2:] == [True, False]
    m(x)
    assert places[4:] == [False, False]


@pytest.mark.parametrize("inner_norm", [None, BatchNorm2d])
def test_an_inverted_residual_leaves_its_input(inner_norm):
    m = randomised(InvertedResidual(DIM, GroupNorm1, inner_norm=inner_norm)).eval()
    x = random(2, DIM, 5, 7)
    before, expected = x.clone(), m(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(m(x), expected)
    assert torch.equal(x, before)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_halves_for_a_convolution_lie_by_themselves_on_a_cpu(size):
    conv = randomised(pointwise(DIM, 2 * DIM))
    x = random(2, DIM, *size).contiguous(memory_format=torch.channels_last)
    for half, expected in zip(halves(conv, x, convolved=True), pw(conv, x).chunk(2, dim=1), strict=True):
        assert half.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(half, expected)
