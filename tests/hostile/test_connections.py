"""Connections from those who mean no good: whatever they send, or do not send, others have their answers."""

import asyncio
import base64
import contextlib
import io
import json
import random
import re
import socket
import time
from collections import Counter

import pytest
from PIL import Image

from hostile.service import HANG, serving

PNG = io.BytesIO()
Image.new("RGB", (40, 50), "teal").save(PNG, "PNG")
PNG = PNG.getvalue()
JSON = json.dumps({"images": base64.b64encode(PNG).decode()}).encode()
JSON_TYPE = {"content-type": "application/json"}


@contextlib.contextmanager
def connected(port: int, count: int, sent: bytes = b""):
    """So many connections, each of which has sent this."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=HANG)))
            if sent:
                with contextlib.suppress(ConnectionError):  # made room for another one already
                    opened[-1].sendall(sent)
        yield opened


def all_of(connection: socket.socket) -> bytes:
    """What comes until the other side closes the connection."""
    text = b""
    with contextlib.suppress(ConnectionError):
        while more := connection.recv(65536):
            text += more
    return text


def served_to_others(served) -> None:
    assert served.ask("GET", "/health")[0] == 200
    assert served.ask("POST", "/predict", JSON, JSON_TYPE)[0] == 200


def post(*headers: str, body: bytes = b"", path: str = "/predict") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode() + body


@pytest.mark.parametrize(
    "sent", [b"", b"GET /health HT", post("Content-Length: 1000", "Content-Type: application/json", body=b"{")]
)
def test_more_that_send_nothing_than_there_are_descriptors(served, sent):
    """Nothing, half a head, or a byte of a body: 400 with 256 descriptors; later all are closed."""
    with connected(served.port, 400, sent) as waiting:
        served_to_others(served)
        for connection in waiting:
            assert all_of(connection).startswith((b"", b"HTTP/1.1 408 "))
    served.check()


@pytest.mark.slow
def test_more_than_1024(checkpoint, tmp_path):
    with serving(checkpoint, tmp_path / "log", descriptors=1024) as served:
        with connected(served.port, 1100):
            start = time.monotonic()
            served_to_others(served)
            assert time.monotonic() - start < 5
        served.check()


def test_a_head_that_never_ends(served):
    """Byte by byte, each in time: the whole of it is what counts."""
    with connected(served.port, 1) as (slow,):
        for _ in range(100):
            try:
                slow.sendall(b"G")
            except ConnectionError:
                return
            time.sleep(0.1)
    pytest.fail("a head may come for ten seconds, where two are allowed")


@pytest.mark.parametrize("path", ["/predict", "/health"])
def test_a_gigabyte_is_refused_at_its_announcement(served, path):
    with connected(served.port, 1, post("Content-Length: 1000000000", body=b"x", path=path)) as (connection,):
        head, _, body = all_of(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert json.loads(body) == {"detail": "the request is larger than 2 MB"}


def test_who_still_sends_sees_why_it_was_refused(served):
    """The connection is not torn down under a client that writes first and reads afterwards."""
    for length in (3_000_000, 6_000_000):
        headers = JSON_TYPE | {"content-length": str(length)}
        assert served.ask("POST", "/predict", bytes(length), headers)[0] == 413


def test_wrong_forms_are_no_lines_of_the_log(served):
    """Two hundred of them, each refused with its reason."""
    for _ in range(200):
        code, answer = served.ask("POST", "/predict", b"x", {"content-type": "multipart/form-data; boundary=b"})
        assert (code, list(answer)) == (400, ["detail"])
    served.check()


def test_slow_bodies(served):
    """A byte in time, again and again: they hold nobody's place, and are told."""
    sent = post("Content-Length: 1000", "Content-Type: application/json", body=b"{")
    with connected(served.port, 100, sent) as slow:
        for _ in range(3):
            served_to_others(served)
            for connection in slow:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b" ")
            time.sleep(0.2)
        answers = [all_of(connection) for connection in slow]
    assert Counter(answer[:13] for answer in answers) == {b"HTTP/1.1 408 ": 100}
    assert all(isinstance(json.loads(answer.partition(b"\r\n\r\n")[2])["detail"], str) for answer in answers)


