"""Attention with a bias that is made in parts equals a softmax over all logits, with every gradient."""

import pytest
import torch
import torch.nn.functional as F

from agreement import assert_agree, assert_many_gradients, random, run
from glocal.ops import tiled_attention as module
from glocal.ops.offset_bias.parts import from_table
from glocal.ops.resize_bias.parts import resized
from glocal.ops.tiled_attention import known_attention, tiled_attention

pytestmark = pytest.mark.usefixtures("one_thread")

BATCH, HEADS, D, TABLE, LEARNED = 2, 2, 3, (6, 7), (5, 4)
KINDS = ["chosen", "mixed", "resized"]


@pytest.fixture(autouse=True, params=[1, 60, 2**20], ids=["a row at a time", "some rows", "all rows"])
def at_a_time(request, monkeypatch):
    monkeypatch.setattr(module, "AT_A_TIME", request.param)


def places(axis, queries, keys, mixed):
    if mixed:
        return random(queries, keys, TABLE[axis], seed=20 + axis)
    return torch.randint(TABLE[axis], (queries, keys), generator=torch.Generator().manual_seed(axis))


def inputs(kind, size, keys):
    return {
        "q": random(BATCH, HEADS, *size, D),
        "k": random(BATCH, HEADS, keys[0] * keys[1], D, seed=1),
        "v": random(BATCH, HEADS, keys[0] * keys[1], D, seed=2),
        "source": random(1, HEADS, *LEARNED, seed=3) if kind == "resized" else random(*TABLE, HEADS, seed=3),
    }


def of_kind(function, kind, size, keys):
    """function(q, k, v, source) with such a bias, and the logarithm beside each query's values."""
    if kind == "resized":
        size = size[0] * size[1], 1
        bias = resized(size[0], keys[0] * keys[1])
    else:
        bias = from_table(*(places(axis, size[axis], keys[axis], kind == "mixed") for axis in (0, 1)))

    def call(q, **named):
        out, logarithm = function(q=q.reshape(*q.shape[:2], *size, D), **named, bias=bias)
        return torch.cat([out, logarithm.unsqueeze(-1)], dim=-1).view(*q.shape[:-1], D + 1)

    return call


def query_by_query(kind, size, keys):
    rows, columns = (places(axis, size[axis], keys[axis], kind == "mixed") for axis in (0, 1))

    def of_query(source, y, x):
        if kind == "resized":
            numbers = size[0] * size[1], keys[0] * keys[1]
            return F.interpolate(source, numbers, mode="bicubic")[0, :, y * size[1] + x]
        own = source[rows[y]] if kind == "chosen" else torch.einsum("ir,rch->ich", rows[y], source)
        own = own[:, columns[x]] if kind == "chosen" else torch.einsum("jc,ich->ijh", columns[x], own)
        return own.flatten(0, 1).T

    def call(q, k, v, source):
        outs = []
        for y in range(size[0]):
            for x in range(size[1]):
                logits = torch.einsum("bhd,bhpd->bhp", q[:, :, y, x], k) + of_query(source, y, x)
                out = torch.einsum("bhp,bhpd->bhd", logits.softmax(-1), v)
                outs.append(torch.cat([out, logits.logsumexp(-1, keepdim=True)], -1))
        return torch.stack(outs, 2).view(*q.shape[:-1], D + 1)

    return call


def of_known(**named):
    with torch.no_grad():
        known = module.by_definition(**named)
    return known_attention(**named, out=known[0], logarithm=known[1])


SIZES = [((4, 5), (2, 3)), ((5, 3), (1, 1)), ((1, 1), (2, 2)), ((3, 4), (3, 4))]


@pytest.mark.parametrize("function", [tiled_attention, of_known, module.by_definition])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "keys"), SIZES, ids=str)
def test_equals_a_loop_over_queries(size, keys, kind, function):
    named = inputs(kind, size, keys)
    assert_agree(of_kind(function, kind, size, keys), query_by_query(kind, size, keys), named)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)], ids=str)
def test_low_precision(dtype, tolerance, kind):
    function = of_kind(tiled_attention, kind, (4, 5), (2, 3))
    named = inputs(kind, (4, 5), (2, 3))
    expected, expected_grads = run(function, named)
    out, grads = run(function, {name: tensor.to(dtype) for name, tensor in named.items()})
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    for name, grad in grads.items():
        assert grad.dtype == dtype
        assert (grad.double() - expected_grads[name]).norm() < tolerance * expected_grads[name].norm()


def test_layout_of_the_result():
    """A map in channels_last."""
    bias = from_table(places(0, 4, 2, False), places(1, 5, 3, False))
    out, _ = tiled_attention(**inputs("chosen", (4, 5), (2, 3)), bias=bias)
    assert out.permute(0, 2, 3, 1, 4).is_contiguous()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_gradients(kind):
    function = of_kind(tiled_attention, kind, (3, 2), (2, 1))
    named = {name: tensor.requires_grad_() for name, tensor in inputs(kind, (3, 2), (2, 1)).items()}

    def call(*tensors):
        return function(**dict(zip(named, tensors, strict=True)))

    assert torch.autograd.gradgradcheck(call, list(named.values()), fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_many_gradients_at_once(kind):
    function = of_kind(tiled_attention, kind, (3, 2), (2, 1))
    named = {name: tensor.requires_grad_() for name, tensor in inputs(kind, (3, 2), (2, 1)).items()}
    out = function(**named)
    assert_many_gradients(out, list(named.values()))


@pytest.mark.parametrize("learned", ["q", "source"])
def test_a_gradient_of_some_arguments_alone(learned):
    sizes = (4, 5), (2, 3)
    named = inputs("chosen", *sizes)
    one = {learned: named.pop(learned)}
    both = (
        lambda function=each, **given: function(**named, **given)
        for each in (of_kind(tiled_attention, "chosen", *sizes), query_by_query("chosen", *sizes))
    )
    assert_agree(*both, one)


def kept(call):
    """How many numbers of floating point autograd keeps for the gradients of a call."""
    found = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: found.update({tensor.data_ptr(): tensor}) or tensor, lambda tensor: tensor
    ):
        call()
    return sum(tensor.numel() for tensor in found.values() if tensor.is_floating_point())


@pytest.mark.parametrize("kind", ["chosen", "resized"])
def test_nothing_is_kept_for_pairs_of_a_query_and_a_key(kind):
    named = {name: tensor.requires_grad_() for name, tensor in inputs(kind, (20, 20), (10, 10)).items()}
    function = of_kind(tiled_attention, kind, (20, 20), (10, 10))
    own = 2 * named["q"].numel() + 2 * named["k"].numel() + named["source"].numel() + BATCH * HEADS * 400
    assert kept(lambda: function(**named)) == own
