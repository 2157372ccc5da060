"""check_op accepts every op of ours, on each backend that runs here, and refuses an op for each kind of mistake."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from glocal import ops
from glocal.ops import dispatch, listing
from glocal.testing import check_op, random
from glocal.testing.ops import TOLERANCES

pytestmark = pytest.mark.usefixtures("one_thread")

HEADS, D, POOLED, CHANNELS = 2, 4, 5, 8


def module(op, backend):
    return importlib.import_module(f"glocal.ops.{op}.{backend}")


def depthwise(height, width):
    x = random(2, 6, height, width)
    return {"x": x, "weight": random(6, 1, 5, 5, seed=1), "bias": random(6, seed=2)}


def dynamic(height, width):
    x = random(2, 6, height, width)
    return {"x": x, "weight": random(2, 6, 3, 3, seed=1), "bias": random(2, 6, seed=2)}


def joined(height, width):
    others = {"residual": random(2, 6, height, width, seed=3), "factor": random(2, 6, height, width, seed=4)}
    return depthwise(height, width) | others


def scales(height, width):
    named = {"x": random(2, 6, height, width)}
    named |= {f"weight{k}": random(2, 1, k, k, seed=k) for k in (1, 3, 5)}
    return named | {f"bias{k}": random(2, seed=k + 1) for k in (1, 3, 5)}


def in_scales(function):
    def call(x, **named):
        weights, biases = ([named[f"{kind}{k}"] for k in (1, 3, 5)] for kind in ("weight", "bias"))
        return function(x, weights, biases, residual=True, gelu=True)

    return call


def pointwise(height, width):
    return {"x": random(2, 6, height, width), "weight": random(4, 6, 1, 1, seed=1), "bias": random(4, seed=2)}


def norm(height, width):
    return {"x": random(2, 6, height, width), "weight": random(6, seed=1), "bias": random(6, seed=2)}


def heads(height, width):
    return {name: random(2, HEADS, D, height, width, seed=i) for i, name in enumerate("qkv")}


def points(height, width):
    return {"maps": random(2, 6, height, width), "points": random(2, 7, 2, seed=1).sigmoid()}


def places(height, width):
    weights = random(2, 4, HEADS, 1, 3, seed=2)
    return {"x": random(2, 6, height, width), "places": random(2, 4, HEADS, 1, 3, 2, seed=1), "weights": weights}


def of_map(function):
    """Deformable attention to one map, (B, C, H, W)."""

    def call(x, places, weights):
        values = x.flatten(2).transpose(1, 2).unflatten(2, (HEADS, -1))
        return function(values, [tuple(x.shape[2:])], places, weights)

    return call


def aggregated(height, width):
    named = heads(height, width)
    return {
        **named,
        "pooled_k": random(2, HEADS, D, POOLED, seed=3),
        "pooled_v": random(2, HEADS, D, POOLED, seed=4),
        "query_embedding": random(HEADS, D, seed=5),
        "temperature": random(HEADS, seed=6).abs() + 0.5,
        "local_bias": random(HEADS, 9, seed=7),
        "pooled_bias": random(HEADS, POOLED, height * width, seed=8),
        "tokens": random(HEADS, D, 9, seed=9),
        "token_bias": random(HEADS, 9, seed=10),
    }


def aggregated_reference(**named):
    own = module("aggregated_attention", "reference")
    return own.aggregated_attention(own.Inputs(**named))


def cosine(height, width):
    return {
        "qkv": random(2, 3 * HEADS * D, height, width),
        "query_embedding": random(HEADS, D, seed=1),
        "temperature": random(HEADS, seed=2).abs() + 0.5,
        "bias": random(1, HEADS, height * width, height * width, seed=3),
    }


def biased(height, width):
    small = {name: random(2, CHANNELS, 2, 3, seed=i) for i, name in enumerate("kv")}
    bias = random(1, HEADS, height * width, 6, seed=4)
    return {"q": random(2, CHANNELS, height, width, seed=3), **small, "bias": bias}


def ffn(height, width):
    return {
        "x": random(2, 4, height, width),
        "expand": random(6, 4, 1, 1, seed=1),
        "mean": random(6, seed=2),
        "variance": random(6, seed=3).abs() + 0.5,
        "weight": random(6, seed=4),
        "bias": random(6, seed=5),
        **{f"kernel{k}": random(2, 1, k, k, seed=k) for k in (1, 3, 5)},
        **{f"bias{k}": random(2, seed=k + 1) for k in (1, 3, 5)},
        "project": random(4, 6, 1, 1, seed=6),
        "project_bias": random(4, seed=7),
    }


def of_scales(function):
    def call(x, expand, mean, variance, weight, bias, project, project_bias, **named):
        kernels, biases = ([named[f"{kind}{k}"] for k in (1, 3, 5)] for kind in ("kernel", "bias"))
        norm = mean.detach(), variance.detach(), weight, bias, 1e-5  # its statistics have no gradient
        parameters = ops.FFNParameters(expand, *norm, kernels, biases, project, project_bias)
        return function(x, parameters) + 0 * (mean.sum() + variance.sum())

    return call


def kernels(height, width):
    return {
        "x": random(2, 4, height, width),
        "expand": random(2 * 4, 4, 1, 1, seed=1),
        "expand_bias": random(2 * 4, seed=2),
        "weight": random(2, 4, 3, 3, seed=3),
        "bias": random(2, 4, seed=4),
    }


def mixed(x, expand, expand_bias, weight, bias):
    hidden = ops.kernel_contexts(x, 3, together=True)
    kernels, biases = ops.mixed_kernels(hidden, expand, expand_bias, weight, bias, x.shape[2], x.shape[3])
    return ops.depthwise_conv(x, kernels, biases)


def mixed_by_definition(x, expand, expand_bias, weight, bias):
    def mix(context, bank):
        logits = F.conv2d(context, expand, expand_bias).unflatten(1, (2, 4))
        return (logits.softmax(1) * bank).sum(1)

    mixture = mix(F.adaptive_avg_pool2d(x, 3), weight)
    biases = mix(F.adaptive_avg_pool2d(x, 1), bias[..., None, None]).flatten()
    x, shape = x.reshape(1, -1, *x.shape[2:]), x.shape
    return F.conv2d(x, mixture.reshape(-1, 1, 3, 3), biases, padding=1, groups=x.shape[1]).reshape(shape)


CASES = {
    "depthwise_conv": (ops.depthwise_conv, module("depthwise_conv", "reference").depthwise_conv, depthwise, ["x"]),
    "depthwise_conv of each sample": (
        ops.depthwise_conv,
        module("depthwise_conv", "reference").depthwise_conv,
        dynamic,
        ["x"],
    ),
    "depthwise_conv and more": (
        lambda **named: ops.depthwise_conv(**named, gelu=True),
        lambda **named: module("depthwise_conv", "reference").depthwise_conv(**named, gelu=True),
        joined,
        ["x", "residual", "factor"],
    ),
    "multi_scale_depthwise_conv": (
        in_scales(ops.multi_scale_depthwise_conv),
        in_scales(module("depthwise_conv", "reference").multi_scale_depthwise_conv),
        scales,
        ["x"],
    ),
    "pointwise_conv": (
        lambda **named: ops.pointwise_conv(**named, gelu=True),
        lambda **named: module("pointwise_conv", "reference").pointwise_conv(**named, gelu=True),
        pointwise,
        ["x"],
    ),
    "pointwise_halves": (
        lambda **named: torch.cat(ops.pointwise_halves(**named, convolved=True), dim=1),
        module("pointwise_conv", "reference").pointwise_conv,
        pointwise,
        ["x"],
    ),
    "channel_norm": (
        lambda **named: ops.channel_norm(**named, eps=1e-6),
        lambda **named: module("channel_norm", "reference").channel_norm(**named, eps=1e-6),
        norm,
        ["x"],
    ),
    "sample_norm": (
        lambda **named: ops.sample_norm(**named, eps=1e-5),
        lambda **named: module("sample_norm", "reference").sample_norm(**named, eps=1e-5),
        norm,
        ["x"],
    ),
    "aggregated_attention": (ops.aggregated_attention, aggregated_reference, aggregated, ["q", "k", "v"]),
    "grid_attention": (
        lambda **named: ops.grid_attention(**named, grid=3),
        lambda **named: module("grid_attention", "reference").grid_attention(**named, grid=3),
        heads,
        ["q", "k", "v"],
    ),
    "cosine_attention": (
        ops.cosine_attention,
        module("cosine_attention", "reference").cosine_attention,
        cosine,
        ["qkv"],
    ),
    "biased_attention": (
        ops.biased_attention,
        module("biased_attention", "reference").biased_attention,
        biased,
        ["q"],
    ),
    "adaptive_average_pool": (
        lambda x: ops.adaptive_average_pool(x, 3, 4),
        lambda x: module("adaptive_average_pool", "reference").adaptive_average_pool(x, 3, 4),
        lambda height, width: {"x": random(2, 6, height, width)},
        ["x"],
    ),
    "pad_to_even": (
        lambda x: F.avg_pool2d(ops.pad_to_even(x), 2),
        lambda x: F.avg_pool2d(module("pad_to_even", "reference").pad_to_even(x), 2),
        lambda height, width: {"x": random(2, 6, height, width)},
        ["x"],
    ),
    "pad_to_length": (
        lambda x: ops.pad_to_length(x.flatten(2), 8, 0.5),
        lambda x: module("pad_to_length", "reference").pad_to_length(x.flatten(2), 8, 0.5),
        lambda height, width: {"x": random(2, 6, height, width)},
        ["x"],
    ),
    "silu": (
        lambda x: ops.silu(x.clone()),
        module("silu", "reference").silu,
        lambda height, width: {"x": random(2, 6, height, width)},
        ["x"],
    ),
    "multi_scale_ffn": (
        of_scales(ops.multi_scale_ffn),
        of_scales(module("multi_scale_ffn", "reference").multi_scale_ffn),
        ffn,
        ["x"],
    ),
    "mixed_kernels": (mixed, mixed_by_definition, kernels, ["x"]),
    "sample_points": (ops.sample_points, module("sample_points", "reference").sample_points, points, ["maps"]),
    "deformable_attention": (
        of_map(ops.deformable_attention),
        of_map(module("deformable_attention", "reference").deformable_attention),
        places,
        ["x"],
    ),
}
IN_KERNELS = {torch.float32: 1e-4, torch.bfloat16: 0.05}
KERNELS = [
    "channel_norm",
    "sample_norm",
    "depthwise_conv",
    "depthwise_conv and more",
    "aggregated_attention",
    "deformable_attention",
]
QUICK = ["channel_norm"]  # the interpreter takes up to ten seconds and more for the others
# they take no map
BY_OTHER_TESTS = {"by_rows", "grouped_nms", "log_offsets", "offset_bias", "recompute", "resize_bias"}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", CASES)
def test_takes_our_own(name, backend):
    op, reference, inputs, maps = CASES[name]
    check_op(op, reference, inputs, maps, tolerances=TOLERANCES | {torch.bfloat16: 0.2}, backend=backend)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in KERNELS])
def test_takes_our_kernels(name):
    pytest.importorskip("triton")
    op, reference, inputs, maps = CASES[name]
    check_op(op, reference, inputs, maps, tolerances=IN_KERNELS, backend="triton", graphs=False)


def test_every_op_is_checked():
    checked = {name.split()[0] for name in CASES} - {"multi_scale_depthwise_conv", "pointwise_halves"}
    assert checked | BY_OTHER_TESTS == {op.name for op in listing.ops()}


def double(height, width):
    return {"x": random(2, 6, height, width), "weight": random(6, 1, 1, seed=1)}


def scaled(x, weight):
    """The reference of the mistakes below."""
    return x * weight


def right(x, weight):
    return weight * x


def wrong_number(x, weight):
    return x * weight * 1.001


def wrong_at_an_edge(x, weight):
    return F.pad((x * weight)[..., :-1], [0, 1]) if x.shape[-1] > 8 else x * weight


def wrong_shape(x, weight):
    return (x * weight)[:, :1]


def wrong_type(x, weight):
    return (x * weight).float()


def without_a_gradient(x, weight):
    return x * weight.detach() + 0 * weight


def wrong_in_inference(x, weight):
    return x * weight if torch.is_grad_enabled() else x * weight + 1e-3


def reads_memory_as_it_lies(x, weight):
    return x.as_strided(x.shape, torch.empty(x.shape).stride()) * weight


def reads_beyond_the_map(x, weight):
    if x.stride(-2) > x.shape[-1] and x.stride(-1) == 1:  # a part of a larger map
        row = x.as_strided((*x.shape[:-1], x.shape[-1] + 1), x.stride(), x.storage_offset())
        return x * weight + 0 * row[..., -1:]
    return x * weight


def leaves_memory_unwritten(x, weight):
    out = torch.empty_like(x)
    out[..., :-1, :] = 0
    return x * weight + 0 * out.detach()


def repeats_nothing(x, weight):
    return x * weight * (1 + 1e-13 * torch.rand((), dtype=torch.float64))


def writes_into_an_input(x, weight):
    y = x * weight
    if not torch.is_grad_enabled():
        x.zero_()
    return y


def fails(x, weight):
    return x.view(2, 3, 2, -1).view(x.shape) * weight


def wrong_when_exported(x, weight):
    return x * weight + float(dispatch.exporting())


def decides_by_values(x, weight):
    return x * weight if float(x.sum()) > 1e9 else weight * x


def wrong_when_compiled(x, weight):
    return x * weight + float(torch.compiler.is_compiling())


WRONG = {
    wrong_number: "computes another output than the reference for 5 × 7 positions in torch.float64, contiguous",
    wrong_at_an_edge: "computes another output than the reference for 13 × 9 positions",
    wrong_shape: r"its shape is \(2, 1, 5, 7\), not \(2, 6, 5, 7\)",
    wrong_type: "returns torch.float32 for 5 × 7 positions in torch.float64",
    without_a_gradient: "computes another gradient of weight",
    wrong_in_inference: "computes another output without gradients",
    reads_memory_as_it_lies: "channels_last",
    reads_beyond_the_map: "inside a map of NaN: it is not finite",
    leaves_memory_unwritten: "it is not finite",
    repeats_nothing: "returns other numbers for the same inputs",
    writes_into_an_input: "writes into x",
    fails: "fails for",
    wrong_when_exported: "for exported graphs",
    decides_by_values: "fails under torch.compile",
    wrong_when_compiled: "under torch.compile",
}


def test_takes_one_from_outside():
    check_op(right, scaled, double)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda op: op.__name__)
def test_refuses(wrong):
    with pytest.raises(AssertionError, match=f"^{wrong.__name__} .*{WRONG[wrong]}.*[.]$"):
        check_op(wrong, scaled, double)


@torch.library.custom_op("glocal_tests::lawless", mutates_args=())
def lawless(x: Tensor) -> Tensor:
    return 2 * x


@lawless.register_fake
def _(x):
    return x.new_empty(x.shape[0])  # not what it returns


def test_refuses_a_custom_op_whose_fake_is_wrong():
    with pytest.raises(AssertionError, match=r"^right has a custom op that torch.library.opcheck refuses"):
        check_op(right, scaled, double, custom_ops=lambda named: [(lawless, (named["x"],))])


def test_takes_the_custom_op_of_a_kernel():
    pytest.importorskip("triton")
    op, reference, inputs, maps = CASES["channel_norm"]

    def registered(named):
        leaves = [tensor.requires_grad_() for tensor in named.values()]
        return [(module("channel_norm", "triton")._op, (*leaves, 1e-6))]

    check_op(op, reference, inputs, maps, tolerances={torch.float32: 1e-4}, sizes=[(2, 3)], custom_ops=registered)
