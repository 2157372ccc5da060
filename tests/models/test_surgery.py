"""What others do to a model's layers, from outside: nothing looks past it."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torchvision.models.feature_extraction import create_feature_extractor

import glocal
from agreement import random, randomised
from glocal.deploy import fuse

pytestmark = pytest.mark.usefixtures("one_thread")

PICO = [name for name in glocal.model_names() if name.endswith("_pico")]
LAYERS = (nn.Linear, nn.Conv2d)
# Called for a map, and for its summary.
TWICE = {
    "transnext_pico": ("token_mixer.kv",),
    "transxnet_pico": ("local_unit.proj.squeeze", "local_unit.proj.expand"),
}


@pytest.fixture(scope="module", params=PICO)
def name(request):
    return request.param


def cases(values, argument, ids=None):
    """Each family with each value. In CI, TransNeXt and TransXNet, which keep most of what they computed, have all of
    them, and the other families the first.
    """
    ids = ids or [str(value) for value in values]
    pairs = [
        pytest.param(name, value, id=f"{name}-{label}", marks=[] if quick else pytest.mark.slow)
        for name in PICO
        for place, (value, label) in enumerate(zip(values, ids, strict=True))
        for quick in [place == 0 or name in ("transnext_pico", "transxnet_pico")]
    ]
    return pytest.mark.parametrize(("name", argument), pairs, scope="module", indirect=["name"])


def build(name, **kwargs) -> nn.Module:
    """One block for each stage, in float64."""
    model = timm.create_model(name, num_classes=3, depths=(1, 1, 1, 1), drop_path_rate=0.0, **kwargs)
    return randomised(model, 0.2).eval()


def image(side=64, batch=2):
    return random(batch, 3, side, side)


def layers(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LAYERS)}


def replace(model, change):
    for name, layer in layers(model).items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, change(layer))
    return model


def assert_same(actual, expected, tolerance=1e-9):
    assert (actual - expected).abs().max() / expected.std() < tolerance


def test_every_layer_is_exactly_torchs(name):
    model = build(name)
    assert {type(layer) for layer in layers(model).values()} == set(LAYERS)


class TestWeightsThatChangeInEvalMode:
    """The model follows: nothing that was kept of the old ones is used."""

    def follows(self, name, change):
        model = build(name)
        with torch.no_grad():
            before = model(image())
        change(model)
        fresh = build(name)
        fresh.load_state_dict(model.state_dict())
        with torch.no_grad():
            after, expected = model(image()), fresh(image())
        assert (after - before).abs().max() > 1e-6
        assert_same(after, expected, 1e-12)

    @cases(["AdamW", "SGD"], "optimizer")
    def test_fused_optimizer(self, name, optimizer):
        def train(model):
            step = getattr(torch.optim, optimizer)(model.parameters(), lr=0.05, fused=True).step
            with torch.no_grad():
                model(image())
            model(image()).square().sum().backward()
            step()

        self.follows(name, train)

    @cases(
        [
            lambda parameter: parameter.data.mul_(0.5),
            lambda parameter: parameter.detach().numpy().__imul__(0.5),
            lambda parameter: setattr(parameter, "data", parameter.data * 0.5),
            lambda parameter: parameter.data.mul_(0.9).add_(torch.full_like(parameter, 0.1), alpha=0.1),
        ],
        "write",
        ids=["data", "numpy", "new_data", "mean_teacher"],
    )
    def test_written_to(self, name, write):
        self.follows(name, lambda model: [write(parameter) for parameter in model.parameters()])


KINDS = {
    "linear": lambda layer: isinstance(layer, nn.Linear),
    "conv1x1": lambda layer: isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1,
    "conv": lambda layer: isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1) and layer.groups == 1,
}


class TestAdapters:
    """LoRA acts, learns and merges on every kind of layer."""

    @cases([*KINDS], "kind")
    def test_lora(self, name, kind):
        peft = pytest.importorskip("peft")
        model = build(name)
        names = [name for name, layer in layers(model).items() if KINDS[kind](layer)]
        with torch.no_grad():
            plain = model(image())
        config = peft.LoraConfig(r=2, target_modules=names, lora_dropout=0.0)
        adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False).double().eval()
        with torch.no_grad():
            assert_same(adapted(image()), plain)
        adapters = {name: p for name, p in adapted.named_parameters() if "lora_" in name}
        assert len(adapters) == 2 * len(names)
        for seed, (name, parameter) in enumerate(adapters.items()):
            if "lora_B" in name:  # zeros at first
                parameter.data.copy_(0.05 * random(*parameter.shape, seed=seed))
        out = adapted(image())
        out.square().sum().backward()
        for name, parameter in adapters.items():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        with torch.no_grad():
            changed = adapted(image())
            assert (changed - plain).abs().max() / plain.std() > 1e-3
            fused = fuse(adapted)(image())
            merged = adapted.merge_and_unload().eval()
            assert {type(layer) for layer in layers(merged).values()} == set(LAYERS)
            assert_same(merged(image()), changed)
            assert_same(fused, changed)
            assert_same(fuse(merged)(image()), changed)


def plus_one(layer):
    class PlusOne(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x) + 1

    return PlusOne()


def hooked(layer):
    layer.register_forward_hook(lambda layer, args, out: out + 1)
    return layer


def overridden(layer):
    forward = layer.forward
    layer.forward = lambda x: forward(x) + 1
    return layer


@cases([plus_one, hooked, overridden], "change", ids=["plus_one", "hooked", "overridden"])
def test_another_layer_is_honoured(name, change):
    """What adds 1 to every layer's result is as if every layer had a bias that is larger by 1."""
    model, twin = build(name), build(name)
    for layer in layers(twin).values():
        bias = torch.zeros(len(layer.weight)).double() if layer.bias is None else layer.bias.detach()
        layer.bias = nn.Parameter(bias + 1)
    with torch.no_grad():
        expected, before = twin(image()), model(image())
        changed = replace(model, change)
        assert (expected - before).abs().max() / before.std() > 1e-3
        assert_same(changed(image()), expected)
        if change is not overridden:  # a copy of such a layer calls the first one's forward
            assert_same(fuse(changed)(image()), expected)


