"""The classifier: created, pooled, taken away, replaced."""

import copy

import pytest
import timm
import torch

import glocal
from agreement import random, randomised

pytestmark = pytest.mark.usefixtures("one_thread")

PICO = [name for name in glocal.model_names() if name.endswith("_pico")]


@pytest.fixture(scope="module", params=PICO)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def trained(name):
    return randomised(timm.create_model(name, num_classes=7), 0.2).eval()


@pytest.fixture
def model(trained):
    return copy.deepcopy(trained)


@pytest.fixture(scope="module")
def features(trained):
    with torch.no_grad():
        return trained.forward_features(random(2, 3, 32, 33))


def pooled(model, features, pool):
    """The pre-logits, by hand."""
    x = model.head.hidden(features)
    average, largest = x.mean((2, 3)), x.amax((2, 3))
    return {
        "avg": average,
        "max": largest,
        "avgmax": (average + largest) / 2,
        "catavgmax": torch.cat([average, largest], dim=1),
        "": x,
    }[pool]


def check_widths(model, features, num_classes):
    pre_logits = model.forward_head(features, pre_logits=True)
    assert pre_logits.shape[1] == model.head_hidden_size
    assert model.forward_head(features).shape[1] == (num_classes or model.head_hidden_size)
    assert model.num_classes == num_classes


def test_forward_is_features_then_head(model, features):
    x = random(2, 3, 32, 33)
    torch.testing.assert_close(model(x), model.forward_head(features))
    logits = model.get_classifier()(model.forward_head(features, pre_logits=True))
    torch.testing.assert_close(model(x), logits)
    assert model.get_classifier() is model.get_submodule(model.default_cfg["classifier"])


@pytest.mark.parametrize(
    ("pool", "num_classes"),
    [("avg", 0), ("max", 5), ("avgmax", 0), ("catavgmax", 5), ("catavgmax", 0), ("", 0), ("", 5)],
)
def test_construction_and_reset_agree(name, model, features, pool, num_classes):
    created = timm.create_model(name, num_classes=num_classes, global_pool=pool, dtype=torch.float64).eval()
    model.reset_classifier(num_classes, pool)
    for one in (created, model):
        check_widths(one, features, num_classes)
        expected = pooled(one, features, pool)
        torch.testing.assert_close(one.forward_head(features, pre_logits=True), expected)
        if num_classes == 0:
            torch.testing.assert_close(one.forward_head(features), expected)
    assert created.state_dict().keys() == model.state_dict().keys()
    assert created.head_hidden_size == model.head_hidden_size


def test_without_pooling_the_map_comes_out(model):
    model.reset_classifier(0, "")
    out = model(random(2, 3, 33, 65))
    assert tuple(out.shape) == (2, model.head_hidden_size, 2, 3)


def test_reset_keeps_the_pooling_unless_told(name):
    model = timm.create_model(name, global_pool="max").eval()
    x = random(2, 3, 32, 33, dtype=torch.float32)
    with torch.no_grad():
        before = model.forward_head(model.forward_features(x), pre_logits=True)
        model.reset_classifier(5)
        torch.testing.assert_close(model.forward_head(model.forward_features(x), pre_logits=True), before)
        assert tuple(model(x).shape) == (2, 5)
        model.reset_classifier(5, "avg")
        assert not torch.allclose(model.forward_head(model.forward_features(x), pre_logits=True), before)


def test_reset_keeps_device_dtype_and_mode(name):
    model = timm.create_model(name, num_classes=7).to(device="meta", dtype=torch.float64)
    for training in (True, False):
        model.train(training)
        model.reset_classifier(0)
        model.reset_classifier(2)
        assert all(parameter.is_meta and parameter.dtype == torch.float64 for parameter in model.head.parameters())
        assert all(module.training == training for module in model.modules())


def test_reset_leaves_frozen_parameters_frozen(name):
    model = timm.create_model(name).requires_grad_(False)
    model.reset_classifier(0)
    model.reset_classifier(0, "")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.reset_classifier(3, "avg")
    assert {key for key, parameter in model.named_parameters() if parameter.requires_grad} == {
        "head.fc.weight",
        "head.fc.bias",
    }


def test_reset_starts_anew(model, features):
    torch.manual_seed(0)
    hidden = copy.deepcopy(model.head.hidden.state_dict())
    model.reset_classifier(400)
    assert model.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.head.fc.bias.abs().sum() == 0
    for key, tensor in model.head.hidden.state_dict().items():  # Conv2Former's 1×1 convolution is no classifier
        assert torch.equal(tensor, hidden[key])


@pytest.mark.parametrize("width", [0, 32])
def test_width_of_the_head(width):
    model = timm.create_model("conv2former_pico", num_classes=0, head_hidden_size=width).eval()
    features = model.forward_features(random(2, 3, 64, 64, dtype=torch.float32))
    for pool in ("avg", "catavgmax"):
        for num_classes in (0, 4):
            model.reset_classifier(num_classes, pool)
            assert model.head_hidden_size == (width or 160) * (2 if pool == "catavgmax" else 1)
            check_widths(model, features, num_classes)


def test_drop_rate_acts_in_training_only(name):
    torch.manual_seed(0)
    model = timm.create_model(name, drop_rate=0.5)
    assert model.head.drop.p == 0.5
    x = random(2, 3, 32, 32, dtype=torch.float32)
    with torch.no_grad():
        features = model.eval().forward_features(x)
        whole = model.forward_head(features, pre_logits=True)
        model.head.drop.train()
        dropped = model.forward_head(features, pre_logits=True)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])
    assert 0.3 < kept.float().mean().item() < 0.7
    model.reset_classifier(3)
    assert model.head.drop.p == 0.5


def test_default_dropout_is_the_authors():
    for name in PICO:
        expected = 0.2 if name in ("hat_net_pico", "transcnn_pico") else 0.0
        assert timm.create_model(name, device="meta").head.drop.p == expected
