"""Every head on every family and on timm's backbones: shapes at odd sizes, scores, gradients, mistakes."""

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import glocal
from glocal.models.heads import HEADS

QUICK = ("transnext_pico", "transxnet_pico", "convnext_atto")  # the others are slow: building UPerNet takes a second
BACKBONES = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in (*(name for name in glocal.model_names() if name.endswith("_pico")), "convnext_atto", "resnet10t")
]


def build(head, backbone, classes=5, **args):
    torch.manual_seed(0)
    return glocal.create(head, backbone, num_classes=classes, backbone_args=args)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_odd_sizes(head, backbone):
    model = build(head, backbone).eval()
    images = torch.randn(2, 3, 61, 75)
    with torch.no_grad():
        outputs = model(images)
        size = model.maps(images)[0].shape[2:]  # ⌈H/4⌉ of ours, ⌊H/4⌋ of some of timm's
        scores = model.decode(outputs, (61, 75))
    if head == "mask2former":
        assert outputs.class_logits.shape == (2, 100, 6)
        assert outputs.mask_logits.shape == (2, 100, *size)
        assert scores.min() >= 0
    else:
        assert outputs.shape == (2, 5, *size)
        torch.testing.assert_close(scores.sum(1), torch.ones(2, 61, 75))
    assert scores.shape == (2, 5, 61, 75)


@pytest.mark.parametrize("head", HEADS)
def test_one_image_trains_every_parameter_of_the_head(head):
    model = build(head, "van_pico").train()
    maps = model.maps(torch.randn(1, 3, 64, 64))
    outputs = model.head(maps)
    parts = outputs if isinstance(outputs, tuple) else (outputs,)
    total = sum((part * torch.randn_like(part)).sum() for part in parts)
    if model.auxiliary is not None:
        total = total + model.auxiliary(maps).square().sum()
    total.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert not {name for name in without if not name.startswith("backbone.")}


def test_maps_of_channels_last_backbones_are_turned():
    model = build("semantic_fpn", "swin_tiny_patch4_window7_224", img_size=64).eval()
    assert [x.shape for x in model.maps(torch.zeros(1, 3, 64, 64))] == [
        (1, 96, 16, 16),
        (1, 192, 8, 8),
        (1, 384, 4, 4),
        (1, 768, 2, 2),
    ]


@pytest.mark.parametrize(
    ("head", "backbone", "millions"),
    [
        ("upernet", "transnext_tiny", 58.52),
        pytest.param("upernet", "transnext_base", 121.37, marks=pytest.mark.slow),
        ("upernet", "van_b0", 32.13),
        pytest.param("upernet", "van_b6", 231.48, marks=pytest.mark.slow),
        ("mask2former", "transnext_tiny", 47.51),
        pytest.param("mask2former", "transnext_base", 108.87, marks=pytest.mark.slow),
        ("semantic_fpn", "van_b0", 7.98),
        pytest.param("semantic_fpn", "van_b2", 30.33, marks=pytest.mark.slow),
        ("semantic_fpn", "transxnet_t", 16.60),
        pytest.param("semantic_fpn", "transxnet_b", 51.66, marks=pytest.mark.slow),
    ],
)
def test_parameters_are_the_published_models(head, backbone, millions):
    with torch.device("meta"):
        model = glocal.create(head, backbone)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    ("head", "backbone", "published"),
    [
        ("upernet", "transnext_tiny", 245),
        pytest.param("upernet", "transnext_small", 273, marks=pytest.mark.slow),
        pytest.param("upernet", "transnext_base", 319, marks=pytest.mark.slow),
        ("semantic_fpn", "van_b0", 26),
        *(
            pytest.param("semantic_fpn", backbone, published, marks=pytest.mark.slow)
            for backbone, published in (("van_b1", 35), ("van_b2", 48), ("van_b3", 68))
        ),
    ],
)
def test_macs_at_512_are_the_published(head, backbone, published):
    """In 10⁹, within 2 %."""
    with torch.device("meta"):
        model, images = glocal.create(head, backbone).eval(), torch.empty(1, 3, 512, 512)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    assert counter.get_total_flops() / 2e9 == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(name="unet", backbone="van_b0"), ValueError, "there is no head 'unet', only semantic_fpn"),
        (dict(name="upernet", backbone="van_b9"), ValueError, "there is no backbone 'van_b9'"),
        (dict(name="upernet", backbone="vit_tiny_patch16_224"), ValueError, "no maps at the strides 4, 8, 16, 32"),
        (dict(name="upernet", backbone="van_b0", num_classes=0), ValueError, "at least 1, not 0"),
        (dict(name="upernet", backbone="mixer_s32_224"), ValueError, "no maps at the strides 4, 8, 16, 32"),
        (dict(name="upernet", backbone="van_b0", num_classes=2.5), TypeError, "a whole number, got 2.5"),
        (dict(name="upernet", backbone="van_b0", num_classes=True), TypeError, "a whole number, got True"),
        (dict(name="upernet", backbone="van_b0", backbone_args={"heads": 3}), TypeError, "van_b0 does not take"),
        (
            dict(name="upernet", backbone="van_b0", backbone_args=["heads"]),
            TypeError,
            "backbone_args must be a mapping",
        ),
        (dict(name="upernet", backbone="van_b0", head_args=3), TypeError, "head_args must be a mapping"),
        (
            dict(name="upernet", backbone="van_b0", backbone_args={"out_indices": [0], "pretrained": True}),
            TypeError,
            "the head decides on 'out_indices', 'pretrained'",
        ),
        (
            dict(name="upernet", backbone="transnext_pico", backbone_args={"bias_mode": "both"}),
            ValueError,
            "transnext_pico: bias_mode .*'both'",
        ),
    ],
)
def test_mistakes(arguments, error, message):
    with pytest.raises(error, match=message):
        glocal.create(**arguments)


def test_dense_backbones_differ_from_classifiers_as_the_authors_do():
    assert build("upernet", "van_pico").backbone.model.stages[0].norm.eps == 1e-5
    assert timm.create_model("van_pico").stages[0].norm.eps == 1e-6
    assert build("upernet", "van_pico", stage_norm_eps=1e-3).backbone.model.stages[0].norm.eps == 1e-3