def test_answers_that_nobody_takes(served):
    """A thousand requests at once by a client that reads nothing: its connection ends, and its memory is free."""
    before = served.descriptors()
    with connected(served.port, 1) as (connection,):
        connection.settimeout(1)
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(100):
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        deadline = time.monotonic() + HANG
        while served.descriptors() > before and time.monotonic() < deadline:
            time.sleep(0.2)
        assert served.descriptors() <= before
    served_to_others(served)


METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "get", "G\0T", "", "A" * 3000]
PATHS = ["/", "/predict", "/embed", "/health", "/metrics", "/docs", "/openapi.json"]
PATHS += ["/predict?top_k=-1", "/predict?top_k=1&top_k=x", "/%00", "/../..", "//", "*", "http://evil.example/", "\xff"]
PATHS += ["/" + "a" * 20_000, "/predict/", "/%ff%fe", "/health?" + "&" * 5000, "", "/\x1b[2J"]
VERSIONS = ["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/2.0", "HTTP/9", "", "HTTP/1.1 x"]
CHARSETS = [
    "undefined",
    "punycode",
    "idna",
    "utf-7",
    "utf-16",
    "rot13",
    "hex",
    "unicode_escape",
    "mbcs",
    "\xff",
    "",
    '"',
]
FORM = "Content-Type: multipart/form-data; boundary="
HEADERS = [
    *[f"{FORM}b; charset={charset}" for charset in CHARSETS],
    *[
        "Content-Type: multipart/form-data",
        FORM,
        f"{FORM}{'b' * 71}",
        f'{FORM}"b b"',
        f"{FORM}\xff",
        f"{FORM}b; " * 200,
    ],
    *["Content-Type: application/json", "Content-Type: text/plain", "Content-Type: \xff", "Content-Type:"],
    *["Expect: 100-continue", "Expect: x", "Connection: close", "Connection: Upgrade\r\nUpgrade: websocket"],
    *["Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c", "Connection: keep-alive", "Connection: \xff"],
    *["Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: x", "Transfer-Encoding:"],
    *["Content-Length: -1", "Content-Length: +5", "Content-Length: 0x10", "Content-Length: 1e3", "Content-Length:"],
    *[f"Content-Length: {10**30}", "Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5, 5"],
    *[
        "Host: evil.example",
        "Host: [::1",
        "Host: a b",
        "Host: \xff",
        "Host:",
        "X: " + "x" * 70_000,
        "X" * 20_000 + ": x",
    ],
    *["no colon", " folded", ": empty", "N\0: x", "X: \0", "X: \x1b[2J", "Cookie: " + "a=b; " * 500, "Range: bytes=0-"],
]
PARTS = [
    'Content-Disposition: form-data; name="images"; filename="a.png"',
    'Content-Disposition: form-data; name="images"; filename="\xff\ud800"',
    "Content-Disposition: form-data; name=images; filename*=punycode''a%ff",
    "Content-Disposition: form-data; name*=undefined''x; filename=x",
    'Content-Disposition: form-data; name="images"',
    "Content-Disposition: form-data",
    "Content-Disposition: attachment; filename=" + "x" * 5000,
    "Content-Transfer-Encoding: base64",
    "Content-Type: text/plain; charset=undefined",
    "",
    "x",
    "\0: \0",
]
CHUNKS = [
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"-1\r\n",
    b"ffffffffffffffff\r\nx",
    b"5;" + b"x" * 50_000,
    b"z\r\n",
    b"5\r\nhel",
]
JSONS = [b"{}", b"[]", b'{"images": []}', b'{"images": [null]}', b'{"images": NaN}', b"[" * 50_000, b"\xff\xfe", JSON]
JSONS += [
    b'{"images": "\\ud800"}',
    b'{"images": ["' + b"A" * 100_000 + b'"]}',
    JSON[:-1],
    b'{"images": "a' + b"\0" * 99,
]

