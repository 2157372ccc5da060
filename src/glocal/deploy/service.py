"""The service without its addresses: from the images of a request to results or embeddings."""

import asyncio
import base64
import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from glocal.data.batch import Batch, Example
from glocal.data.geometry import Geometry
from glocal.data.image import UnreadableImageError, decode_image
from glocal.data.prepare import Prepare
from glocal.data.preprocessing import Preprocessing
from glocal.data.repair import START_OF_SCAN, segments
from glocal.deploy.batching import Batcher, BusyError
from glocal.deploy.config import ServeConfig
from glocal.deploy.engine import compile
from glocal.deploy.graph import has_embedding, with_embedding
from glocal.deploy.uploads import read_images
from glocal.device import to_cpu
from glocal.errors import InvalidValueError, MissingExtraError
from glocal.tasks.loading import check_finite
from glocal.tasks.task import Result, Trained

try:
    from fastapi import HTTPException, Request
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
    from starlette.requests import ClientDisconnect
except ImportError:
    raise MissingExtraError("a service needs FastAPI: pip install 'glocal[serve]'") from None

PICTURE = 640  # pixels of the longer side
READERS = 2  # threads that decode images
# Each scan of a JPEG covers all pixels: a file of 140 kB with 1,000 scans takes 20 s. Encoders write 10 scans.
MAX_SCANS = 64


class Computed(NamedTuple):
    """What is computed for an image. outputs: an entry of each output of the task; embedding: if the model has one."""

    outputs: list[Tensor]
    geometry: Geometry
    embedding: Tensor | None = None


