"""Token mixers equal their formulas, written with functional calls on the modules' own weights."""

import copy
import math
import sys
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from agreement import random, randomised
from glocal.layers.norm import BatchNorm2d, GroupNorm1
from glocal.layers.token_mixers import (
    AggregatedAttention,
    ConvModulation,
    CosineAttention,
    DMixer,
    HierarchicalAttention,
    LargeKernelAttention,
)
from glocal.layers.token_mixers.d_mixer import OSRA, IDConv, SqueezedTokenEnhancer
from glocal.ops import aggregated_attention, dispatch

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(5, 7), (8, 8), (13, 9), (1, 1), (2, 3)]


def pw(conv, x):
    return F.conv2d(x, conv.weight, conv.bias)


def dw(conv, x, dilation=1):
    padding = dilation * (conv.weight.shape[-1] // 2)
    return F.conv2d(x, conv.weight, conv.bias, padding=padding, dilation=dilation, groups=x.shape[1])


def bn(norm, x):
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5)


def gn(norm, x, eps):
    return F.group_norm(x, 1, norm.weight, norm.bias, eps)


def attend(q, k, v, heads, scale, bias=0.0):
    """(B, C, N) each, head by head: softmax of the scaled products plus a (heads, N, M) bias, times the values."""
    d = q.shape[1] // heads
    out = []
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        logits = torch.einsum("bcn,bcm->bnm", q[:, part], k[:, part]) * scale
        weights = (logits + (bias[h] if torch.is_tensor(bias) else bias)).softmax(-1)
        out.append(torch.einsum("bnm,bcm->bcn", weights, v[:, part]))
    return torch.cat(out, dim=1)


class TestConvModulation:
    @pytest.mark.parametrize("k", [7, 11])
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_equals_its_formula(self, size, k):
        mixer, x = randomised(ConvModulation(6, k)), random(2, 6, *size)
        attention = dw(mixer.conv, F.gelu(pw(mixer.query, x)))
        torch.testing.assert_close(mixer(x), pw(mixer.proj, attention * pw(mixer.value, x)))

    def test_default_kernel(self):
        assert ConvModulation(6).conv.kernel_size == (11, 11)


class TestLargeKernelAttention:
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_equals_its_formula(self, size):
        mixer, x = randomised(LargeKernelAttention(6)), random(2, 6, *size)
        u = F.gelu(pw(mixer.expand, x))
        first, second, last = mixer.attention
        lka = u * pw(last, dw(second, dw(first, u), dilation=3))
        torch.testing.assert_close(mixer(x), x + pw(mixer.proj, lka))

    def test_sees_eleven_positions_to_each_side(self):
        """Two from the 5×5 and nine from the dilated 7×7."""
        mixer = randomised(LargeKernelAttention(2))
        x = random(1, 2, 31, 31).requires_grad_()
        mixer(x)[0, :, 15, 15].sum().backward()
        seen = x.grad.abs().sum((0, 1)) > 0
        assert seen.any(1).nonzero().flatten().tolist() == list(range(4, 27))


