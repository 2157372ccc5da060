"""The parts of D-FINE in the library transformers, which is imported when a head is built, and how they are configured.

A configuration is made of numbers, and the parts of the configuration: nothing is downloaded, no code of others is run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from glocal.errors import InvalidValueError, MissingExtraError

PACKAGES = ("transformers", "scipy")
HEADS = 8  # of every attention


@dataclass(frozen=True)
class Size:
    """What the published models differ in.

    strides: of the maps that are read. width: channels of the encoder; decoder_width: of the decoder. hidden,
    decoder_hidden: of the networks behind their attention. depth: layers of the decoder. blocks, expansion: shares of
    the three convolution blocks in each fusion of maps, and of their channels. points: that the decoder reads for each
    head, of each map. scale: flattens the steps by which a side of a box is moved; 4 but for the largest model.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    width: int = 256
    decoder_width: int = 256
    hidden: int = 1024
    decoder_hidden: int = 1024
    depth: int = 6
    blocks: float = 1.0
    expansion: float = 1.0
    points: tuple[int, ...] = (3, 6, 3)
    scale: float = 4.0


# The authors' configs, dfine_hgnetv2_{n,s,m,l,x}_coco (github.com/Peterande/D-FINE).
SIZES = {
    "n": Size((16, 32), 128, 128, 512, 512, depth=3, blocks=0.5, expansion=0.34, points=(6, 6)),
    "s": Size(depth=3, blocks=0.34, expansion=0.5),
    "m": Size(depth=4, blocks=0.67),
    "l": Size(),
    "x": Size(width=384, hidden=2048, scale=8.0),
}


def size_of(name: str, width: int | None, depth: int | None) -> Size:
    """A published size, with another width of encoder and decoder and another depth of the decoder if they are given.

    Raises ValueError for another name, and for a width that is no multiple of 8, as the attention has 8 heads.
    """
    if name not in SIZES:
        raise InvalidValueError(f"size must be {', '.join(SIZES)}, not {name!r}")
    size = SIZES[name]
    if width is not None:
        if width % HEADS:
            raise InvalidValueError(f"width must be a multiple of {HEADS}, not {width}")
        size = replace(size, width=width, decoder_width=width, hidden=4 * width, decoder_hidden=4 * width)
    return size if depth is None else replace(size, depth=depth)


def modeling() -> Any:
    """The module of transformers that has the parts; ImportError, which names the extra, if a package is missing."""
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        raise MissingExtraError(f"the head d_fine needs {' and '.join(missing)}: pip install 'glocal[dfine]'")
    from transformers.models.d_fine import modeling_d_fine

    return modeling_d_fine


def config_of(size: Size, dims: Sequence[int], num_classes: int, num_queries: int, num_denoising: int) -> Any:
    """The configuration of the parts; all else is as transformers has it. dims: of the maps that are read."""
    from transformers import DFineConfig

    levels = len(size.strides)
    return DFineConfig(
        num_labels=num_classes,
        encoder_in_channels=list(dims),
        feat_strides=list(size.strides),
        encoder_hidden_dim=size.width,
        encoder_ffn_dim=size.hidden,
        encode_proj_layers=[levels - 1],
        hidden_expansion=size.expansion,
        depth_mult=size.blocks,
        d_model=size.decoder_width,
        decoder_in_channels=[size.width] * levels,
        decoder_ffn_dim=size.decoder_hidden,
        decoder_layers=size.depth,
        decoder_n_points=list(size.points),
        num_feature_levels=levels,
        num_queries=num_queries,
        num_denoising=num_denoising,
        reg_scale=size.scale,
    )


def criterion() -> Callable[..., tuple]:
    """transformers' function for the total of the losses, the losses by name, and what they are made of."""
    from transformers.loss.loss_d_fine import DFineForObjectDetectionLoss

    return DFineForObjectDetectionLoss
