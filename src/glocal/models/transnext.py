"""TransNeXt: aggregated pixel-focused attention and ConvGLU (arXiv 2311.17132)."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from timm.models import generate_default_cfgs, register_model

from glocal.backbone import Backbone, per_stage
from glocal.layers.channel_mixers import ConvGLU
from glocal.layers.downsample import OverlapPatchEmbed
from glocal.layers.norm import LayerNorm2d
from glocal.layers.token_mixers import AggregatedAttention, CosineAttention
from glocal.models import official
from glocal.models.arguments import COMMON, Depths, Factors, Size, Small, SmallsOrNone, Widths
from glocal.models.build import build, config

BIAS_MODES = ("extrapolate", "interpolate")


class TransNeXt(Backbone):
    """Aggregated attention (in the last stage plain cosine attention) and ConvGLU in every block.

    Args:
        dims, depths, expansions: one value for each stage.
        reductions: pooling ratio of the keys for each stage; None for attention between all positions.
        head_dim: width of a head.
        pool_size: fixed side of the pooled map, at every resolution ("linear mode": cost linear in pixels); None
            pools by `reductions`.
        bias_mode: "extrapolate" computes the position bias for the size of the input; "interpolate" computes it for
            `img_size` and resizes it.
        img_size: used by `bias_mode` only.
        pretrain_size: image size in pre-training, the unit of the position bias's coordinates.
        common: the arguments of `Backbone`.

    Raises:
        ValueError: an unknown `bias_mode`, a size below 1, or a list whose length is not the number of stages.
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        expansions: Sequence[int] = (8, 8, 4, 4),
        reductions: Sequence[int | None] = (8, 4, 2, None),
        head_dim: int = 24,
        pool_size: int | None = None,
        bias_mode: str = "extrapolate",
        img_size: int | tuple[int, int] = 224,
        pretrain_size: int = 224,
        **common: Any,
    ):
        if bias_mode not in BIAS_MODES:
            raise ValueError(f"bias_mode must be one of {', '.join(BIAS_MODES)}, not {bias_mode!r}")
        if pool_size is not None and pool_size < 1:
            raise ValueError(f"pool_size must be at least 1, not {pool_size}")
        sizes = official.ceil_sizes(img_size, len(dims))
        pretrain_sizes = official.ceil_sizes(pretrain_size, len(dims), "pretrain_size")
        reductions = per_stage("reductions", reductions, len(dims))

        def token_mixer(stage: int) -> partial:
            shared = dict(
                pretrain_size=pretrain_sizes[stage][0],
                base_size=sizes[stage] if bias_mode == "interpolate" else None,
                head_dim=head_dim,
            )
            if reductions[stage] is None:
                return partial(CosineAttention, **shared)
            return partial(AggregatedAttention, reduction=reductions[stage], pool_size=pool_size, **shared)

        conv = partial(OverlapPatchEmbed, norm=partial(LayerNorm2d, eps=1e-5))
        norm = partial(LayerNorm2d, eps=1e-6)
        super().__init__(
            dims=dims,
            depths=depths,
            stem=partial(conv, kernel_size=7, stride=4),
            downsample=conv,
            norm1=norm,
            token_mixer=[token_mixer(stage) for stage in range(len(dims))],
            norm2=norm,
            channel_mixer=[partial(ConvGLU, expansion=expansion) for expansion in expansions],
            stage_norm=norm,
            init="fan_out_spatial",
            undecayed=("*.query_embedding", "*.local_bias", "*.temperature", "*.token_mixer.position.*"),
            **common,
        )


# The arguments above that a file may set, and their ranges.
ARGUMENTS = COMMON | {
    "dims": Widths,
    "depths": Depths,
    "expansions": Factors,
    "reductions": SmallsOrNone,
    "head_dim": Small,
    "pool_size": Small | None,
    "bias_mode": Literal[BIAS_MODES],
    "img_size": Size,
    "pretrain_size": Size,
}