class TestHierarchicalAttention:
    EPS = 1e-6

    def build(self, grid, reduction, norm=None):
        mixer = HierarchicalAttention(6, 3, grid, reduction, norm or partial(GroupNorm1, eps=self.EPS))
        return randomised(mixer).eval()

    def norm(self, norm, x):
        return bn(norm, x) if isinstance(norm, BatchNorm2d) else gn(norm, x, self.EPS)

    def cell_by_cell(self, mixer, x, grid, reduction):
        """Every cell, whole or cut at the edge, by itself; nothing is ever padded."""
        scale = 3**-0.5
        q, k, v = pw(mixer.qkv, self.norm(mixer.norm, x)).split(6, dim=1)
        if grid == 1:
            flat = attend(q.flatten(2), k.flatten(2), v.flatten(2), 2, scale)
            return pw(mixer.proj, flat.reshape(x.shape))
        y = torch.empty_like(x)
        for top in range(0, x.shape[2], grid):
            for left in range(0, x.shape[3], grid):
                cell = (..., slice(top, top + grid), slice(left, left + grid))
                y[cell] = attend(q[cell].flatten(2), k[cell].flatten(2), v[cell].flatten(2), 2, scale).reshape(
                    y[cell].shape
                )
        y = self.norm(mixer.grid_norm, x + y)
        height, width = (max(1, n // reduction) for n in x.shape[2:])
        if x.shape[2] == height * reduction and x.shape[3] == width * reduction:
            pooled = F.avg_pool2d(y, reduction)
        else:
            pooled = F.adaptive_avg_pool2d(y, (height, width))
        k, v = pw(mixer.kv, self.norm(mixer.pool_norm, pooled)).flatten(2).split(6, dim=1)
        z = attend(pw(mixer.q, y).flatten(2), k, v, 2, scale).reshape(x.shape)
        return pw(mixer.proj, z + y)

    @pytest.mark.parametrize("norm", [None, BatchNorm2d], ids=["gn", "bn"])
    @pytest.mark.parametrize(("grid", "reduction"), [(8, 8), (7, 4), (3, 2), (2, 1), (1, 1)], ids=str)
    @pytest.mark.parametrize("size", [*SIZES, (16, 24)], ids=str)
    def test_equals_a_loop_over_cells(self, size, grid, reduction, norm):
        mixer, x = self.build(grid, reduction, norm), random(2, 6, *size)
        torch.testing.assert_close(mixer(x), self.cell_by_cell(mixer, x, grid, reduction))

    def test_gradients_equal_the_loop(self):
        mixer, x = self.build(3, 2), random(2, 6, 5, 7).requires_grad_()
        probe = random(2, 6, 5, 7, seed=1)
        leaves = [x, *mixer.parameters()]
        grads = torch.autograd.grad((mixer(x) * probe).sum(), leaves)
        expected = torch.autograd.grad((self.cell_by_cell(mixer, x, 3, 2) * probe).sum(), leaves)
        torch.testing.assert_close(grads, expected, rtol=1e-8, atol=1e-8)

    def test_a_global_step_alone_has_no_parameters_for_two(self):
        assert {n.split(".")[0] for n, _ in self.build(1, 1).named_parameters()} == {"norm", "qkv", "proj"}

    def test_dim_must_be_a_multiple_of_the_heads_width(self):
        with pytest.raises(ValueError, match="dim 10 is not a multiple of head_dim 4"):
            HierarchicalAttention(10, 4, 2, 2, GroupNorm1)


@pytest.fixture(params=[nullcontext, dispatch.as_exported], ids=["computed", "exported"])
def as_in_a_graph(request):
    """Both forms of the ops: the one for exported graphs, too."""
    with request.param():
        yield


class TestIDConv:
    CHANNELS, K = 8, 5

    def build(self, groups=3):
        return randomised(IDConv(self.CHANNELS, self.K, groups))

    @pytest.mark.usefixtures("as_in_a_graph")
    @pytest.mark.parametrize("groups", [1, 2, 3])
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_equals_its_formula_sample_by_sample(self, size, groups):
        module, x = self.build(groups).eval(), random(3, self.CHANNELS, *size)

        def proj(context):  # (B, G, C, k, k)
            hidden = F.gelu(bn(module.proj.norm, pw(module.proj.squeeze, context)))
            return pw(module.proj.expand, hidden).reshape(-1, groups, self.CHANNELS, *context.shape[2:])

        kernels = (proj(F.adaptive_avg_pool2d(x, self.K)).softmax(1) * module.weight).sum(1)
        biases = (proj(x.mean((2, 3), keepdim=True)).flatten(2).softmax(1) * module.bias).sum(1)
        expected = torch.cat(
            [
                F.conv2d(x[i : i + 1], kernels[i][:, None], biases[i], padding=self.K // 2, groups=self.CHANNELS)
                for i in range(len(x))
            ]
        )
        torch.testing.assert_close(module(x), expected)

    @pytest.mark.parametrize("size", [(9, 9), (2, 1)], ids=str)  # larger and smaller than the kernels
    def test_two_calls_of_proj_the_kernels_first(self, size):
        module, x = self.build().train(), random(3, self.CHANNELS, *size)
        norm = module.proj.norm
        mean, variance = norm.running_mean.clone(), norm.running_var.clone()
        for context in (F.adaptive_avg_pool2d(x, self.K), x.mean((2, 3), keepdim=True)):
            hidden = pw(module.proj.squeeze, context)
            mean = 0.9 * mean + 0.1 * hidden.mean((0, 2, 3))
            variance = 0.9 * variance + 0.1 * hidden.var((0, 2, 3), correction=1)
        module(x)
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, variance)
        assert norm.num_batches_tracked == 2

    def test_trains_on_one_image(self):
        """Then the bias path has a single value for each channel."""
        module, x = self.build().train(), random(1, self.CHANNELS, 4, 4)
        module(x).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
        assert module.proj.norm.num_batches_tracked == 1


class TestOSRA:
    @pytest.mark.usefixtures("as_in_a_graph")
    @pytest.mark.parametrize("reduction", [1, 2, 4, 8])
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_equals_its_formula(self, size, reduction):
        module, x = randomised(OSRA(6, 2, reduction)).eval(), random(2, 6, *size)
        source = x
        if reduction > 1:
            conv = module.reduce.conv
            assert conv.weight.shape[-1] == reduction + 3
            source = F.conv2d(x, conv.weight, stride=reduction, padding=(reduction + 3) // 2, groups=6)
            source = F.gelu(bn(module.reduce.norm1, source)) * module.reduce.scale.weight.reshape(1, 6, 1, 1)
            source = bn(module.reduce.norm2, source)
        assert source.shape[2:] == tuple(math.ceil(n / reduction) for n in size)
        source = source + dw(module.local, source)
        k, v = pw(module.kv, source).flatten(2).split(6, dim=1)
        position = random(1, 2, size[0] * size[1], k.shape[2], seed=1)
        expected = attend(pw(module.q, x).flatten(2), k, v, 2, 3**-0.5, position[0]).reshape(x.shape)
        torch.testing.assert_close(module(x, position), expected)

    def test_channels_must_be_a_multiple_of_the_heads(self):
        with pytest.raises(ValueError, match="6 channels cannot be split into 4 heads"):
            OSRA(6, 4, 1)


class TestDMixer:
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_first_half_convolution_second_half_attention_then_the_enhancer(self, size):
        mixer, x = randomised(DMixer(16, 2, 2)).eval(), random(2, 16, *size)
        keys = math.ceil(size[0] / 2) * math.ceil(size[1] / 2)
        position = random(1, 2, size[0] * size[1], keys, seed=1)
        halves = [mixer.local_unit(x[:, :8]), mixer.global_unit(x[:, 8:], position)]
        torch.testing.assert_close(mixer(x, position), mixer.enhancer(torch.cat(halves, dim=1)))

    @pytest.mark.parametrize(("dim", "hidden"), [(16, 16), (160, 20)])
    def test_enhancer(self, dim, hidden):
        module, x = randomised(SqueezedTokenEnhancer(dim), 0.3).eval(), random(2, dim, 3, 4)
        y = bn(module.norm1, F.gelu(dw(module.conv, x)))
        y = bn(module.norm2, F.gelu(pw(module.squeeze, y)))
        assert y.shape[1] == hidden
        torch.testing.assert_close(module(x), x + bn(module.norm3, pw(module.expand, y)))


def length_scaled(mixer, q, keys):
    """(q̂ + QE) · softplus(τ) · log N for q, (B, C, N), and the q̂ it came from."""
    heads, d = mixer.query_embedding.shape
    q = q.reshape(len(q), heads, d, -1)
    unit = q / q.norm(dim=2, keepdim=True)
    scale = F.softplus(mixer.temperature) * math.log(keys)
    return ((unit + mixer.query_embedding[:, :, None]) * scale[:, None, None]).flatten(1, 2)


@pytest.fixture(params=["whole bias", "table"])
def switch(request, monkeypatch):
    """Call it to compute small maps as large ones from then on: with the table of the bias, and nothing kept for
    gradients that can be computed again."""

    def to_tables():
        if request.param == "table":
            monkeypatch.setattr(sys.modules["glocal.ops.offset_bias"], "FEW", 0)
            monkeypatch.setattr(dispatch, "KEPT_POSITIONS", 0)

    return to_tables


class TestCosineAttention:
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_equals_its_formula(self, size, switch):
        mixer, x = randomised(CosineAttention(6, 7, head_dim=3)), random(2, 6, *size)
        q, k, v = pw(mixer.qkv, x).flatten(2).split(6, dim=1)
        k = F.normalize(k.reshape(2, 2, 3, -1), dim=2).flatten(1, 2)
        q = length_scaled(mixer, q, size[0] * size[1])
        out = attend(q, k, v, 2, 1.0, mixer.position(*size, *size)[0])
        expected = pw(mixer.proj, out.reshape(x.shape))
        switch()
        torch.testing.assert_close(mixer(x), expected)

    def test_dim_must_be_a_multiple_of_the_heads_width(self):
        with pytest.raises(ValueError, match="dim 10 is not a multiple of head_dim 4"):
            CosineAttention(10, 7, head_dim=4)


class TestAggregatedAttention:
    def formula(self, mixer, x, pooled_size):
        height, width = x.shape[2:]
        heads, d = mixer.query_embedding.shape

        def split(y):  # contiguous slices of d channels are the heads
            return y.reshape(len(y), heads, d, *y.shape[2:])

        k, v = pw(mixer.kv, x).split(heads * d, dim=1)
        pooled = F.adaptive_avg_pool2d(F.gelu(pw(mixer.pool_proj, x)), pooled_size).permute(0, 2, 3, 1)
        pooled = F.layer_norm(pooled, (heads * d,), mixer.pool_norm.weight, mixer.pool_norm.bias, 1e-5)
        pooled_k, pooled_v = pw(mixer.kv, pooled.permute(0, 3, 1, 2)).flatten(2).split(heads * d, dim=1)
        out = aggregated_attention(
            split(pw(mixer.q, x)),
            split(k),
            split(v),
            split(pooled_k),
            split(pooled_v),
            mixer.query_embedding,
            F.softplus(mixer.temperature),
            mixer.local_bias,
            mixer.position(height, width, *pooled_size)[0].transpose(1, 2),
            mixer.tokens,
            mixer.token_bias,
        )
        return pw(mixer.proj, out.flatten(1, 2))

    @pytest.mark.parametrize("reduction", [1, 2, 8])
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_equals_its_formula(self, size, reduction, switch):
        mixer, x = randomised(AggregatedAttention(6, 7, reduction, head_dim=3)), random(2, 6, *size).requires_grad_()
        expected = self.formula(mixer, x, tuple(max(1, n // reduction) for n in size))
        switch()
        out = mixer(x)
        torch.testing.assert_close(out, expected)
        leaves, probe = [x, *mixer.parameters()], random(*x.shape, seed=1)
        grads, expected = (torch.autograd.grad(y, leaves, probe) for y in (out, expected))
        torch.testing.assert_close(grads, expected, rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_linear_mode_pools_to_a_fixed_size(self, size):
        mixer = randomised(AggregatedAttention(6, 7, 2, pool_size=3, head_dim=3))
        x = random(2, 6, *size)
        torch.testing.assert_close(mixer(x), self.formula(mixer, x, (3, 3)))

    def test_interpolation_fixes_the_position_bias_at_the_base_size(self):
        mixer = randomised(AggregatedAttention(6, 7, 2, base_size=(8, 6), head_dim=3))
        assert mixer.position.base == (8, 6, 4, 3)
        assert CosineAttention(6, 7, base_size=(4, 3), head_dim=3).position.base == (4, 3, 4, 3)

    def test_starting_values(self):
        torch.manual_seed(0)
        mixer = AggregatedAttention(96, 56, 8)
        torch.testing.assert_close(F.softplus(mixer.temperature), torch.full((4,), 1 / 0.24))
        assert mixer.query_embedding.std().item() == pytest.approx(0.02, rel=0.3)
        assert mixer.tokens.std().item() == pytest.approx(0.02, rel=0.2)
        assert mixer.local_bias.std().item() == pytest.approx(0.0004, rel=0.5)
        assert mixer.token_bias.abs().sum() == 0


MIXERS = {
    "conv_modulation": partial(ConvModulation, 16),
    "large_kernel_attention": partial(LargeKernelAttention, 16),
    "hierarchical": partial(HierarchicalAttention, 16, 8, 2, 2, GroupNorm1),
    "hierarchical_global": partial(HierarchicalAttention, 16, 8, 1, 1, GroupNorm1),
    "aggregated": partial(AggregatedAttention, 16, 7, 2, head_dim=8),
    "cosine": partial(CosineAttention, 16, 7, head_dim=8),
    "d_mixer": partial(DMixer, 16, 2, 2),
}


@pytest.mark.parametrize("name", MIXERS)
def test_proj_drop_acts_in_training_only(name):
    plain = randomised(MIXERS[name]())
    dropped = MIXERS[name](proj_drop=0.5).double()
    dropped.load_state_dict(plain.state_dict())
    inputs = [random(2, 16, 4, 4), *([random(1, 2, 16, 4)] if name == "d_mixer" else [])]
    torch.testing.assert_close(dropped.eval()(*inputs), copy.deepcopy(plain).eval()(*inputs))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.allclose(dropped.train()(*inputs), plain.train()(*inputs))


@torch.no_grad()
def test_osra_calls_no_convolution_for_each_channel():
    """On one thread torch takes a 1×1 depthwise convolution of one image group by group."""
    mixer = OSRA(32, num_heads=2, reduction=2).eval()
    x, position = random(1, 32, 8, 8).float(), torch.zeros(1, 2, 64, 16)
    with torch.profiler.profile() as profile:
        mixer(x, position)
    assert sum("conv2d_forward" in event.key and event.count for event in profile.key_averages()) <= 2  # q, kv
