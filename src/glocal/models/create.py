"""Builds models for segmentation and detection by the name of the head, and loads the authors' files into them."""

import logging
import os
from collections.abc import Mapping
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

from timm.models._hub import download_cached_file
from torch import Tensor, nn

from glocal.errors import InvalidTypeError, InvalidValueError, WorkError
from glocal.models import family_of, official
from glocal.models.arguments import check_head_arguments
from glocal.models.build import NoWeightsError
from glocal.models.dense import DenseModel, dense_backbone
from glocal.models.detection import DetectionModel
from glocal.models.detectors import DETECTORS, Detector
from glocal.models.detectors import published as published_detectors
from glocal.models.headed import HeadedModel
from glocal.models.heads import HEADS, Head
from glocal.models.heads import published as published_heads
from glocal.models.published import PublishedHead
from glocal.models.weights import read_tensors
from glocal.wording import quoted, shown

logger = logging.getLogger("glocal")

ALL_HEADS: dict[str, Head | Detector] = {**HEADS, **DETECTORS}

ADE20K, COCO = 150, 80  # classes of the authors' data
BACKBONE = "backbone."
AUXILIARY = "auxiliary."
OURS = ("head.", AUXILIARY)


def create(
    name: str,
    backbone: str,
    num_classes: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    pretrained: bool | str = False,
    pretrained_backbone: bool = False,
    backbone_args: Mapping[str, Any] | None = None,
    head_args: Mapping[str, Any] | None = None,
) -> DenseModel | DetectionModel:
    """Build a head on a backbone.

    Args:
        name: of the head. For segmentation: semantic_fpn, upernet or mask2former; for detection: one of
            `glocal.models.detectors.DETECTORS`.
        backbone: the name of one of our models, or of any timm model that has maps at strides 4, 8, 16 and 32.
        num_classes: classes of the head (default: of the authors' data, 150 for segmentation and 80 for detection).
        checkpoint: a file of weights, or the folder of a run: the authors' or ours of such a model, of its head alone,
            or of the backbone alone (a classifier's). The log says which parts are loaded.
        pretrained: download the authors' file for this head and backbone. If they published several, "in1k" and
            "in22k" choose by the pre-training of the backbone, and `head_args` among heads; True takes the first.
            `glocal list --task segmentation` and `--task detection` list them. TransNeXt's backbones are then built as
            in the authors' tests at one scale, unless `backbone_args` says otherwise.
        pretrained_backbone: download the classifier's weights of the backbone.
        backbone_args: arguments of the backbone, such as img_size and bias_mode.
        head_args: arguments of the head, such as the `scales` of dino; only detectors have some.

    Raises:
        ValueError: an unknown head or backbone, a value out of its range, or a file that does not fit; the message says
            what is missing.
        RuntimeError: the authors' file cannot be downloaded; the message says where a person gets it.
        FileNotFoundError: there is no such file.
        TypeError: an argument that the backbone or the head does not have.
    """
    if name not in ALL_HEADS:
        raise InvalidValueError(f"there is no head {name!r}, only {', '.join(ALL_HEADS)}")
    _check_classes(num_classes)
    for what, given in (("backbone_args", backbone_args), ("head_args", head_args)):
        if not isinstance(given, Mapping | None):
            raise InvalidTypeError(f"{what} must be a mapping of names to values, got {shown(given)}")
    head_args = {} if head_args is None else head_args
    check_head_arguments(name, head_args, ALL_HEADS[name].head_args)
    if pretrained:
        if checkpoint is not None:
            raise InvalidValueError("pretrained and checkpoint exclude each other")
        published = find_published(name, backbone, pretrained, head_args)
        checkpoint = download(published)
        backbone_args = {**published.backbone_args, **(backbone_args or {})}
        head_args = {**published.head_args, **head_args}
    maps = dense_backbone(backbone, pretrained_backbone, **(backbone_args or {}))
    model = add_head(maps, name, num_classes, head_args)
    if checkpoint is not None:
        load_weights(model, ALL_HEADS[name], backbone, checkpoint)
    return model