RIGHT = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(JSON), JSON)
)


def one_body(dice: random.Random) -> bytes:
    kind = dice.randrange(8)
    if kind < 3:
        return dice.choice(JSONS)
    if kind == 3:
        return b"".join(dice.choices(CHUNKS, k=dice.randint(1, 4)))
    if kind == 4:
        return dice.randbytes(dice.choice((0, 1, 5, 3000)))
    parts = []
    for _ in range(dice.randint(0, 6)):
        head = "\r\n".join(dice.sample(PARTS, dice.randint(0, 3))).encode("utf-8", "surrogatepass")
        head = PARTS[0].encode() if dice.random() < 0.5 else head
        parts.append(b"--b\r\n" + head + b"\r\n\r\n" + dice.choice((b"", PNG, PNG[:80], b"x" * 5000)) + b"\r\n")
    return b"".join(parts) + dice.choice((b"--b--\r\n", b"--b--", b"--b", b""))


def one_request(dice: random.Random) -> bytes:
    """A request of which most is right; of ten, one is right altogether."""

    def odd(share: float) -> bool:
        return dice.random() < share

    if odd(0.1):
        return RIGHT
    method = dice.choice(METHODS) if odd(0.15) else "POST"
    path = dice.choice(PATHS) if odd(0.2) else dice.choice(PATHS[1:3])
    lines = [f"{method} {path} {dice.choice(VERSIONS) if odd(0.05) else 'HTTP/1.1'}"]
    if not odd(0.03):
        lines.append("Host: localhost")
    if odd(0.5):
        lines.append(dice.choice(HEADERS))
    types = ["Content-Type: application/json"] * 4 + ["Content-Type: text/plain"]
    lines.append(dice.choice(HEADERS[: len(CHARSETS)]) if odd(0.5) else dice.choice(types))
    body = one_body(dice)
    lines.append(f"Content-Length: {len(body) + dice.choice((-1, 1, 1000)) * odd(0.1)}" if not odd(0.1) else "X: y")
    end = "\n" if odd(0.1) else "\r\n"
    return end.join([*lines, "", ""]).encode("latin-1", "replace") + body


async def one_try(port: int, dice: random.Random, codes: Counter) -> None:
    """Send some requests, in one piece or several, and read until the service closes the connection, or go early."""
    content = b"".join(one_request(dice) for _ in range(dice.choice((1, 1, 1, 2, 5))))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = b""
    try:
        for _ in range(dice.choice((1, 1, 3))):
            cut = dice.randint(0, len(content))
            writer.write(content[:cut])
            await writer.drain()
            content = content[cut:]
        if dice.random() < 0.1:
            return writer.transport.abort()
        writer.write(content)
        if dice.random() < 0.3:
            with contextlib.suppress(OSError):
                writer.write_eof()
        answers = await asyncio.wait_for(reader.read(-1), HANG)
    except ConnectionError:
        pass
    finally:
        writer.close()
    codes.update(re.findall(rb"HTTP/1\.1 (\d{3}) ", answers))


async def many_tries(port: int, count: int, seed: int) -> Counter:
    """The codes that `count` tries get. A try's dice are its own: which requests are sent depends on no timing."""
    codes, left = Counter(), iter(range(count))

    async def some():
        for number in left:
            await one_try(port, random.Random(f"{seed} {number}"), codes)

    await asyncio.gather(*(some() for _ in range(50)))
    return codes


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_anything(served, count):
    """Requests that are wrong in every way: never an error of the service's own, no hang, no line of log for each."""
    asyncio.run(many_tries(served.port, count // 4, 1))
    before, memory = served.descriptors(), served.mib()
    codes = asyncio.run(many_tries(served.port, count, 2))
    print(codes)
    assert codes.keys() >= {b"200", b"400", b"415", b"422"}
    assert codes.keys() <= {b"100", b"200", b"307", *b"400 404 405 408 413 415 422 503 504".split()}
    assert served.descriptors() <= before + 5
    assert served.mib() < memory + 32
    served_to_others(served)
    served.check()
