"""How a model sees an image that is measured: whole, by sliding windows, or at several scales and flipped."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from glocal.data.batch import Batch, Example, padded
from glocal.data.geometry import Geometry
from glocal.data.prepare import own_size
from glocal.models.dense import DenseModel
from glocal.models.heads.resize import resize_to
from glocal.tasks.loading import check_finite

AT_ONCE = 2**26  # scores, a class and pixel each, that are resized at a time


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where the windows of an axis start: the last is shifted back to the edge; a short axis has one window."""
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride, length - window), 0) for i in range(count)]


def sliding_logits(
    logits: Callable[[Tensor], Tensor], images: Tensor, window: tuple[int, int], stride: tuple[int, int]
) -> Tensor:
    """The mean logits of all windows at each pixel, (B, C, H, W).

    logits: images (B, 3, h, w) to logits of any size, which are resized to the window. images: (B, 3, H, W).
    """
    height, width = images.shape[2:]
    total, count = None, images.new_zeros(1, 1, height, width)
    for top in window_starts(height, window[0], stride[0]):
        for left in window_starts(width, window[1], stride[1]):
            place = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            part = images[place]
            found = resize_to(logits(part), part.shape[2:])
            if total is None:
                total = found.new_zeros(len(images), found.shape[1], height, width)
            total[place] += found
            count[place] += 1
    return total / count