def _check_classes(num_classes: Any) -> None:
    if num_classes is None:
        return
    if not isinstance(num_classes, int) or isinstance(num_classes, bool):
        raise InvalidTypeError(f"num_classes must be a whole number, got {shown(num_classes)}")
    if num_classes < 1:
        raise InvalidValueError(f"num_classes must be at least 1, not {num_classes}")


def add_head(
    backbone: nn.Module, name: str, num_classes: int | None, head_args: Mapping[str, Any]
) -> DenseModel | DetectionModel:
    """A new head on a backbone of `dense_backbone`. Arguments: see `create`."""
    head, dims = ALL_HEADS[name], backbone.feature_info.channels()
    if isinstance(head, Detector):
        return DetectionModel(backbone, head.build(dims, num_classes or COCO, **head_args))
    num_classes = num_classes or ADE20K
    return DenseModel(backbone, head.build(dims, num_classes), head.auxiliary and head.auxiliary(dims, num_classes))


def find_published(
    name: str, backbone: str, pretrained: bool | str = True, head_args: Mapping[str, Any] | None = None
) -> PublishedHead:
    """The published head that is meant; ValueError if there is none. Arguments: see `create`."""
    task = "detection" if name in DETECTORS else "segmentation"
    table = published_detectors.PUBLISHED if name in DETECTORS else published_heads.PUBLISHED
    wanted = dict(head_args or {})
    for one in table:
        same = (one.head, one.backbone) == (name, backbone) and pretrained in (True, one.pretraining)
        if same and wanted.items() <= one.head_args.items():
            return one
    of = "" if pretrained is True else f" with the pre-training {pretrained!r}"
    of += "".join(f", {key}={value!r}" for key, value in wanted.items())
    raise InvalidValueError(
        f"no {name} on {backbone}{of} has been published: `glocal list --task {task}` lists what has"
    )


def download(published: PublishedHead) -> str:
    """The authors' file, downloaded once into the cache of torch.hub; its path."""
    name = f"{published.head} on {published.backbone}"
    if not published.url:
        raise WorkError(NoWeightsError(name, published.page or None).message("give checkpoint"))
    file = os.path.basename(urlparse(published.url).path)
    file = file or f"{published.head}_{published.backbone}_{published.pretraining}_ade20k.pth"
    try:
        return download_cached_file((published.url, file), check_hash=False, progress=True)
    except (URLError, OSError) as error:
        by_hand = f"get the file from {published.page} and give checkpoint"
        raise WorkError(f"the weights of {name} were not downloaded ({error}): try again, or {by_hand}") from error


def load_weights(model: HeadedModel, head: Head | Detector, backbone: str, path: str | os.PathLike) -> None:
    """Load a file into the parts of a model that it holds, each completely. See `create`."""
    weights = _in_full(read_tensors(path), model)
    converted, ours = split(weights, head)
    if not ours:  # a classifier's, or a backbone's
        load_backbone(model, backbone, weights)
        logger.warning("%s has no weights of the head: the backbone is loaded, the head starts anew", path)
        return
    if left := [key for key in weights if not key.startswith((BACKBONE, *OURS, *head.parts))]:
        raise InvalidValueError(f"{path} is not a checkpoint of this head: {len(left)} left over: {quoted(left, 4)}")
    own = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith(BACKBONE)}
    bare = not any(key.startswith(AUXILIARY) for key in ours) and getattr(model, "auxiliary", None) is not None
    if bare:
        own = {key: tensor for key, tensor in own.items() if not key.startswith(AUXILIARY)}
    if found := official.misfits(_shapes(ours), _shapes(own)):
        raise InvalidValueError(f"{path} is not a checkpoint of this head: {found}")
    if converted:
        load_backbone(model, backbone, converted)
    else:
        logger.warning("%s has the weights of the head alone: the backbone keeps its values", path)
    if bare:
        logger.warning("%s has no weights of the auxiliary head, which only a training uses: it starts anew", path)
    model.load_state_dict(ours, strict=False)  # complete, as compared above


