"""TransCNN: the paper's first form of H-MHSA (arXiv 2106.03180, release v1.0)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.models import generate_default_cfgs, register_model

from glocal.backbone import Backbone
from glocal.layers.downsample import ConvStem, TwoBranchDownsample
from glocal.layers.norm import BatchNorm2d
from glocal.models import official
from glocal.models.build import build, config
from glocal.models.hat_net import ARGUMENTS as HAT_NET_ARGUMENTS
from glocal.models.hat_net import COMMON_RENAMES, mixers


class TransCNN(Backbone):
    """HAT-Net's block with BN for every norm and after every convolution, and two-branch down-sampling.

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
        head_dim: int = 64,
        expansions: Sequence[int] = (4, 4, 6, 6),
        kernel_sizes: Sequence[int] = (5, 3, 5, 3),
        grids: Sequence[int] = (8, 8, 8, 1),
        reductions: Sequence[int] = (8, 4, 2, 1),
        drop_rate: float = 0.2,
        **common: Any,
    ):
        super().__init__(
            dims=dims,
            depths=depths,
            stem=partial(ConvStem, norm=BatchNorm2d),
            downsample=TwoBranchDownsample,
            drop_rate=drop_rate,
            **mixers(BatchNorm2d, head_dim, grids, reductions, expansions, kernel_sizes, inner_norm=BatchNorm2d),
            **common,
        )


# The arguments above that a file may set, and their ranges.
ARGUMENTS = HAT_NET_ARGUMENTS

# From official names to ours.
RENAMES = [
    *COMMON_RENAMES,
    (r"\.conv\.conv1\.0\.", ".channel_mixer.expand."),
    (r"\.conv\.conv1\.1\.", ".channel_mixer.norm1."),
    (r"\.conv\.conv2\.1\.", ".channel_mixer.norm2."),
]

# Converts the authors' state dict to ours; accepts ours too.
checkpoint_filter_fn = partial(official.convert, family="TransCNN", renames=RENAMES)


def _cfg(file: str = "", **kwargs: Any) -> dict[str, Any]:
    return config(
        "stem.conv1",
        size=256,
        url=f"https://github.com/yun-liu/TransCNN/releases/download/v1.0/{file}" if file else "",
        paper_ids="arXiv:2106.03180",
        paper_name="Transformer in Convolutional Neural Networks",
        origin_url="https://github.com/yun-liu/TransCNN",
        **kwargs,
    )


default_cfgs = generate_default_cfgs(
    {
        "transcnn_pico.untrained": _cfg(),
        "transcnn_tiny.in1k": _cfg("TransCNN-Tiny.pth"),
        "transcnn_small.in1k": _cfg("TransCNN-Small.pth"),
        "transcnn_medium.in1k": _cfg("TransCNN-Medium.pth"),
        "transcnn_large.in1k": _cfg("TransCNN-Large.pth"),
    }
)

# ImageNet-1K top-1 at 256² that the authors publish, %.
TOP1 = {
    "transcnn_tiny.in1k": 80.4,
    "transcnn_small.in1k": 83.1,
    "transcnn_medium.in1k": 83.8,
    "transcnn_large.in1k": 84.2,
}

_transcnn = partial(build, TransCNN, checkpoint_filter_fn)


@register_model
def transcnn_pico(pretrained: bool = False, **kwargs: Any) -> TransCNN:
    args = dict(dims=(24, 48, 96, 168), depths=(1, 1, 2, 1), head_dim=24, expansions=(4, 4, 4, 4))
    return _transcnn("transcnn_pico", pretrained, args, kwargs)


@register_model
def transcnn_tiny(pretrained: bool = False, **kwargs: Any) -> TransCNN:
    args = dict(dims=(64, 128, 256, 512), depths=(2, 2, 4, 2), expansions=(4, 4, 4, 4))
    return _transcnn("transcnn_tiny", pretrained, args, kwargs)


@register_model
def transcnn_small(pretrained: bool = False, **kwargs: Any) -> TransCNN:
    return _transcnn("transcnn_small", pretrained, dict(dims=(64, 128, 256, 512), depths=(3, 4, 8, 3)), kwargs)


@register_model
def transcnn_medium(pretrained: bool = False, **kwargs: Any) -> TransCNN:
    return _transcnn("transcnn_medium", pretrained, dict(dims=(64, 128, 320, 640), depths=(3, 4, 12, 3)), kwargs)


@register_model
def transcnn_large(pretrained: bool = False, **kwargs: Any) -> TransCNN:
    return _transcnn("transcnn_large", pretrained, dict(dims=(64, 128, 384, 768), depths=(3, 4, 16, 3)), kwargs)
