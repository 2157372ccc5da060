"""Convolutions are plain ones, and a fast way is taken for nothing else."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from agreement import random, randomised
from glocal.layers import conv as conv_module
from glocal.layers.conv import convolve, depthwise, halves, in_turn, is_depthwise, is_plain, is_pointwise, pointwise

pytestmark = pytest.mark.usefixtures("one_thread")


class PlusOne(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) + 1


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def of_its_own(layer):
    forward = layer.forward
    layer.forward = lambda x: forward(x) + 1
    return layer


def hooked(register, hook):
    def change(layer):
        getattr(layer, register)(hook)
        return layer

    return change


CHANGES = {
    "wrapper": PlusOne,
    "subclass": lambda layer: randomised(Doubled(6, 6, layer.kernel_size, padding=layer.padding, groups=layer.groups)),
    "forward": of_its_own,
    "forward_hook": hooked("register_forward_hook", lambda layer, args, out: out + 1),
    "pre_hook": hooked("register_forward_pre_hook", lambda layer, args: (args[0] + 1,)),
    "backward_hook": hooked("register_full_backward_hook", lambda layer, grads, out: None),
    "weight_norm": parametrizations.weight_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("build", [lambda: pointwise(6, 6), lambda: depthwise(6, 3)], ids=["pointwise", "depthwise"])
class TestChanged:
    @pytest.fixture
    def fast_ways(self, monkeypatch):
        """How often a convolution's weights were used without calling it."""
        calls = []
        for name in ("pointwise_conv", "pointwise_halves", "depthwise_conv"):
            op = getattr(conv_module, name)
            monkeypatch.setattr(conv_module, name, lambda *args, op=op: calls.append(op) or op(*args))
        return calls

    def test_a_plain_one_takes_the_fast_way(self, build, fast_ways):
        layer = build()
        assert type(layer) is nn.Conv2d
        assert is_pointwise(layer) or is_depthwise(layer)
        convolve(layer, random(2, 6, 5, 7).float(), gelu=True)
        assert len(fast_ways) == 1

    @pytest.mark.parametrize("change", CHANGES)
    def test_another_is_called(self, build, change, fast_ways):
        layer = CHANGES[change](randomised(build()))
        x, other = random(2, 6, 5, 7), random(2, 6, 5, 7, seed=1)
        expected = other + F.gelu(layer(x)) * other
        torch.testing.assert_close(convolve(layer, x, gelu=True, residual=other, factor=other), expected)
        torch.testing.assert_close(torch.cat(halves(layer, x, convolved=True), dim=1), layer(x))
        torch.testing.assert_close(in_turn(nn.Sequential(layer, nn.GELU()), x), F.gelu(layer(x)))
        assert not fast_ways

    def test_a_hook_for_all_modules_is_a_hook(self, build):
        layer, seen = build(), []
        handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: seen.append(module))
        try:
            convolve(layer, torch.zeros(1, 6, 5, 7), gelu=True)
        finally:
            handle.remove()
        assert seen == [layer]
        assert is_plain(layer)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 1, stride=2),
        nn.Conv2d(6, 6, 1, padding=1),
        nn.Conv2d(6, 6, 1, groups=2),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, stride=2),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, dilation=2),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, padding_mode="circular"),
        nn.Conv2d(6, 6, 3, padding="same", groups=6),
        nn.Conv2d(6, 6, (3, 1), padding=(1, 0), groups=6),
        nn.Conv2d(6, 6, 2, padding=1, groups=6),
        nn.Conv2d(6, 12, 3, padding=1, groups=6),
        nn.Conv2d(6, 6, 3, padding=1, groups=2),
    ],
    ids=str,
)
def test_other_convolutions_are_called(layer):
    """Somebody may put any in the place of ours."""
    layer, x = randomised(layer), random(2, 6, 5, 7)
    torch.testing.assert_close(convolve(layer, x, gelu=True), F.gelu(layer(x)))
    assert not is_pointwise(layer)
    assert not is_depthwise(layer)


def test_a_sequence_with_a_hook_is_called():
    layers, seen = nn.Sequential(pointwise(6, 6), nn.GELU()), []
    layers.register_forward_hook(lambda *_: seen.append(1))
    in_turn(layers, torch.zeros(1, 6, 5, 7))
    assert seen == [1]
