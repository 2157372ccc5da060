"""A compiled model computes what the model does, with any engine."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

import glocal
from agreement import randomised
from glocal.deploy import compile, engine, runtimes
from glocal.deploy.graph import Maps

pytest.importorskip("onnxscript")
pytest.importorskip("openvino")
pytestmark = pytest.mark.usefixtures("one_thread")

ENGINES = ["openvino", "onnxruntime", "torch"]
PICO = [name for name in glocal.model_names() if name.endswith("_pico")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Small(nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.factor * self.conv(x).relu().mean((2, 3))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small().eval()


def agree(compiled, model, *shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
    np.testing.assert_array_equal(compiled(x.numpy()), compiled(x).numpy())


@pytest.mark.parametrize("name", ENGINES)
def test_any_batch_and_size(small, name):
    compiled = compile(small, name)
    assert compiled.name == name
    for shape in ((1, 3, 20, 30), (5, 3, 20, 30), (2, 3, 7, 9), (1, 3, 20, 30)):
        agree(compiled, small, *shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("model", PICO)
def test_every_family(model, name):
    model = randomised(timm.create_model(model, num_classes=7, depths=(1, 1, 1, 1)), 0.2).float().eval()
    compiled = compile(model, name)
    for shape in ((1, 3, 64, 64), (3, 3, 64, 64), (1, 3, 75, 100), (2, 3, 224, 160)):
        agree(compiled, model, *shape)


@pytest.mark.parametrize("name", ENGINES)
def test_one_size(name):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)).eval()
    model.insert(0, nn.Conv2d(3, 3, 1))
    agree(compile(model, name, input_size=(3, 8, 8)), model, 3, 3, 8, 8)


@pytest.mark.parametrize("name", ENGINES)
def test_several_results(name):
    model = Maps(timm.create_model("test_resnet")).eval()
    compiled = compile(model, name, input_size=(3, 64, 64))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
    assert isinstance(compiled(x), list)
    for ours, theirs in zip(compiled(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ENGINES)
def test_results_are_the_callers_own(small, name):
    """A later call does not write into them."""
    compiled = compile(small, name)
    first = compiled(np.zeros((1, 3, 8, 8), np.float32))
    before = first.copy()
    compiled(np.ones((1, 3, 8, 8), np.float32))
    np.testing.assert_array_equal(first, before)


class TestCache:
    @pytest.fixture
    def written(self, monkeypatch):
        names = []
        original = engine.export
        monkeypatch.setattr(
            engine, "export", lambda model, path, **kw: names.append(path) or original(model, path, **kw)
        )
        return names

    def test_the_second_time_is_read(self, small, written, cache):
        first = compile(small, "onnxruntime")
        second = compile(small, "onnxruntime")
        assert len(written) == 1
        assert written[0].parent == cache
        x = np.ones((2, 3, 8, 9), np.float32)
        np.testing.assert_array_equal(first(x), second(x))

    def test_other_weights_settings_or_engines_are_written_anew(self, small, written):
        compile(small, "onnxruntime")
        with torch.no_grad():
            small.conv.bias[0] += 1e-6
        compile(small, "onnxruntime")
        compile(small, "openvino")
        small.factor = 2.0
        agree(compile(small, "onnxruntime"), small, 1, 3, 8, 8)
        assert len(written) == len(set(written)) == 4

    def test_sizes_do_not_pile_up(self, small):
        compiled = compile(small, "openvino")
        for side in range(8, 14):
            agree(compiled, small, 1, 3, side, 8)
        assert len(compiled._run.compiled) == engine.SIZES_KEPT


class TestChoice:
    @pytest.mark.parametrize(
        ("installed", "chosen"),
        [
            ({"openvino", "onnx", "onnxscript", "onnxruntime"}, "openvino"),
            ({"onnx", "onnxscript", "onnxruntime"}, "onnxruntime"),
            ({"onnxruntime"}, "torch"),
            (set(), "torch"),
        ],
    )
    def test_the_best_that_is_installed(self, installed, chosen, monkeypatch):
        monkeypatch.setattr(engine, "find_spec", lambda name: name if name in installed else None)
        assert engine.choose("auto") == chosen

    def test_one_that_is_not_installed(self, small, monkeypatch):
        monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"pip install 'glocal\[export\]'"):
            compile(small, "openvino")

    def test_unknown(self, small):
        with pytest.raises(ValueError, match="the engine must be one of auto, openvino, onnxruntime, torch, got 'tpu'"):
            compile(small, "tpu")

    @pytest.mark.parametrize(("name", "precision"), [("torch", "bf16"), ("onnxruntime", "bf16"), ("openvino", "int4")])
    def test_precision(self, small, name, precision):
        with pytest.raises(ValueError, match=f"{name} computes in fp32.*, not in '{precision}'"):
            compile(small, name, precision=precision)


@pytest.mark.parametrize("shape", [(3, 8, 8), (0, 3, 8, 8), (2, 3, 8, 8, 1)], ids=str)
def test_shapes_that_are_no_batch(small, shape):
    with pytest.raises(ValueError, match=r"images must be \(B, C, H, W\) with B of at least 1"):
        compile(small, "torch")(np.zeros(shape, np.float32))


def test_threads(small):
    before = torch.get_num_threads()
    seen = []
    small.register_forward_hook(lambda *args: seen.append(torch.get_num_threads()))
    compile(small, "torch", threads=2)(np.zeros((1, 3, 8, 8), np.float32))
    assert seen[-1] == 2
    assert torch.get_num_threads() == before
