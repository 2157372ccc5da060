"""The service answers what the predictor says, refuses what it cannot read with a reason, and stays up."""

import base64
import gc
import hashlib
import inspect
import io
import random
import re
import struct
import threading
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client")
from fastapi.testclient import TestClient

from glocal.deploy.config import ServeConfig
from glocal.deploy.predictor import Predictor
from glocal.deploy.server import create_app
from glocal.deploy.service import READERS

pytestmark = pytest.mark.usefixtures("one_thread")


def client_of(checkpoint, **options):
    options = dict(checkpoint=str(checkpoint), engine="torch", threads=1) | options
    return TestClient(create_app(ServeConfig(**options)))


@pytest.fixture(scope="module")
def client(checkpoint):
    with client_of(checkpoint, max_megapixels=1.0, max_megabytes=2.0, max_images=5) as client:
        yield client


def picture(seed=0, mode="RGB", size=(40, 50)):
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def post(client, *contents, path="/predict", **params):
    return client.post(path, files=[("images", (f"{i}.png", c)) for i, c in enumerate(contents)], params=params)


class TestAnswers:
    def test_what_the_predictor_says(self, client, checkpoint):
        images = [picture(seed) for seed in range(3)]
        answer = post(client, *map(encoded, images), top_k=3)
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert [result["name"] for result in results] == ["0.png", "1.png", "2.png"]
        for result, expected in zip(results, Predictor(checkpoint, engine="torch")(images, top_k=3), strict=True):
            assert result["labels"] == expected.labels
            assert result["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)

    @pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
    @pytest.mark.parametrize("alone", [True, False])
    @pytest.mark.parametrize("encode", [base64.b64encode, base64.encodebytes])  # the second one in lines
    def test_json(self, client, prefix, alone, encode):
        text = prefix + encode(encoded(picture())).decode()
        answer = client.post("/predict", json={"images": text if alone else [text]})
        assert answer.json()["results"][0]["labels"] == post(client, encoded(picture())).json()["results"][0]["labels"]

    def test_embedding(self, client, checkpoint):
        answer = post(client, encoded(picture()), path="/embed").json()["results"][0]["embedding"]
        predictor = Predictor(checkpoint, engine="torch")
        with torch.no_grad():
            x = predictor._prepare(picture()).image[None]
            expected = predictor.model.forward_head(predictor.model.forward_features(x), pre_logits=True)[0]
        assert answer == pytest.approx(expected.tolist(), abs=1e-4)

    def test_health(self, client):
        assert client.get("/health").json() == {
            "status": "ok",
            "model": "test_resnet",
            "engine": "torch",
            "classes": 4,
        }

    def test_metrics(self, client):
        counted = 'glocal_requests_total{code="200",path="/predict"} '
        before = client.get("/metrics").text.partition(counted)[2].partition("\n")[0] or "0"
        assert post(client, encoded(picture())).status_code == 200
        assert post(client, b"").status_code == 422
        text = client.get("/metrics").text
        assert float(text.partition(counted)[2].partition("\n")[0]) == float(before) + 1
        for line in (
            'glocal_requests_total{code="200",path="/predict"}',
            "glocal_batch_images_bucket",
            "glocal_images_waiting 0.0",
        ):
            assert line in text

    def test_description(self, client):
        described = client.get("/openapi.json").json()["paths"]
        assert {"/predict", "/embed", "/health", "/metrics"} <= described.keys()
        assert set(described["/predict"]["post"]["requestBody"]["content"]) == {
            "multipart/form-data",
            "application/json",
        }

    def test_page_needs_nothing_from_elsewhere(self, client):
        page = client.get("/").text
        assert "Drop images here" in page
        assert not re.search(
            r"(src|href)=|//[a-z]|@import|url\(", page.replace("image.src =", "").replace('href="data:,"', "")
        )

    def test_headers_that_keep_a_browser_safe(self, client):
        """The page's own script and style run, by their hashes, and nothing else; nothing runs from other answers."""
        answer = client.get("/")
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        for kind in ("script", "style"):
            (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", answer.text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["connect-src"] == "'self'"
        for answer in (client.get("/health"), client.get("/nowhere"), post(client, b"<script>"), client.put("/health")):
            assert answer.headers["content-security-policy"] == "default-src 'none'"
            assert answer.headers["x-content-type-options"] == "nosniff"

    @pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/docs", "/openapi.json"])
    def test_head(self, client, path):
        assert client.head(path).status_code == 200

    def test_an_error_in_a_computation_is_one_requests_alone(self, checkpoint):
        """500 with nothing of the inside; the next one is computed, and health says whether somebody does."""
        app = create_app(ServeConfig(checkpoint=str(checkpoint), engine="torch", threads=1))
        batcher = app.state.service.batcher
        compute = batcher._compute
        with TestClient(app, raise_server_exceptions=False) as same:
            batcher._compute = lambda images: torch.empty(2, 3) @ torch.empty(2, 3)  # RuntimeError
            answer = post(same, encoded(picture()))
            batcher._compute = compute
            assert (answer.status_code, answer.json()) == (500, {"detail": "Internal Server Error"})
            assert post(same, encoded(picture())).status_code == 200
            assert same.get("/health").status_code == 200
            batcher._worker.cancel()
            time.sleep(0.1)
            assert same.get("/health").status_code == 503

    def test_many_callers_at_once(self, client):
        contents = [encoded(picture(seed)) for seed in range(40)]
        expected = [post(client, content).json()["results"][0]["probabilities"] for content in contents]
        answers = [None] * len(contents)

        def ask(place):
            answers[place] = post(client, contents[place]).json()["results"][0]["probabilities"]

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(contents))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for answer, right in zip(answers, expected, strict=True):
            assert answer == pytest.approx(right, abs=1e-5)


def resources():
    """What this process has: threads, open files, MiB of memory."""
    status = Path("/proc/self/status").read_text()
    return {
        "threads": threading.active_count(),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "mib": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024,
    }


def animation(kind):
    return encoded(picture(), kind, save_all=True, append_images=[picture(1)])


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(kind, content):
    """A PNG with a chunk of that kind before its pixels."""
    png = encoded(picture())
    return png[:33] + chunk(kind, content) + png[33:]


def png_that_claims(width, height):
    png = encoded(picture())
    return png[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + png[33:]


def jpeg_with_exif(*entries, following=0, count=None):
    """A JPEG with a directory of (tag, type, number of values, four bytes)."""
    packed = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    directory = struct.pack("<H", count or len(entries)) + packed + struct.pack("<I", following)
    segment = b"Exif\0\0II*\0\x08\0\0\0" + directory
    jpeg = encoded(picture(), "JPEG")
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def jpeg_with_scans(count):
    """The last scan of a progressive JPEG, again and again."""
    jpeg = encoded(picture(), "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * (count - jpeg.count(b"\xff\xda")) + b"\xff\xd9"


ORIENTATION, SIDEWAYS = 0x112, b"\6\0\0\0"
INFLATED = zlib.compress(bytes(200_000_000), 9)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("content", "code", "reason"),
        [
            (b"", 422, "the file is empty"),
            (b"text", 422, "not an image"),
            (encoded(picture())[:500], 422, "broken image"),
            *((animation(kind), 422, "an animation") for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF")),
            (encoded(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"), 422, "grey values from nan"),
            (b"GIF89a" + b"\xff" * 4 + encoded(picture(), "GIF")[10:], 422, "more pixels than"),
            (png_that_claims(900, 900), 422, "broken image"),
            (png_that_claims(0, 0), 422, "not an image"),
            (jpeg_with_scans(65), 422, "a JPEG of more than 64 scans"),
            (encoded(Image.new("1", (2000, 2000))), 422, "4.0 megapixels, more than 1"),
            (bytes(3_000_000), 413, "the request is larger than 2 MB"),
        ],
    )
    @pytest.mark.parametrize("path", ["/predict", "/embed"])
    def test_files(self, client, content, code, reason, path):
        answer = post(client, encoded(picture()), content, path=path)
        assert answer.status_code == code
        assert reason in answer.json()["detail"]
        assert post(client, encoded(picture())).status_code == 200

    @pytest.mark.parametrize(
        "content",
        {
            "1x1": encoded(Image.new("RGB", (1, 1))),  # smaller than any model's least: resized, as every image is
            "1x20000": encoded(Image.new("RGB", (1, 20000))),
            "20000x1": encoded(Image.new("RGB", (20000, 1))),
            "inflated pixels": encoded(picture())[:33] + chunk(b"IDAT", INFLATED) + chunk(b"IEND", b""),
            "64 scans": jpeg_with_scans(64),
            "scans after the end": encoded(picture(), "JPEG") + b"\xff\xda" * 100,  # as in a phone's moving photo
            "scans in a comment": encoded(picture(), "JPEG", comment=b"\xff\xda" * 100),
            "orientation 0": jpeg_with_exif((ORIENTATION, 3, 1, bytes(4))),
            "orientation 65535": jpeg_with_exif((ORIENTATION, 3, 1, b"\xff\xff\0\0")),
            "orientation of text": jpeg_with_exif((ORIENTATION, 2, 4, b"abc\0")),
            "orientation nan": jpeg_with_exif((ORIENTATION, 11, 1, struct.pack("<f", float("nan")))),
            "four thousand million orientations": jpeg_with_exif((ORIENTATION, 3, 2**32 - 1, SIDEWAYS)),
            "unknown type": jpeg_with_exif((ORIENTATION, 99, 1, SIDEWAYS)),
            "entries that are not there": jpeg_with_exif((ORIENTATION, 3, 1, SIDEWAYS), count=60000),
            "a directory within itself": jpeg_with_exif(
                (ORIENTATION, 3, 1, SIDEWAYS), (0x8769, 4, 1, struct.pack("<I", 8)), following=8
            ),
            "beyond the end": jpeg_with_exif((ORIENTATION, 3, 1, SIDEWAYS), (0x8825, 4, 1, b"\xff\xff\xff\x7f")),
            "text for EXIF": png_with(b"eXIf", b"text"),
            "inflated text": png_with(b"zTXt", b"a\0\0" + INFLATED),
            "inflated text of another kind": png_with(b"iTXt", b"a\0\1\0\0\0" + INFLATED),
            "inflated profile": png_with(b"iCCP", b"a\0\0" + INFLATED),
            "CMYK": encoded(picture(mode="CMYK"), "JPEG"),
            "CMYK without compression": encoded(picture(mode="CMYK"), "TIFF"),
            "cannot be written again": jpeg_with_exif((ORIENTATION, 3, 1, SIDEWAYS), (0x8769, 2, 4, b"abcd")),
        }.items(),
        ids=lambda item: item[0],
    )
    def test_odd_files_that_are_images(self, client, content):
        assert post(client, content[1]).status_code == 200
        assert len(post(client, content[1], path="/embed").json()["results"][0]["embedding"]) > 0

    @pytest.mark.parametrize("name", ["../../etc/passwd", "<img src=x onerror=alert()>.png", "é中😀.png", "a" * 3000])
    def test_odd_names(self, client, name):
        answer = client.post("/predict", files=[("images", (name, encoded(picture())))])
        assert answer.json()["results"][0]["name"] == name
        answer = client.post("/predict", files=[("images", (name, b"text"))])
        assert (answer.status_code, answer.json()["detail"]) == (422, f"{name}: not an image")

    @pytest.mark.parametrize("charset", ["undefined", "punycode", "idna", "utf-16", "hex", "nothing", '"', "\xff"])
    def test_charsets_that_are_none(self, client, charset):
        """A form's names are UTF-8 whatever it says."""
        kind = f"multipart/form-data; boundary=b; charset={charset}".encode("latin-1")
        head = '--b\r\nContent-Disposition: form-data; name="images"; filename="é😀.png"\r\n\r\n'.encode()
        content = head + encoded(picture()) + b"\r\n--b--\r\n"
        answer = client.post("/predict", content=content, headers={"content-type": kind})
        assert (answer.status_code, answer.json()["results"][0]["name"]) == (200, "é😀.png")

    def test_a_name_that_is_no_text(self, client):
        """In an encoding of Python's, half a character."""
        kind = "multipart/form-data; boundary=b; charset=unicode_escape"
        head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a\\ud800.png"\r\n\r\n'
        answer = client.post("/predict", content=head + b"x\r\n--b--\r\n", headers={"content-type": kind})
        assert (answer.status_code, answer.json()["detail"]) == (422, "a\\ud800.png: not an image")

    @pytest.mark.parametrize("side", [3000, 60000])  # more than the service takes, and more than Pillow does
    def test_no_pixel_of_a_bomb_is_decoded(self, client, side, monkeypatch):
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
        answer = post(client, png_that_claims(side, side))
        assert answer.status_code == 422
        assert "pixels" in answer.json()["detail"]

    @pytest.mark.parametrize("kind", ["ICO", "ICNS", "EPS", "PPM"])
    def test_formats_that_no_browser_sends(self, client, kind):
        answer = post(client, encoded(picture(size=(32, 32)), kind))
        assert (answer.status_code, "not an image" in answer.json()["detail"]) == (422, True)

    @pytest.mark.parametrize(
        ("request_", "code", "reason"),
        [
            (dict(content=b"x"), 415, "send multipart/form-data or application/json"),
            (dict(json={}), 422, "the body must be"),
            (dict(json={"images": [3]}), 422, "the body must be"),
            (dict(json={"images": []}), 422, "there is no image in the request"),
            (dict(json={"images": ["§"]}), 422, "image 0 is no base64"),
            (dict(json={"images": ["AAAA"] * 6}), 413, "6 images in one request, no more than 5"),
            (dict(content=b"{", headers={"content-type": "application/json"}), 400, "the body is no JSON"),
            (dict(content=b"[" * 100000, headers={"content-type": "application/json"}), 400, "the body is no JSON"),
            (dict(content=b"x", headers={"content-type": "multipart/form-data"}), 400, "boundary"),
            (dict(data={"images": "text"}), 415, "send multipart"),
            (dict(files=[("images", ("a.png", b"x"))] * 6), 413, "no more than 5 images are taken in one request"),
            (dict(files=[("images", ("a.png", b"x"))] * 7), 413, "no more than 5 images are taken in one request"),
        ],
    )
    def test_requests(self, client, request_, code, reason):
        answer = client.post("/predict", **request_)
        assert (answer.status_code, reason in str(answer.json()["detail"])) == (code, True), answer.text

    @pytest.mark.parametrize("top_k", ["0", "-1", "1.5", "many", ""])
    def test_numbers(self, client, top_k):
        assert post(client, encoded(picture()), top_k=top_k).status_code == 422

    def test_more_classes_than_there_are(self, client):
        assert len(post(client, encoded(picture()), top_k=10**30).json()["results"][0]["labels"]) == 4

    def test_a_body_whose_length_is_not_announced(self, client):
        def endless():
            for _ in range(100):
                yield bytes(100_000)

        answer = client.post("/predict", content=endless(), headers={"content-type": "application/json"})
        assert answer.status_code == 413

    def test_a_full_queue(self, checkpoint):
        with client_of(checkpoint, max_queue=2, max_images=2) as client:
            service = client.app.state.service
            compute, go_on = service.batcher._compute, threading.Event()
            service.batcher._compute = lambda images: go_on.wait(20) and compute(images)
            codes = []
            asking = threading.Thread(target=lambda: codes.append(post(client, encoded(picture())).status_code))
            asking.start()
            while not service.batcher.accepted:
                time.sleep(0.01)
            answer = post(client, *[encoded(picture())] * 2)
            go_on.set()
            asking.join()
            assert (answer.status_code, codes) == (503, [200])
            assert answer.headers["retry-after"] == "1"
            assert post(client, *[encoded(picture())] * 2).status_code == 200

    def test_a_broken_image_leaves_nothing_behind(self, client):
        """The others of its request are not read any more, and their places are free."""
        service = client.app.state.service
        read, original = [], service._read
        service._read = lambda content, name: read.append(name) or time.sleep(0.05) or original(content, name)
        try:
            assert post(client, b"text", *[encoded(picture())] * 4).status_code == 422
        finally:
            service._read = original
        deadline = time.monotonic() + 5
        while service.batcher.accepted and time.monotonic() < deadline:
            time.sleep(0.01)
        assert service.batcher.accepted == 0
        assert len(read) < 5
        assert post(client, encoded(picture())).status_code == 200

    def test_no_answer_in_time(self, checkpoint):
        with client_of(checkpoint, timeout=0.2) as client:
            service = client.app.state.service
            compute = service.batcher._compute
            service.batcher._compute = lambda images: time.sleep(1) or compute(images)
            assert post(client, encoded(picture())).status_code == 504
            service.batcher._compute = compute
            time.sleep(1)
            assert post(client, encoded(picture())).status_code == 200
            assert service.batcher.accepted == 0

    @pytest.mark.slow
    @pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="memory and open files are read from /proc")
    def test_damaged_files_never_stop_it(self, client):
        """5,000 of them: bytes changed, left out, repeated. Memory, threads and open files stay what they were."""
        dice = random.Random(0)
        originals = [
            *(encoded(picture(), kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")),
            encoded(picture(mode="P"), "GIF"), encoded(picture(mode="L"), "PNG"),
        ]  # fmt: skip
        codes, used = Counter(), {}
        list(client.app.state.service.readers.map(time.sleep, [0.1] * READERS))  # else they start when two overlap
        for count in range(1, 5001):
            content = bytearray(dice.choice(originals))
            for _ in range(dice.randint(1, 8)):
                kind, place = dice.randrange(3), dice.randrange(len(content))
                if kind == 0:
                    content[place] = dice.randrange(256)
                elif kind == 1:
                    del content[place : place + dice.randint(1, 50)]
                else:
                    content[place:place] = content[place : place + dice.randint(1, 50)]
                content = content or bytearray(b"x")
            codes[post(client, bytes(content)).status_code] += 1
            if count in (1000, 5000):
                gc.collect()
                used[count] = resources()
        print(codes, used)
        assert codes.keys() == {200, 422}
        assert used[5000]["threads"] == used[1000]["threads"]
        assert used[5000]["files"] == used[1000]["files"]
        assert used[5000]["mib"] < used[1000]["mib"] + 16
        assert client.get("/health").status_code == 200
        assert client.app.state.service.batcher.accepted == 0


def test_all_addresses_are_async(client):
    """A function of its own thread would wait for the interpreter's threads, not for the batcher."""
    ours = {route.path: route.endpoint for route in client.app.routes if route.endpoint.__module__.startswith("glocal")}
    assert set(ours) == {"/predict", "/show", "/embed", "/health", "/metrics", "/"}
    assert all(map(inspect.iscoroutinefunction, ours.values()))
