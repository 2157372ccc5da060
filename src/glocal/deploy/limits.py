"""ASGI middleware of the service: known hosts, limits of bodies and time, headers and metrics of answers."""

import asyncio
import ipaddress
import json
import time
from collections.abc import Sequence
from http import HTTPStatus

from glocal.errors import MissingExtraError

try:
    from fastapi import HTTPException
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError:
    raise MissingExtraError("a service needs FastAPI: pip install 'glocal[serve]'") from None
from glocal.deploy.service import Service

# The metrics count all other paths as "other".
PATHS = ("/", "/predict", "/show", "/embed", "/health", "/metrics", "/docs", "/openapi.json")
QUIET = 1.0  # seconds without a byte, after which the rest of a refused body is not awaited
ROOM = 256_000_000  # bytes of all bodies in memory; at least eight of the largest


class RootPath:
    """Sets the path under which a proxy shows the service, whether or not the proxy removes it from the requests."""

    def __init__(self, app: ASGIApp, path: str):
        self.app = app
        self.path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope | {"root_path": self.path}, receive, send)


class AnswerMetrics:
    """Counts the answers and measures their time."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        path = path if path in PATHS else "other"
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


class AnswerHeaders:
    """Adds the security headers to every answer, and gives every error the form {"detail": text}.

    Starlette's own middleware and the router answer some errors as plain text.
    """

    def __init__(self, app: ASGIApp, page: str):
        """page: the Content-Security-Policy of the page. Other answers may run nothing, but for /docs of FastAPI."""
        self.app = app
        self.policies = {"/": page, "/docs": "frame-ancestors 'none'"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        policy = self.policies.get(scope["path"].removeprefix(scope.get("root_path", "")), "default-src 'none'")
        plain: Message | None = None  # the start of an error in plain text
        text = b""

        async def dressed(message: Message) -> None:
            nonlocal plain, text
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Content-Security-Policy"] = policy
                if message["status"] >= 400 and not headers.get("content-type", "").startswith("application/json"):
                    plain = message
                    return
            elif plain is not None:
                text += message.get("body", b"")
                if message.get("more_body", False):
                    return
                detail = text.decode(errors="replace") or HTTPStatus(plain["status"]).phrase
                message = {"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()}
                headers = MutableHeaders(scope=plain)
                headers["Content-Type"] = "application/json"
                headers["Content-Length"] = str(len(message["body"]))
                await send(plain)
            await send(message)

        await self.app(scope, receive, dressed)


class KnownHosts:
    """Refuses requests for unknown hosts (400): a foreign page may let its own name point to this machine.

    IP addresses are accepted: they are not names that could point here. names: as for `TrustedHostMiddleware`, also
    "*.example.com".
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]):
        self.app = app
        self.named = TrustedHostMiddleware(app, names, www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        host = Headers(scope=scope).get("host", "")
        if _is_address(host) or host == (scope.get("server") or ("",))[0]:
            return await self.app(scope, receive, send)
        await self.named(scope, receive, send)


def _is_address(host: str) -> bool:
    """Whether a Host header names an IP address, with a port or without."""
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit():
        host = name
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        return ipaddress.ip_address(host[1:-1] if bracketed else host).version == (6 if bracketed else 4)
    except ValueError:
        return False


class LimitBodies:
    """Refuses bodies that are too large (413), too slow (408), or too many (503).

    If a request announces a body that is too large, it is refused before the body is read. If an answer is sent before
    the whole body has arrived, the rest is read and dropped: a client that is still sending might miss the answer.

    Args:
        most: largest number of bytes of a body.
        patience: seconds between two parts of a body.
    """

    def __init__(self, app: ASGIApp, most: int, patience: float):
        self.app = app
        self.most = most
        self.patience = patience
        self.room = max(ROOM, 8 * most)
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "0")
        body = _Body(self, receive, more=announced != "0" or "transfer-encoding" in headers)

        async def followed(message: Message) -> None:
            if body.more and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
            if body.more and message["type"] == "http.response.body" and not message.get("more_body", False):
                await send(message | {"more_body": True})
                await body.drop()
                message = {"type": "http.response.body"}
            await send(message)

        app = self.app
        if not announced.isdigit() or int(announced[:20]) > self.most:
            app = body.refuse
        try:
            await app(scope, body.receive, followed)
        finally:
            self.held -= body.read


class _Body:
    """The body of a request, read in parts."""

    def __init__(self, limits: LimitBodies, receive: Receive, more: bool):
        self.limits = limits
        self.source = receive
        self.more = more
        self.read = 0

    async def receive(self) -> Message:
        if not self.more:
            return await self.source()  # the message that the client has gone
        try:
            message = await asyncio.wait_for(self.source(), self.limits.patience)
        except (TimeoutError, asyncio.TimeoutError):  # two types until Python 3.11
            raise HTTPException(408, f"no part of the body for {self.limits.patience:g} seconds") from None
        size = len(message.get("body", b""))
        self.more = message.get("more_body", False)
        self.read += size
        self.limits.held += size
        if self.read > self.limits.most:
            raise self.too_large()
        if self.limits.held > self.limits.room:
            raise HTTPException(503, "too many requests are being read", {"Retry-After": "1"})
        return message

    def too_large(self) -> HTTPException:
        return HTTPException(413, f"the request is larger than {self.limits.most / 1e6:g} MB")

    async def refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self.too_large()
        text = json.dumps({"detail": error.detail}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": error.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    async def drop(self) -> None:
        """Read and drop the rest, if it arrives at once and is at most four times the limit."""
        dropped, end = 0, time.monotonic() + self.limits.patience
        while self.more and dropped < 4 * self.limits.most and (left := end - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(self.source(), min(QUIET, left))
            except (TimeoutError, asyncio.TimeoutError):
                return
            dropped += len(message.get("body", b""))
            self.more = message.get("more_body", False)
