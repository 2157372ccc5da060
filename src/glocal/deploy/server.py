"""A trained model as a web service: FastAPI in front, a `Batcher` and an engine behind."""

import asyncio
import base64
import hashlib
import logging
import re
import socket
from contextlib import asynccontextmanager
from importlib.resources import files

from glocal.deploy.config import ServeConfig
from glocal.errors import MissingExtraError, WorkError
from glocal.tasks.loading import load_trained
from glocal.tasks.task import Trained

try:
    from fastapi import FastAPI, HTTPException, Query, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
    from prometheus_client import generate_latest
except ImportError:
    raise MissingExtraError("a service needs FastAPI: pip install 'glocal[serve]'") from None
from glocal.deploy import connections
from glocal.deploy.limits import AnswerHeaders, AnswerMetrics, KnownHosts, LimitBodies, RootPath
from glocal.deploy.schemas import Embeddings, Health, ShownResults, body, predictions, problems, problems_anywhere
from glocal.deploy.service import Computed, Service

log = logging.getLogger(__name__)


def create_app(config: ServeConfig, trained: Trained | None = None) -> FastAPI:
    """The service as an ASGI application."""
    service = Service(config, trained or load_trained(config.checkpoint, config.model))

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        service.batcher.start()
        yield
        await service.batcher.close()
        await asyncio.to_thread(service.readers.shutdown)

    app = FastAPI(
        title=f"glocal: {service.trained.name}",
        lifespan=lifespan,
        redoc_url=None,
        responses=problems_anywhere(400, 500),
        exception_handlers={RequestValidationError: _wrong_values, Exception: _failed},
    )
    app.state.service = service
    _add_inference_routes(app, service)
    _add_monitoring_routes(app, service)
    page = files("glocal.deploy").joinpath("page.html").read_text(encoding="utf-8")

    @app.head("/", include_in_schema=False)
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show_page():
        return HTMLResponse(page)

    app.add_middleware(LimitBodies, most=int(config.max_megabytes * 1e6), patience=config.idle_timeout)
    app.add_middleware(KnownHosts, names=config.known_hosts)
    app.add_middleware(AnswerHeaders, page=content_security_policy(page))
    app.add_middleware(AnswerMetrics, service=service)
    if config.root_path is not None:
        app.add_middleware(RootPath, path=config.root_path)
    return app


def _add_inference_routes(app: FastAPI, service: Service) -> None:
    described = {"openapi_extra": body(service.config.max_images), "responses": problems(408, 413, 415, 422, 503, 504)}

    task = service.trained.task

    @app.post(
        "/predict", response_model=predictions(task), description=f"What the model says: {task.summary}.", **described
    )
    async def predict(request: Request, top_k: int = Query(5, ge=1, include_in_schema=task.ranks)):
        if not task.ranks and "top_k" in request.query_params:
            raise HTTPException(422, f"top_k: the task {task.name} gives one answer for an image")

        def show(computed: Computed, content: bytes) -> dict:
            result = service.result(computed, top_k)
            return {name: getattr(result, name) for name in task.answer_fields}

        return await service.answer(request, show)

    @app.post("/show", include_in_schema=False)
    async def show(request: Request, top_k: int = Query(5, ge=1)) -> ShownResults:
        """The same for people: for the page."""

        def show(computed: Computed, content: bytes) -> dict:
            result = service.result(computed, top_k)
            return {"lines": [line._asdict() for line in result.lines()], **service.pictures(content, result)}

        return await service.answer(request, show)

    @app.post("/embed", include_in_schema=service.embeds, **described)
    async def embed(request: Request) -> Embeddings:
        """The features of each image before the classifier."""
        if not service.embeds:
            raise HTTPException(404, f"a model of the task {task.name} has no vector before a classifier")
        return await service.answer(request, lambda computed, content: {"embedding": computed.embedding.tolist()})


def _add_monitoring_routes(app: FastAPI, service: Service) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health", responses=problems(503))
    async def health() -> Health:
        """Whether the service answers, and with what."""
        if not service.batcher.works:
            raise HTTPException(503, "nobody computes any more")
        return {
            "status": "ok",
            "model": service.trained.name,
            "engine": service.engine.name,
            "classes": len(service.names),
        }

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics():
        """Counts and times in Prometheus' format."""
        return PlainTextResponse(generate_latest(service.registry), media_type="text/plain; version=0.0.4")


async def _wrong_values(request: Request, error: RequestValidationError) -> JSONResponse:
    """Wrong values in the form of all other errors: the name of each value, and what is wrong with it."""
    wrong = (f"{'.'.join(map(str, one['loc'][1:])) or 'body'}: {one['msg']}" for one in error.errors())
    return JSONResponse({"detail": "; ".join(wrong)}, 422)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """A failure of the service. Only the log has the traceback."""
    return JSONResponse({"detail": "Internal Server Error"}, 500)


def content_security_policy(page: str) -> str:
    """The policy that lets a browser run only the page's own scripts and styles, and ask only this service."""
    sources = ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    for kind in ("script", "style"):
        hashes = [
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        ]
        sources.append(f"{kind}-src {' '.join(hashes)}")
    return "; ".join([*sources, "img-src blob: data:", "connect-src 'self'"])


def serve(config: ServeConfig) -> None:
    """Serve until a signal arrives; then finish the accepted requests."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        listening = socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        raise WorkError(f"cannot listen on {config.host}, port {config.port}: {error.strerror}") from None
    with listening:
        app = create_app(config)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        log.warning("listening on http://%s:%d, with a page to try it", shown, port)
        connections.run(app, [listening], config.max_connections, config.idle_timeout, config.timeout)
