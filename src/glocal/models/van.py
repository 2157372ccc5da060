"""VAN: large kernel attention (arXiv 2202.09741)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.models import generate_default_cfgs, register_model

from glocal.backbone import Backbone
from glocal.layers.channel_mixers import ConvFFN
from glocal.layers.downsample import OverlapPatchEmbed
from glocal.layers.norm import BatchNorm2d, LayerNorm2d
from glocal.layers.scale import LayerScale
from glocal.layers.token_mixers import LargeKernelAttention
from glocal.models import official
from glocal.models.arguments import COMMON, Depths, Factors, Weight, Widths
from glocal.models.build import build, config


class VAN(Backbone):
    """Large kernel attention and a convolutional feed-forward network in every block.

    Args:
        dims, depths, expansions: one value for each stage.
        layer_scale: initial value.
        stage_norm_eps: of the norm at the end of a stage.
        common: the arguments of `Backbone`.
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        expansions: Sequence[int] = (8, 8, 4, 4),
        layer_scale: float = 1e-2,
        stage_norm_eps: float = 1e-6,
        **common: Any,
    ):
        super().__init__(
            dims=dims,
            depths=depths,
            stem=partial(OverlapPatchEmbed, kernel_size=7, stride=4),
            downsample=OverlapPatchEmbed,
            norm1=BatchNorm2d,
            token_mixer=LargeKernelAttention,
            norm2=BatchNorm2d,
            channel_mixer=[partial(ConvFFN, expansion=expansion) for expansion in expansions],
            scale=partial(LayerScale, init=layer_scale),
            stage_norm=partial(LayerNorm2d, eps=stage_norm_eps),
            init="fan_out",
            undecayed=("*.scale?.weight",),
            **common,
        )


# The arguments above that a file may set, and their ranges.
ARGUMENTS = COMMON | {
    "dims": Widths,
    "depths": Depths,
    "expansions": Factors,
    "layer_scale": Weight,
    "stage_norm_eps": Weight,
}

# What the authors' segmentation and detection code does otherwise.
DENSE = {"stage_norm_eps": 1e-5}

# From official names to ours.
RENAMES = [
    *official.pyramid_renames(),
    (r"\.layer_scale_([12])$", r".scale\1.weight"),
    (r"\.attn\.proj_1\.", ".token_mixer.expand."),
    (r"\.attn\.spatial_gating_unit\.conv0\.", ".token_mixer.attention.0."),
    (r"\.attn\.spatial_gating_unit\.conv_spatial\.", ".token_mixer.attention.1."),
    (r"\.attn\.spatial_gating_unit\.conv1\.", ".token_mixer.attention.2."),
    (r"\.attn\.proj_2\.", ".token_mixer.proj."),
]

# Converts the authors' state dict to ours; accepts ours too.
checkpoint_filter_fn = partial(official.convert, family="VAN", renames=RENAMES)


def _cfg(size_name: str = "", file: str = "", **kwargs: Any) -> dict[str, Any]:
    repository = f"https://huggingface.co/Visual-Attention-Network/VAN-{size_name}-original"
    return config(
        url=f"{repository}/resolve/main/{file}" if file else "",
        crop_pct=0.9,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        license="apache-2.0",
        paper_ids="arXiv:2202.09741",
        paper_name="Visual Attention Network",
        origin_url="https://github.com/Visual-Attention-Network/VAN-Classification",
        **kwargs,
    )


# The authors share B4 on a page that needs a browser. For fine-tuned B5 and B6 they published accuracies only.
_FOLDER = ("https://cloud.tsinghua.edu.cn/d/0100f0cea37d41ba8d08/",)

default_cfgs = generate_default_cfgs(
    {
        "van_pico.untrained": _cfg(),
        "van_b0.in1k": _cfg("Tiny", "van_tiny_754.pth.tar"),
        "van_b1.in1k": _cfg("Small", "van_small_811.pth.tar"),
        "van_b2.in1k": _cfg("Base", "van_base_828.pth.tar"),
        "van_b3.in1k": _cfg("Large", "van_large_839.pth.tar"),
        "van_b4.in1k": _cfg(notes=_FOLDER),
        "van_b5.in22k_ft_in1k": _cfg(),
        "van_b6.in22k_ft_in1k": _cfg(),
    }
)

# ImageNet-1K top-1 that the authors publish, %.
TOP1 = {
    "van_b0.in1k": 75.4,
    "van_b1.in1k": 81.1,
    "van_b2.in1k": 82.8,
    "van_b3.in1k": 83.9,
    "van_b4.in1k": 84.2,
    "van_b5.in22k_ft_in1k": 86.3,
    "van_b6.in22k_ft_in1k": 86.9,
}

_van = partial(build, VAN, checkpoint_filter_fn)


@register_model
def van_pico(pretrained: bool = False, **kwargs: Any) -> VAN:
    args = dict(dims=(24, 48, 96, 160), depths=(1, 1, 2, 1), expansions=(4, 4, 4, 4))
    return _van("van_pico", pretrained, args, kwargs)


@register_model
def van_b0(pretrained: bool = False, **kwargs: Any) -> VAN:
    return _van("van_b0", pretrained, dict(dims=(32, 64, 160, 256), depths=(3, 3, 5, 2)), kwargs)


@register_model
def van_b1(pretrained: bool = False, **kwargs: Any) -> VAN:
    return _van("van_b1", pretrained, dict(dims=(64, 128, 320, 512), depths=(2, 2, 4, 2)), kwargs)


@register_model
def van_b2(pretrained: bool = False, **kwargs: Any) -> VAN:
    return _van("van_b2", pretrained, dict(dims=(64, 128, 320, 512), depths=(3, 3, 12, 3)), kwargs)


@register_model
def van_b3(pretrained: bool = False, **kwargs: Any) -> VAN:
    return _van("van_b3", pretrained, dict(dims=(64, 128, 320, 512), depths=(3, 5, 27, 3)), kwargs)


@register_model
def van_b4(pretrained: bool = False, **kwargs: Any) -> VAN:
    return _van("van_b4", pretrained, dict(dims=(64, 128, 320, 512), depths=(3, 6, 40, 3)), kwargs)


@register_model
def van_b5(pretrained: bool = False, **kwargs: Any) -> VAN:
    return _van("van_b5", pretrained, dict(dims=(96, 192, 480, 768), depths=(3, 3, 24, 3)), kwargs)


@register_model
def van_b6(pretrained: bool = False, **kwargs: Any) -> VAN:
    return _van("van_b6", pretrained, dict(dims=(96, 192, 384, 768), depths=(6, 6, 90, 6)), kwargs)
