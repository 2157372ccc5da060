"""Images from those who mean no good, through the service: an answer for each, and the service stays as it was."""

import base64
import contextlib
import http.client
import io
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from hostile.service import HANG

PIXELS = Image.fromarray(np.random.RandomState(0).randint(0, 256, (50, 40, 3), dtype=np.uint8))


def encoded(kind: str, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    PIXELS.convert(mode).save(file, kind, **options)
    return file.getvalue()


IMAGES = [encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "ICO", "EPS", "PPM", "TGA")]
IMAGES += [encoded("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")]
IMAGES += [
    encoded("JPEG", "CMYK"),
    encoded("JPEG", "L"),
    encoded("JPEG", progressive=True),
    encoded("WEBP", lossless=True),
]
IMAGES += [encoded("TIFF", compression=how) for how in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")]
IMAGES += [encoded(kind, save_all=True, append_images=[PIXELS] * 3) for kind in ("GIF", "PNG", "WEBP", "TIFF")]
NUMBERS = [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0", b"\0\0\0\x80", b"\0\x01\0\0"]
NAMES = ["a.png", "../../x", "\x1b[2J", "a\u202eb", "\udcff", "x" * 3000, "a\r\nX: y", '"', "", "é😀", "\0", "<b>"]
CHARSETS = ["", "; charset=undefined", "; charset=punycode", "; charset=idna", "; charset=utf-16", "; charset=\xff"]


def damaged(dice: random.Random) -> bytes:
    """An image of which bytes are changed, left out, repeated, cut off, or put in from another one."""
    content = bytearray(dice.choice(IMAGES))
    for _ in range(dice.choice((0, 1, 1, 2, 8))):
        kind, place = dice.randrange(6), dice.randrange(dice.choice((64, len(content))))
        if kind == 0:
            content[place : place + 1] = dice.randbytes(1)
        elif kind == 1:
            del content[place : place + dice.randint(1, 50)]
        elif kind == 2:
            content[place:place] = content[place : place + dice.randint(1, 50)]
        elif kind == 3:
            content[place : place + 4] = dice.choice(NUMBERS)
        elif kind == 4:
            del content[max(place, 1) :]
        else:
            other = dice.choice(IMAGES)
            content[place:] = other[dice.randrange(len(other)) :]
        content = content or bytearray(b"x")
    return bytes(content)


def one_request(dice: random.Random) -> tuple[dict, bytes]:
    """Headers and body, as a form or as JSON, with 1 to 5 images."""
    images = [damaged(dice) for _ in range(dice.choice((1, 1, 1, 2, 5)))]
    if dice.random() < 0.3:
        texts = [base64.b64encode(image).decode() for image in images]
        texts[0] = texts[0][dice.choice((0, 0, 0, 1)) :] + dice.choice(("", "", "=", "\0", "\ud800"))
        body = json.dumps({"images": dice.choice((texts, texts, texts[0], [[*texts]]))}).encode()
        return {"Content-Type": "application/json"}, body
    parts = []
    for image in images:
        name = dice.choice(NAMES).encode("utf-8", "surrogateescape")
        head = b'Content-Disposition: form-data; name="images"; filename="' + name + b'"'
        parts.append(b"--b\r\n" + head + b"\r\n\r\n" + image + b"\r\n")
    kind = f"multipart/form-data; boundary=b{dice.choice(CHARSETS)}"
    return {"Content-Type": kind}, b"".join(parts) + b"--b--\r\n"


def many_tries(served, count: int, seed: int) -> Counter:
    """From four clients, each of which keeps its connection."""

    def ask(share: int) -> Counter:
        codes, dice = Counter(), random.Random(f"{seed} {share}")
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=HANG)) as connection:
            for _ in range(count // 4):
                headers, body = one_request(dice)
                connection.request("POST", dice.choice(("/predict", "/embed")), body, headers)
                answer = connection.getresponse()
                answers = json.loads(answer.read())
                assert isinstance(answers["model"] if answer.status == 200 else answers["detail"], str)
                codes[answer.status] += 1
        return codes

    with ThreadPoolExecutor(4) as threads:
        return sum(threads.map(ask, range(4)), Counter())


@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_anything(served, count):
    """Codes of a refusal or an answer, never of an error; memory and descriptors as before."""
    many_tries(served, count // 4, 1)
    before, memory = served.descriptors(), served.mib()
    codes = many_tries(served, count, 2)
    print(codes, memory, served.mib())
    assert codes.keys() >= {200, 413, 422}
    assert codes.keys() <= {200, 400, 408, 413, 422, 504}  # 408 and 504 on a busy machine
    assert served.descriptors() <= before + 5
    assert served.mib() < memory + 32
    served.check()