def load_for_training(model: HeadedModel, head: str, backbone: str, path: str | os.PathLike) -> None:
    """Load all that fits of a file into a model that will be trained; the log says what starts anew.

    The backbone's weights must be complete. A layer of the head is loaded if all its tensors are in the file with the
    shapes of the model: with other classes, all but the classifiers are; of a head of another kind or width, what both
    have in common. Files: see `create`. head, backbone: their names.
    """
    weights = _in_full(read_tensors(path), model)
    converted, ours = split(weights, ALL_HEADS[head])
    own = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith(BACKBONE)}
    anew = {key for key in own if key not in ours or own[key].shape != ours[key].shape}
    layers = {_layer(key) for key in anew}
    fitting = {key: ours[key] for key in own if _layer(key) not in layers}
    if ours and not converted:
        logger.warning("%s has the weights of a head alone: the backbone starts anew", path)
    else:
        load_backbone(model, backbone, converted or weights)
    model.load_state_dict(fitting, strict=False)
    if not ours:
        logger.warning("%s has no weights of the head: the backbone is loaded, the head starts anew", path)
    elif found := official.misfits(_shapes(ours), _shapes(own)):
        new = f"layers of the head that start anew: {len(layers)} of {len({_layer(key) for key in own})}"
        logger.warning("%s has another head, or one for other classes (%s); %s", path, found, new)


def _in_full(weights: dict[str, Tensor], model: HeadedModel) -> dict[str, Tensor]:
    """The weights by their names in the model, if they are those of `model.head.state_dict()`; else unchanged."""
    if weights.keys() != model.head.state_dict().keys():
        return weights
    return {f"head.{name}": tensor for name, tensor in weights.items()}


def split(weights: Mapping[str, Tensor], head: Head | Detector) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the backbone, without prefix, and those of the heads, by our names. Both may be empty."""
    prefixes = tuple(head.parts)
    dense = any(key.startswith(BACKBONE) for key in weights) or all(key.startswith(OURS) for key in weights)
    of_backbone, of_heads = {}, {}
    for key, tensor in weights.items():
        if key.startswith(prefixes):
            prefix = next(prefix for prefix in prefixes if key.startswith(prefix))
            ours, renames = head.parts[prefix]
            of_heads[ours + official.rename(key.removeprefix(prefix), renames)] = tensor
        elif dense and key.startswith(OURS) and not key.startswith(("head.fc.", "head.weight", "head.bias")):
            of_heads[key] = tensor
        elif key.startswith(BACKBONE):
            of_backbone[key.removeprefix(BACKBONE)] = tensor
    return of_backbone, of_heads


def load_backbone(model: HeadedModel, name: str, weights: Mapping[str, Tensor]) -> None:
    """Load weights by the authors' names or ours into the backbone of a model; ValueError if they do not fit.

    The weights may lack the norms of maps that the head does not use. name: of the backbone.
    """
    backbone, first_map = model.backbone, getattr(model.head, "first_map", 0)
    family = family_of(name.rpartition(":")[2])
    if family is not None:
        weights = {key.removeprefix("model."): tensor for key, tensor in weights.items()}
        absent = rf"^stages\.[0-{first_map - 1}]\.output_norm\." if first_map else None
        weights = family.checkpoint_filter_fn(weights, backbone.model, absent=absent, backbone_only=True)
        backbone.model.load_state_dict(weights, strict=False)  # without the classifier; else complete
        return
    target = backbone.state_dict()
    weights = {key: tensor for key, tensor in weights.items() if key in target}
    if found := official.misfits(_shapes(weights), _shapes(target)):
        raise InvalidValueError(f"not a checkpoint of {name}: {found}")
    backbone.load_state_dict(weights)


def _layer(key: str) -> str:
    """The name of the layer that a tensor is of: one without its bias is of no use."""
    return key.rpartition(".")[0]


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}
