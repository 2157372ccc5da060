"""The Triton kernels compute what the references do, with every gradient; Triton's interpreter runs them on a CPU."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from agreement import inside_nan, poisoned, random, randomised, run
from glocal import ops
from glocal.layers.token_mixers.d_mixer import IDConv
from glocal.ops import dispatch

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("one_thread", "by_triton", "on_poisoned_memory")

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 1e-2}
SIZES = [(5, 7), (1, 1), (2, 3), (9, 4)]
LAYOUTS = ["contiguous", "channels_last", "part"]
OPS = ["depthwise", "depthwise per sample", "depthwise fused", "multi-scale", "aggregated", "norm", "sample norm"]


@pytest.fixture
def by_triton(monkeypatch):
    """Every op takes its kernels, or fails."""
    monkeypatch.setattr(dispatch, "_choice", "triton")


@pytest.fixture
def on_poisoned_memory():
    with poisoned():
        yield


def laid_out(x, layout):
    """The same map: as it is, channels_last, or as a part of a wider one."""
    shape = x.shape
    x = x.reshape(shape[0], -1, *shape[-2:])
    if layout != "contiguous":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "part":
        x = torch.cat([x, torch.full_like(x, float("nan"))], dim=1)[:, : x.shape[1]]
    return x.reshape(shape)


def case(op, size, layout="contiguous", kernel=3, batch=2, channels=6):
    """The function and its named inputs."""
    x = laid_out(random(batch, channels, *size), layout)
    if op in ("norm", "sample norm"):
        function = ops.channel_norm if op == "norm" else ops.sample_norm
        return (lambda x, weight, bias: function(x, weight, bias, 1e-6)), {
            "x": x,
            "weight": random(channels, seed=1),
            "bias": random(channels, seed=2),
        }
    if op == "multi-scale":
        parts = {f"weight{k}": random(channels // 3, 1, k, k, seed=k) for k in (1, 3, 5)}
        biases = {f"bias{k}": random(channels // 3, seed=k + 1) for k in (1, 3, 5)}

        def multi_scale(x, **named):
            return ops.multi_scale_depthwise_conv(x, [named[name] for name in parts], [named[name] for name in biases])

        return multi_scale, {"x": x} | parts | biases
    if op == "aggregated":
        heads, pooled = 2, 5
        maps = {name: laid_out(random(batch, heads, channels, *size, seed=i), layout) for i, name in enumerate("qkv")}
        return ops.aggregated_attention, maps | {
            "pooled_k": random(batch, heads, channels, pooled, seed=3),
            "pooled_v": random(batch, heads, channels, pooled, seed=4),
            "query_embedding": random(heads, channels, seed=5),
            "temperature": random(heads, seed=6).abs() + 0.5,
            "local_bias": random(heads, 9, seed=7),
            "pooled_bias": random(heads, size[0] * size[1], pooled, seed=8).transpose(1, 2),
            "tokens": random(heads, channels, 9, seed=9),
            "token_bias": random(heads, 9, seed=10),
        }
    per_sample = op == "depthwise per sample"
    named = {
        "x": x,
        "weight": random(*((batch, channels) if per_sample else (channels, 1)), kernel, kernel, seed=1),
        "bias": random(*((batch, channels) if per_sample else (channels,)), seed=2),
    }
    if op != "depthwise fused":
        return ops.depthwise_conv, named
    named |= {"residual": random(*x.shape, seed=3), "factor": laid_out(random(*x.shape, seed=4), layout)}
    return (lambda **named: ops.depthwise_conv(**named, gelu=True)), named


def reference_of(function, named):
    """Output and gradients of the reference in float64, of the same numbers."""
    choice = dispatch.backend()
    dispatch.set_backend("reference")
    try:
        return run(function, {name: tensor.double() for name, tensor in named.items()})
    finally:
        dispatch.set_backend(choice)


def assert_equal(function, named, tolerance):
    out, grads = run(function, named)
    assert out.dtype == named.get("x", named.get("q")).dtype
    expected, expected_grads = reference_of(function, named)
    for name, actual, wanted in [("output", out, expected)] + [
        (name, grads[name], expected_grads[name]) for name in named
    ]:
        error = (actual.double() - wanted).norm() / wanted.norm().clamp(min=1e-3)
        assert error < tolerance, f"{name}: relative error {error:.1e}"


def typed(named, dtype):
    return {name: tensor.to(dtype) for name, tensor in named.items()}


def in_ci(*values):
    """A case of every run: each size and each layout of each op, and each kernel in both low precisions.

    The others are slow, as the interpreter takes half a second for a case, and seconds for aggregated attention.
    """
    op, *rest = values
    if op == "aggregated":
        often = (*rest,) in (((5, 7), "part"), ((1, 1), "contiguous"), (torch.bfloat16,))
    elif len(rest) == 1:
        often = rest[0] == torch.bfloat16 or op in ("depthwise fused", "norm", "sample norm")
    else:
        pairs = [((5, 7), layout) for layout in LAYOUTS]
        often = (*rest,) in [*pairs, ((1, 1), "contiguous"), ((2, 3), "channels_last"), ((9, 4), "part")]
    return pytest.param(*values, marks=[] if often else pytest.mark.slow, id="-".join(map(str, values)))


@pytest.mark.parametrize(("op", "size", "layout"), [in_ci(*case) for case in product(OPS, SIZES, LAYOUTS)])
def test_matches_the_reference(op, size, layout):
    function, named = case(op, size)
    named = typed(named, torch.float32)
    for name in ("x", "q", "k", "v", "factor"):
        if name in named:
            named[name] = laid_out(named[name], layout)
    assert_equal(function, named, TOLERANCE[torch.float32])


@pytest.mark.parametrize(("op", "dtype"), [in_ci(*case) for case in product(OPS, [torch.bfloat16, torch.float16])])
def test_low_precision(op, dtype):
    function, named = case(op, (3, 5))
    assert_equal(function, typed(named, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("op", "kernel", "dilation"),
    [
        pytest.param(op, *size, marks=[] if size in often else pytest.mark.slow)
        for op, often in {
            "depthwise": [(1, 1), (5, 1), (7, 3), (11, 1)],
            "depthwise per sample": [(1, 1), (7, 3)],
        }.items()
        for size in [(1, 1), (5, 1), (7, 3), (11, 1), (21, 1)]
    ],
)
def test_kernel_sizes(op, kernel, dilation):
    _, named = case(op, (6, 5), "channels_last", kernel, channels=3)
    function = lambda **named: ops.depthwise_conv(**named, dilation=dilation)  # noqa: E731
    assert_equal(function, typed(named, torch.float32), TOLERANCE[torch.float32])


def test_more_than_one_block_of_everything():
    function, named = case("aggregated", (5, 13), batch=1, channels=24)
    named["pooled_k"] = F.normalize(random(1, 2, 24, 40, seed=3), dim=2)
    named["pooled_v"] = random(1, 2, 24, 40, seed=4)
    named["pooled_bias"] = random(2, 40, 65, seed=8)
    assert_equal(function, typed(named, torch.float32), TOLERANCE[torch.float32])
    for op in ("depthwise fused", "norm", "sample norm"):
        function, named = case(op, (13, 12), "channels_last", channels=70)
        assert_equal(function, typed(named, torch.float32), TOLERANCE[torch.float32])


@pytest.mark.parametrize("layout", [*(pytest.param(name, marks=pytest.mark.slow) for name in LAYOUTS[:2]), "part"])
def test_sample_shared_out_to_many_programs(layout):
    function, named = case("sample norm", (13, 12), channels=300)
    named["x"] = laid_out(named["x"] + 5, layout)
    assert_equal(function, typed(named, torch.float32), TOLERANCE[torch.float32])


def test_only_the_residual_needs_a_gradient():
    _, named = case("depthwise", (5, 7))
    residual = random(2, 6, 5, 7, seed=3).float().requires_grad_()
    out = ops.depthwise_conv(**typed(named, torch.float32), gelu=True, residual=residual)
    out.square().sum().backward()
    torch.testing.assert_close(residual.grad, 2 * out.detach())


def test_refuses_kernels_that_are_not_square():
    with pytest.raises(RuntimeError, match="kernels of 3 × 5 are not square"):
        ops.depthwise_conv(torch.ones(2, 4, 3, 4), torch.ones(2, 4, 3, 5))


def test_refuses_kernels_without_a_middle():
    with pytest.raises(RuntimeError, match="kernels of 4 × 4 have no middle"):
        ops.depthwise_conv(torch.ones(2, 4, 3, 4), torch.ones(4, 1, 4, 4))


@pytest.mark.parametrize(
    ("op", "name"),
    [(op, name) for op in ("multi-scale", "norm", "sample norm", "aggregated") for name in case(op, (3, 4))[1]],
)
def test_refuses_other_shapes(op, name):
    """A kernel would read past the end of what is too short; only the first map of a call says how long all are."""
    function, named = case(op, (3, 4))
    named = typed(named, torch.float32)
    named[name] = torch.cat([named[name]] * 2, dim=1 if named[name].ndim > 1 else 0)
    with pytest.raises(RuntimeError, match=r"cannot run there: .*( is .*, not |one for each of|not square)"):
        function(**named)


@pytest.mark.parametrize("name", ["weight3", "bias3"])
def test_refuses_another_type(name):
    function, named = case("multi-scale", (3, 4))
    named = typed(named, torch.float32) | {name: named[name].double()}
    with pytest.raises(RuntimeError, match="no kernel for float64"):
        function(**named)


@pytest.mark.parametrize(
    "wrong", [{"factor": (2, 4, 1, 1)}, {"residual": (1, 4, 5, 5)}, {"weight": (1, 1, 3, 3)}], ids=str
)
def test_refuses_shapes_that_only_broadcasting_makes_equal(wrong):
    shapes = {"x": (2, 4, 5, 5), "weight": (4, 1, 3, 3)} | wrong
    with pytest.raises(RuntimeError, match="only broadcasting makes equal"):
        ops.depthwise_conv(**{name: torch.ones(shape) for name, shape in shapes.items()})


@pytest.mark.parametrize("size", [(3, 4), (2, 9), (1, 1)], ids=str)
def test_dynamic_kernels_on_maps_smaller_than_they(size):
    layer, x = randomised(IDConv(8)).float().eval(), random(2, 8, *size).float()
    actual = layer(x)
    dispatch.set_backend("reference")
    torch.testing.assert_close(actual, layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", OPS)
def test_reads_nothing_outside_the_map(op):
    function, named = case(op, (5, 7))
    named = typed(named, torch.float32)
    expected = function(**named)
    named |= {name: inside_nan(named[name]) for name in ("x", "q", "k", "v", "factor") if name in named}
    torch.testing.assert_close(function(**named), expected)


def test_large_logits_stay_finite():
    function, named = case("aggregated", (2, 3), batch=1)
    named["pooled_bias"] = named["pooled_bias"] * 1e4
    named["local_bias"] = -1e4 * named["local_bias"].abs()
    out, grads = run(function, typed(named, torch.float32))
    assert out.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize("op", ["depthwise", "depthwise fused", "aggregated", "norm", "sample norm"])
def test_is_a_lawful_custom_op(op):
    from glocal.ops.aggregated_attention import triton as aggregated
    from glocal.ops.channel_norm import triton as norm
    from glocal.ops.depthwise_conv import triton as depthwise
    from glocal.ops.sample_norm import triton as sample_norm

    _, named = case(op, (2, 3), batch=1)
    leaves = [tensor.float().requires_grad_() for tensor in named.values()]
    if op == "aggregated":
        torch.library.opcheck(aggregated._op, leaves)
    elif op == "norm":
        torch.library.opcheck(norm._op, (*leaves, 1e-6))
    elif op == "sample norm":
        torch.library.opcheck(sample_norm._op, (*leaves, 1e-6))
    elif op == "depthwise":
        torch.library.opcheck(depthwise._op, (*leaves, None, None, None, 1, False, False))
    else:
        torch.library.opcheck(depthwise._op, (*leaves, None, 1, True, True))


@pytest.mark.parametrize("op", OPS)
def test_autocast(op):
    """As the reference: convolutions and attention in the lower type, the norm in float32."""
    function, named = case(op, (5, 7))
    named = typed(named, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = function(**named)
        dispatch.set_backend("reference")
        expected = function(**named)
    assert out.dtype == expected.dtype or op == "aggregated"  # the reference is partly computed in float32 there
    torch.testing.assert_close(out.float(), expected.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "op",
    [
        pytest.param(op, marks=[pytest.mark.slow] * (op in ("depthwise", "depthwise per sample", "aggregated")))
        for op in OPS
    ],
)
def test_compiles_without_a_graph_break(op):
    function, named = case(op, (5, 7))
    named = typed(named, torch.float32)
    expected, expected_grads = run(function, named)
    out, grads = run(torch.compile(function, backend="aot_eager", fullgraph=True), named)
    torch.testing.assert_close(out, expected)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name])
