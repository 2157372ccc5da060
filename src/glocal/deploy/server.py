"""A classifier as a service: FastAPI in front, a `Batcher` and an engine behind."""

import asyncio
import base64
import binascii
import json
import logging
import math
import re
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files

import torch
from PIL import Image
from torch import Tensor

from glocal.data.image import UnreadableImageError, decode_image
from glocal.data.preprocessing import Preprocessing
from glocal.deploy.batching import Batcher, BusyError
from glocal.deploy.config import ServeConfig
from glocal.deploy.engine import compile
from glocal.deploy.graph import LogitsAndEmbedding
from glocal.tasks.classifier import Classifier, load_classifier

try:
    import starlette.exceptions
    import uvicorn
    from fastapi import FastAPI, HTTPException, Query, Request
    from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from starlette.datastructures import UploadFile
    from starlette.requests import ClientDisconnect
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError:
    raise ImportError("a service needs FastAPI: pip install 'glocal[serve]'") from None

log = logging.getLogger(__name__)

PATHS = ("/", "/predict", "/embed", "/health", "/metrics", "/docs", "/openapi.json")  # metrics call others "other"
READERS = 2  # threads that decode images
# Each scan of a JPEG goes over all of its pixels: a file of 140 kB with 1,000 of them takes 20 s. Encoders write 10.
MAX_SCANS = 64
MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")  # in a JPEG: of a segment with a length, or the end
# What a browser or a client sends; in the description of the requests.
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "base64"}}},
                }
            },
        },
    }
}


