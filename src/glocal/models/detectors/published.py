"""What the authors published on COCO (80 classes): their figures, and where their files are.

Sources: the READMEs of DaiShiResearch/TransNeXt (c8a9974) and LMMMEng/TransXNet (ce2c73d); the paper of VAN, of whose
detectors there are no files. HAT-Net's and TransCNN's authors published no figures of detectors that could be read, and
of Conv2Former's only second-hand ones are known: they are not here.
"""

from dataclasses import dataclass

from glocal.models.published import TRANSNEXT, TRANSNEXT_FIGURES, TRANSXNET, PublishedHead

_VAN = "https://arxiv.org/abs/2202.09741"


@dataclass(frozen=True, kw_only=True)
class Published(PublishedHead):
    """A detector on a backbone. See `PublishedHead`.

    box_ap, mask_ap: AP of COCO's val2017, %, at (1333, 800); mask_ap is None if the head has no masks, or if it is
    unknown. epochs: of the training.
    """

    box_ap: float
    mask_ap: float | None = None
    epochs: int = 12


def _transnext(head: str, size: str, name: str, file: str, box_ap: float, **more) -> Published:
    repository = f"{TRANSNEXT}/{name}-transnext-{size}-coco"
    return Published(
        head=head,
        backbone=f"transnext_{size}",
        box_ap=box_ap,
        url=f"{repository}/resolve/main/{file}_in1k.pth",
        page=repository,
        source=TRANSNEXT_FIGURES,
        backbone_args={"bias_mode": "interpolate", "img_size": 800},
        **more,
    )


def _transnext_masks(size: str, box_ap: float, mask_ap: float) -> Published:
    file = f"mask_rcnn_transnext_{size}_fpn_1x_coco"
    return _transnext("mask_rcnn", size, "maskrcnn", file, box_ap, mask_ap=mask_ap)


def _transnext_dino(scales: int, size: str, box_ap: float) -> Published:
    file = f"dino_{scales}scale_transnext_{size}_12e"
    return _transnext("dino", size, f"dino-{scales}scale", file, box_ap, head_args={"scales": scales})


def _transxnet(head: str, letter: str, size: str, box_ap: float, mask_ap: float | None = None) -> Published:
    return Published(
        head=head,
        backbone=f"transxnet_{letter}",
        box_ap=box_ap,
        mask_ap=mask_ap,
        url=f"{TRANSXNET}/releases/download/v1.0/{head.replace('_', '')}_{size}.pth",
        page=f"{TRANSXNET}/releases",
        source=TRANSXNET,
    )


def _van(head: str, size: str, box_ap: float, mask_ap: float | None = None, epochs: int = 12) -> Published:
    return Published(head=head, backbone=f"van_{size}", box_ap=box_ap, mask_ap=mask_ap, epochs=epochs, source=_VAN)


PUBLISHED = (
    _transxnet("retinanet", "t", "tiny", 43.1),
    _transxnet("retinanet", "s", "small", 46.4),
    _transxnet("retinanet", "b", "base", 47.6),
    _van("retinanet", "b0", 38.8),
    _van("retinanet", "b1", 42.3),
    _van("retinanet", "b2", 44.9),
    _van("retinanet", "b3", 47.5),
    _transnext_masks("tiny", 49.9, 44.6),
    _transnext_masks("small", 51.1, 45.5),
    _transnext_masks("base", 51.7, 45.9),
    _transxnet("mask_rcnn", "t", "tiny", 44.5, 40.7),
    _transxnet("mask_rcnn", "s", "small", 47.7, 43.1),
    _transxnet("mask_rcnn", "b", "base", 48.8, 43.8),
    _van("mask_rcnn", "b0", 40.2, 37.6),
    _van("mask_rcnn", "b1", 42.6, 38.9),
    _van("mask_rcnn", "b2", 46.4, 41.8),
    _van("mask_rcnn", "b3", 48.3, 43.4),
    _van("mask_rcnn", "b2", 48.8, epochs=36),
    _van("cascade_mask_rcnn", "b2", 52.0, epochs=36),
    _transnext_dino(4, "tiny", 55.1),
    _transnext_dino(5, "tiny", 55.7),
    _transnext_dino(5, "small", 56.6),
    _transnext_dino(5, "base", 57.1),
)
