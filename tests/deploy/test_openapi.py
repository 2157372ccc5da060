"""The description of the service is true: requests made from it have the answers that stand in it."""

import base64
import io
import socket
import threading

import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("schemathesis")
import schemathesis
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings, strategies

from glocal.deploy.config import ServeConfig
from glocal.deploy.server import create_app

pytestmark = pytest.mark.usefixtures("one_thread")


def encoded(kind):
    file = io.BytesIO()
    Image.new("RGB", (20, 30), "teal").save(file, kind)
    return file.getvalue()


IMAGES = strategies.sampled_from([encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")])
schemathesis.openapi.format("binary", IMAGES)
schemathesis.openapi.format("byte", IMAGES.map(lambda content: base64.b64encode(content).decode()))
# A description cannot say that a form may hold too many images, which is 413.
REFUSED = {"checks": {"negative_data_rejection": {"expected-statuses": [400, 405, 413, 415, 422]}}}


@pytest.fixture
def app(checkpoint):
    return app_of(checkpoint)


def app_of(checkpoint):
    return create_app(ServeConfig(checkpoint=str(checkpoint), engine="torch", threads=1, max_images=3))


@pytest.fixture(scope="module")
def described(request):
    """What the service says of itself, and asks are sent to; it runs in a thread."""
    checkpoint = request.getfixturevalue(getattr(request, "param", "checkpoint"))
    server = uvicorn.Server(uvicorn.Config(app_of(checkpoint), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/openapi.json"
        yield schemathesis.openapi.from_url(address, config=schemathesis.Config.from_dict(REFUSED))
        server.should_exit = True
        thread.join(30)


@pytest.mark.parametrize("examples", [10, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    ("described", "path"),
    [("checkpoint", "/predict"), ("checkpoint", "/embed"), ("masks_checkpoint", "/predict")],
    indirect=["described"],
)
def test_questions(described, path, mode, examples):
    """Codes, content types and bodies; what is right by the description is answered, what is wrong by it refused."""
    operation = described[path]["POST"]

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), deadline=None, derandomize=True)
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        case.call_and_validate(timeout=30)

    check()


@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_watching(described, path):
    described[path]["GET"].Case().call_and_validate(timeout=30)


def test_every_error_has_one_shape(app):
    """Also of wrong values, unknown addresses and methods, other hosts, and what is too large."""
    with TestClient(app, raise_server_exceptions=False) as client:
        app.state.service.batcher._compute = lambda images: 1 / 0
        image = {"images": base64.b64encode(encoded("PNG")).decode()}
        answers = {
            400: client.get("/health", headers={"host": "evil.example"}),
            404: client.get("/nowhere"),
            405: client.put("/docs"),
            413: client.post("/predict", content=b"x", headers={"content-length": "1000000000"}),
            415: client.post("/predict", content=b"x"),
            422: client.post("/predict?top_k=0", json=image),
            500: client.post("/predict", json=image),
        }
    for code, answer in answers.items():
        assert answer.status_code == code
        assert answer.headers["content-type"] == "application/json"
        assert answer.json().keys() == {"detail"}
        assert isinstance(answer.json()["detail"], str)


def test_errors_are_described(app):
    """For every route, all in the one shape."""
    described = app.openapi()
    codes = {"/predict": "400 408 413 415 422 500 503 504", "/health": "400 500 503", "/metrics": "400 500"}
    codes["/embed"] = codes["/predict"]
    found = {path: next(iter(methods.values()))["responses"] for path, methods in described["paths"].items()}
    assert {path: " ".join(sorted(responses.keys() - {"200"})) for path, responses in found.items()} == codes
    for responses in found.values():
        for code, response in responses.items():
            if code != "200":
                schema = {"$ref": "#/components/schemas/Problem"}
                assert response["content"] == {"application/json": {"schema": schema}}