# From official names to ours.
RENAMES = [
    *official.pyramid_renames(),
    (r"\.attn\.relative_pos_bias_local$", ".attn.local_bias"),
    (r"\.attn\.learnable_tokens$", ".attn.tokens"),
    (r"\.attn\.learnable_bias$", ".attn.token_bias"),
    (r"\.attn\.sr\.", ".attn.pool_proj."),
    (r"\.attn\.norm\.", ".attn.pool_norm."),
    (r"\.attn\.cpb_fc([12])\.", r".attn.position.fc\1."),
    (r"\.attn\.", ".token_mixer."),
]

# Converts the authors' state dict to ours; accepts ours too.
checkpoint_filter_fn = partial(official.convert, family="TransNeXt", renames=RENAMES)


def _cfg(file: str = "", **kwargs: Any) -> dict[str, Any]:
    repository = f"https://huggingface.co/DaiShiResearch/{file.replace('_', '-')}"
    return config(
        url=f"{repository}/resolve/main/{file}.pth?download=true" if file else "",
        license="apache-2.0",
        paper_ids="arXiv:2311.17132",
        paper_name="TransNeXt: Robust Foveal Visual Perception for Vision Transformers",
        origin_url="https://github.com/DaiShiResearch/TransNeXt",
        **kwargs,
    )


# At 384 and above, the authors resize to a square and do not crop.
_AT_384 = dict(size=384, crop_pct=1.0, crop_mode="squash")

default_cfgs = generate_default_cfgs(
    {
        "transnext_pico.untrained": _cfg(),
        "transnext_micro.in1k": _cfg("transnext_micro_224_1k"),
        "transnext_tiny.in1k": _cfg("transnext_tiny_224_1k"),
        "transnext_small.in1k": _cfg("transnext_small_224_1k"),
        "transnext_small.in1k_384": _cfg("transnext_small_384_1k_ft_1k", **_AT_384),
        "transnext_base.in1k": _cfg("transnext_base_224_1k"),
        "transnext_base.in1k_384": _cfg("transnext_base_384_1k_ft_1k", **_AT_384),
        "transnext_micro_aaaa.in1k": _cfg("transnext_micro_AAAA_256_1k", size=256),
    }
)

# ImageNet-1K top-1 that the authors publish, %.
TOP1 = {
    "transnext_micro.in1k": 82.5,
    "transnext_tiny.in1k": 84.0,
    "transnext_small.in1k": 84.7,
    "transnext_small.in1k_384": 86.0,
    "transnext_base.in1k": 84.8,
    "transnext_base.in1k_384": 86.2,
    "transnext_micro_aaaa.in1k": 82.6,
}

_transnext = partial(build, TransNeXt, checkpoint_filter_fn, sized=True)


@register_model
def transnext_pico(pretrained: bool = False, **kwargs: Any) -> TransNeXt:
    args = dict(dims=(24, 48, 96, 168), depths=(1, 1, 2, 1), expansions=(4, 4, 3, 3))
    return _transnext("transnext_pico", pretrained, args, kwargs)


@register_model
def transnext_micro(pretrained: bool = False, **kwargs: Any) -> TransNeXt:
    return _transnext("transnext_micro", pretrained, dict(dims=(48, 96, 192, 384), depths=(2, 2, 15, 2)), kwargs)


@register_model
def transnext_tiny(pretrained: bool = False, **kwargs: Any) -> TransNeXt:
    return _transnext("transnext_tiny", pretrained, dict(dims=(72, 144, 288, 576), depths=(2, 2, 15, 2)), kwargs)


@register_model
def transnext_small(pretrained: bool = False, **kwargs: Any) -> TransNeXt:
    return _transnext("transnext_small", pretrained, dict(dims=(72, 144, 288, 576), depths=(5, 5, 22, 5)), kwargs)


@register_model
def transnext_base(pretrained: bool = False, **kwargs: Any) -> TransNeXt:
    return _transnext("transnext_base", pretrained, dict(dims=(96, 192, 384, 768), depths=(5, 5, 23, 5)), kwargs)


@register_model
def transnext_micro_aaaa(pretrained: bool = False, **kwargs: Any) -> TransNeXt:
    args = dict(dims=(48, 96, 192, 384), depths=(2, 2, 15, 2), reductions=(16, 8, 4, 2), pretrain_size=256)
    return _transnext("transnext_micro_aaaa", pretrained, args, kwargs)
