"""HAT-Net: hierarchical multi-head self-attention (arXiv 2106.03180, release v2.0)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from glocal.backbone import Backbone
from glocal.layers.channel_mixers import InvertedResidual
from glocal.layers.downsample import ConvStem, OverlapPatchEmbed
from glocal.layers.norm import GroupNorm1
from glocal.layers.token_mixers import HierarchicalAttention
from glocal.models import official
from glocal.models.arguments import COMMON, Depths, Factors, Small, Smalls, Widths
from glocal.models.build import build, config


class HATNet(Backbone):
    """H-MHSA and an inverted residual block in every block; every norm is GroupNorm with one group.

    Args:
        dims, depths, expansions, kernel_sizes, grids, reductions: one value for each stage.
        head_dim: width of a head.
        drop_rate: dropout before the classifier; 0.2 in the authors' code.
        common: the arguments of `Backbone`.
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        head_dim: int,
        expansions: Sequence[int] = (8, 8, 4, 4),
        kernel_sizes: Sequence[int] = (3, 3, 3, 3),
        grids: Sequence[int] = (8, 7, 7, 1),
        reductions: Sequence[int] = (8, 4, 2, 1),
        drop_rate: float = 0.2,
        **common: Any,
    ):
        norm = partial(GroupNorm1, eps=1e-6)
        super().__init__(
            dims=dims,
            depths=depths,
            stem=partial(ConvStem, norm=norm),
            downsample=partial(OverlapPatchEmbed, norm=norm),
            norm2=norm,
            drop_rate=drop_rate,
            **mixers(norm, head_dim, grids, reductions, expansions, kernel_sizes),
            **common,
        )


def mixers(
    norm: Callable[[int], nn.Module],
    head_dim: int,
    grids: Sequence[int],
    reductions: Sequence[int],
    expansions: Sequence[int],
    kernel_sizes: Sequence[int],
    inner_norm: Callable[[int], nn.Module] | None = None,
) -> dict[str, list[partial]]:
    """The token and channel mixer of each stage, as arguments of `Backbone`; TransCNN uses them too."""
    return {
        "token_mixer": [
            partial(HierarchicalAttention, head_dim=head_dim, grid=grid, reduction=reduction, norm=norm)
            for grid, reduction in zip(grids, reductions, strict=True)
        ],
        "channel_mixer": [
            partial(InvertedResidual, norm=norm, inner_norm=inner_norm, expansion=expansion, kernel_size=kernel_size)
            for expansion, kernel_size in zip(expansions, kernel_sizes, strict=True)
        ],
    }


# The arguments above that a file may set, and their ranges.
ARGUMENTS = COMMON | {
    "dims": Widths,
    "depths": Depths,
    "head_dim": Small,
    "expansions": Factors,
    "kernel_sizes": Smalls,
    "grids": Smalls,
    "reductions": Smalls,
}

# From official names to ours; TransCNN uses them too.
COMMON_RENAMES = [
    (r"^patch_embed\.0\.", "stem.conv1."),
    (r"^patch_embed\.1\.", "stem.norm."),
    (r"^patch_embed\.3\.", "stem.conv2."),
    *((rf"^ds{i + 1}\.", f"stages.{i}.downsample.") for i in range(1, 4)),
    (r"^classifier\.1\.", "head.fc."),
    (r"^blocks\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.attn\.ds_norm\.", ".attn.pool_norm."),
    (r"\.attn\.", ".token_mixer."),
    (r"\.conv\.conv2\.0\.", ".channel_mixer.conv."),
    (r"\.conv\.conv3\.0\.", ".channel_mixer.project."),
    (r"\.conv\.conv3\.1\.", ".channel_mixer.norm3."),
]
RENAMES = [
    *COMMON_RENAMES,
    (r"\.conv\.conv1\.0\.", ".norm2."),
    (r"\.conv\.conv1\.1\.", ".channel_mixer.expand."),
]

# Converts the authors' state dict to ours, without their unused `proj_norm`; accepts ours too.
checkpoint_filter_fn = partial(official.convert, family="HAT-Net", renames=RENAMES, unused=r"\.attn\.proj_norm\.")


def _cfg(file: str = "", **kwargs: Any) -> dict[str, Any]:
    return config(
        "stem.conv1",
        url=f"https://github.com/yun-liu/HAT-Net/releases/download/v2.0/{file}" if file else "",
        paper_ids="arXiv:2106.03180",
        paper_name="Vision Transformers with Hierarchical Attention",
        origin_url="https://github.com/yun-liu/HAT-Net",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        "hat_net_pico.untrained": _cfg(),
        "hat_net_tiny.in1k": _cfg("HAT-Net_Tiny.pth"),
        "hat_net_small.in1k": _cfg("HAT-Net_Small.pth"),
        "hat_net_medium.in1k": _cfg("HAT-Net_Medium.pth"),
        "hat_net_large.in1k": _cfg("HAT-Net_Large.pth"),
    }
)

# ImageNet-1K top-1 that the authors publish, %.
TOP1 = {"hat_net_tiny.in1k": 79.8, "hat_net_small.in1k": 82.6, "hat_net_medium.in1k": 84.0, "hat_net_large.in1k": 84.2}

_hat_net = partial(build, HATNet, checkpoint_filter_fn)


@register_model
def hat_net_pico(pretrained: bool = False, **kwargs: Any) -> HATNet:
    args = dict(dims=(24, 48, 96, 168), depths=(1, 1, 2, 1), head_dim=24, expansions=(4, 4, 4, 4))
    return _hat_net("hat_net_pico", pretrained, args, kwargs)


@register_model
def hat_net_tiny(pretrained: bool = False, **kwargs: Any) -> HATNet:
    args = dict(dims=(48, 96, 240, 384), depths=(2, 2, 6, 3), head_dim=48)
    return _hat_net("hat_net_tiny", pretrained, args, kwargs)


@register_model
def hat_net_small(pretrained: bool = False, **kwargs: Any) -> HATNet:
    args = dict(dims=(64, 128, 320, 512), depths=(2, 3, 8, 3), head_dim=64)
    return _hat_net("hat_net_small", pretrained, args, kwargs)


@register_model
def hat_net_medium(pretrained: bool = False, **kwargs: Any) -> HATNet:
    args = dict(dims=(64, 128, 320, 512), depths=(3, 6, 18, 3), head_dim=64, kernel_sizes=(5, 3, 5, 3))
    return _hat_net("hat_net_medium", pretrained, args, kwargs)


@register_model
def hat_net_large(pretrained: bool = False, **kwargs: Any) -> HATNet:
    args = dict(dims=(64, 128, 320, 640), depths=(3, 8, 27, 3), head_dim=64)
    return _hat_net("hat_net_large", pretrained, args, kwargs)
