"""depthwise_conv equals a loop over taps, for static and per-sample kernels."""

import pytest
import torch
import torch.nn.functional as F

from agreement import assert_agree, inside_nan, random
from glocal.ops import depthwise_conv, dispatch, multi_scale_depthwise_conv
from glocal.ops.depthwise_conv import graph

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(5, 7), (13, 9), (1, 1), (2, 3)]
CHANNELS, BATCH = 3, 2


@pytest.fixture(autouse=True, params=["reference", "auto"])
def way(request):
    """The reference, and what a CPU computes."""
    before = dispatch.backend()
    dispatch.set_backend(request.param)
    yield request.param
    dispatch.set_backend(before)


def by_taps(x, weight, bias=None, dilation=1):
    """Sum over the taps, each a kernel element times the shifted map, zero beyond the edges."""
    batch, channels, height, width = x.shape
    kernels = weight if weight.shape[0] == batch and weight.shape[1] == channels else weight.transpose(0, 1)
    k = kernels.shape[-1]
    reach = dilation * (k // 2)
    padded = F.pad(x, [reach] * 4)
    total = torch.zeros_like(x) if bias is None else bias.expand(batch, channels)[..., None, None]
    for i in range(k):
        for j in range(k):
            top, left = dilation * i, dilation * j
            total = total + kernels[:, :, i, j, None, None] * padded[..., top : top + height, left : left + width]
    return total


@pytest.mark.parametrize("size", [*SIZES, (17, 23)], ids=str)
@pytest.mark.parametrize(("k", "dilation"), [(1, 1), (3, 1), (7, 1), (5, 2), (7, 3)], ids=str)
def test_as_matrix_products_in_a_graph(size, k, dilation):
    named = inputs(size, k, per_sample=True, bias=False)
    assert_agree(
        lambda x, weight: graph.convolve(x, weight, dilation), lambda **n: by_taps(**n, dilation=dilation), named
    )


def inputs(size, k, per_sample, bias):
    weight = (BATCH, CHANNELS, k, k) if per_sample else (CHANNELS, 1, k, k)
    named = {"x": random(BATCH, CHANNELS, *size), "weight": random(*weight, seed=1)}
    if bias:
        named["bias"] = random(*((BATCH, CHANNELS) if per_sample else (CHANNELS,)), seed=2)
    return named


@pytest.mark.parametrize("per_sample", [False, True], ids=["static", "per-sample"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("k", "dilation"), [(1, 1), (3, 1), (5, 1), (7, 1), (3, 2), (7, 3)], ids=str)
def test_matches_a_loop_over_taps(size, k, dilation, per_sample):
    assert_agree(
        lambda **named: depthwise_conv(**named, dilation=dilation),
        lambda **named: by_taps(**named, dilation=dilation),
        inputs(size, k, per_sample, bias=True),
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [(4, 31), (17, 23), (9, 14), (8, 8), (3, 40)], ids=str)
@pytest.mark.parametrize(("k", "dilation"), [(3, 1), (5, 1), (11, 1), (21, 1), (7, 3), (3, 2)], ids=str)
@pytest.mark.parametrize("per_sample", [False, True], ids=["static", "per-sample"])
def test_tiles_and_phases(size, k, dilation, layout, per_sample):
    """Maps wider than a tile of the kernels' gradient, and not a multiple of the dilation."""
    named = inputs(size, k, per_sample, bias=True)
    named["x"] = named["x"].contiguous(memory_format=layout)
    assert_agree(
        lambda **named: depthwise_conv(**named, dilation=dilation),
        lambda **named: by_taps(**named, dilation=dilation),
        named,
    )


@pytest.mark.parametrize(("size", "dilation"), [((20, 21), 3), ((20, 21), 1), ((6, 7), 3)], ids=str)
def test_keeps_the_memory_format(size, dilation):
    x, weight = random(2, 32, *size).contiguous(memory_format=torch.channels_last), random(32, 1, 7, 7)
    assert depthwise_conv(x, weight, dilation=dilation).is_contiguous(memory_format=torch.channels_last)
    assert depthwise_conv(x.contiguous(), weight, dilation=dilation).is_contiguous()


@pytest.mark.parametrize("dilation", [1, 3])
def test_empty_batch(dilation):
    x, weight = torch.empty(0, 4, 12, 13, requires_grad=True), torch.ones(4, 1, 7, 7, requires_grad=True)
    out = depthwise_conv(x, weight, dilation=dilation)
    assert out.shape == x.shape
    out.sum().backward()
    assert not weight.grad.any()


def test_per_sample_kernels_keep_the_memory_format():
    x = random(2, 32, 9, 8).contiguous(memory_format=torch.channels_last)
    assert depthwise_conv(x, random(2, 32, 3, 3)).is_contiguous(memory_format=torch.channels_last)


def test_autocast_computes_in_bfloat16_and_keeps_the_gradients_types():
    x, weight, bias = (random(*shape, dtype=torch.float32) for shape in [(2, 8, 9, 9), (8, 1, 5, 5), (8,)])
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16):
        out = depthwise_conv(*leaves)
    assert out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out.float().square().sum(), leaves)
    expected = torch.autograd.grad(by_taps(*leaves).square().sum(), leaves)
    for grad, other in zip(grads, expected, strict=True):
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad, other, rtol=0.05, atol=0.05 * other.abs().max().item())