def test_weight_norm_is_honoured(name):
    model = build(name)
    with torch.no_grad():
        expected = model(image())
    replace(model, parametrizations.weight_norm)
    out = model(image())
    assert_same(out.detach(), expected)
    out.square().sum().backward()
    for own, parameter in model.named_parameters():
        assert parameter.grad is not None, own
    twin = build(name)
    with torch.no_grad():
        for layer, other in zip(layers(model).values(), layers(twin).values(), strict=True):
            layer.parametrizations.weight.original0.mul_(0.5)
            other.weight.mul_(0.5)
        assert_same(model(image()), twin(image()))


class TestHooks:
    @pytest.mark.parametrize("kind", ["eval", "train", "features"])
    def test_every_layer_is_called(self, name, kind):
        model = build(name) if kind != "features" else timm.create_model(name, features_only=True).double()
        model.train(kind == "train")
        counts = dict.fromkeys(layers(model), 0)
        for own, layer in layers(model).items():
            layer.register_forward_hook(lambda *_, own=own: counts.__setitem__(own, counts[own] + 1))
        with torch.set_grad_enabled(kind == "train"):
            model(image())
        assert counts == {own: 2 if own.endswith(TWICE.get(name, ())) else 1 for own in counts}

    def test_what_a_hook_kept_stays_as_it_was(self, name):
        model, kept = build(name), []

        def keep(layer, args, out):
            tensors = out if isinstance(out, tuple) else [out]  # a position bias is three, or one and None
            kept.extend((layer, tensor, tensor.clone()) for tensor in tensors if tensor is not None)

        for layer in model.modules():
            layer.register_forward_hook(keep)
        with torch.no_grad():
            model(image())
        assert len(kept) > 20
        assert not [type(layer).__name__ for layer, out, copy in kept if not torch.equal(out, copy)]


class TestOtherTools:
    def test_dynamic_quantization(self, name):
        model = build(name).float()
        quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
        assert not any(type(layer) is nn.Linear for layer in quantized.modules())
        with torch.no_grad():
            for side in (64, 96):
                x = image(side).float()
                expected = model.forward_features(x)
                assert_same(quantized.forward_features(x), expected, 0.05 if name == "transnext_pico" else 1e-6)
                assert_same(quantized(x), quantized.forward_head(expected), 0.3)

    @cases([False, True], "training", ids=["eval", "train"])
    def test_feature_extraction(self, name, training):
        model = build(name).train(training)
        graph = create_feature_extractor(model, ["stages.1", "stages.3"])
        expected = copy.deepcopy(model).forward_intermediates(image(96), indices=[1, 3], norm=True)[1]
        for actual, other in zip(graph(image(96)).values(), expected, strict=True):
            torch.testing.assert_close(actual, other)

    @pytest.mark.parametrize(
        "name",
        [name if name == "transnext_pico" else pytest.param(name, marks=pytest.mark.slow) for name in PICO],
    )
    def test_trace(self, name):
        """With the default check, then for other batches and sizes."""
        model = build(name)
        traced = torch.jit.trace(model, image(64))
        with torch.no_grad():
            for side, batch in ((64, 1), (64, 3), (96, 2), (65, 1)):
                assert_same(traced(image(side, batch)), model(image(side, batch)))
