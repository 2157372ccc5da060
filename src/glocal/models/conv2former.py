"""Conv2Former: convolutional modulation (arXiv 2211.11943)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.models import generate_default_cfgs, register_model

from glocal.backbone import Backbone
from glocal.layers.channel_mixers import ResidualConvFFN
from glocal.layers.downsample import FineConvStem, NormConvDownsample
from glocal.layers.norm import LayerNorm2d
from glocal.layers.scale import LayerScale
from glocal.layers.token_mixers import ConvModulation
from glocal.models import official
from glocal.models.arguments import COMMON, Depths, Factor, Small, Weight, Width, Widths
from glocal.models.build import build, config


class Conv2Former(Backbone):
    """Convolutional modulation and a feed-forward network with a 3×3 inner residual in every block.

    Args:
        dims, depths: one value for each stage.
        kernel_size: of the modulation.
        expansion: of the feed-forward network.
        layer_scale: initial value.
        common: the arguments of `Backbone`.
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        kernel_size: int = 11,
        expansion: float = 4.0,
        layer_scale: float = 1e-6,
        head_hidden_size: int = 1280,
        **common: Any,
    ):
        super().__init__(
            dims=dims,
            depths=depths,
            stem=FineConvStem,
            downsample=NormConvDownsample,
            norm1=LayerNorm2d,
            token_mixer=partial(ConvModulation, kernel_size=kernel_size),
            norm2=LayerNorm2d,
            channel_mixer=partial(ResidualConvFFN, expansion=expansion),
            scale=partial(LayerScale, init=layer_scale),
            head_hidden_size=head_hidden_size,
            undecayed=("*.scale?.weight",),
            **common,
        )


# The arguments above that a file may set, and their ranges.
ARGUMENTS = COMMON | {
    "dims": Widths,
    "depths": Depths,
    "kernel_size": Small,
    "expansion": Factor,
    "layer_scale": Weight,
    "head_hidden_size": Width,
}

# From official names to ours.
RENAMES = [
    (r"^downsample_layers\.0\.0\.", "stem.conv1."),
    (r"^downsample_layers\.0\.2\.", "stem.norm1."),
    (r"^downsample_layers\.0\.3\.", "stem.conv2."),
    (r"^downsample_layers\.0\.5\.", "stem.norm2."),
    (r"^downsample_layers\.0\.6\.", "stem.conv3."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^downsample_layers\.(\d+)\.0\.", r"stages.\1.downsample.norm."),
    (r"^downsample_layers\.(\d+)\.1\.", r"stages.\1.downsample.conv."),
    (r"^head\.([02])\.", r"head.hidden.\1."),
    (r"^pred\.", "head.fc."),
    (r"\.layer_scale_([12])$", r".scale\1.weight"),
    (r"\.attn\.norm\.", ".norm1."),
    (r"\.attn\.att\.0\.", ".token_mixer.query."),
    (r"\.attn\.att\.2\.", ".token_mixer.conv."),
    (r"\.attn\.v\.", ".token_mixer.value."),
    (r"\.attn\.proj\.", ".token_mixer.proj."),
    (r"\.mlp\.norm\.", ".norm2."),
    (r"\.mlp\.pos\.", ".channel_mixer.conv."),
    (r"\.mlp\.", ".channel_mixer."),
]

# Converts the authors' state dict to ours; accepts ours too.
checkpoint_filter_fn = partial(official.convert, family="Conv2Former", renames=RENAMES)


def _cfg(share: str = "", **kwargs: Any) -> dict[str, Any]:
    # The authors' README names ImageNet's mean and std, but their code trains and evaluates with 0.5. We take 0.5.
    return config(
        "stem.conv1",
        crop_pct=0.9,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        notes=(f"https://pan.baidu.com/s/{share}",) if share else (),
        paper_ids="arXiv:2211.11943",
        paper_name="Conv2Former: A Simple Transformer-Style ConvNet for Visual Recognition",
        origin_url="https://github.com/HVision-NKU/Conv2Former",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        "conv2former_pico.untrained": _cfg(),
        "conv2former_n.in1k": _cfg("1sgO-UhF27UQrGtfKJzck3A?pwd=6ku9"),
        "conv2former_t.in1k": _cfg("1Rfsi5p5usr3UE46jigtlcg?pwd=gwq4"),
        "conv2former_s.in1k": _cfg("16Lu1LcQkOoSQXnZVGxGPxg?pwd=6z6m"),
        "conv2former_s.in22k_ft_in1k": _cfg("1uMBF5xSvdWa5TCjQ_jlK4g?pwd=1iij"),
        "conv2former_b.in1k": _cfg("1q5V1J3jzAoKQis-hx6rTVg?pwd=bdgj"),
        "conv2former_b_22k.in22k_ft_in1k": _cfg("1rkt3NhYQhPPOD5kj67uZCw?pwd=gbj9"),
        "conv2former_l.in22k_ft_in1k": _cfg("1_YYQ_rY9QRkq-m2lv23GPg?pwd=44os"),
        "conv2former_l.in22k_ft_in1k_384": _cfg("1vyBaA4UGUX_qlS-ugxpTSQ?pwd=gu0m", size=384),
    }
)