@pytest.mark.parametrize("needs", [False, True], ids=["inference", "training"])
def test_autocast_leaves_float64_as_torch_does(needs):
    named = inputs((5, 7), 3, per_sample=False, bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = depthwise_conv(named["x"], named["weight"].requires_grad_(needs), named["bias"])
    assert out.dtype == torch.float64


@pytest.mark.parametrize("size", [(1, 1), (5, 7)], ids=str)
@pytest.mark.parametrize("k", [1, 3])
def test_autocast_of_a_single_tap(k, size):
    named = {name: tensor.float() for name, tensor in inputs(size, k, per_sample=False, bias=True).items()}
    with torch.autocast("cpu", torch.bfloat16):
        assert depthwise_conv(**named).dtype == torch.bfloat16


@pytest.mark.parametrize(("k", "dilation"), [(3, 1), (11, 1), (3, 2)], ids=str)
def test_gradients_of_gradients(k, dilation):
    leaves = [tensor.requires_grad_() for tensor in inputs((4, 5), k, per_sample=False, bias=True).values()]
    assert torch.autograd.gradgradcheck(lambda *leaves: depthwise_conv(*leaves, dilation=dilation), leaves)


def test_forward_mode_gradients():
    named, tangent = inputs((4, 5), 5, per_sample=False, bias=True), random(BATCH, CHANNELS, 4, 5, seed=9)
    expected = depthwise_conv(tangent, named["weight"])  # it is linear
    named = {name: tensor.requires_grad_() for name, tensor in named.items()}
    with torch.autograd.forward_ad.dual_level():
        out = depthwise_conv(torch.autograd.forward_ad.make_dual(named["x"], tangent), named["weight"], named["bias"])
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(out).tangent, expected)


@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
def test_only_the_gradients_asked_for(needed):
    leaves = [
        tensor.requires_grad_(need)
        for tensor, need in zip(inputs((5, 7), 3, False, True).values(), needed, strict=True)
    ]
    depthwise_conv(*leaves).sum().backward()
    assert tuple(leaf.grad is not None for leaf in leaves) == needed