class Service:
    """What is behind the addresses: images in, probabilities or embeddings out."""

    def __init__(self, config: ServeConfig, classifier: Classifier):
        self.config = config
        self.classifier = classifier
        self.names = classifier.descriptions
        preprocessing = Preprocessing(**classifier.preprocessing)
        self.transform = preprocessing.transform()
        model = LogitsAndEmbedding(classifier.model)
        self.engine = compile(model, config.engine, preprocessing.input_size, config.threads)
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

    def _compute(self, images: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        logits, embeddings = self.engine(torch.stack(images))
        return list(zip(self.classifier.probabilities(logits), embeddings, strict=True))

    def _read(self, content: bytes, name: str) -> Tensor:
        if content.startswith(b"\xff\xd8") and _scans(content) > MAX_SCANS:
            raise UnreadableImageError(name, f"a JPEG of more than {MAX_SCANS} scans")
        return self.transform(decode_image(content, name, self._against))

    def _against(self, image: Image.Image) -> str | None:
        """What speaks against an image, before it is decoded."""
        megapixels = image.width * image.height / 1e6
        if megapixels > self.config.max_megapixels:
            return f"{megapixels:.1f} megapixels, more than {self.config.max_megapixels:g}"
        one_photo = image.format in ("MPO", "HEIF")  # a phone's, with what belongs to it
        if getattr(image, "is_animated", False) and not one_photo:
            return "an animation, or several pages: send one of them"
        return None

    async def results(self, images: list[tuple[str, bytes]]) -> list[tuple[Tensor, Tensor]]:
        """Probabilities and embedding of each image, (name, content of its file)."""
        self.batcher.accept(len(images))
        tasks = [self._begin(*image) for image in images]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:  # one image is enough
            for task in tasks:
                task.cancel()
            raise

    def _begin(self, name: str, content: bytes) -> asyncio.Future:
        """The result for one image; its place is free again when nobody waits for it and no thread reads it."""
        loop = asyncio.get_running_loop()
        reading = self.readers.submit(self._read, content, name)
        release = partial(loop.call_soon_threadsafe, self.batcher.release, 1)
        task = asyncio.ensure_future(self._result(reading))
        task.add_done_callback(lambda _: reading.add_done_callback(lambda _: release()))
        return task

    async def _result(self, reading: Future) -> tuple[Tensor, Tensor]:
        return await self.batcher.submit(await asyncio.wrap_future(reading))

    async def _answer(self, request: Request) -> tuple[list[str], list[tuple[Tensor, Tensor]]]:
        images = await _images(request, self.config.max_images)
        return [name for name, _ in images], await self.results(images)

    async def answer(self, request: Request, show: Callable[[Tensor, Tensor], dict]) -> dict:
        """The body of the answer; HTTPException for what is wrong with a request, or with the time."""
        try:
            names, results = await asyncio.wait_for(self._answer(request), self.config.timeout)
        except ClientDisconnect:
            raise HTTPException(400, "the request ended early") from None
        except UnreadableImageError as error:
            raise HTTPException(422, str(error)) from None
        except BusyError as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from None
        except (TimeoutError, asyncio.TimeoutError):  # two types until Python 3.11
            raise HTTPException(504, f"no answer within {self.config.timeout:g} seconds") from None
        shown = [{"name": name, **show(*result)} for name, result in zip(names, results, strict=True)]
        return {"model": self.classifier.name, "results": shown}


def _scans(jpeg: bytes) -> int:
    count, place = 0, 2
    while (marker := MARKER.search(jpeg, place)) and marker[0] != b"\xff\xd9":  # what follows the end is not decoded
        count += marker[0] == b"\xff\xda"
        place = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
    return count


async def _images(request: Request, most: int) -> list[tuple[str, bytes]]:
    """The names and contents of the files in a request; HTTPException for what is none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return await asyncio.to_thread(_images_in_json, await request.body(), most)  # it may take tenths of a second
    if kind == "multipart/form-data":
        try:
            async with request.form(max_files=most, max_fields=most) as form:
                uploads = [upload for _, upload in form.multi_items() if isinstance(upload, UploadFile)]
                _check_count(len(uploads), most)
                return [(_shown(upload.filename or "image"), await upload.read()) for upload in uploads]
        except starlette.exceptions.HTTPException as error:  # of a form that cannot be read
            if str(error.detail).startswith("Too many files"):  # there is no other way to know
                raise HTTPException(413, f"no more than {most} images are taken in one request") from None
            raise
    raise HTTPException(415, "send multipart/form-data or application/json")


def _shown(name: str) -> str:
    """A name that JSON can hold: a form may say that its names are in any of Python's encodings."""
    return name.encode("utf-8", "backslashreplace").decode()


def _images_in_json(content: bytes, most: int) -> list[tuple[str, bytes]]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is no JSON") from None
    encoded = body.get("images") if isinstance(body, dict) else None
    encoded = [encoded] if isinstance(encoded, str) else encoded
    if not isinstance(encoded, list) or not all(isinstance(text, str) for text in encoded):
        raise HTTPException(422, 'the body must be {"images": ["base64 of a file", …]}')
    _check_count(len(encoded), most)
    return [(f"image {place}", _from_base64(text, place)) for place, text in enumerate(encoded)]


def _check_count(count: int, most: int) -> None:
    if not count:
        raise HTTPException(422, "there is no image in the request")
    if count > most:
        raise HTTPException(413, f"{count} images in one request, no more than {most} are taken")


def _from_base64(text: str, place: int) -> bytes:
    try:
        encoded = text.rpartition("base64,")[2]  # also of a data: address
        return base64.b64decode("".join(encoded.split()), validate=True)  # of lines, as programs write it
    except (binascii.Error, ValueError):
        raise HTTPException(422, f"image {place} is no base64") from None


class Measure:
    """Counts the answers, and how long they took."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"] if scope["path"] in PATHS else "other"
        start, code = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            self.service.requests.labels(path, str(code)).inc()
            self.service.seconds.labels(path).observe(time.perf_counter() - start)


class LimitBodies:
    """Refuses bodies that are too large (413), before they are read where their length is announced, or too many (503).

    most: bytes of one body. at_once: requests whose bodies may be in memory.
    """

    def __init__(self, app: ASGIApp, most: int, at_once: int):
        self.app = app
        self.most = most
        self.at_once = at_once
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self.most:
            return await self._too_large(scope, receive, send, more=True)
        if scope["method"] != "POST":  # nothing else reads one
            return await self.app(scope, receive, send)
        if self.open >= self.at_once:
            answer = JSONResponse(
                {"detail": f"{self.open} requests are being answered"}, 503, {"Retry-After": "1", "Connection": "close"}
            )
            return await self._refuse(answer, scope, receive, send, more=True)
        read, more = 0, True
        self.open += 1

        async def counted() -> Message:
            nonlocal read, more
            message = await receive()
            read += len(message.get("body", b""))
            more = message.get("more_body", False)
            if read > self.most:
                raise _TooLarge
            return message

        try:
            await self.app(scope, counted, send)
        except _TooLarge:
            await self._too_large(scope, receive, send, more)
        finally:
            self.open -= 1

    async def _too_large(self, scope: Scope, receive: Receive, send: Send, more: bool) -> None:
        answer = JSONResponse(
            {"detail": f"the request is larger than {self.most / 1e6:g} MB"}, 413, {"Connection": "close"}
        )
        await self._refuse(answer, scope, receive, send, more)

    async def _refuse(self, answer: ASGIApp, scope: Scope, receive: Receive, send: Send, more: bool) -> None:
        dropped = 0
        while more and dropped < 4 * self.most:  # a client that is still sending sees no answer
            message = await receive()
            dropped += len(message.get("body", b""))
            more = message.get("more_body", False)
        await answer(scope, receive, send)


class _TooLarge(Exception):
    pass


def create_app(config: ServeConfig, classifier: Classifier | None = None) -> FastAPI:
    """The service as an ASGI application."""
    service = Service(config, classifier or load_classifier(config.checkpoint, config.model))

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        service.batcher.start()
        yield
        await service.batcher.close()
        await asyncio.to_thread(service.readers.shutdown)

    app = FastAPI(title=f"glocal: {service.classifier.name}", lifespan=lifespan, docs_url="/docs")
    app.state.service = service

    @app.post("/predict", openapi_extra=BODY)
    async def predict(request: Request, top_k: int = Query(5, ge=1)):
        """The most probable classes of each image."""

        def show(probabilities: Tensor, embedding: Tensor) -> dict:
            values, indices = probabilities.topk(min(top_k, len(service.names)))
            labels = [service.names[index] for index in indices.tolist()]
            return {"labels": labels, "probabilities": values.tolist()}

        return await service.answer(request, show)

    @app.post("/embed", openapi_extra=BODY)
    async def embed(request: Request):
        """The features of each image before the classifier."""
        return await service.answer(request, lambda probabilities, embedding: {"embedding": embedding.tolist()})

    @app.get("/health")
    async def health():
        """Whether the service answers, and with what."""
        return {
            "status": "ok",
            "model": service.classifier.name,
            "engine": service.engine.name,
            "classes": len(service.names),
        }

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics():
        """Counts and times in Prometheus' format."""
        return PlainTextResponse(generate_latest(service.registry), media_type="text/plain; version=0.0.4")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page():
        return HTMLResponse(files("glocal.deploy").joinpath("page.html").read_text(encoding="utf-8"))

    app.add_middleware(LimitBodies, most=int(config.max_megabytes * 1e6), at_once=config.max_queue)
    app.add_middleware(Measure, service=service)
    return app


def serve(config: ServeConfig) -> None:
    """Serve until a signal comes; then finish what was accepted."""
    try:
        listening = socket.create_server((config.host, config.port))
    except OSError as error:
        raise RuntimeError(f"cannot listen on {config.host}, port {config.port}: {error.strerror}") from None
    with listening:
        app = create_app(config)
        host, port = listening.getsockname()[:2]
        log.warning("listening on http://%s:%d, with a page to try it", host, port)
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=math.ceil(config.timeout) + 1)
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again when it has finished
            signal.signal(number, lambda *args: None)
        uvicorn.Server(settings).run(sockets=[listening])
