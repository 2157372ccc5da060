"""The position codes: DPE, OSRA's resized encoding, the log-spaced bias, and their cache."""

import copy
import math
import pickle
import sys
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from agreement import random, randomised
from glocal.layers.position import DynamicPositionEncoding, LogCPB, RelativePosition, SizeCache
from glocal.ops import dispatch, offset_bias

pytestmark = pytest.mark.usefixtures("one_thread")


def log_cpb(base=None, pretrain_size=7) -> LogCPB:
    return randomised(LogCPB(3, pretrain_size, base, hidden_dim=16))


def bias_of(module: LogCPB, *sizes: int) -> torch.Tensor:
    """The whole bias, also if the module returns the table of it."""
    bias, rows, columns = module(*sizes)
    return bias if rows is None else offset_bias(bias, rows, columns)


@pytest.fixture(params=["whole", "table"])
def form(request, monkeypatch):
    """Whether the bias of a small map is written, or the table of it."""
    if request.param == "table":
        monkeypatch.setattr(sys.modules["glocal.ops.offset_bias"], "FEW", 0)
    return request.param


def pair_by_pair(module: LogCPB, pretrain_size, height, width, pooled_height, pooled_width):
    """The MLP on (Δy, Δx) of every query and key, as the paper writes it."""

    def keys(size, pooled):
        return F.adaptive_avg_pool1d(torch.arange(size, dtype=torch.float64)[None, None], pooled)[0, 0]

    def spaced(delta):
        delta = delta / max(pretrain_size - 1, 1) * 8
        return math.copysign(math.log2(abs(delta) + 1) / math.log2(8), delta)

    pairs = [
        [spaced(y - ky), spaced(x - kx)]
        for y in range(height)
        for x in range(width)
        for ky in keys(height, pooled_height).tolist()
        for kx in keys(width, pooled_width).tolist()
    ]
    hidden = F.relu(F.linear(torch.tensor(pairs, dtype=torch.float64), module.fc1.weight, module.fc1.bias))
    bias = F.linear(hidden, module.fc2.weight, module.fc2.bias)  # (pairs, heads)
    return bias.T.reshape(-1, height * width, pooled_height * pooled_width)


SIZES = [
    (7, 7, 1, 1),
    (8, 8, 2, 2),
    (7, 7, 3, 3),  # windows that overlap
    (5, 9, 2, 4),
    (13, 6, 4, 6),
    (6, 4, 6, 4),  # all positions: the last stage
    (1, 1, 1, 1),
    (1, 5, 1, 2),
    (2, 3, 7, 7),  # linear mode on a map smaller than the pool
]


def test_dynamic_position_encoding_adds_a_depthwise_convolution():
    module = randomised(DynamicPositionEncoding(4))
    x = random(2, 4, 5, 6)
    expected = x + F.conv2d(x, module.conv.weight, module.conv.bias, padding=3, groups=4)
    torch.testing.assert_close(module(x), expected)


