""" "auto": PyTorch for a few images, a compiled engine for many, and at once where one is kept."""

import pytest
import torch
from PIL import Image
from torch import nn

from glocal.deploy import adaptive as module
from glocal.deploy import compile
from glocal.deploy.adaptive import Adaptive
from glocal.deploy.predictor import Predictor

pytest.importorskip("openvino")
pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (3, 8, 8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def clock(monkeypatch):
    """PyTorch takes 0.1 s for each call, and compiling 2 s: 40 images of one batch each pay, as half is saved."""
    now = iter(range(1000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(now) / 10)
    monkeypatch.setattr(module, "seconds_to_compile", lambda model, name, input_size: 2.0)


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)).eval()


def engines(model, calls, to_come):
    """The engine that computes each of so many images; to_come: how many are expected before the first."""
    left = to_come
    adaptive = Adaptive(model, SIZE, 1, lambda: left)
    found = []
    for _ in range(calls):
        adaptive(torch.zeros(1, *SIZE))
        left = max(0, left - 1)
        found.append(adaptive.name)
    return found


def test_few_images_are_computed_by_torch(model, clock, cache):
    assert engines(model, 5, to_come=5) == ["torch"] * 5
    assert not cache.exists()


def test_for_many_it_compiles_when_it_knows_what_torch_takes(model, clock):
    assert engines(model, 3, to_come=100) == ["torch", "openvino", "openvino"]


@pytest.mark.parametrize(("to_come", "after"), [(42, 1), (41, 40), (0, 40)])
def test_the_number_that_pays(model, clock, to_come, after):
    """41 that are left after the first pay; and where none are known, as many are expected as there were."""
    found = engines(model, 45, to_come)
    assert found.index("openvino") == after + (found[after] != "openvino")


def test_what_is_kept_is_taken_at_once(model, clock, cache):
    compile(model, "openvino", SIZE, 1)
    assert engines(model, 1, to_come=1) == ["openvino"]


def test_a_predictor_knows_how_many_are_to_come(checkpoint, clock, cache):
    image = Image.new("RGB", (9, 9))
    predictor = Predictor(checkpoint, device="cpu", batch_size=1, threads=1)
    predictor([image] * 3)
    assert predictor.engine == "torch"
    assert not cache.exists()
    predictor([image] * 50)
    assert predictor.engine == "openvino"
    again = Predictor(checkpoint, device="cpu", batch_size=1, threads=1)
    again(image)
    assert again.engine == "openvino"


def test_a_predictor_is_told_about_an_iterable(checkpoint, clock):
    predictor = Predictor(checkpoint, device="cpu", batch_size=1, threads=1)
    predictor.expect(50)
    next(stream := predictor.stream(iter([Image.new("RGB", (9, 9))] * 3)))
    next(stream)
    assert predictor.engine == "openvino"
