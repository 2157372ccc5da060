"""Predicting images with a trained model, for any task."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from glocal.data.bands import Bands
from glocal.data.batch import Batch, Example
from glocal.data.image import StoredImage, UnreadableImageError, convert_image, read_image
from glocal.data.prepare import Pixels, Prepare
from glocal.data.preprocessing import Preprocessing
from glocal.data.raster import Raster, Scene, scene_bands
from glocal.data.tiles import Tile, is_large, large_images, tiles_of
from glocal.data.video import Frame
from glocal.deploy.adaptive import Adaptive
from glocal.deploy.engine import choose, compile
from glocal.deploy.graph import has_embedding, with_embedding
from glocal.device import resolve_device, to_cpu
from glocal.errors import InvalidTypeError, InvalidValueError
from glocal.tasks.loading import check_finite, load_trained
from glocal.tasks.task import Result

BATCH_SIZE = 32
ImageLike = str | Path | Image.Image | np.ndarray | StoredImage | Tile | Raster


@dataclass(frozen=True)
class Embedding:
    """The features of an image before the classifier, (D,) float32.

    source: the image's path or name, "" for an image from memory. error: why the image is unreadable; vector is then
    None. frame, seconds: of an image of a video, its number and time.
    """

    source: str
    vector: np.ndarray | None
    error: UnreadableImageError | None = None
    frame: int | None = None
    seconds: float | None = None


class Predictor:
    """Predicts or embeds images. The task of the model decides what a result is.

    Args:
        checkpoint: a run folder or file of `glocal train`, or a file of the authors' or timm's weights for `model`.
        model: name of the model; without a checkpoint, its published weights are used.
        device: "auto", "cpu", "cuda", …
        batch_size: images per forward pass; None: 32, or what the task says.
        engine: what computes on a CPU, see `glocal.deploy.compile`; other devices use torch. "auto" begins with torch,
            and compiles the model when the number of images pays for it; a model in the cache is used at once.
        threads: cores that read images, and that compute on a CPU; by default all.
        tile: cut images whose longer side has more pixels into tiles of this side, and compute each like an image of
            its own; the task joins the results. Pillow's limit against decompression bombs is then lifted.
        overlap: pixels that neighbouring tiles have in common.

    Threads read and preprocess images while the previous batch is computed; at most two batches are in memory. A model
    is compiled separately for predictions and for embeddings.

    Raises FileNotFoundError or ValueError if the weights are missing or do not fit, ImportError if the engine is not
    installed.

    >>> predictor = Predictor("runs/digits-transxnet_pico")
    >>> predictor(["three.png"], top_k=1)[0].labels
    ['3']
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        model: str | None = None,
        device: str = "auto",
        batch_size: int | None = None,
        engine: str = "auto",
        threads: int | None = None,
        tile: int | None = None,
        overlap: int = 0,
    ):
        if batch_size is not None and batch_size < 1:
            raise InvalidValueError(f"batch_size must be at least 1, got {batch_size}")
        self.device = resolve_device(device)
        on_cpu = self.device.type == "cpu"
        if not on_cpu and engine not in ("auto", "torch"):
            raise InvalidValueError(f"{engine} computes on a CPU, not on {self.device}")
        chosen = choose(engine)
        self.engine = chosen if on_cpu and engine != "auto" else "torch"  # the engine of the last batch
        self._engine_asked = engine
        self.threads = threads
        self.tile, self.overlap = tile, overlap
        self._to_come = 0
        self.trained = load_trained(checkpoint, model)
        self.model = self.trained.model.to(self.device, memory_format=torch.channels_last).eval()
        self.class_names = self.trained.descriptions
        self.batch_size = batch_size or self.trained.task.images_at_once or BATCH_SIZE
        self.preprocessing = Preprocessing(**self.trained.preprocessing)
        self._prepare_pixels = Prepare(self.preprocessing)

    def __call__(self, images: ImageLike | Iterable[ImageLike], top_k: int = 5) -> list[Result]:
        """A result for each image: paths, PIL images, uint8 arrays (H, W), (H, W, 3) or (H, W, 4), or stored images.

        Raises TypeError for anything else, RuntimeError if the model gives non-finite values.
        """
        return list(self.stream(images, top_k))

    def stream(self, images: ImageLike | Iterable[ImageLike], top_k: int = 5) -> Iterator[Result]:
        """The same results as an iterator, which takes images from the iterable up to two batches ahead."""
        if top_k < 1:
            raise InvalidValueError(f"top_k must be at least 1, got {top_k}")
        yield from (self._whole if self.tile is None else self._in_tiles)(images, top_k)

    def _whole(self, images: ImageLike | Iterable[ImageLike], top_k: int) -> Iterator[Result]:
        task = self.trained.task

        def compute(batch: Batch) -> list[Result]:
            outputs = task.predict(self._outputs, batch, self.trained.task_args)
            return task.results(to_cpu(outputs), batch.geometry, self.trained, top_k)

        for origin, result in self._rows(images, compute):
            if isinstance(result, UnreadableImageError):
                yield task.result_class(error=result, **origin)
            else:
                yield replace(result, **origin)

    def _in_tiles(self, images: ImageLike | Iterable[ImageLike], top_k: int) -> Iterator[Result]:
        """The results of images one by one; a large one is cut, and its tiles are computed like images of their own."""
        task = self.trained.task
        if isinstance(images, ImageLike) or not isinstance(images, Iterable):
            images = [images]
        for image in images:
            origin = _origin(image)
            try:
                with self._to_cut(image) as pixels:
                    tiles = list(tiles_of(pixels, self.tile, self.overlap, origin["source"]))
                    found = map(_readable, self._whole(tiles, top_k))
                    if is_large(pixels, self.tile):
                        result = task.join(zip(tiles, found, strict=True), pixels.size[::-1], self.trained)
                    else:
                        (result,) = found
            except UnreadableImageError as error:
                yield task.result_class(error=error, **origin)
            else:
                yield replace(result, **origin)

    @contextmanager
    def _to_cut(self, image: ImageLike) -> Iterator[Image.Image | Scene]:
        """An image whose parts become tiles: of a raster, and of a georeferenced file, they are read one by one."""
        bands = self.preprocessing.bands
        if bands is None and isinstance(image, str | Path):
            bands = scene_bands(image)
        if bands is None:
            with large_images():
                pixels = _as_rgb(image)
            yield pixels
        elif isinstance(image, str | Path | Raster):
            with Scene(str(image), bands) as scene:
                yield scene
        else:
            raise InvalidTypeError("--tile reads rasters of the disk: give their paths")

    def embed(self, images: ImageLike | Iterable[ImageLike]) -> Iterator[Embedding]:
        """An iterator over the features of each image before the classifier; see `stream`."""
        self._check_embedding()

        def compute(batch: Batch) -> Tensor:
            return check_finite(self._outputs_and_embedding(batch.images)[-1].float()).cpu()

        for origin, row in self._rows(images, compute):
            failed = isinstance(row, UnreadableImageError)
            yield Embedding(vector=None if failed else row.numpy(), error=row if failed else None, **origin)

    def expect(self, images: int) -> None:
        """Announce the number of images before an iterable of unknown length: the engine "auto" decides by it."""
        self._to_come = images

    @cached_property
    def embedding_size(self) -> int:
        """The length of an embedding; ValueError if the model's features are not a vector."""
        self._check_embedding()
        image = torch.zeros(1, *self.trained.preprocessing["input_size"], device=self.device)
        with torch.inference_mode():
            shape = with_embedding(self.trained)(image)[-1].shape
        if len(shape) != 2:
            raise InvalidValueError(f"{self.trained.name} has no vector before its classifier, but {tuple(shape[1:])}")
        return shape[1]

    def _check_embedding(self) -> None:
        if not has_embedding(self.trained):
            task = self.trained.task.name
            raise InvalidValueError(f"{self.trained.name} was trained for {task}: it has no vector before a classifier")

    def _rows(
        self, images: ImageLike | Iterable[ImageLike], compute: Callable[[Batch], Iterable]
    ) -> Iterator[tuple[dict[str, Any], Any | UnreadableImageError]]:
        """The origin of each image, and its row of `compute`'s result for a batch, or why the image is unreadable."""
        if isinstance(images, ImageLike) or not isinstance(images, Iterable):
            images = [images]
        if isinstance(images, Sized):
            self.expect(len(images))
        images = iter(images)
        ahead: deque[tuple[ImageLike, Future]] = deque()
        failure: Exception | None = None  # of the iterable; raised after the results of the images before
        with ThreadPoolExecutor(min(8, self.threads or os.cpu_count() or 1), "glocal-images") as readers:
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
                    yield from self._rows_of_batch(batch, compute)
            finally:
                readers.shutdown(wait=False, cancel_futures=True)
        if not isinstance(failure, StopIteration):
            raise failure

    def _rows_of_batch(
        self, images: list[tuple[ImageLike, Future]], compute: Callable[[Batch], Iterable]
    ) -> list[tuple[dict[str, Any], Any | UnreadableImageError]]:
        results: list[tuple[dict[str, Any], UnreadableImageError | None]] = []
        examples = []
        for image, prepared in images:
            try:
                examples.append(prepared.result())
                results.append((_origin(image), None))
            except UnreadableImageError as error:
                results.append((_origin(image), error))
        if not examples:
            return results
        with torch.inference_mode():
            rows = iter(compute(Batch.of(examples)))
        self._to_come = max(0, self._to_come - len(images))
        return [(origin, next(rows) if error is None else error) for origin, error in results]

    def _prepare(self, image: ImageLike) -> Example:
        return self._prepare_pixels(_as_pixels(image, self.preprocessing.bands))

    @cached_property
    def _outputs(self) -> Callable[[Tensor], Tensor | list[Tensor]]:
        return self._compiled(self.trained.task.outputs(self.model))

    @cached_property
    def _outputs_and_embedding(self) -> Callable[[Tensor], list[Tensor]]:
        return self._compiled(
            with_embedding(self.trained)
        )  # the same module as in the service, so that both share the compiled model

    def _compiled(self, model: nn.Module) -> Callable:
        if self.device.type != "cpu":
            return partial(_compute_on, self.device, model)
        size = self.preprocessing.fixed_size
        if self._engine_asked == "auto":
            adaptive = Adaptive(model, size, self.threads, lambda: self._to_come)

            def compute_and_note(images: Tensor, sizes: Tensor | None = None):
                results = adaptive(images, sizes)
                self.engine = adaptive.name
                return results

            return compute_and_note
        compute = compile(model, self._engine_asked, size, self.threads)
        self.engine = compute.name
        return compute


