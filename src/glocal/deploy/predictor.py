"""A trained classifier as a function of images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from glocal.data.image import UnreadableImageError, convert_image, read_image
from glocal.data.preprocessing import Preprocessing
from glocal.tasks.classifier import load_classifier, resolve_device

ImageLike = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, first to last.

    source: the image's path, "" for one from memory. error: why it could not be read; then there are no classes.
    """

    source: str
    labels: list[str]
    probabilities: list[float]
    error: UnreadableImageError | None = None


class Predictor:
    """Predicts the class of images.

    Args:
        checkpoint: a run folder or file of `glocal train`, or a file of the authors' or timm's weights for `model`.
        model: name of the model; without a checkpoint, with its published weights.
        device: "auto", "cpu", "cuda", …
        batch_size: images per forward pass.

    Raises FileNotFoundError or ValueError for weights that are missing or do not fit.

    >>> predictor = Predictor("runs/digits-transxnet_pico")
    >>> predictor(["three.png"], top_k=1)[0].labels
    ['3']
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        model: str | None = None,
        device: str = "auto",
        batch_size: int = 32,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.device = resolve_device(device)
        self.classifier = load_classifier(checkpoint, model)
        self.model = self.classifier.model.to(self.device, memory_format=torch.channels_last).eval()
        self.class_names = self.classifier.descriptions
        self.multi_label = bool(self.classifier.info and self.classifier.info.data.get("multi_label"))
        self.batch_size = batch_size
        self._transform = Preprocessing(**self.classifier.preprocessing).transform()

    def __call__(self, images: ImageLike | Iterable[ImageLike], top_k: int = 5) -> list[Prediction]:
        """Predict paths, PIL images or uint8 arrays of shape (H, W), (H, W, 3) or (H, W, 4); one result for each.

        Raises TypeError for anything else, RuntimeError where the model gives non-finite values.
        """
        if isinstance(images, str | Path | Image.Image | np.ndarray) or not isinstance(images, Iterable):
            images = [images]
        return list(self.stream(images, top_k))

    def stream(self, images: Iterable[ImageLike], top_k: int = 5) -> Iterator[Prediction]:
        """The same, one after the other, holding one batch in memory."""
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        images = iter(images)
        while batch := list(islice(images, self.batch_size)):
            yield from self._predict_batch(batch, min(top_k, len(self.class_names)))

    def _predict_batch(self, images: list[ImageLike], top_k: int) -> list[Prediction]:
        results: list[Prediction | None] = []
        tensors = []
        for image in images:
            try:
                tensors.append(self._transform(_as_rgb(image)))
                results.append(None)
            except UnreadableImageError as error:
                results.append(Prediction(_source(image), [], [], error))
        if not tensors:
            return results
        with torch.inference_mode():
            batch = torch.stack(tensors).to(self.device, memory_format=torch.channels_last)
            logits = self.model(batch).float()
            probabilities = (logits.sigmoid() if self.multi_label else logits.softmax(-1)).cpu()  # (B, classes)
        if not probabilities.isfinite().all():
            raise RuntimeError("the model gives non-finite values (nan or inf): its weights are damaged or diverged")
        tops = iter(zip(*probabilities.topk(top_k), strict=True))
        for place, image in enumerate(images):
            if results[place] is None:
                values, indices = next(tops)
                labels = [self.class_names[index] for index in indices.tolist()]
                results[place] = Prediction(_source(image), labels, values.tolist())
        return results


def _as_rgb(image: ImageLike) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
            raise TypeError(
                "an array must be uint8 of shape (H, W), (H, W, 3) or (H, W, 4), "
                f"got {image.dtype} of shape {image.shape}"
            )
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        return convert_image(image)
    if not isinstance(image, str | Path):
        raise TypeError(f"an image must be a path, a PIL image or a uint8 array, got {type(image).__name__}")
    return read_image(image)


def _source(image: ImageLike) -> str:
    return str(image) if isinstance(image, str | Path) else ""
