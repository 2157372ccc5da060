"""recompute gives what the function gives, and keeps its arguments alone."""

import pytest
import torch
import torch.nn.functional as F

from agreement import assert_agree, random
from glocal.ops import dispatch, recompute

NAMED = {"x": random(3, 4), "y": random(3, 4, seed=1)}


def function(x, y):
    return F.gelu(x * y).exp() + x


def again(x, y, most=0):
    return recompute(function, x, y, numbers=x.numel(), most=most)


def kept(call, *tensors):
    """The tensors that autograd keeps for the gradients of a call."""
    found = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: found.append(tensor) or tensor, lambda tensor: tensor):
        call(*tensors)
    return found


def test_equals_the_function():
    assert_agree(again, function, NAMED, tolerance=0)


def test_keeps_the_arguments_alone():
    x, y = (tensor.requires_grad_() for tensor in (random(3, 4), random(3, 4, seed=1)))
    assert {tensor.data_ptr() for tensor in kept(again, x, y)} == {x.data_ptr(), y.data_ptr()}
    assert len({tensor.data_ptr() for tensor in kept(function, x, y)}) > 2


@pytest.mark.parametrize("choice", ["few", "reference", "graph"])
def test_keeps_all_where_nothing_is_gained(choice, monkeypatch):
    x, y = (tensor.requires_grad_() for tensor in (random(3, 4), random(3, 4, seed=1)))
    if choice == "reference":
        monkeypatch.setattr(dispatch, "_choice", "reference")
    elif choice == "graph":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert len(kept(lambda x, y: again(x, y, most=12 if choice == "few" else 0), x, y)) > 2


def test_a_gradient_of_some_arguments_alone():
    y = random(3, 4, seed=1)
    assert_agree(lambda x: again(x, y), lambda x: function(x, y), {"x": random(3, 4)}, tolerance=0)


def test_gradients_of_gradients():
    tensors = [random(2, 3).requires_grad_(), random(2, 3, seed=1).requires_grad_()]
    assert torch.autograd.gradgradcheck(again, tensors)


def test_many_gradients_at_once():
    x = random(3, 4).requires_grad_()
    out = again(x, random(3, 4, seed=1))
    probes = random(5, 3, 4, seed=2)

    def gradient(probe):
        return torch.autograd.grad(out, x, probe, retain_graph=True)[0]

    torch.testing.assert_close(torch.func.vmap(gradient)(probes), torch.stack([gradient(probe) for probe in probes]))


def test_a_gradient_for_every_row():
    """torch.func calls the function itself."""
    each = torch.func.vmap(torch.func.grad(lambda x, y: again(x, y).sum()))(*NAMED.values())
    x = NAMED["x"].clone().requires_grad_()
    torch.testing.assert_close(each, torch.autograd.grad(function(x, NAMED["y"]).sum(), x)[0])


def test_computes_again_in_the_types_of_autocast():
    weight, x = random(4, 4, dtype=torch.float32).requires_grad_(), random(2, 4, dtype=torch.float32)
    seen = []

    def product(x, weight):
        y = F.linear(x, weight)
        seen.append(y.dtype)
        return y

    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = recompute(product, x, weight, numbers=8, most=0)
    out.float().sum().backward()
    assert seen == [torch.bfloat16] * 2


def test_an_argument_that_is_made_from_another():
    def twice(call):
        return lambda x: call(x, x.square())

    assert_agree(twice(again), twice(function), {"x": random(3, 4)})
