"""The skeleton by itself: any mixer in any stage, and clear errors."""

from functools import partial

import pytest
import torch
from torch import nn

from agreement import random
from glocal.backbone import Backbone, FeatureBackbone, linear_schedule, per_stage
from glocal.layers.channel_mixers import MSFFN, ConvFFN, ConvGLU, InvertedResidual, ResidualConvFFN
from glocal.layers.downsample import NormConvDownsample, OverlapPatchEmbed
from glocal.layers.norm import GroupNorm1, LayerNorm2d
from glocal.layers.position import RelativePosition
from glocal.layers.scale import LayerScale
from glocal.layers.token_mixers import (
    AggregatedAttention,
    ConvModulation,
    CosineAttention,
    DMixer,
    HierarchicalAttention,
    LargeKernelAttention,
)

pytestmark = pytest.mark.usefixtures("one_thread")

DIMS, DEPTHS = (16, 24, 32, 48), (1, 2, 1, 1)


def build(**kwargs) -> Backbone:
    arguments = dict(
        dims=DIMS,
        depths=DEPTHS,
        stem=partial(OverlapPatchEmbed, kernel_size=7, stride=4),
        downsample=OverlapPatchEmbed,
        token_mixer=LargeKernelAttention,
        channel_mixer=ConvFFN,
        num_classes=5,
    )
    return Backbone(**{**arguments, **kwargs})


def trains(model):
    out = model(random(2, 3, 47, 64, dtype=torch.float32))
    assert tuple(out.shape) == (2, 5)
    out.sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    "token_mixer",
    [
        LargeKernelAttention,
        partial(ConvModulation, kernel_size=5),
        partial(HierarchicalAttention, head_dim=8, grid=4, reduction=2, norm=GroupNorm1),
        partial(AggregatedAttention, pretrain_size=7, reduction=2, head_dim=8),
        partial(CosineAttention, pretrain_size=7, head_dim=8),
    ],
    ids=["large-kernel", "conv-modulation", "hierarchical", "aggregated", "cosine"],
)
@pytest.mark.parametrize(
    "channel_mixer",
    [ConvFFN, ResidualConvFFN, ConvGLU, MSFFN, partial(InvertedResidual, norm=GroupNorm1)],
    ids=["conv-ffn", "residual-conv-ffn", "conv-glu", "ms-ffn", "inverted-residual"],
)
def test_any_token_mixer_with_any_channel_mixer(token_mixer, channel_mixer):
    trains(build(token_mixer=token_mixer, channel_mixer=channel_mixer, norm1=LayerNorm2d, norm2=LayerNorm2d))


def test_other_mixers_in_every_stage():
    model = build(
        token_mixer=[
            partial(DMixer, num_heads=2, reduction=4),
            ConvModulation,
            partial(HierarchicalAttention, head_dim=8, grid=4, reduction=2, norm=GroupNorm1),
            partial(CosineAttention, pretrain_size=7, head_dim=8),
        ],
        channel_mixer=[MSFFN, ResidualConvFFN, ConvFFN, ConvGLU],
        stage_position=[partial(RelativePosition, 2, (16, 16), 4), None, None, None],
        stage_norm=[nn.Identity, LayerNorm2d, nn.Identity, GroupNorm1],
        scale=partial(LayerScale, init=0.1),
        norm1=GroupNorm1,
        norm2=LayerNorm2d,
        downsample=NormConvDownsample,
        head_hidden_size=20,
        proj_drop=0.1,
        drop_path_rate=0.1,
    )
    trains(model)
    assert [type(stage.blocks[0].token_mixer).__name__ for stage in model.stages] == [
        "DMixer",
        "ConvModulation",
        "HierarchicalAttention",
        "CosineAttention",
    ]


def test_a_block_is_two_residual_branches():
    model = build(norm1=GroupNorm1, norm2=LayerNorm2d, scale=partial(LayerScale, init=0.5)).eval().double()
    block, x = model.stages[1].blocks[1], random(2, 24, 5, 6)
    middle = x + 0.5 * block.token_mixer(block.norm1(x))
    torch.testing.assert_close(block(x), middle + 0.5 * block.channel_mixer(block.norm2(middle)))


def test_two_stages():
    model = build(dims=(16, 24), depths=(1, 1))
    assert tuple(model.forward_features(torch.zeros(1, 3, 33, 47)).shape) == (1, 24, 5, 6)
    assert [info["reduction"] for info in model.feature_info] == [4, 8]
    assert len(FeatureBackbone(model, out_indices=2)(torch.zeros(1, 3, 32, 32))) == 2


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("depths", (1, 2)),
        ("token_mixer", [LargeKernelAttention] * 3),
        ("channel_mixer", [ConvFFN] * 5),
        ("stage_norm", [LayerNorm2d]),
        ("stage_position", [None] * 3),
    ],
    ids=str,
)
def test_one_value_for_each_stage(argument, value):
    with pytest.raises(ValueError, match=f"{argument} has {len(value)} entries for 4 stages"):
        build(**{argument: value})


def test_unknown_init():
    with pytest.raises(ValueError, match="init must be one of trunc_normal, fan_out, fan_out_spatial, not 'xavier'"):
        build(init="xavier")


@pytest.mark.parametrize(
    ("init", "spatial", "pointwise"), [("trunc_normal", 0, 0), ("fan_out", 1, 1), ("fan_out_spatial", 1, 0)]
)
def test_initialisation(init, spatial, pointwise):
    """With fan-out, a convolution's variance is 2 / (k² · out / groups)."""
    torch.manual_seed(0)
    model = build(init=init, dims=(64, 96, 128, 128))
    fan_out = {
        "stem.conv": 49 * 64,
        "stages.1.blocks.0.token_mixer.proj": 96,
        "stages.2.blocks.0.channel_mixer.conv": 9,
    }
    for name, fan in fan_out.items():
        conv = model.get_submodule(name)
        chosen = pointwise if conv.kernel_size == (1, 1) else spatial
        assert conv.weight.std().item() == pytest.approx((2 / fan) ** 0.5 if chosen else 0.02, rel=0.1)
    assert model.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_undecayed_patterns_name_parameters():
    model = build(undecayed=("*.token_mixer.proj.weight", "nothing.*"))
    assert len(model.no_weight_decay()) == sum(DEPTHS)


def test_linear_schedule():
    assert linear_schedule(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert linear_schedule(0.3, 1) == [0.0]


def test_per_stage():
    assert per_stage("x", None, 3) == [None] * 3
    assert per_stage("x", nn.GELU, 2) == [nn.GELU] * 2
    assert per_stage("x", (1, 2), 2) == [1, 2]
