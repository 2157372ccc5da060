"""Attention with a bias from a table equals a softmax over all logits, with every gradient."""

import pytest
import torch

from agreement import assert_agree, random, run
from glocal.ops import table_attention as module
from glocal.ops.table_attention import known_attention, table_attention

pytestmark = pytest.mark.usefixtures("one_thread")

BATCH, HEADS, D, TABLE = 2, 2, 3, (6, 7)


@pytest.fixture(autouse=True, params=[1, 60, 2**20], ids=["a row at a time", "some rows", "all rows"])
def at_a_time(request, monkeypatch):
    monkeypatch.setattr(module, "AT_A_TIME", request.param)


def places(axis, queries, keys, mixed):
    if mixed:
        return random(queries, keys, TABLE[axis], seed=20 + axis)
    return torch.randint(TABLE[axis], (queries, keys), generator=torch.Generator().manual_seed(axis))


def inputs(size, keys):
    return {
        "q": random(BATCH, HEADS, *size, D),
        "k": random(BATCH, HEADS, keys[0] * keys[1], D, seed=1),
        "v": random(BATCH, HEADS, keys[0] * keys[1], D, seed=2),
        "table": random(*TABLE, HEADS, seed=3),
    }


def with_places(function, size, keys, mixed):
    """function(q, k, v, table), and the logarithm beside each query's values."""
    fixed = {name: places(axis, size[axis], keys[axis], mixed) for axis, name in enumerate(("rows", "columns"))}

    def call(**named):
        out, logarithm = function(**named, **fixed)
        return torch.cat([out, logarithm.unsqueeze(-1)], dim=-1)

    return call


def query_by_query(q, k, v, table, rows, columns):
    outs, logarithms = [], []
    for y in range(q.shape[2]):
        for x in range(q.shape[3]):
            own_rows = table[rows[y]] if rows.ndim == 2 else torch.einsum("ir,rch->ich", rows[y], table)
            own = own_rows[:, columns[x]] if columns.ndim == 2 else torch.einsum("jc,ich->ijh", columns[x], own_rows)
            logits = torch.einsum("bhd,bhpd->bhp", q[:, :, y, x], k) + own.flatten(0, 1).T
            outs.append(torch.einsum("bhp,bhpd->bhd", logits.softmax(-1), v))
            logarithms.append(logits.logsumexp(-1))
    return torch.stack(outs, 2).view(q.shape), torch.stack(logarithms, 2).view(q.shape[:-1])


def of_known(**named):
    with torch.no_grad():
        known = module.by_definition(**named)
    return known_attention(**named, out=known[0], logarithm=known[1])


SIZES = [((4, 5), (2, 3)), ((5, 3), (1, 1)), ((1, 1), (2, 2)), ((3, 4), (3, 4))]


@pytest.mark.parametrize("function", [table_attention, of_known, module.by_definition])
@pytest.mark.parametrize("mixed", [False, True], ids=["chosen", "mixed"])
@pytest.mark.parametrize(("size", "keys"), SIZES, ids=str)
def test_equals_a_loop_over_queries(size, keys, mixed, function):
    both = (with_places(each, size, keys, mixed) for each in (function, query_by_query))
    assert_agree(*both, inputs(size, keys))


@pytest.mark.parametrize("mixed", [False, True], ids=["chosen", "mixed"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)], ids=str)
def test_low_precision(dtype, tolerance, mixed):
    function = with_places(table_attention, (4, 5), (2, 3), mixed)
    named = inputs((4, 5), (2, 3))
    expected, expected_grads = run(function, named)
    out, grads = run(function, {name: tensor.to(dtype) for name, tensor in named.items()})
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    for name, grad in grads.items():
        assert grad.dtype == dtype
        assert (grad.double() - expected_grads[name]).norm() < tolerance * expected_grads[name].norm()


def test_layout_of_the_result():
    """A map in channels_last."""
    named = inputs((4, 5), (2, 3))
    out, _ = table_attention(**named, rows=places(0, 4, 2, False), columns=places(1, 5, 3, False))
    assert out.permute(0, 2, 3, 1, 4).is_contiguous()


def test_gradients_of_gradients():
    function = with_places(table_attention, (3, 2), (2, 1), False)
    named = {name: tensor.requires_grad_() for name, tensor in inputs((3, 2), (2, 1)).items()}

    def call(*tensors):
        return function(**dict(zip(named, tensors, strict=True)))

    assert torch.autograd.gradgradcheck(call, list(named.values()), fast_mode=True)


def test_many_gradients_at_once():
    function = with_places(table_attention, (3, 2), (2, 1), False)
    named = {name: tensor.requires_grad_() for name, tensor in inputs((3, 2), (2, 1)).items()}
    out = function(**named)
    probes = random(3, *out.shape)

    def gradients(probe):
        return torch.autograd.grad(out, list(named.values()), probe, retain_graph=True)

    together = torch.func.vmap(gradients)(probes)
    for i, probe in enumerate(probes):
        torch.testing.assert_close([gradient[i] for gradient in together], list(gradients(probe)))


@pytest.mark.parametrize("learned", ["q", "table"])
def test_a_gradient_of_some_arguments_alone(learned):
    named = inputs((4, 5), (2, 3))
    one = {learned: named.pop(learned)}
    both = (
        lambda function=each, **given: with_places(function, (4, 5), (2, 3), False)(**named, **given)
        for each in (table_attention, query_by_query)
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


def test_nothing_is_kept_for_pairs_of_a_query_and_a_key():
    named = {name: tensor.requires_grad_() for name, tensor in inputs((20, 20), (10, 10)).items()}
    function = with_places(table_attention, (20, 20), (10, 10), False)
    own = 2 * named["q"].numel() + 2 * named["k"].numel() + named["table"].numel() + BATCH * HEADS * 400
    assert kept(lambda: function(**named)) == own
