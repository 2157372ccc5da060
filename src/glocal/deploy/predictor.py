"""A trained classifier as a function of images."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from glocal.data.image import UnreadableImageError, convert_image, read_image
from glocal.data.preprocessing import Preprocessing
from glocal.deploy.engine import compile
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
        engine: what computes on a CPU, see `glocal.deploy.compile`; other devices have torch.

    Images are read and prepared by threads, while the batch before them is computed; no more than two batches are in
    memory.

    Raises FileNotFoundError or ValueError for weights that are missing or do not fit, ImportError for an engine that is
    not installed.

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
        engine: str = "auto",
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.device = resolve_device(device)
        on_cpu = self.device.type == "cpu"
        if not on_cpu and engine not in ("auto", "torch"):
            raise ValueError(f"{engine} computes on a CPU, not on {self.device}")
        self.classifier = load_classifier(checkpoint, model)
        self.model = self.classifier.model.to(self.device, memory_format=torch.channels_last).eval()
        size = tuple(self.classifier.preprocessing["input_size"])
        self._compute = compile(self.model, engine, size) if on_cpu else self._torch
        self.engine = self._compute.name if on_cpu else "torch"
        self.class_names = self.classifier.descriptions
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
        """The same, one after the other; images are taken from the iterable up to two batches ahead."""
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        images, top_k = iter(images), min(top_k, len(self.class_names))
        ahead: deque[tuple[ImageLike, Future]] = deque()
        failure: Exception | None = None  # of the iterable: raised after what it gave before
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "glocal-images") as readers:
            try:
                while True:
                    try:
                        while failure is None and len(ahead) < 2 * self.batch_size:
                            image = next(images)
                            ahead.append((image, readers.submit(self._prepare, image)))
                    except Exception as error:
                        failure = error
                    if not ahead:
                        break
                    batch = [ahead.popleft() for _ in range(min(self.batch_size, len(ahead)))]
                    yield from self._predict_batch(batch, top_k)
            finally:
                readers.shutdown(wait=False, cancel_futures=True)
        if not isinstance(failure, StopIteration):
            raise failure

    def _prepare(self, image: ImageLike) -> torch.Tensor:
        return self._transform(_as_rgb(image))

    def _torch(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images.to(self.device, memory_format=torch.channels_last)).float()

    def _predict_batch(self, images: list[tuple[ImageLike, Future]], top_k: int) -> list[Prediction]:
        results: list[Prediction | None] = []
        tensors = []
        for image, prepared in images:
            try:
                tensors.append(prepared.result())
                results.append(None)
            except UnreadableImageError as error:
                results.append(Prediction(_source(image), [], [], error))
        if not tensors:
            return results
        with torch.inference_mode():
            logits = self._compute(torch.stack(tensors))
            probabilities = self.classifier.probabilities(logits).cpu()  # (B, classes)
        tops = iter(zip(*probabilities.topk(top_k), strict=True))
        for place, (image, _) in enumerate(images):
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
