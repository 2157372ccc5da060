"""The page in a real browser: files go in by hand or by drop, the service's answers are shown, nothing else happens."""

import base64
import io
import json
import shutil
import socket
import threading
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
import timm
import torch
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client")
pytest.importorskip("playwright.sync_api", reason="needs the extra [dev]")
import uvicorn
from playwright import sync_api

from glocal.deploy.config import ServeConfig
from glocal.deploy.server import create_app
from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
    pytest.mark.usefixtures("one_thread"),
]

CLASSES = ["ant", "bee", "cat", "dog", "elk", "<b>fox</b>"]
WIDTHS = [390, 1280]


@contextmanager
def serving(checkpoint):
    """The address of a service, in a thread."""
    app = create_app(ServeConfig(checkpoint=str(checkpoint), engine="torch", threads=1))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=len(CLASSES))
    preprocessing = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3}
    folder = tmp_path_factory.mktemp("run")
    info = CheckpointInfo("test_resnet", CLASSES, preprocessing)
    save_checkpoint(folder / "model.safetensors", model.state_dict(), info)
    with serving(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # as root, in a container
        yield browser
        browser.close()


@contextmanager
def opened(browser, address):
    """The page; `told`: what it has written to the console, `asked`: the addresses it has asked."""
    page = browser.new_page()
    page.told, page.asked = [], []
    page.on("console", lambda message: page.told.append(message.text))
    page.on("pageerror", lambda error: page.told.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    yield page
    page.close()


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as page:
        yield page


def png(seed=0):
    file = io.BytesIO()
    spots = np.random.RandomState(seed).randint(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(spots).resize((60, 40)).save(file, "PNG")
    return file.getvalue()


def choose(page, *files):
    """Give (name, content) to the file chooser."""
    page.set_input_files("#files", [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in files])


def drop(page, name, content, onto="#drop"):
    """Drop a file, as a person does with a mouse: the browser's own event with a file in it."""
    transfer = page.evaluate_handle(
        """([name, content]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type: "image/png" }));
            return transfer;
        }""",
        [name, base64.b64encode(content).decode()],
    )
    for kind in ("dragover", "drop"):
        page.dispatch_event(onto, kind, {"dataTransfer": transfer})


def answer_of(address, content):
    """What the service says of an image: labels and percentages as the page shows them."""
    body = json.dumps({"images": base64.b64encode(content).decode()}).encode()
    request = urllib.request.Request(f"{address}/predict?top_k=5", body, {"content-type": "application/json"})
    (result,) = json.load(urllib.request.urlopen(request))["results"]
    return list(zip(result["labels"], [f"{100 * p:.1f} %" for p in result["probabilities"]], strict=True))


def shown(page, place=0):
    """Labels and percentages of a result, from the top."""
    result = page.locator(".result").nth(place)
    result.locator(".row").first.wait_for()
    return list(
        zip(result.locator(".label").all_text_contents(), result.locator(".value").all_text_contents(), strict=True)
    )


def test_says_which_model_answers(page):
    sync_api.expect(page.locator("#model")).to_have_text("test_resnet, 6 classes")


def test_a_chosen_file(page, address):
    choose(page, ("a.png", png()))
    assert shown(page) == answer_of(address, png())
    assert page.told == []


@pytest.mark.parametrize("onto", ["#drop", "h1"])
def test_a_dropped_file(page, address, onto):
    drop(page, "a.png", png(1), onto)
    assert shown(page) == answer_of(address, png(1))
    assert page.told == []


def test_several_files_keep_their_order_and_the_latest_come_first(page, address):
    choose(page, ("old.png", png(0)))
    choose(page, ("first.png", png(1)), ("second.png", png(2)))
    assert [shown(page, place) for place in range(3)] == [answer_of(address, png(seed)) for seed in (1, 2, 0)]
    assert page.locator(".name").all_text_contents() == ["first.png", "second.png", "old.png"]


def test_the_same_file_twice(page):
    choose(page, ("a.png", png()))
    choose(page, ("a.png", png()))
    sync_api.expect(page.locator(".result")).to_have_count(2)


def test_a_broken_file_shows_the_reason(page):
    choose(page, ("a.png", png()[:-40]))
    error = page.locator(".error")
    error.wait_for()
    assert error.text_content().startswith("a.png: broken image (")


def test_names_are_text(page):
    """Of a file and of a class."""
    name = "<img src=x onerror=document.title='run'>.png"
    choose(page, (name, png()), (name, b"broken"))
    error = page.locator(".error")
    error.wait_for()
    labels = [label for label, _ in shown(page)]
    assert "<b>fox</b>" in labels
    assert page.locator(".name").all_text_contents() == [name] * 2
    assert error.text_content() == f"{name}: not an image"
    assert page.locator(".name *, .error *, .label *").count() == 0
    assert page.title() == "glocal"


def test_nothing_runs_but_the_pages_own_script(page):
    """Even if somebody got markup into the page: the browser refuses it by the page's policy."""
    page.evaluate("""document.body.insertAdjacentHTML("beforeend", `<img src=x onerror="document.title = 'run'">`)""")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))")
    with page.expect_event("console", timeout=30_000):
        page.evaluate("fetch('https://evil.example/').catch(() => {})")
    assert page.title() == "glocal"
    assert len([line for line in page.told if "Content Security Policy" in line]) >= 3


def test_nothing_leaves_the_host(page, address):
    choose(page, ("a.png", png()), ("b.png", b"broken"))
    shown(page)
    page.locator(".error").wait_for()
    asked = [url for url in page.asked if not url.startswith((f"blob:{address}/", "data:"))]
    assert sorted(asked) == [f"{address}{path}" for path in ("/", "/health", *["/show?top_k=5"] * 2)]


def test_a_service_that_has_gone(page):
    page.route("**/show*", lambda route: route.abort())
    choose(page, ("a.png", png()))
    sync_api.expect(page.locator(".error")).to_have_text("the service does not answer")


def test_by_keyboard(page):
    """The chooser is the first stop of the tab key, is seen to be, and the space bar opens it."""
    before = page.locator("#drop").evaluate("box => getComputedStyle(box).outlineStyle")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    assert (before, page.locator("#drop").evaluate("box => getComputedStyle(box).outlineStyle")) == ("none", "solid")
    with page.expect_file_chooser():
        page.keyboard.press("Space")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_fits(page, width, scheme, tmp_path):
    """Nothing is cut off at the side, and text stands out from what is behind it."""
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    choose(page, ("a-name-without-a-break-" * 8 + ".png", png()), ("b.png", b"broken"))
    shown(page)
    page.locator(".error").wait_for()
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("h1", "#model", "#drop", ".name", ".label", ".value", ".error"):
        assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector  # WCAG 2, AA


class TestOverlay:
    """A model of segmentation: its classes in colour above the image."""

    @pytest.fixture(scope="class")
    def address(self, masks_checkpoint):
        with serving(masks_checkpoint) as address:
            yield address

    @pytest.fixture
    def page(self, browser, address):
        with opened(browser, address) as page:
            choose(page, ("a.png", png()))
            page.locator(".overlay").wait_for()
            yield page
            assert page.told == []

    def test_lies_exactly_above_the_image(self, page):
        image, overlay = (page.locator(f".layers img:nth-child({place})") for place in (1, 2))
        size = "image => [image.naturalWidth, image.naturalHeight]"
        page.wait_for_function("[...document.querySelectorAll('.layers img')].every(image => image.naturalWidth)")
        assert image.evaluate(size) == overlay.evaluate(size) == [60, 40]
        assert image.bounding_box() == overlay.bounding_box()
        for one in (image, overlay):
            assert one.get_attribute("alt") == ""  # the legend says it in words

    def test_the_legend_has_its_colors(self, page):
        rows = page.locator(".found .row").all()
        assert len(rows) > 1
        pixels = page.evaluate("""async () => {
            const image = document.querySelector(".overlay"), canvas = document.createElement("canvas");
            await image.decode();
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
            return Array.from(data);
        }""")
        colors, counts = np.unique(np.reshape(pixels, (-1, 4)), axis=0, return_counts=True)
        shares = {"rgb({}, {}, {})".format(*color[:3]): count / 24 for color, count in zip(colors, counts, strict=True)}
        for row in rows:
            color = row.locator(".swatch").evaluate("swatch => getComputedStyle(swatch).backgroundColor")
            assert row.locator(".value").text_content() == f"{shares.pop(color):.1f} %"
        assert not shares

    def test_the_slider_by_keyboard_and_by_name(self, page):
        slider = page.get_by_role("slider", name="Opacity")
        overlay = page.locator(".overlay")
        assert (slider.input_value(), overlay.evaluate("image => image.style.opacity")) == ("55", "0.55")
        assert slider.get_attribute("aria-valuetext") == "55 %"
        page.locator("#files").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("End")
        assert overlay.evaluate("image => getComputedStyle(image).opacity") == "1"
        assert slider.get_attribute("aria-valuetext") == "100 %"
        page.keyboard.press("Home")
        assert overlay.evaluate("image => getComputedStyle(image).opacity") == "0"

    def test_the_next_results_keep_the_opacity(self, page):
        page.locator(".opacity input").fill("20")
        choose(page, ("b.png", png(1)))
        sync_api.expect(page.locator(".overlay")).to_have_count(2)
        assert [one.input_value() for one in page.locator(".opacity input").all()] == ["20", "20"]

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", WIDTHS)
    def test_fits(self, page, width, scheme):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for selector in (".name", ".label", ".value", ".opacity"):
            assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector


CONTRAST = """element => {
    const light = colour => {
        const [r, g, b] = colour.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const numbers = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const behind = light(numbers(getComputedStyle(document.body).backgroundColor));
    const text = light(numbers(getComputedStyle(element).color));
    return (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
}"""