def _compute_on(device: torch.device, model: nn.Module, images: Tensor, *sizes: Tensor) -> Tensor | list[Tensor]:
    return model(images.to(device, memory_format=torch.channels_last), *(one.to(device) for one in sizes))


def _readable(result: Result) -> Result:
    """The result of a tile; raises UnreadableImageError if the tile could not be read."""
    if result.error is not None:
        raise result.error
    return result


def _as_pixels(image: ImageLike, bands: Bands | None) -> Pixels:
    """The image as RGB, or as the bands (H, W, C) that the model takes."""
    if isinstance(image, Tile | Raster):
        pixels = image.load()
        if bands is None and isinstance(pixels, np.ndarray):
            return Image.fromarray(np.ma.filled(pixels, 255))  # white, as transparent pixels
        return pixels
    if bands is None:
        return _as_rgb(image)
    if isinstance(image, str | Path):
        return Raster(str(image), bands).load()
    if not isinstance(image, np.ndarray):
        raise InvalidTypeError(f"the model takes {bands}: a path, or an array (H, W, {len(bands.numbers)})")
    return image


def _as_rgb(image: ImageLike) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
            raise InvalidTypeError(
                "an array must be uint8 of shape (H, W), (H, W, 3) or (H, W, 4), "
                f"got {image.dtype} of shape {image.shape}"
            )
        image = Image.fromarray(image)
    if isinstance(image, Image.Image):
        return convert_image(image)
    if isinstance(image, StoredImage):
        return image.load()
    if not isinstance(image, str | Path):
        raise InvalidTypeError(f"an image must be a path, a PIL image or a uint8 array, got {type(image).__name__}")
    return read_image(image)


def _origin(image: ImageLike) -> dict[str, Any]:
    """What a result says of where its image is from."""
    source = str(image) if isinstance(image, str | Path | StoredImage | Tile | Raster) else ""
    of_video = {"frame": image.number, "seconds": image.seconds} if isinstance(image, Frame) else {}
    return {"source": source, **of_video}
