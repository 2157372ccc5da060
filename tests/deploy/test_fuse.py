"""A fused model computes what the model does, in fewer steps."""

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from timm.utils.model import freeze_batch_norm_2d
from torch import nn

import glocal  # noqa: F401
from agreement import random, randomised
from glocal.deploy import fuse
from glocal.layers.norm import GroupNorm1, LayerNorm2d
from glocal.layers.scale import LayerScale

# How many of these remain: a norm whose result is added to something, or that a padded convolution follows.
REMAIN = {
    "transxnet_pico": {nn.BatchNorm2d: 5, LayerScale: 0},  # MS-FFN's first
    "transnext_pico": {nn.BatchNorm2d: 0, LayerScale: 0},
    "hat_net_pico": {nn.BatchNorm2d: 0, LayerScale: 0},
    "transcnn_pico": {nn.BatchNorm2d: 4, LayerScale: 0},  # H-MHSA's second
    "conv2former_pico": {nn.BatchNorm2d: 2, LayerScale: 0},  # the stem's, after a GELU
    "van_pico": {nn.BatchNorm2d: 5, LayerScale: 0},  # norm1, before a mixer with its own residual
}


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "fused_by"),
    [
        *(pytest.param(name, fuse, id=f"{name}-glocal") for name in REMAIN),
        *(
            pytest.param(name, reparameterize_model, id=f"{name}-timm", marks=[pytest.mark.slow] * (name != "van_pico"))
            for name in REMAIN  # timm calls the same method
        ),
    ],
)
def test_equals_the_model(name, fused_by):
    model = randomised(timm.create_model(name), scale=0.05).eval()
    fused = fused_by(model)
    with torch.no_grad():
        for size in ((64, 64), (47, 65)):
            x = random(2, 3, *size)
            expected = model(x)
            error = (fused(x) - expected).abs().max() / expected.std()
            assert expected.std() > 1e-6
            assert error < 1e-9
            features, fused_features = model.forward_features(x), fused.forward_features(x)
            assert (fused_features - features).abs().max() / features.std() < 1e-9


@pytest.mark.parametrize("name", REMAIN)
def test_equals_the_model_in_float32(name):
    model = randomised(timm.create_model(name), scale=0.05).eval().float()
    x = random(2, 3, 64, 64, dtype=torch.float32)
    with torch.no_grad():
        expected = model(x)
        assert (fuse(model)(x) - expected).abs().max() / expected.std() < 1e-5


def plain(model):
    """Batch norms with less than usual: some without factors and shifts, some without statistics."""
    for place, module in enumerate(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        if place % 3 == 0:
            module.weight = module.bias = None
        elif place % 3 == 1:
            module.running_mean = module.running_var = None
    return model


@pytest.mark.parametrize("convert", [nn.SyncBatchNorm.convert_sync_batchnorm, freeze_batch_norm_2d, plain])
@pytest.mark.parametrize("name", ["transxnet_pico", "transcnn_pico", "van_pico"])
def test_other_kinds_of_batch_norm(name, convert):
    model = convert(randomised(timm.create_model(name), scale=0.05).eval())
    x = random(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        assert (fuse(model)(x) - expected).abs().max() / expected.std() < 1e-9


def test_a_scale_after_an_unknown_norm_stays():
    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * x + 1

    model = randomised(timm.create_model("transxnet_pico"), scale=0.05).eval()
    for stage in model.stages:
        for block in stage.blocks:
            block.channel_mixer.norm3 = Doubled()
    x = random(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        assert (fuse(model)(x) - expected).abs().max() / expected.std() < 1e-9


@pytest.mark.parametrize("name", REMAIN)
def test_little_remains(name):
    model = timm.create_model(name)
    fused = fuse(model)
    assert {kind: count(fused, kind) for kind in REMAIN[name]} == REMAIN[name]
    assert count(fused, (LayerNorm2d, GroupNorm1)) == count(model, (LayerNorm2d, GroupNorm1))


def test_leaves_the_model_as_it_was():
    model = timm.create_model("van_pico").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fused = fuse(model)
    assert model.training
    assert not fused.training
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_twice_is_once():
    model = randomised(timm.create_model("transxnet_pico"), scale=0.05).eval()
    once = fuse(model)
    twice = fuse(once)
    x = random(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(twice(x), once(x), rtol=0, atol=0)


def test_other_models_of_timm():
    model = timm.create_model("resnet10t")
    assert count(fuse(model), nn.BatchNorm2d) == count(model, nn.BatchNorm2d)  # timm knows nothing to merge there
