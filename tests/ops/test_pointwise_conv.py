"""pointwise_conv equals a matrix product at every position."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from agreement import assert_agree, assert_many_gradients, inside_nan, random
from glocal.ops import dispatch, pointwise_conv, pointwise_of_large_map

pytestmark = pytest.mark.usefixtures("one_thread")

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(autouse=True, params=["reference", "auto"])
def way(request):
    """The reference, and what a CPU computes."""
    before = dispatch.backend()
    dispatch.set_backend(request.param)
    yield request.param
    dispatch.set_backend(before)


def by_position(x, weight, bias=None, gelu=False):
    y = torch.einsum("bchw,dc->bdhw", x, weight[:, :, 0, 0])
    y = y if bias is None else y + bias.view(-1, 1, 1)
    return y * 0.5 * (1 + torch.erf(y / 2**0.5)) if gelu else y


def inputs(size, bias=True, dtype=torch.float64, layout="contiguous"):
    x = random(2, 5, *size, dtype=dtype).contiguous(memory_format=LAYOUTS[layout])
    named = {"x": x, "weight": random(3, 5, 1, 1, seed=1, dtype=dtype)}
    return named | ({"bias": random(3, seed=2, dtype=dtype)} if bias else {})


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (31, 33)], ids=str)  # the last is too large for a linear layer
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_with_gradients(size, layout, gelu, bias):
    named = inputs(size, bias, layout=layout)
    assert_agree(lambda **named: pointwise_conv(**named, gelu=gelu), lambda **n: by_position(**n, gelu=gelu), named)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (31, 33)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_without_gradients(size, layout, bias):
    named = inputs(size, bias, torch.float32, layout)
    out = pointwise_conv(**named, gelu=True)
    expected = by_position(**{name: tensor.double() for name, tensor in named.items()}, gelu=True)
    torch.testing.assert_close(out, expected.float())
    assert out.is_contiguous(memory_format=LAYOUTS[layout])


@torch.no_grad()
def test_a_bias_that_is_a_part_of_something():
    named = inputs((5, 7), dtype=torch.float32, layout="channels_last")
    named["bias"] = torch.stack([named["bias"], torch.full((3,), 9.0)], dim=1)[:, 0]
    torch.testing.assert_close(pointwise_conv(**named, gelu=True), by_position(**named, gelu=True))


@torch.no_grad()
def test_empty_batch():
    assert pointwise_conv(torch.empty(0, 5, 3, 2), torch.ones(3, 5, 1, 1), gelu=True).shape == (0, 3, 3, 2)


@torch.no_grad()
def test_reads_nothing_outside_the_map():
    named = inputs((5, 7), dtype=torch.float32)
    expected = by_position(**named, gelu=True)
    named["x"] = inside_nan(named["x"])
    torch.testing.assert_close(pointwise_conv(**named, gelu=True), expected)


class TestGeluWithinTheProduct:
    """It is taken where nothing else has a say: no gradient, no other type, nobody who watches."""

    @pytest.fixture
    def joined(self, way, monkeypatch):
        """Asks whether a call was joined."""
        if way == "reference":
            pytest.skip("the definition joins nothing")
        answers = []
        original = dispatch.can_use_onednn
        monkeypatch.setattr(dispatch, "can_use_onednn", lambda *args: answers.append(original(*args)) or answers[-1])

        def ask(named):
            pointwise_conv(**named, gelu=True)
            return answers.pop()

        return ask

    @pytest.fixture
    def named(self):
        return inputs((5, 7), dtype=torch.float32, layout="channels_last")

    def test_without_gradients(self, joined, named):
        assert joined(named)
        with torch.inference_mode():
            assert joined(named)

    def test_weights_that_learn(self, joined, named):
        named["weight"].requires_grad_()
        assert not joined(named)
        with torch.no_grad():
            assert joined(named)

    def test_a_bias_that_learns(self, joined, named):
        named["bias"].requires_grad_()
        assert not joined(named)
        pointwise_conv(**named, gelu=True).sum().backward()
        assert named["bias"].grad.abs().min() > 0

    def test_forward_gradients(self, named):
        with torch.autograd.forward_ad.dual_level():
            assert not dispatch.can_use_cpu(named["x"])  # nor anything else of the ways for CPUs
            assert not dispatch.can_use_onednn(*named.values())

    @torch.no_grad()
    def test_other_types(self, joined, named):
        assert not joined({name: tensor.double() for name, tensor in named.items()})
        with torch.autocast("cpu", torch.bfloat16):
            assert not joined(named)

    @torch.no_grad()
    def test_switched_off_by_torch(self, joined, named):
        with torch.backends.mkldnn.flags(enabled=False):
            assert not joined(named)

    @torch.no_grad()
    def test_operations_that_are_counted(self, joined, named):
        with FlopCounterMode(display=False) as counter:
            assert not joined(named)
        assert counter.get_total_flops() == 2 * 2 * 5 * 7 * 5 * 3

    @torch.no_grad()
    def test_mapped_over_samples(self, named):
        mapped = torch.func.vmap(lambda x: pointwise_conv(x[None], named["weight"], named["bias"], gelu=True)[0])
        torch.testing.assert_close(mapped(named["x"]), F.gelu(F.conv2d(**{"input": named.pop("x")}, **named)))


def gated_inputs():
    return {
        "gate": random(2, 6, 3, 4),
        "value": random(2, 6, 3, 4, seed=1),
        "weight": random(5, 6, 1, 1, seed=2),
        "bias": random(5, seed=3),
    }


class TestOfALargeMap:
    @pytest.fixture(autouse=True)
    def small_maps_are_large(self, monkeypatch):
        monkeypatch.setattr(dispatch, "KEPT_POSITIONS", 0)

    @staticmethod
    def function(gate, value):
        return F.gelu(gate) * value

    def op(self, gate, value, weight, bias):
        return pointwise_of_large_map(self.function, gate, value, weight=weight, bias=bias)

    def definition(self, gate, value, weight, bias):
        return F.conv2d(self.function(gate, value), weight, bias)

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_equals_its_definition(self, layout):
        maps = {name: gated_inputs()[name].contiguous(memory_format=layout) for name in ("gate", "value")}
        assert_agree(self.op, self.definition, gated_inputs() | maps)

    @pytest.mark.parametrize("learned", ["gate", "weight", "bias"])
    def test_a_gradient_of_some_arguments_alone(self, learned):
        others = {name: tensor for name, tensor in gated_inputs().items() if name != learned}
        op, definition = (lambda f=f, **one: f(**others, **one) for f in (self.op, self.definition))
        assert_agree(op, definition, {learned: gated_inputs()[learned]})

    def test_frees_the_map_before_the_arguments_get_their_gradients(self):
        """Beside the other maps of the function it would be the largest part of a training step's memory."""
        freed = []

        def function(gate, value):
            made = F.gelu(gate) * value
            alive = weakref.ref(made)
            gate.register_hook(lambda grad: freed.append(alive() is None))
            return made

        leaves = {name: tensor.clone().requires_grad_() for name, tensor in gated_inputs().items()}
        parameters = {name: leaves.pop(name) for name in ("weight", "bias")}
        out = pointwise_of_large_map(function, *leaves.values(), **parameters)
        out.sum().backward()
        assert freed
        assert all(freed)

    def test_gradients_of_gradients(self):
        leaves = [
            tensor[:, :, :1].clone() if tensor.ndim == 4 else tensor.clone() for tensor in gated_inputs().values()
        ]
        assert torch.autograd.gradgradcheck(self.op, [leaf.requires_grad_() for leaf in leaves], fast_mode=True)

    def test_many_gradients_at_once(self):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in gated_inputs().items()}
        out = self.op(**leaves)
        assert_many_gradients(out, list(leaves.values()))

    @pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
    def test_keeps_the_arguments_alone(self, autocast, way):
        leaves = {name: tensor.float().requires_grad_() for name, tensor in gated_inputs().items()}
        kept = set()
        with (
            torch.autograd.graph.saved_tensors_hooks(lambda x: kept.add(x.data_ptr()) or x, lambda x: x),
            torch.autocast("cpu", enabled=autocast),
        ):
            out = self.op(**leaves)
        out.float().sum().backward()
        own = {leaf.data_ptr() for leaf in leaves.values()}
        assert (kept == own) == (way == "auto" and not autocast)  # torch casts between the operations itself
        assert all(leaf.grad is not None for leaf in leaves.values())