def test_a_gradient_for_every_sample():
    named = inputs((5, 7), 3, per_sample=False, bias=True)

    def loss(weight, x):
        return depthwise_conv(x[None], weight, named["bias"]).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(named["weight"], named["x"])
    for sample, grad in zip(named["x"], each, strict=True):
        weight = named["weight"].clone().requires_grad_()
        (expected,) = torch.autograd.grad(by_taps(sample[None], weight, named["bias"]).square().sum(), weight)
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("given", [("residual",), ("factor",), ("residual", "factor")], ids="+".join)
@pytest.mark.parametrize("gelu", [False, True])
def test_what_follows_the_convolution(gelu, given):
    def step_by_step(x, weight, bias, residual=0.0, factor=1.0):
        z = by_taps(x, weight, bias)
        if gelu:
            z = z * 0.5 * (1 + torch.erf(z / 2**0.5))
        return residual + factor * z

    named = inputs((5, 7), 3, per_sample=False, bias=True)
    named |= {name: random(*named["x"].shape, seed=3 + i) for i, name in enumerate(given)}
    assert_agree(lambda **named: depthwise_conv(**named, gelu=gelu), step_by_step, named)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [*SIZES, (17, 23)], ids=str)
@pytest.mark.parametrize(("k", "dilation", "per_sample"), [(3, 1, False), (7, 1, True), (9, 1, False), (3, 2, False)])
@torch.no_grad()
def test_gelu_without_gradients(size, k, dilation, per_sample, layout):
    named = inputs(size, k, per_sample, bias=True)
    expected = F.gelu(by_taps(**named, dilation=dilation))
    single = {name: tensor.float() for name, tensor in named.items()}
    single["x"] = inside_nan(single["x"]) if layout is torch.contiguous_format else single["x"].to(memory_format=layout)
    out = depthwise_conv(**single, dilation=dilation, gelu=True)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("k", "per_sample"), [(3, False), (7, False), (3, True)])