# ImageNet-1K top-1 that the authors publish, %.
TOP1 = {
    "conv2former_n.in1k": 81.5,
    "conv2former_t.in1k": 83.2,
    "conv2former_s.in1k": 84.1,
    "conv2former_s.in22k_ft_in1k": 84.9,
    "conv2former_b.in1k": 84.4,
    "conv2former_b_22k.in22k_ft_in1k": 86.2,
    "conv2former_l.in22k_ft_in1k": 87.0,
    "conv2former_l.in22k_ft_in1k_384": 87.7,
}

_conv2former = partial(build, Conv2Former, checkpoint_filter_fn)


@register_model
def conv2former_pico(pretrained: bool = False, **kwargs: Any) -> Conv2Former:
    args = dict(dims=(24, 48, 96, 160), depths=(1, 1, 2, 1), kernel_size=7, layer_scale=1e-1, head_hidden_size=320)
    return _conv2former("conv2former_pico", pretrained, args, kwargs)


@register_model
def conv2former_n(pretrained: bool = False, **kwargs: Any) -> Conv2Former:
    args = dict(dims=(64, 128, 256, 512), depths=(2, 2, 8, 2), kernel_size=7)
    return _conv2former("conv2former_n", pretrained, args, kwargs)


@register_model
def conv2former_t(pretrained: bool = False, **kwargs: Any) -> Conv2Former:
    return _conv2former("conv2former_t", pretrained, dict(dims=(72, 144, 288, 576), depths=(3, 3, 12, 3)), kwargs)


@register_model
def conv2former_s(pretrained: bool = False, **kwargs: Any) -> Conv2Former:
    return _conv2former("conv2former_s", pretrained, dict(dims=(72, 144, 288, 576), depths=(4, 4, 32, 4)), kwargs)


@register_model
def conv2former_b(pretrained: bool = False, **kwargs: Any) -> Conv2Former:
    return _conv2former("conv2former_b", pretrained, dict(dims=(96, 192, 384, 768), depths=(4, 4, 34, 4)), kwargs)


@register_model
def conv2former_b_22k(pretrained: bool = False, **kwargs: Any) -> Conv2Former:
    args = dict(dims=(96, 192, 384, 768), depths=(4, 4, 34, 4), kernel_size=7)
    return _conv2former("conv2former_b_22k", pretrained, args, kwargs)


@register_model
def conv2former_l(pretrained: bool = False, **kwargs: Any) -> Conv2Former:
    return _conv2former("conv2former_l", pretrained, dict(dims=(128, 256, 512, 1024), depths=(4, 4, 48, 4)), kwargs)
