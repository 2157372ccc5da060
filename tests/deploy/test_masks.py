"""The service with a model of segmentation: masks in the answers, an overlay for the page."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client")
from fastapi.testclient import TestClient

from glocal.data.image import TURNS
from glocal.data.segments import mask_of_text
from glocal.deploy.config import ServeConfig
from glocal.deploy.predictor import Predictor
from glocal.deploy.server import create_app

pytestmark = pytest.mark.usefixtures("one_thread")

ORIENTATION = 0x112  # EXIF's tag


@pytest.fixture(scope="module")
def client(masks_checkpoint):
    app = create_app(ServeConfig(checkpoint=str(masks_checkpoint), engine="torch", threads=1, max_megapixels=1.0))
    with TestClient(app) as client:
        yield client


@pytest.fixture(scope="module")
def predictor(masks_checkpoint):
    return Predictor(masks_checkpoint, engine="torch", threads=1)


def photo(width, height, seed=0):
    spots = np.random.RandomState(seed).randint(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize((width, height))


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def ask(client, path, *images):
    files = [("images", (f"{number}.png", content)) for number, content in enumerate(images)]
    answer = client.post(path, files=files)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def opened(address, kind):
    start = f"data:image/{kind};base64,"
    assert address.startswith(start)
    return Image.open(io.BytesIO(base64.b64decode(address.removeprefix(start))))


def test_images_of_several_sizes_in_one_request(client, predictor):
    images = [photo(*size) for size in [(60, 40), (33, 71), (60, 40), (1, 1), (200, 20)]]
    results = ask(client, "/predict", *map(encoded, images))
    for image, result, expected in zip(images, results, predictor(images), strict=True):
        assert list(result) == ["name", "size", "classes", "shares", "confidences", "rles"]
        assert result["size"] == [image.height, image.width]
        names = np.full(result["size"], "", object)
        for name, text, share in zip(result["classes"], result["rles"], result["shares"], strict=True):
            mask = mask_of_text(text, result["size"])
            assert mask.mean() == pytest.approx(share)
            names[mask] = name
        assert np.array_equal(names, np.array(predictor.class_names, object)[expected.labels])
        assert result["confidences"] == pytest.approx(expected.confidences, abs=1e-5)


def test_the_answer_is_described(client):
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Segmentation"]
    assert schema["required"] == ["name", "size", "classes", "shares", "confidences", "rles"]
    items = {name: schema["properties"][name]["items"]["type"] for name in schema["required"][1:]}
    assert items == dict(size="integer", classes="string", shares="number", confidences="number", rles="string")
    assert "run-length" in schema["description"]


def test_the_overlay_has_the_colors_of_the_legend(client, predictor):
    image = photo(90, 50)
    (expected,) = predictor(image)
    (result,) = ask(client, "/show", encoded(image))
    assert [(line["text"], line["share"]) for line in result["lines"]] == [
        (name, pytest.approx(share)) for name, share in zip(expected.classes, expected.shares, strict=True)
    ]
    assert len(result["lines"]) > 1
    colors = np.zeros((50, 90, 3), np.uint8)
    for line, number in zip(result["lines"], expected.numbers, strict=True):
        colors[expected.labels == number] = list(bytes.fromhex(line["color"][1:]))
    overlay = opened(result["overlay"], "png")
    assert overlay.mode == "RGBA"
    assert np.array_equal(np.asarray(overlay), np.dstack([colors, np.full((50, 90), 255)]))
    below = np.asarray(opened(result["picture"], "jpeg"), int)
    assert np.abs(below - np.asarray(image)).mean() < 5  # the image alone


def test_a_large_image_is_shown_smaller_in_the_same_colors(client):
    (result,) = ask(client, "/show", encoded(photo(1000, 700)))
    overlay, picture = opened(result["overlay"], "png"), opened(result["picture"], "jpeg")
    assert overlay.size == picture.size == (640, 448)
    colors = {f"#{red:02x}{green:02x}{blue:02x}" for _, (red, green, blue, _) in overlay.getcolors()}
    assert colors <= {line["color"] for line in result["lines"]}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_that_lies_on_its_side_is_shown_upright(client, orientation):
    """As EXIF says: the overlay, the picture and the size in the answer."""
    image = photo(90, 50)
    back = {6: 8, 8: 6}.get(orientation, orientation)  # turned, it is stored the other way round
    stored = image.transpose(TURNS[back]) if back in TURNS else image
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    (expected,) = ask(client, "/show", encoded(image))
    (result,) = ask(client, "/show", encoded(stored, exif=exif))
    assert result["overlay"] == expected["overlay"]
    assert result["picture"] == expected["picture"]
    assert ask(client, "/predict", encoded(stored, exif=exif))[0]["size"] == [50, 90]


def test_classes_have_no_overlay(checkpoint):
    with TestClient(create_app(ServeConfig(checkpoint=str(checkpoint), engine="torch", threads=1))) as client:
        (result,) = ask(client, "/show", encoded(photo(40, 40)))
    assert (result["picture"], result["overlay"]) == (None, None)
    assert {line["color"] for line in result["lines"]} == {None}


@pytest.mark.parametrize("path", ["/predict", "/show"])
def test_too_large_images_are_refused(client, path):
    answer = client.post(path, files={"images": ("a.png", encoded(Image.new("L", (2000, 600))))})
    assert (answer.status_code, answer.json()) == (422, {"detail": "a.png: 1.2 megapixels, more than 1"})


def test_there_are_no_vectors(client):
    answer = client.post("/embed", files={"images": ("a.png", encoded(photo(40, 40)))})
    assert answer.status_code == 404
    assert "/embed" not in client.get("/openapi.json").json()["paths"]