@torch.no_grad()
def test_a_bias_that_is_a_part_of_something(k, per_sample):
    """oneDNN's convolution with GELU reads a bias as if its numbers lay side by side."""
    named = {name: tensor.float() for name, tensor in inputs((5, 7), k, per_sample, bias=True).items()}
    named["bias"] = torch.stack([named["bias"], torch.full_like(named["bias"], 9.0)], dim=-1)[..., 0]
    torch.testing.assert_close(depthwise_conv(**named, gelu=True), F.gelu(by_taps(**named)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [*SIZES, (17, 23)], ids=str)
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@torch.no_grad()
def test_kernels_of_several_sizes_without_gradients(size, residual, gelu):
    kernels, channels = (1, 3, 7), (2, 1, 3)
    x = random(BATCH, sum(channels), *size)
    weights = [random(c, 1, k, k, seed=k) for k, c in zip(kernels, channels, strict=True)]
    biases = [random(c, seed=k + 1) for k, c in zip(kernels, channels, strict=True)]
    before = [weight.clone() for weight in weights]
    expected = torch.cat([by_taps(*part) for part in zip(x.split(channels, 1), weights, biases, strict=True)], dim=1)
    expected = x + expected if residual else expected
    out = multi_scale_depthwise_conv(
        x.float(), [w.float() for w in weights], [b.float() for b in biases], residual, gelu
    )
    torch.testing.assert_close(out.double(), F.gelu(expected) if gelu else expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(*pair) for pair in zip(weights, before, strict=True))


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernels_of_several_sizes(size, gelu):
    kernels, channels = (1, 3, 7), (2, 1, 3)
    named = {"x": random(BATCH, sum(channels), *size)}
    named |= {f"weight{k}": random(c, 1, k, k, seed=k) for k, c in zip(kernels, channels, strict=True)}
    named |= {f"bias{k}": random(c, seed=k + 1) for k, c in zip(kernels, channels, strict=True)}

    def together(x, **named):
        return multi_scale_depthwise_conv(
            x, [named[f"weight{k}"] for k in kernels], [named[f"bias{k}"] for k in kernels], gelu=gelu
        )

    def one_by_one(x, **named):
        parts = zip(x.split(channels, dim=1), kernels, strict=True)
        y = x + torch.cat([by_taps(part, named[f"weight{k}"], named[f"bias{k}"]) for part, k in parts], dim=1)
        return F.gelu(y) if gelu else y

    assert_agree(together, one_by_one, named)


@pytest.mark.parametrize("per_sample", [False, True], ids=["static", "per-sample"])
def test_without_bias(per_sample):
    assert_agree(depthwise_conv, by_taps, inputs((5, 7), 3, per_sample, bias=False))


@pytest.mark.parametrize("batch", [1, 3])
def test_per_sample_kernels_when_the_batch_is_one_or_equals_the_channels(batch):
    """(B, C, k, k) must not be taken for (C, 1, k, k) whatever B and C are."""
    for channels in (1, 3):
        x, weight = random(batch, channels, 5, 7), random(batch, channels, 3, 3, seed=1)
        expected = torch.cat([by_taps(x[i : i + 1], weight[i : i + 1]) for i in range(batch)])
        if (batch, channels) == (3, 1):  # (3, 1, k, k) can only be one kernel for each of three samples
            assert_agree(depthwise_conv, by_taps, {"x": x, "weight": weight})
        torch.testing.assert_close(depthwise_conv(x, weight), expected)
        bias = random(batch, channels, seed=2)
        torch.testing.assert_close(depthwise_conv(x, weight, bias), expected + bias[:, :, None, None])


@pytest.mark.parametrize("per_sample", [False, True], ids=["static", "per-sample"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_gradcheck(per_sample, dilation):
    named = {name: tensor.requires_grad_() for name, tensor in inputs((2, 3), 3, per_sample, bias=True).items()}
    assert torch.autograd.gradcheck(lambda *args: depthwise_conv(*args, dilation), tuple(named.values()))


@pytest.mark.parametrize("per_sample", [False, True], ids=["static", "per-sample"])
def test_reads_nothing_outside_the_map(per_sample):
    named = inputs((5, 7), 5, per_sample, bias=True)
    expected = by_taps(**named)
    named["x"] = inside_nan(named["x"])
    torch.testing.assert_close(depthwise_conv(**named), expected)


@pytest.mark.parametrize("per_sample", [False, True], ids=["static", "per-sample"])
def test_channels_last_changes_nothing(per_sample):
    named = inputs((5, 7), 3, per_sample, bias=True)
    expected = depthwise_conv(**named)
    named["x"] = named["x"].contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(depthwise_conv(**named), expected)


@pytest.mark.parametrize("per_sample", [False, True], ids=["static", "per-sample"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype, per_sample):
    named = inputs((13, 9), 7, per_sample, bias=True)
    expected = depthwise_conv(**named)
    out = depthwise_conv(**{name: tensor.to(dtype) for name, tensor in named.items()})
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=0.1, atol=0.2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(("k", "dilation"), [(1, 1), (3, 1), (7, 3)], ids=str)
@torch.no_grad()
def test_without_gradients_the_result_overwrites_nothing_that_is_given(k, dilation, gelu, layout):
    named = {name: value.float() for name, value in inputs((13, 9), k, per_sample=False, bias=True).items()}
    x = named["x"] = named["x"].contiguous(memory_format=layout)
    factor, residual = (random(*x.shape, seed=seed).float().contiguous(memory_format=layout) for seed in (3, 4))
    before = [value.clone() for value in (*named.values(), factor, residual)]
    z = by_taps(**named, dilation=dilation)
    z = F.gelu(z) if gelu else z
    for given, expected in (
        ({"factor": factor}, factor * z),
        ({"residual": residual}, residual + z),
        ({"residual": x, "factor": x}, x + x * z),  # the convolution's own input, too
        ({"residual": residual.double(), "factor": factor.bfloat16()}, residual.double() + factor.bfloat16() * z),
        ({"factor": factor[:1]}, factor[:1] * z),
    ):
        out = depthwise_conv(**named, dilation=dilation, gelu=gelu, **given)
        assert out.dtype == expected.dtype
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    for value, own in zip((*named.values(), factor, residual), before, strict=True):
        assert torch.equal(value, own)
