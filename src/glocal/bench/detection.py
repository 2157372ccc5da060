"""What a comparison needs to know of detectors: what they cost, and which boxes they find before they are trained."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from glocal.bench.cost import Cost, count, count_params
from glocal.models.detection import DetectionModel
from glocal.models.detectors import box_head, mask_head, rcnn, retinanet, rpn
from glocal.models.detectors.d_fine.head import DFineHead
from glocal.models.detectors.rcnn import RCNN
from glocal.models.detectors.retinanet import RetinaNetHead

PAIRS = 1000  # of a box and a class in an image that pass the limit of scores: ten for each object that is kept
SPREAD = 2.0  # standard deviation of the logits of a class


def cost(model: DetectionModel, name: str, size: tuple[int, int]) -> Cost:
    """Parameters and multiply–accumulates of one image, by `glocal.bench.cost.count`.

    Of an R-CNN, box heads count for 1000 proposals and mask heads for 100 objects, as in the authors' figures. What
    deformable attention reads between positions is not counted. model: on the meta device. size: (H, W).
    """
    found = count(model.backbone, name, size)
    image = torch.empty(1, *found.input_size, device="meta")
    model.eval().requires_grad_(False)
    with torch.no_grad():
        maps = model.maps(image)
        with FlopCounterMode(display=False) as counter:
            _compute(model.head, maps, torch.tensor([size], device="meta"))
    macs = found.macs + counter.get_total_flops() // 2
    return Cost(name, found.input_size, count_params(model), macs, ())


def _compute(head: nn.Module, maps: Sequence[Tensor], sizes: Tensor) -> None:
    """The layers of a head, on tensors without values, which choose no boxes."""
    if isinstance(head, RCNN):
        pyramid = head.pyramid(maps)
        head.rpn(pyramid)
        dim = pyramid[0].shape[1]
        for heads, regions, side in (
            (head.box_heads, rpn.PROPOSALS, box_head.SIDE),
            (head.mask_heads, rcnn.DETECTIONS, mask_head.SIDE),
        ):
            for one in heads:
                one(pyramid[0].new_empty(regions, dim, side, side))
    elif isinstance(head, RetinaNetHead | DFineHead):
        head.outputs(maps)
    else:
        head.outputs(maps, sizes)


@torch.no_grad()
def let_find(model: DetectionModel, images: Tensor) -> None:
    """Change an untrained head so that it finds objects: `PAIRS` pairs of a box and a class pass its limit of scores.

    An untrained head gives all pairs nearly the same small score, so that none is left to suppress and no mask to
    compute. Its logits are therefore scaled, class by class, and shifted by what the images say. Heads without a limit
    of scores stay as they are.

    images: (B, 3, H, W), those that will be timed.
    """
    model.eval()
    if isinstance(model.head, RetinaNetHead):
        (logits,) = _standardised(model, images, [model.head.classifier])
        limit = torch.tensor(retinanet.SCORE).logit()
        model.head.classifier.bias += limit - _largest(logits, PAIRS * len(images))
    elif isinstance(model.head, RCNN):
        classifiers = [one.classifier for one in model.head.box_heads]
        logits = sum(_standardised(model, images, classifiers)) / len(classifiers)
        # Of a region with the logits l of the K classes and b of the background, class k passes a limit p if
        # exp(b) < exp(l_k) / p − Σ exp(l).
        room = logits[:, :-1].exp() / rcnn.SCORE - logits[:, :-1].exp().sum(1, keepdim=True)
        shifts = room[room > 0].log() - logits[:, -1:].expand_as(room)[room > 0]
        for classifier in classifiers:
            classifier.bias[-1] += _largest(shifts, PAIRS * len(images))


def _standardised(model: DetectionModel, images: Tensor, classifiers: Sequence[nn.Module]) -> list[Tensor]:
    """Scale and shift classifiers so that each channel has mean 0 and deviation `SPREAD` on images.

    Returns what they then give on the same regions or positions, a row for each, (N, channels).
    """
    for classifier in classifiers:
        classifier.bias.zero_()  # beside which the differences of untrained logits would be rounded away
    seen: list[list[Tensor]] = [[] for _ in classifiers]
    hooks = [
        classifier.register_forward_hook(
            lambda _, __, output, rows=rows: rows.append(output.movedim(1, -1).flatten(0, -2))
        )
        for classifier, rows in zip(classifiers, seen, strict=True)
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    found = []
    for classifier, rows in zip(classifiers, seen, strict=True):
        logits = torch.cat(rows)
        deviation, mean = torch.std_mean(logits, 0, correction=0)
        scale = SPREAD / deviation.clamp(min=torch.finfo(logits.dtype).tiny ** 0.5)
        classifier.weight *= scale.view(-1, *[1] * (classifier.weight.ndim - 1))
        classifier.bias.sub_(mean).mul_(scale)
        found.append((logits - mean) * scale)
    return found


def _largest(values: Tensor, place: int) -> Tensor:
    """The value that `place` values are at least, a little less, so that it is passed; the smallest of fewer values."""
    values = values.flatten()
    if not len(values):
        return values.new_zeros(())
    return values.topk(min(place, len(values))).values[-1] - 1e-4