class TestLogCPB:
    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_equals_the_formula_pair_by_pair(self, size, training, form):
        module = log_cpb().train(training)
        expected = pair_by_pair(module, 7, *size)
        torch.testing.assert_close(bias_of(module, *size), expected)
        with torch.no_grad():
            torch.testing.assert_close(bias_of(module, *size), expected)

    @pytest.mark.parametrize("pretrain_size", [1, 2, 56])
    def test_offsets_are_measured_in_the_pretraining_size(self, pretrain_size):
        module = log_cpb(pretrain_size=pretrain_size)
        torch.testing.assert_close(bias_of(module, 5, 6, 2, 3), pair_by_pair(module, pretrain_size, 5, 6, 2, 3))

    @pytest.mark.parametrize("size", [(8, 8, 2, 2), (7, 5, 3, 2)], ids=str)
    def test_gradients_equal_the_formula(self, size, form):
        module, probe = log_cpb(), random(3, size[0] * size[1], size[2] * size[3])
        grads = torch.autograd.grad((bias_of(module, *size) * probe).sum(), list(module.parameters()))
        expected = torch.autograd.grad((pair_by_pair(module, 7, *size) * probe).sum(), list(module.parameters()))
        torch.testing.assert_close(grads, expected)

    @pytest.mark.parametrize("size", [(8, 8, 4, 4), (7, 5, 3, 2), (1, 1, 1, 1), (12, 10, 5, 5)], ids=str)
    @pytest.mark.parametrize("base", [(8, 8, 4, 4), (6, 4, 3, 2)], ids=str)
    def test_interpolation_resizes_the_keys_then_the_queries(self, base, size, form):
        module = log_cpb(base)
        height, width, pooled_height, pooled_width = size
        bias = pair_by_pair(module, 7, *base).reshape(3, base[0], base[1], base[2], base[3])
        keys = torch.stack(
            [
                F.interpolate(bias[:, y, x][None], (pooled_height, pooled_width), mode="bilinear")[0]
                for y in range(base[0])
                for x in range(base[1])
            ],
            dim=1,
        ).reshape(3, base[0], base[1], -1)
        queries = torch.stack(
            [F.interpolate(keys[None, ..., p], (height, width), mode="bilinear")[0] for p in range(keys.shape[-1])],
            dim=-1,
        )
        torch.testing.assert_close(bias_of(module, *size), queries.reshape(3, height * width, -1))

    def test_interpolation_at_the_base_size_is_extrapolation(self, form):
        module = log_cpb((7, 5, 3, 2))
        torch.testing.assert_close(bias_of(module, 7, 5, 3, 2), pair_by_pair(module, 7, 7, 5, 3, 2))

    def test_autocast_keeps_full_precision(self):
        module = log_cpb().float()
        expected = bias_of(module, 9, 9, 2, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(bias_of(module, 9, 9, 2, 2), expected, rtol=0, atol=0)

    @pytest.mark.parametrize(("most", "parts"), [(1, 33), (2 * 16 * 25, 17), (2**24, 1)])
    def test_the_hidden_layer_of_a_large_map_is_computed_in_parts(self, most, parts, monkeypatch):
        module = log_cpb()
        expected = pair_by_pair(module, 7, 9, 7, 4, 3)
        seen, relu = [], F.relu
        monkeypatch.setattr(LogCPB, "MOST_HIDDEN", most)
        monkeypatch.setattr(F, "relu", lambda x: seen.append(x.shape) or relu(x))
        torch.testing.assert_close(bias_of(module, 9, 7, 4, 3), expected)
        assert len(seen) == parts
        assert sum(rows for rows, _, _ in seen) == 33  # twice the offsets, from -16 to 16
        assert {shape[1:] for shape in seen} == {(25, 16)}

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_low_precision(self, dtype):
        module = randomised(LogCPB(3, 56, hidden_dim=16)).float()
        expected = bias_of(module, 56, 56, 7, 7)
        bias = bias_of(module.to(dtype), 56, 56, 7, 7)
        assert bias.dtype == dtype
        torch.testing.assert_close(bias.float(), expected, rtol=0.05, atol=0.2)


class TestRelativePosition:
    def module(self, size=(6, 5), reduction=2) -> RelativePosition:
        return randomised(RelativePosition(2, size, reduction))

    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    def test_is_the_parameter_at_the_construction_size(self, training):
        module = self.module().train(training)
        assert tuple(module.encoding.shape) == (1, 2, 30, 9)
        with torch.no_grad():
            assert torch.equal(module(torch.zeros(1, 8, 6, 5)), module.encoding)

    @pytest.mark.parametrize("size", [(7, 5), (3, 9), (1, 1), (12, 10)], ids=str)
    @pytest.mark.parametrize("reduction", [1, 2, 8])
    def test_is_resized_with_bicubic_interpolation(self, size, reduction):
        module = self.module(reduction=reduction).eval()
        keys = math.ceil(size[0] / reduction) * math.ceil(size[1] / reduction)
        expected = F.interpolate(module.encoding, (size[0] * size[1], keys), mode="bicubic", align_corners=False)
        x = torch.zeros(3, 8, *size)
        assert torch.equal(module(x), expected)
        with torch.no_grad():
            assert torch.equal(module(x), expected)

    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    def test_of_a_large_map_it_is_the_parameter_itself(self, training, monkeypatch):
        """The attention resizes it where it needs it."""
        module, x = self.module().train(training), torch.zeros(1, 8, 7, 5, dtype=torch.float64)
        monkeypatch.setattr(sys.modules["glocal.ops.resize_bias"], "FEW", 35 * 12)
        assert module(x) is module.encoding
        monkeypatch.setattr(sys.modules["glocal.ops.resize_bias"], "FEW", 35 * 12 + 1)
        assert module(x).shape == (1, 2, 35, 12)

    @pytest.mark.parametrize("most", [2 * 35 * 12 - 1, 2 * 35 * 12])
    @torch.no_grad()
    def test_of_a_larger_map_it_is_not_kept(self, most, monkeypatch):
        monkeypatch.setattr(sys.modules["glocal.ops.resize_bias"], "FEW", 0)
        monkeypatch.setattr(RelativePosition, "MOST_KEPT", most)
        module, x = self.module().eval(), torch.zeros(1, 8, 7, 5, dtype=torch.float64)
        assert (module(x) is module.encoding) == (most < 2 * 35 * 12)
        assert bool(module.cache.state[1]) == (most >= 2 * 35 * 12)
        assert module.train()(x) is module.encoding

    @pytest.mark.parametrize("why", ["autocast", "another type", "a device without memory", "a graph"])
    def test_of_a_large_map_it_is_resized_if_the_attention_cannot(self, why, monkeypatch):
        monkeypatch.setattr(sys.modules["glocal.ops.resize_bias"], "FEW", 0)
        module, x = self.module(), torch.zeros(1, 8, 7, 5, dtype=torch.float64)
        if why == "another type":
            x = x.float()
        if why == "a device without memory":
            module, x = module.to("meta"), x.to("meta")
        exported = dispatch.as_exported() if why == "a graph" else nullcontext()
        with exported, torch.autocast("cpu", enabled=why == "autocast"):
            assert module(x).shape == (1, 2, 35, 12)

    def test_same_number_of_queries_and_keys_is_not_resized(self):
        """(5, 6) has as many positions and keys as (6, 5): the authors' rule looks at the numbers alone."""
        module = self.module()
        assert torch.equal(module(torch.zeros(1, 8, 5, 6)), module.encoding)


class Counting:
    """A module and a call of it, with the number of times that the cached value was really computed."""

    def __init__(self, module: nn.Module, compute: str, small: tuple, large: tuple):
        self.module, self.small, self.large, self.calls = module.eval(), small, large, 0
        original = getattr(module, compute)

        def count(*sizes, **options):
            self.calls += 1
            return original(*sizes, **options)

        setattr(module, compute, count)

    def __call__(self, size=None):
        size = size or self.small
        if isinstance(self.module, RelativePosition):
            return self.module(torch.zeros(1, 1, *size, dtype=torch.float64))
        return bias_of(self.module, *size)

    def fresh(self, size=None):
        """The value without any cache."""
        self.module.train()
        value = self(size).detach().clone()
        self.module.eval()
        return value


@pytest.fixture(params=["log_cpb", "interpolated", "log_cpb table", "interpolated table", "relative"])
def counting(request, monkeypatch) -> Counting:
    if "table" in request.param:
        monkeypatch.setattr(sys.modules["glocal.ops.offset_bias"], "FEW", 0)
    if request.param == "relative":
        return Counting(randomised(RelativePosition(2, (4, 4), 2)), "resize", (5, 6), (7, 6))
    base = (6, 6, 3, 3) if "interpolated" in request.param else None
    return Counting(log_cpb(base), "bias", (5, 6, 2, 3), (7, 6, 3, 3))


class TestCache:
    def test_a_size_is_computed_once(self, counting):
        with torch.no_grad():
            first, second = counting(), counting()
            assert counting.calls == 1
            assert torch.equal(first, second)
            assert torch.equal(counting(counting.large), counting.fresh(counting.large))

    def test_inference_mode_uses_it_too(self, counting):
        with torch.inference_mode():
            counting(), counting()
        assert counting.calls == 1

    def test_the_value_from_inference_mode_serves_a_forward_with_gradients(self, counting):
        with torch.inference_mode():
            cached = counting()
        x = random(*cached.shape).requires_grad_()
        counting.module.requires_grad_(False)
        (counting() * x).sum().backward()  # saves the cached value for the backward pass
        assert counting.calls == 1
        torch.testing.assert_close(x.grad, cached.clone())

    def test_training_computes_every_time(self, counting):
        counting.module.train()
        with torch.no_grad():
            counting(), counting()
        assert counting.calls == 2
        assert not counting.module.cache.state[1]

    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    def test_gradients_reach_the_parameters(self, counting, training):
        with torch.no_grad():
            counting()
        counting.module.train(training)
        counting().square().sum().backward()
        for name, parameter in counting.module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    def changed(self, counting, change):
        """Fill the cache, change the parameters, and compare with a computation from scratch."""
        with torch.no_grad():
            before = counting().clone()
        change(counting.module)
        with torch.no_grad():
            after = counting().clone()
        assert not torch.equal(before, after)
        torch.testing.assert_close(after, counting.fresh(), rtol=0, atol=0)

    @torch.no_grad()
    def test_an_in_place_change_is_noticed(self, counting):
        self.changed(counting, lambda module: [parameter.add_(1) for parameter in module.parameters()])

    @torch.inference_mode()
    def test_an_in_place_change_in_inference_mode_is_noticed(self, counting):
        self.changed(counting, lambda module: [parameter.add_(1) for parameter in module.parameters()])

    @pytest.mark.parametrize("assign", [False, True])
    def test_load_state_dict_is_noticed(self, counting, assign):
        state = {name: tensor + 1 for name, tensor in counting.module.state_dict().items()}
        self.changed(counting, lambda module: module.load_state_dict(state, assign=assign))

    @pytest.mark.parametrize("foreach", [False, True])
    def test_an_optimizer_step_in_eval_mode_is_noticed(self, counting, foreach):
        def step(module):
            counting().sum().backward()
            torch.optim.AdamW(module.parameters(), lr=0.1, foreach=foreach).step()

        self.changed(counting, step)

    def test_new_data_is_noticed(self, counting):
        def swap(module):
            for parameter in module.parameters():
                parameter.data = parameter.data + 1

        self.changed(counting, swap)

    @pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD", "Adagrad"])
    def test_a_fused_optimizer_is_noticed(self, counting, optimizer):
        """It does not raise the version of what it changes."""

        def step(module):
            counting().sum().backward()
            versions = [parameter._version for parameter in module.parameters()]
            getattr(torch.optim, optimizer)(module.parameters(), lr=0.1, fused=True).step()
            assert versions == [parameter._version for parameter in module.parameters()]

        self.changed(counting, step)

    @pytest.mark.parametrize(
        "write",
        [
            lambda parameter: parameter.data.add_(1),
            lambda parameter: parameter.data.mul_(0.5).add_(torch.ones_like(parameter), alpha=0.5),
            lambda parameter: parameter.detach().numpy().__iadd__(1),
            lambda parameter: parameter.untyped_storage().copy_((parameter.detach() + 1).untyped_storage()),
        ],
        ids=["data", "mean_teacher", "numpy", "storage"],
    )
    def test_a_write_without_a_trace_is_noticed(self, counting, write):
        def change(module):
            versions = [parameter._version for parameter in module.parameters()]
            for parameter in module.parameters():
                write(parameter)
            assert versions == [parameter._version for parameter in module.parameters()]

        self.changed(counting, change)

    def test_a_change_while_it_is_computed_is_noticed(self, counting):
        module, compute = counting.module, "resize" if isinstance(counting.module, RelativePosition) else "bias"
        original = getattr(module, compute)

        def change(*sizes, **options):
            value = original(*sizes, **options)
            for parameter in module.parameters():
                parameter.data.add_(1)
            return value

        setattr(module, compute, change)
        with torch.no_grad():
            counting()
        setattr(module, compute, original)
        with torch.no_grad():
            torch.testing.assert_close(counting(), counting.fresh(), rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_dtype_is_followed(self, counting, dtype):
        with torch.no_grad():
            counting()
            counting.module.to(dtype)
            value = counting()
            assert value.dtype == dtype
            assert torch.equal(value, counting.fresh())

    @pytest.mark.parametrize("size", [4, 8, 16, 28])
    @torch.no_grad()
    def test_an_address_used_again_is_noticed(self, size):
        """Converting to bfloat16 and back often puts the rounded values where the first ones were."""
        module = RelativePosition(2, (size, size), 2).eval()
        x = torch.zeros(1, 1, size - 1, size)
        for i in range(20):
            module.encoding.copy_(random(*module.encoding.shape, seed=i))
            before = module(x).clone()
            after = module.to(torch.bfloat16).float()(x)
            assert not torch.equal(after, before)
            assert torch.equal(after, module.resize(size - 1, size))

    @pytest.mark.parametrize("kind", [torch.Tensor, nn.Parameter])
    @pytest.mark.parametrize("size", [4, 8, 16, 28])
    @torch.no_grad()
    def test_other_parameters_give_other_values(self, size, kind):
        """Also those created in turn, which may get one another's address."""
        module = RelativePosition(2, (size, size), 2).eval()
        x = torch.zeros(1, 1, size - 1, size)
        for i in range(20):
            encoding = kind(torch.full_like(module.encoding, float(i)))
            value = functional_call(module, {"encoding": encoding}, (x,))
            del encoding
            torch.testing.assert_close(value, torch.full_like(value, float(i)))
        assert module(x).abs().sum() == 0

    def test_parameters_from_inference_mode_are_right_without_it(self):
        with torch.inference_mode():
            module = randomised(RelativePosition(2, (4, 4), 2)).eval()
            x = torch.zeros(1, 1, 5, 5)
            before = module(x).clone()
            module.encoding.add_(1)
            torch.testing.assert_close(module(x), before + 1)

    def test_it_does_not_grow(self, counting):
        with torch.no_grad():
            for height in range(1, 40):
                size = (height, 3) if len(counting.small) == 2 else (height, 3, 1, 1)
                counting(size)
                assert len(counting.module.cache.state[1]) <= SizeCache.LIMIT
        assert counting.calls == 39

    def test_the_latest_sizes_stay(self, counting):
        with torch.no_grad():
            sizes = [(height, 3) if len(counting.small) == 2 else (height, 3, 1, 1) for height in range(6, 14)]
            for size in sizes:
                counting(size)
            calls = counting.calls
            for size in sizes[-SizeCache.LIMIT :]:
                counting(size)
        assert counting.calls == calls

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_copies_start_empty(self, duplicate):
        module = randomised(RelativePosition(2, (4, 4), 2)).eval()
        x = torch.zeros(1, 1, 5, 5)
        with torch.no_grad():
            value = module(x)
            twin = duplicate(module)
            assert module.cache.state[1]
            assert not twin.cache.state[1]
            assert torch.equal(twin(x), value)
            twin.encoding.add_(1)
            torch.testing.assert_close(twin(x), value + 1)
            assert torch.equal(module(x), value)

    def test_the_state_dict_has_no_trace_of_it(self, counting):
        names = list(counting.module.state_dict())
        with torch.no_grad():
            counting()
        assert list(counting.module.state_dict()) == names == [name for name, _ in counting.module.named_parameters()]


class TestExport:
    def test_size_decides_nothing(self):
        """A graph of a large map also takes small ones: the choice between keeping and resizing leaves no guard."""
        module = RelativePosition(2, (8, 8), 2).eval().requires_grad_(False)
        torch.nn.init.normal_(module.encoding)
        sides = {2: torch.export.Dim("height", min=2, max=64), 3: torch.export.Dim("width", min=2, max=64)}
        program = torch.export.export(module, (torch.zeros(1, 4, 12, 10),), dynamic_shapes=(sides,))
        small = torch.zeros(1, 4, 5, 6)
        torch.testing.assert_close(program.module()(small), module(small), rtol=0, atol=1e-4)
