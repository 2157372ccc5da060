"""`glocal serve`: a process with a service in it, as its users and their clients see it."""

import base64
import contextlib
import http.client
import io
import json
import signal
import socket
import threading
import time

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client")

import fresh
from glocal.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


# `glocal serve` with slow batches; at its end it prints how many requests it has let in.
COUNTED = """
import sys, time
from glocal.cli import main
from glocal.deploy.service import Service

answer, compute, begun = Service.answer, Service._compute, []

def counted(self, *args):
    begun.append(1)
    return answer(self, *args)

def slow(self, images):
    time.sleep(0.05)
    return compute(self, images)

Service.answer, Service._compute = counted, slow
code = main(["serve", *sys.argv[1:]])
print(len(begun))
sys.exit(code)
"""


JSON = {"content-type": "application/json"}
JSON_LINE = b"Content-Type: application/json\r\n\r\n"
IMAGE = io.BytesIO()
Image.new("RGB", (40, 50), "teal").save(IMAGE, "PNG")
BODY = json.dumps({"images": base64.b64encode(IMAGE.getvalue()).decode()})


@contextlib.contextmanager
def serving(checkpoint, *options):
    """The process and its port; it does not outlive the test."""
    options = ["--checkpoint", checkpoint, "--port", 0, "--engine", "torch", "--threads", 1, *options]
    with fresh.started(COUNTED, *options) as process:
        yield process, int(process.says(r"listening on http://127.0.0.1:(\d+)"))


def test_signals_let_it_finish(checkpoint):
    """Of 32 clients that never stop asking: whoever was let in has an answer, the others see a closed door.

    A second Ctrl-C, as a terminal and a supervisor send it at once, loses nothing.
    """
    with serving(checkpoint, "--max-batch", "4") as (process, port):
        codes, refused = [], []
        threads = [threading.Thread(target=ask_until_closed, args=(port, codes, refused)) for _ in range(32)]
        for thread in threads:
            thread.start()
        while len(codes) < 64:
            time.sleep(0.01)
            assert process.poll() is None, process.err.read_text()
        before = len(codes)
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
            time.sleep(0.02)  # the system may hand over two of a kind as one
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert int(output) == len(codes)
    assert set(codes) == {200}
    assert len(codes) > before  # some were waiting when the signal came
    assert len(refused) == 32


def ask_until_closed(port, codes, refused):
    """Ask until the door is closed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while True:
        try:
            connection.request("POST", "/predict", BODY, JSON)
            answer = connection.getresponse()
            answer.read()
            codes.append(answer.status)
        except ConnectionRefusedError as error:
            refused.append(error)
            return
        except (ConnectionError, http.client.BadStatusLine):  # closed between two requests, or not taken any more
            connection.close()


def test_requests_that_send_nothing_take_no_others_place(checkpoint):
    """Connections without a request take none; requests without a body as many as there are, but health is told."""

    def ask(path="/predict"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            connection.request(*("GET", path) if path != "/predict" else ("POST", path, BODY, JSON))
            answer = connection.getresponse()
            return answer.status, answer.getheader("Retry-After"), answer.read().decode()

    with serving(checkpoint, "--max-queue", "2", "--max-images", "2") as (_, port), contextlib.ExitStack() as stack:
        for sent in (b"", b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n" + JSON_LINE):
            for _ in range(8):
                waiting = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                waiting.sendall(sent)
        assert [ask()[0] for _ in range(3)] == [200] * 3
        assert ask("/health")[0] == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_behind_a_proxy(checkpoint, method):
    """Under a path that the proxy takes away or leaves, for the hosts that were named, and for HEAD as for GET."""
    from fastapi.testclient import TestClient

    from glocal.deploy.config import ServeConfig
    from glocal.deploy.server import create_app

    options = {"engine": "torch", "threads": 1, "root_path": "/glocal"}
    options["allowed_hosts"] = "photos.example,*.photos.example"
    with TestClient(create_app(ServeConfig(checkpoint=str(checkpoint), **options))) as client:
        for path in ("/", "/health", "/metrics", "/docs", "/openapi.json"):
            for host in ("photos.example", "a.photos.example:8080", "127.0.0.1:8000", "[::1]", "localhost:1"):
                for prefix in ("", "/glocal"):
                    assert client.request(method, prefix + path, headers={"host": host}).status_code == 200
            for host in ("evil.example", "photos.example.evil.example", "127.0.0.1.evil.example", "localhost@evil", ""):
                assert client.request(method, path, headers={"host": host}).status_code == 400
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/glocal"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --checkpoint, or --model for a model's published weights"),
        (["--checkpoint", "nowhere"], "there is no checkpoint 'nowhere'"),
        (["--model", "van_b0", "--port", "70000"], "--port must be from 0 to 65535, got 70000"),
        (["--model", "van_b0", "--max-batch", "0"], "--max-batch must be at least 1, got 0"),
        (["--model", "van_b0", "--max-queue", "9"], "--max-images 64 is more than --max-queue 9 ever lets in"),
        (["--model", "van_b0", "--timeout", "0"], "--timeout must be more than 0, got 0"),
        (["--model", "van_b0", "--max-wait-ms", "-1"], "--max-wait-ms must be at least 0, got -1"),
        (["--model", "van_b0", "--idle-timeout", "0"], "--idle-timeout must be more than 0, got 0"),
        (["--model", "van_b0", "--max-connections", "0"], "--max-connections must be at least 1, got 0"),
        (["--model", "van_b0", "--root-path", "x/"], "--root-path must look like /glocal, got 'x/'"),
        (["--model", "van_b0", "--allowed-hosts", "a.b,http://c"], "--allowed-hosts: 'http://c' is neither"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert main(["serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_port_that_is_taken(checkpoint, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", "--checkpoint", str(checkpoint), "--engine", "torch", "--port", port]) == 1
    assert f"port {port}" in capsys.readouterr().err
