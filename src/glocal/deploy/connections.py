"""The server under the service: uvicorn, with limits for clients that send nothing, too slowly, or too much at once.

uvicorn's options do not cover these cases: it has no time limit for the head of a request; its limit of connections
counts idle connections and then refuses requests; and a second Ctrl-C aborts requests that are being answered.
"""

import json
import logging
import math
import signal
import time

from glocal.errors import MissingExtraError

try:
    import resource
except ImportError:  # Windows, where sockets are no file descriptors
    resource = None

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError:
    raise MissingExtraError("a service needs FastAPI: pip install 'glocal[serve]'") from None

HEAD = 16_384  # bytes of a request's first line and headers
QUEUE = 2048  # connections that the system keeps until they are accepted
FILES = 64  # descriptors for all but connections
LOGGED, PERIOD = 10, 60.0  # log lines of the same kind, per seconds
log = logging.getLogger(__name__)


class Connections:
    """The connections of a server: a limited number, and none waits for its client for ever.

    If the limit is reached, a new connection replaces the connection that has waited longest for its client. Clients
    that send no request therefore cannot keep out clients that do.

    Args:
        most: largest number of connections.
        patience: seconds for the head of a request, from the connection's beginning or the last answer.
        reading: seconds after which a client that reads nothing of its answer is dropped.
    """

    def __init__(self, most: int, patience: float, reading: float):
        self.most = most
        self.patience = patience
        self.reading = reading
        self.open: set[Connection] = set()
        self.waiting: dict[
            Connection, None
        ] = {}  # connections that wait for their client; the last is the one that was heard last

    def protocol(self, **arguments) -> "Connection":
        """The protocol object that uvicorn makes for every connection."""
        return Connection(self, **arguments)

    def enter(self, connection: "Connection") -> bool:
        """Whether a connection is accepted; if the limit is reached, a connection that waits is dropped for it."""
        if len(self.open) >= self.most:
            if not self.waiting:
                return False
            self.drop(next((one for one in self.waiting if one.all_taken), next(iter(self.waiting))))
        self.open.add(connection)
        return True

    def leave(self, connection: "Connection") -> None:
        self.open.discard(connection)
        self.waiting.pop(connection, None)

    def drop(self, connection: "Connection") -> None:
        self.leave(connection)
        connection.transport.abort()

    def heard(self, connection: "Connection") -> None:
        """Move a connection to the end of those that wait, after it has received or sent something."""
        self.waiting.pop(connection, None)
        if connection in self.open and connection.waits:
            self.waiting[connection] = None

    async def check(self) -> None:
        """Drop the connections whose time is over. Call it about once a second."""
        now = time.monotonic()
        for connection in [*self.open]:
            late = connection.waits_for_head and connection.all_taken and now - connection.since > self.patience
            if late or now - connection.taken() > self.reading:
                self.drop(connection)


class Connection(H11Protocol):
    """A connection that `Connections` watches."""

    def __init__(self, connections: Connections, **arguments):
        super().__init__(**arguments)
        self.all = connections
        self.since = self.last_taken = time.monotonic()  # when the wait for a head began; when the client last read
        self.unsent = 0

    @property
    def waits_for_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def waits(self) -> bool:
        """Whether the connection waits for a request, or for the rest of a request."""
        return self.waits_for_head or self.cycle.more_body

    @property
    def all_taken(self) -> bool:
        """Whether the system has taken all that was sent."""
        return self.transport.get_write_buffer_size() == 0

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        if self.all.enter(self):
            self.all.heard(self)
        else:
            log.warning("%d connections are being answered: another one was refused", self.all.most)
            self._refuse(503, "too many requests are being answered")

    def connection_lost(self, exc: Exception | None) -> None:
        self.all.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.all.heard(self)

    def on_response_complete(self) -> None:
        self.since = time.monotonic()
        super().on_response_complete()
        self.all.heard(self)

    def send_400_response(self, msg: str) -> None:
        """Answer in the form of the service's other errors; if an answer has begun, only close the connection."""
        if self.waits_for_head or not self.cycle.response_started:
            self._refuse(400, msg)
        else:
            self.transport.close()
        if self.cycle is not None:
            self.cycle.disconnected = True  # so that the application does not answer too

    def _refuse(self, status: int, detail: str) -> None:
        """Answer without the application, and close the connection."""
        body = json.dumps({"detail": detail}).encode()
        reason = {400: "Bad Request", 503: "Service Unavailable"}[status]
        head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        retry = "retry-after: 1\r\n" if status == 503 else ""
        self.transport.write(f"{head}{retry}connection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def taken(self) -> float:
        """When the client last read something, or when nothing was left to read."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent < self.unsent:
            self.last_taken = time.monotonic()
        self.unsent = unsent
        return self.last_taken


class Server(uvicorn.Server):
    """Stops at the first signal, answers the accepted requests, and ignores a second signal."""

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or []:
            listening.listen(QUEUE)  # asyncio uses the number that it accepts at once as this length too

    def handle_exit(self, sig, frame) -> None:
        self.should_exit = True


class RateLimit(logging.Filter):
    """Limits log lines of each kind to `most` per `period`; the next line says how many were left out."""

    def __init__(self, most: int = LOGGED, period: float = PERIOD):
        super().__init__()
        self.most = most
        self.period = period
        self.kinds: dict[tuple, list] = {}  # kind → [start of the period, lines since then]

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        kind = (record.name, record.levelno, str(record.msg).partition("\n")[0])
        begun = self.kinds.setdefault(kind, [now, 0])
        if now - begun[0] > self.period:
            left_out = begun[1] - self.most
            if left_out > 0:
                record.msg = f"{record.msg} (and {left_out} more like it before)"
            begun[:] = [now, 0]
        begun[1] += 1
        return begun[1] <= self.most


def room_for_connections(wanted: int) -> tuple[int, int]:
    """How many connections the descriptors of this process allow, at most `wanted`, and how many it accepts at once.

    asyncio accepts several connections before it tells the server about them: descriptors for four such rounds stay
    free. The limit of descriptors is raised as far as the system allows.
    """
    if resource is None:
        return wanted, 100
    needed = wanted + FILES + 4 * 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        soft = allowed
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted, 100
    at_once = max(1, min(100, soft // 16))
    return max(1, min(wanted, soft - FILES - 4 * at_once)), at_once


def run(app, sockets: list, most: int, patience: float, timeout: float) -> None:
    """Serve an ASGI application until a signal arrives; then finish the accepted requests.

    Args:
        most: largest number of connections, if the process has enough descriptors.
        patience: seconds for the head of a request.
        timeout: seconds for an answer.
    """
    room, at_once = room_for_connections(most)
    connections = Connections(room, patience, timeout)
    settings = uvicorn.Config(
        app,
        http=connections.protocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=at_once,
        h11_max_incomplete_event_size=HEAD,
        timeout_keep_alive=math.ceil(min(5, patience)),
        timeout_graceful_shutdown=math.ceil(timeout) + 1,
        callback_notify=connections.check,
        timeout_notify=0,  # every second
    )
    if room < most:
        log.warning("the system's limit of open files leaves room for %d connections, not %d", room, most)
    rate_limit = RateLimit()
    loggers = [log, *map(logging.getLogger, ("asyncio", "uvicorn.error"))]
    for logger in loggers:
        logger.addFilter(rate_limit)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every form that is answered with 400
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises the signal again when it has finished
        signal.signal(number, lambda *args: None)
    Server(settings).run(sockets=sockets)