def whole_logits(logits: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The logits of whole images at their size, (B, C, H, W)."""
    return resize_to(logits(images), images.shape[2:])


def mean_probabilities(
    scores: Callable[[Tensor], Tensor],
    scales: Sequence[Tensor],
    size: tuple[int, int],
    flip: bool = True,
    decode: Callable[[Tensor, tuple[int, int]], Tensor] = DenseModel.decode,
) -> Tensor:
    """The mean of the probabilities at a size over several scales of the same images, (B, C, H, W).

    scores: images to logits at their size. scales: (B, 3, h, w), each of another size. flip: add the flipped images.
    decode: scores to probabilities at a size.
    """
    total, count = None, 0
    for images in scales:
        for mirrored in (False, True) if flip else (False,):
            found = decode(scores(images.flip(3) if mirrored else images), size)
            found = found.flip(3) if mirrored else found
            total, count = found if total is None else total + found, count + 1
    return total / count


class Predicted(NamedTuple):
    """The classes of an image.

    labels: (H, W), uint8 or int32. confidence: (classes,), of each class the mean probability of its pixels, 0 if it
    has none.
    """

    labels: Tensor
    confidence: Tensor


def predict(compute: Callable[[Tensor], Any], batch: Batch, args: dict[str, Any]) -> list[list[Tensor]]:
    """The label map and the confidence of each image of a batch at the image's own size: two lists of B tensors.

    compute: images (B, C, h, w) to logits, or to the pair of Mask2Former. args: those of `SegmentationArgs`; with
    `flip`, and if the batch has other scales, probabilities are averaged over all of them.
    """
    window, flip = args.get("window"), bool(args.get("flip"))
    found: list[Predicted | None] = [None] * len(batch)
    if flip or any(batch.more):
        for i, geometry in enumerate(batch.geometry):
            own = Example(own_size(batch.images[i], geometry), geometry=geometry)
            found[i] = of_scales(compute, batch.more[i] or [own], args["head"] == "mask2former", window, flip)
    elif window is not None:
        for i, geometry in enumerate(batch.geometry):
            found[i] = decided(in_windows(compute, own_size(batch.images[i], geometry)[None], window), geometry)
    else:
        for i, outputs in outputs_of_images(compute, batch):
            found[i] = decided(outputs, batch.geometry[i])
    return [[one.labels for one in found], [one.confidence for one in found]]


def outputs_of_images(compute: Callable[[Tensor], Any], batch: Batch) -> Iterator[tuple[int, Any]]:
    """The place of each image of a batch, and the model's outputs for it alone; those of one size are computed at once.

    RuntimeError for NaN and infinity.
    """
    for places in of_one_size(batch):
        images = torch.stack([own_size(batch.images[i], batch.geometry[i]) for i in places])
        outputs = checked(compute(images.contiguous(memory_format=torch.channels_last)))
        for row, i in enumerate(places):
            yield i, one_image(outputs, row)


def of_one_size(batch: Batch) -> Iterator[list[int]]:
    """The places of the images of a batch, those of one size together."""
    sizes = [geometry.tensor_size or geometry.input_size for geometry in batch.geometry]
    for size in dict.fromkeys(sizes):
        yield [i for i, other in enumerate(sizes) if other == size]


def checked(outputs: Any) -> Any:
    """A model's outputs, unchanged; RuntimeError for NaN and infinity."""
    for output in outputs if isinstance(outputs, list | tuple) else [outputs]:
        check_finite(output)
    return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs


def one_image(outputs: Any, row: int) -> Any:
    """The outputs of an image of a batch, (1, …)."""
    if isinstance(outputs, Tensor):
        return outputs[row : row + 1]
    return tuple(output[row : row + 1] for output in outputs)


def decided(outputs: Any, geometry: Geometry) -> Predicted:
    """The most probable class of every pixel of an image.

    outputs: of one image: logits (1, C, h, w), or the pair of Mask2Former. They are resized to the input, cut to the
    part that shows the image, and resized to the image, as in the authors' tests. A few classes at a time, so that a
    large image with many classes needs little memory.
    """
    queries = isinstance(outputs, tuple)
    if queries:
        class_logits, mask_logits = outputs
        outputs = mask_logits
    count = class_logits.shape[2] - 1 if queries else outputs.shape[1]
    tensor_size = geometry.tensor_size or geometry.input_size
    (height, width), size = geometry.input_size, geometry.size
    if queries:
        classes, masks = class_logits.float().softmax(-1)[0, :, :-1], resize_to(mask_logits, tensor_size).sigmoid()[0]
    step = max(1, AT_ONCE // max(1, size[0] * size[1]))
    best = total = labels = None
    for first in range(0, count, step):
        if queries:
            scores = torch.einsum("qc,qhw->chw", classes[:, first : first + step].to(masks), masks)[None]
        else:
            scores = resize_to(outputs[:, first : first + step], tensor_size)
        scores = resize_to(scores[:, :, :height, :width].float(), size)[0]
        value, place = scores.max(0)
        # Σ of the scores, or of their exponentials: the confidence is the largest one's part.
        part = scores.sum(0) if queries else scores.logsumexp(0)
        if best is None:
            best, labels, total = value, place, part
        else:
            better = value > best
            labels = torch.where(better, place + first, labels)
            best = torch.maximum(best, value)
            total = total + part if queries else torch.logaddexp(total, part)
    probability = best / total.clamp(min=1e-12) if queries else (best - total).exp()
    return with_confidence(labels, probability, count)


def of_scales(
    compute: Callable[[Tensor], Any], scales: Sequence[Example], queries: bool, window: Sequence[int] | None, flip: bool
) -> Predicted:
    """The same from the mean of the probabilities over several sizes of an image, and mirror images.

    queries: whether the outputs are those of Mask2Former.
    """
    tensor_sizes = {scale.geometry.input_size: scale.geometry.tensor_size for scale in scales}

    def scores(image: Tensor) -> Tensor:
        height, width = size = tuple(image.shape[2:])
        image = padded(image, tensor_sizes[size] or size)
        if window is not None:
            return in_windows(compute, image, window)[:, :, :height, :width]
        outputs, size = checked(compute(image)), tuple(image.shape[2:])
        found = DenseModel.decode(outputs, size) if queries else resize_to(outputs, size)
        return found[:, :, :height, :width]

    shown = [scale.image[None, :, : scale.geometry.input_size[0], : scale.geometry.input_size[1]] for scale in scales]
    decode = resize_to if queries else DenseModel.decode
    mean = mean_probabilities(scores, shown, scales[0].geometry.size, flip, decode)[0]
    probability, labels = mean.max(0)
    return with_confidence(labels, probability / mean.sum(0).clamp(min=1e-12), len(mean))


def in_windows(compute: Callable[[Tensor], Any], image: Tensor, window: Sequence[int]) -> Tensor:
    """The mean logits of square windows, (1, C, H, W). window: (side, stride)."""
    return sliding_logits(lambda part: checked(compute(part)), image, (window[0],) * 2, (window[1],) * 2)


def with_confidence(labels: Tensor, probability: Tensor, classes: int) -> Predicted:
    flat = labels.flatten()
    pixels = torch.bincount(flat, minlength=classes)
    sums = torch.zeros(classes, device=labels.device).index_add_(0, flat, probability.float().flatten())
    return Predicted(labels.to(torch.uint8 if classes <= 256 else torch.int32), sums / pixels.clamp(min=1))
