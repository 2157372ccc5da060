"""The service with a detector: the same boxes as `Predictor`, in JSON and over the picture."""

import base64
import io

import pytest
from PIL import Image

from glocal.deploy.predictor import Predictor

fastapi = pytest.importorskip("fastapi.testclient")


@pytest.fixture(scope="module")
def client(run):
    from glocal.deploy.config import ServeConfig
    from glocal.deploy.server import create_app

    with fastapi.TestClient(create_app(ServeConfig(checkpoint=str(run), threads=1))) as client:
        yield client


def test_boxes_are_those_of_predictions(client, run, data):
    paths = [data / "images" / f"{number:03}.png" for number in (0, 1, 2)]
    files = [("images", (path.name, path.read_bytes(), "image/png")) for path in paths]
    answer = client.post("/predict", files=files)
    assert answer.status_code == 200
    results = Predictor(run, engine="torch")([str(path) for path in paths])
    for found, result in zip(answer.json()["results"], results, strict=True):
        assert found["classes"] == result.classes
        assert found["size"] == result.size
        assert len(found["boxes"]) == len(result.boxes)
        for one, other in zip(found["boxes"], result.boxes, strict=True):
            assert one == pytest.approx(other, abs=1e-3)
    assert any(result.boxes for result in results)


def test_the_answer_is_described(client):
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Detection"]["properties"]
    assert schema["boxes"]["items"]["items"]["type"] == "number"


def test_the_page_gets_an_overlay_of_the_images_size(client, data):
    path = data / "images" / "000.png"
    answer = client.post("/show", files=[("images", (path.name, path.read_bytes(), "image/png"))])
    (shown,) = answer.json()["results"]
    overlay = Image.open(io.BytesIO(base64.b64decode(shown["overlay"].partition(",")[2])))
    assert overlay.mode == "RGBA"
    assert shown["lines"]
