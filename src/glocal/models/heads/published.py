"""What the authors published on ADE20K (150 classes): their figures, and where their files are.

Sources: the READMEs of DaiShiResearch/TransNeXt (c8a9974), LMMMEng/TransXNet (ce2c73d) and
Visual-Attention-Network/VAN-Segmentation (8285fc7).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glocal.models.published import TRANSNEXT, TRANSNEXT_FIGURES, TRANSXNET, PublishedHead

_VAN = "https://github.com/Visual-Attention-Network/VAN-Segmentation"
# The single-scale figures of TransNeXt are with the position bias of the training size, resized.
_INTERPOLATED: Mapping[str, Any] = {"bias_mode": "interpolate", "img_size": 512}


@dataclass(frozen=True, kw_only=True)
class Published(PublishedHead):
    """A head for segmentation on a backbone. See `PublishedHead`.

    miou: %, one scale; miou_multi_scale: %, several scales and flips; None where the authors give none.
    """

    miou: float | None = None
    miou_multi_scale: float | None = None


def _transnext(head: str, size: str, miou: float, miou_multi_scale: float | None) -> Published:
    repository = f"{TRANSNEXT}/{head}-transnext-{size}-ade"
    return Published(
        head=head,
        backbone=f"transnext_{size}",
        miou=miou,
        miou_multi_scale=miou_multi_scale,
        url=f"{repository}/resolve/main/{head}_transnext_{size}_512x512_160k_ade20k_in1k.pth",
        page=repository,
        source=TRANSNEXT_FIGURES,
        backbone_args=_INTERPOLATED,
    )


def _transxnet(letter: str, size: str, miou: float) -> Published:
    url = f"{TRANSXNET}/releases/download/v1.0/sfpn_transxnet_{size}.pth"
    page = f"{TRANSXNET}/releases"
    backbone = f"transxnet_{letter}"
    return Published(head="semantic_fpn", backbone=backbone, miou=miou, url=url, page=page, source=TRANSXNET)


def _van_upernet(size: str, pretraining: str, miou_multi_scale: float, file: str = "") -> Published:
    page = f"https://cloud.tsinghua.edu.cn/f/{file}/" if file else ""
    return Published(
        head="upernet",
        backbone=f"van_{size}",
        pretraining=pretraining,
        miou_multi_scale=miou_multi_scale,
        url=f"{page}?dl=1" if file else "",
        page=page,
        source=_VAN,
    )


def _van_fpn(size: str, miou: float, file: str) -> Published:
    page = f"https://drive.google.com/file/d/{file}/view"
    return Published(head="semantic_fpn", backbone=f"van_{size}", miou=miou, page=page, source=_VAN)


PUBLISHED = (
    _transnext("upernet", "tiny", 51.1, 51.5),
    _transnext("upernet", "small", 52.2, 52.5),
    _transnext("upernet", "base", 53.0, 53.5),
    _transnext("mask2former", "tiny", 53.4, None),
    _transnext("mask2former", "small", 54.1, None),
    _transnext("mask2former", "base", 54.7, None),
    _transxnet("t", "tiny", 45.5),
    _transxnet("s", "small", 48.5),
    _transxnet("b", "base", 49.9),
    _van_upernet("b0", "in1k", 41.1),
    _van_upernet("b1", "in1k", 44.9),
    _van_upernet("b2", "in1k", 50.1, "68c8b494f3824d30bf07"),
    _van_upernet("b3", "in1k", 50.6, "97bde65fbe334b358797"),
    _van_upernet("b4", "in1k", 52.2, "5273f92c77a94395b804"),
    _van_upernet("b4", "in22k", 53.5, "8f1f0a9c4c71478fa43b"),
    _van_upernet("b5", "in22k", 53.9, "2175bdc39d094e5f8f99"),
    _van_upernet("b6", "in22k", 54.7, "853d9d0ea0f44c2aa090"),
    _van_fpn("b0", 38.5, "1Jl8LtyvOl6xeNMKCjpK2Rp_tGRfua8LJ"),
    _van_fpn("b1", 42.9, "1Xfuo9D3Fo7b6zSCLTWE77k2jgYSHVSb8"),
    _van_fpn("b2", 46.7, "1Ar4Hq9DjgaULQKfwM-jJvSO-D6gendpf"),
    _van_fpn("b3", 48.1, "1v61uCi07IC6eyVHn3xbJqz4nOiGa1POY"),
)