class Service:
    """Reads the images of a request, computes them in batches, and makes the answer, for any task."""

    def __init__(self, config: ServeConfig, trained: Trained):
        self.config = config
        self.trained = trained
        self.names = trained.descriptions
        self.preprocessing = Preprocessing(**trained.preprocessing)
        if self.preprocessing.bands is not None:
            raise InvalidValueError(f"the model takes {self.preprocessing.bands}, and a service gets RGB images")
        self.prepare = Prepare(self.preprocessing)
        self.embeds = has_embedding(trained)
        model = with_embedding(trained)
        self.engine = compile(model, config.engine, self.preprocessing.fixed_size, config.threads)
        self.readers = ThreadPoolExecutor(READERS, "glocal-images")
        self.registry = CollectorRegistry()
        metric = {"registry": self.registry}
        self.requests = Counter("glocal_requests", "Requests answered", ["path", "code"], **metric)
        self.seconds = Histogram("glocal_request_seconds", "Time to the answer", ["path"], **metric)
        self.sizes = Histogram(
            "glocal_batch_images", "Images computed together", buckets=[2**i for i in range(8)], **metric
        )
        waiting = Gauge("glocal_images_waiting", "Images accepted and not yet answered", **metric)
        self.batcher = Batcher(
            self._compute, config.max_batch, config.max_wait_ms / 1000, config.max_queue, self.sizes.observe
        )
        waiting.set_function(lambda: self.batcher.accepted)

    def _compute(self, examples: list[Example]) -> list[Computed]:
        batch, embeddings = Batch.of(examples), []

        def compute(images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
            tensors = [check_finite(tensor) for tensor in self.engine(images, sizes)]
            if self.embeds:
                embeddings.append(tensors.pop())
            return tensors

        outputs = to_cpu(self.trained.task.predict(compute, batch, self.trained.task_args))
        rows = zip(*outputs, strict=True)
        vectors = embeddings[0] if self.embeds else [None] * len(examples)
        return [Computed(list(row), *more) for row, *more in zip(rows, batch.geometry, vectors, strict=True)]

    def result(self, computed: Computed, top_k: int) -> Result:
        """The task's result for an image."""
        outputs = [output[None] for output in computed.outputs]
        return self.trained.task.results(outputs, [computed.geometry], self.trained, top_k)[0]

    def _read(self, content: bytes, name: str) -> Example:
        if content.startswith(b"\xff\xd8") and _scans(content) > MAX_SCANS:
            raise UnreadableImageError(name, f"a JPEG of more than {MAX_SCANS} scans")
        return self.prepare(decode_image(content, name, self._refusal))

    def _refusal(self, image: Image.Image) -> str | None:
        """Why an image is refused before it is decoded; None if it is accepted."""
        megapixels = image.width * image.height / 1e6
        if megapixels > self.config.max_megapixels:
            return f"{megapixels:.1f} megapixels, more than {self.config.max_megapixels:g}"
        one_photo = image.format in ("MPO", "HEIF")  # a phone's photo, with further images that belong to it
        if getattr(image, "is_animated", False) and not one_photo:
            return "an animation, or several pages: send one of them"
        return None

    async def results(self, images: list[tuple[str, bytes]]) -> list[Computed]:
        """What the model computes for each image. images: (name, content of the file)."""
        self.batcher.accept(len(images))
        tasks = [self._begin(*image) for image in images]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:  # the failure of an image ends the request
            for task in tasks:
                task.cancel()
            raise

    def _begin(self, name: str, content: bytes) -> asyncio.Future:
        """The result for an image; its place is free when nobody waits for the result and no thread reads the image."""
        loop = asyncio.get_running_loop()
        reading = self.readers.submit(self._read, content, name)
        release = partial(loop.call_soon_threadsafe, self.batcher.release, 1)
        task = asyncio.ensure_future(self._result(reading))
        task.add_done_callback(lambda _: reading.add_done_callback(lambda _: release()))
        return task

    async def _result(self, reading: Future) -> Computed:
        return await self.batcher.submit(await asyncio.wrap_future(reading))

    async def answer(self, request: Request, show: Callable[[Computed, bytes], dict]) -> dict:
        """The body of the answer; HTTPException if the request is wrong or takes too long.

        show: makes an image's part of the answer from what the model computes and the content of the file, in a thread:
        masks and pictures take long.
        """
        images: list[tuple[str, bytes]] = []

        async def found() -> list[Computed]:
            images.extend(await read_images(request, self.config.max_images))
            return await self.results(images)

        try:
            results = await asyncio.wait_for(found(), self.config.timeout)
        except ClientDisconnect:
            raise HTTPException(400, "the request ended early") from None
        except UnreadableImageError as error:
            raise HTTPException(422, str(error)) from None
        except BusyError as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from None
        except (TimeoutError, asyncio.TimeoutError):  # two types until Python 3.11
            code, what = (504, "no answer") if images else (408, "the request did not arrive")
            raise HTTPException(code, f"{what} within {self.config.timeout:g} seconds") from None

        def shown() -> list[dict]:
            pairs = zip(images, results, strict=True)
            return [{"name": name, **show(result, content)} for (name, content), result in pairs]

        return {"model": self.trained.name, "results": await asyncio.to_thread(shown)}

    def pictures(self, content: bytes, result: Result) -> dict[str, str | None]:
        """For the page, as data: addresses: the image with the result drawn on it, or the upright image and an overlay.

        Both are None if the task has no drawing of its own.
        """
        overlay = result.overlay()
        if overlay is None and type(result).draw is Result.draw:
            return {"picture": None, "overlay": None}
        picture = decode_image(content, "", self._refusal)
        if overlay is None:
            picture = result.draw(picture)
        else:
            overlay.thumbnail((PICTURE, PICTURE), Image.Resampling.NEAREST)  # no colours between those of the legend
        picture.thumbnail((PICTURE, PICTURE))
        addresses = {"picture": _address(picture, "JPEG", quality=85)}
        return {**addresses, "overlay": None if overlay is None else _address(overlay, "PNG")}


def _address(image: Image.Image, kind: str, **options) -> str:
    """An image as a data: address."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _scans(jpeg: bytes) -> int:
    return sum(marker == START_OF_SCAN for marker, _, _ in segments(jpeg))
