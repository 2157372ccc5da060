"""TransXNet: dual dynamic token mixing (arXiv 2310.19380)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor

from glocal.backbone import Backbone
from glocal.layers.channel_mixers import MSFFN
from glocal.layers.downsample import OverlapPatchEmbed
from glocal.layers.norm import BatchNorm2d, GroupNorm1
from glocal.layers.position import DynamicPositionEncoding, RelativePosition
from glocal.layers.scale import LayerScale
from glocal.layers.token_mixers import DMixer
from glocal.models import official
from glocal.models.arguments import COMMON, Depths, Factors, Size, Small, Smalls, Weight, Widths
from glocal.models.build import build, config
from glocal.ops import resize_bias


class TransXNet(Backbone):
    """DPE, D-Mixer and MS-FFN in every block.

    Args:
        dims, depths, num_heads, reductions, num_groups, expansions: one value for each stage.
        kernel_size: of the dynamic convolution.
        layer_scale: initial value.
        img_size: the learned position encodings are created for it; any other size resizes them (bicubic).
        output_norms: norm the maps that dense heads get, each by a norm of its own that the next stage does not see.
        common: the arguments of `Backbone`.
    """

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        num_groups: Sequence[int] = (2, 2, 2, 2),
        expansions: Sequence[int] = (4, 4, 4, 4),
        reductions: Sequence[int] = (8, 4, 2, 1),
        kernel_size: int = 7,
        layer_scale: float = 1e-5,
        img_size: int | tuple[int, int] = 224,
        output_norms: bool = False,
        **common: Any,
    ):
        conv = partial(OverlapPatchEmbed, norm=BatchNorm2d, bias=False)
        super().__init__(
            dims=dims,
            depths=depths,
            stem=partial(conv, kernel_size=7, stride=4),
            downsample=conv,
            position=DynamicPositionEncoding,
            norm1=GroupNorm1,
            token_mixer=[
                partial(DMixer, num_heads=heads, reduction=reduction, num_groups=groups, kernel_size=kernel_size)
                for heads, reduction, groups in zip(num_heads, reductions, num_groups, strict=True)
            ],
            stage_position=[
                partial(RelativePosition, heads, size, reduction)
                for heads, size, reduction in zip(
                    num_heads, official.ceil_sizes(img_size, len(dims)), reductions, strict=True
                )
            ],
            norm2=GroupNorm1,
            channel_mixer=[partial(MSFFN, expansion=expansion) for expansion in expansions],
            scale=partial(LayerScale, init=layer_scale, bias=True),
            stage_norm=[torch.nn.Identity] * (len(dims) - 1) + [GroupNorm1],
            output_norm=[GroupNorm1 if output_norms else torch.nn.Identity] * (len(dims) - 1) + [torch.nn.Identity],
            undecayed=("*.scale?.bias", "*.local_unit.bias"),  # biases, though they have more than one axis
            **common,
        )


# The arguments above that a file may set, and their ranges.
ARGUMENTS = COMMON | {
    "dims": Widths,
    "depths": Depths,
    "num_heads": Smalls,
    "num_groups": Smalls,
    "expansions": Factors,
    "reductions": Smalls,
    "kernel_size": Small,
    "layer_scale": Weight,
    "img_size": Size,
    "output_norms": bool,
}

# What the authors' segmentation code does otherwise: `norm6` is the last stage's norm.
DENSE = {"output_norms": True}

# From official names to ours.
RENAMES = [
    (r"^patch_embed\.proj\.conv\.", "stem.conv."),
    (r"^patch_embed\.proj\.bn\.", "stem.norm."),
    *((rf"^network\.{2 * i}\.(\d+)\.", rf"stages.{i}.blocks.\1.") for i in range(4)),
    *((rf"^network\.{2 * i + 1}\.proj\.conv\.", f"stages.{i + 1}.downsample.conv.") for i in range(3)),
    *((rf"^network\.{2 * i + 1}\.proj\.bn\.", f"stages.{i + 1}.downsample.norm.") for i in range(3)),
    (r"^relative_pos_enc\.(\d+)$", r"stages.\1.position.encoding"),
    (r"^classifier\.0\.", "stages.3.norm."),
    *((rf"^norm{2 * i}\.", f"stages.{i}.output_norm.") for i in range(3)),
    (r"^norm6\.", "stages.3.norm."),
    (r"^classifier\.2\.", "head.fc."),
    (r"\.pos_embed\.", ".position.conv."),
    (r"\.local_unit\.proj\.0\.conv\.", ".local_unit.proj.squeeze."),
    (r"\.local_unit\.proj\.0\.bn\.", ".local_unit.proj.norm."),
    (r"\.local_unit\.proj\.1\.", ".local_unit.proj.expand."),
    (r"\.global_unit\.sr\.0\.conv\.", ".global_unit.reduce.conv."),
    (r"\.global_unit\.sr\.0\.bn\.", ".global_unit.reduce.norm1."),
    (r"\.global_unit\.sr\.1\.conv\.", ".global_unit.reduce.scale."),
    (r"\.global_unit\.sr\.1\.bn\.", ".global_unit.reduce.norm2."),
    (r"\.global_unit\.local_conv\.", ".global_unit.local."),
    (r"\.token_mixer\.proj\.0\.", ".token_mixer.enhancer.conv."),
    (r"\.token_mixer\.proj\.2\.", ".token_mixer.enhancer.norm1."),
    (r"\.token_mixer\.proj\.3\.", ".token_mixer.enhancer.squeeze."),
    (r"\.token_mixer\.proj\.5\.", ".token_mixer.enhancer.norm2."),
    (r"\.token_mixer\.proj\.6\.", ".token_mixer.enhancer.expand."),
    (r"\.token_mixer\.proj\.7\.", ".token_mixer.enhancer.norm3."),
    (r"\.mlp\.fc1\.0\.", ".channel_mixer.fc1."),
    (r"\.mlp\.fc1\.2\.", ".channel_mixer.norm1."),
    (r"\.mlp\.dwconv\.proj\.", ".channel_mixer.convs."),
    (r"\.mlp\.norm\.", ".channel_mixer.norm2."),
    (r"\.mlp\.fc2\.0\.", ".channel_mixer.fc2."),
    (r"\.mlp\.fc2\.1\.", ".channel_mixer.norm3."),
    (r"\.layer_scale_([12])\.", r".scale\1."),
]


def resize_positions(name: str, tensor: Tensor, target: Tensor) -> Tensor:
    same_heads = tensor.ndim == 4 and tensor.shape[:2] == target.shape[:2]
    if name.endswith(".position.encoding") and same_heads and tensor.shape != target.shape:
        exact = tensor.float() if tensor.element_size() < 4 else tensor
        return resize_bias(exact, target.shape[2], target.shape[3]).to(tensor.dtype)
    return tensor


# Converts the authors' state dict to ours, and resizes position encodings of another size (bicubic); accepts ours too.
checkpoint_filter_fn = partial(
    official.convert,
    family="TransXNet",
    renames=RENAMES,
    adapt=resize_positions,
    dense_norms=r"\.output_norm\.|^stages\.3\.norm\.",
)


def _cfg(file: str = "", **kwargs: Any) -> dict[str, Any]:
    return config(
        url=f"https://github.com/LMMMEng/TransXNet/releases/download/v1.0/{file}" if file else "",
        paper_ids="arXiv:2310.19380",
        paper_name="TransXNet: Learning Both Global and Local Dynamics with a Dual Dynamic Token Mixer",
        origin_url="https://github.com/LMMMEng/TransXNet",
        **{"crop_pct": 0.9, **kwargs},
    )


default_cfgs = generate_default_cfgs(
    {
        "transxnet_pico.untrained": _cfg(),
        "transxnet_t.in1k": _cfg("transx-t.pth.tar"),
        "transxnet_s.in1k": _cfg("transx-s.pth.tar"),
        "transxnet_b.in1k": _cfg("transx-b.pth.tar", crop_pct=0.95),
        "transxnet_b.in1k_384": _cfg("transx-b-384.pth.tar", crop_pct=0.95, size=384),
    }
)

# ImageNet-1K top-1 that the authors publish, %.
TOP1 = {"transxnet_t.in1k": 81.6, "transxnet_s.in1k": 83.8, "transxnet_b.in1k": 84.6, "transxnet_b.in1k_384": 85.5}

_transxnet = partial(build, TransXNet, checkpoint_filter_fn, sized=True)


@register_model
def transxnet_pico(pretrained: bool = False, **kwargs: Any) -> TransXNet:
    args = dict(dims=(24, 48, 96, 160), depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 5), layer_scale=1e-1)
    return _transxnet("transxnet_pico", pretrained, args, kwargs)


@register_model
def transxnet_t(pretrained: bool = False, **kwargs: Any) -> TransXNet:
    args = dict(dims=(48, 96, 224, 448), depths=(3, 3, 9, 3), num_heads=(1, 2, 4, 8))
    return _transxnet("transxnet_t", pretrained, args, kwargs)


@register_model
def transxnet_s(pretrained: bool = False, **kwargs: Any) -> TransXNet:
    args = dict(
        dims=(64, 128, 320, 512),
        depths=(4, 4, 12, 4),
        num_heads=(1, 2, 5, 8),
        num_groups=(2, 2, 3, 4),
        expansions=(6, 6, 4, 4),
    )
    return _transxnet("transxnet_s", pretrained, args, kwargs)


@register_model
def transxnet_b(pretrained: bool = False, **kwargs: Any) -> TransXNet:
    args = dict(
        dims=(76, 152, 336, 672),
        depths=(4, 4, 21, 4),
        num_heads=(2, 4, 8, 16),
        num_groups=(2, 2, 4, 4),
        expansions=(8, 8, 4, 4),
    )
    return _transxnet("transxnet_b", pretrained, args, kwargs)
