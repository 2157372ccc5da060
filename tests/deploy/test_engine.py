"""A compiled model computes what the model does, with any engine."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import timm
import torch
from torch import nn

import fresh
import glocal
from agreement import randomised
from glocal.deploy import compile, engine, export, runtimes
from glocal.deploy.graph import Maps

pytest.importorskip("onnxscript", reason="needs the extra [export]")
pytest.importorskip("openvino", reason="needs the extra [export]")
pytestmark = pytest.mark.usefixtures("one_thread")

ENGINES = ["openvino", "onnxruntime", "torch"]
PICO = [name for name in glocal.model_names() if name.endswith("_pico")]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty one, of the test; the other tests share the session's, so that each file is written once."""
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@dataclass
class Scale:
    by: str


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
    compiled = compile(model, name, input_size=(3, 8, 8))
    agree(compiled, model, 3, 3, 8, 8)
    with pytest.raises(ValueError, match=r"compiled for images of \(3, 8, 8\), got \(3, 8, 9\)"):
        compiled(np.zeros((1, 3, 8, 9), np.float32))
    with pytest.raises(ValueError, match="give input_size"):
        compile(model, name)


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
    def written(self, cache, monkeypatch):
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
        assert cache in written[0].parents
        x = np.ones((2, 3, 8, 9), np.float32)
        np.testing.assert_array_equal(first(x), second(x))

    @pytest.mark.parametrize("change", ["act", "table", "nested", "buffer", "code", "array", "partial", "dataclass"])
    def test_the_key_sees(self, small, change, monkeypatch):
        before = engine.content_key(small)
        assert engine.content_key(small) == before
        if change == "act":
            small.act = torch.sin
        elif change == "table":
            small.table = torch.ones(3)
        elif change == "nested":
            small.options = {"sizes": [1, (2, 3)]}
        elif change == "buffer":
            small.register_buffer("mask", torch.ones(2), persistent=False)
        elif change == "array":
            small.table = np.ones(3)
            between = engine.content_key(small)
            small.table = np.array([1.0, 1.0, 2.0])
            assert engine.content_key(small) != between
        elif change in ("partial", "dataclass"):
            make = {"partial": lambda k: partial(torch.mul, other=k), "dataclass": Scale}[change]
            small.act = make("2")
            between = engine.content_key(small)
            assert engine.content_key(small) == between
            small.act = make("3")
            assert engine.content_key(small) != between
        else:
            code = engine._code_of
            monkeypatch.setattr(engine, "_code_of", lambda kind: code(kind) + "#" * (kind is nn.Conv2d))
        between = engine.content_key(small)
        assert between != before
        if change == "nested":
            small.options["sizes"][1] = (2, 4)
            assert engine.content_key(small) != between

    def test_other_weights_settings_or_engines_are_written_anew(self, small, written, cache):
        compile(small, "onnxruntime")
        with torch.no_grad():
            small.conv.bias[0] += 1e-6
        compile(small, "onnxruntime")
        compile(small, "openvino")
        small.factor = 2.0
        agree(compile(small, "onnxruntime"), small, 1, 3, 8, 8)
        assert len(written) == 4
        assert len([folder for folder in cache.iterdir() if not folder.name.startswith(".")]) == 4

    @pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
    def test_what_the_key_does_not_see_is_written_anew(self, small, written, cache, name):
        class Gain:
            def __init__(self, value):
                self.value = value

            def __mul__(self, x):
                return self.value * x

        for gain in (1.0, 5.0, 5.0):
            small.factor = Gain(gain)
            agree(compile(small, name), small, 1, 3, 8, 8)
        assert len(written) == 2
        assert len(list(cache.iterdir())) == 1

    def test_a_damaged_file_is_written_anew(self, small, written, cache):
        compile(small, "openvino")
        for file in cache.rglob("*.bin"):
            file.unlink()
        agree(compile(small, "openvino"), small, 1, 3, 8, 8)
        assert len(written) == 2

    def test_a_faster_process(self, small, written, cache, monkeypatch):
        first = compile(small, "onnxruntime")
        (folder,) = cache.iterdir()
        folder.rename(cache / "aside")
        rename = engine.os.rename

        def late(old, new):
            rename(cache / "aside", folder)
            rename(old, new)

        monkeypatch.setattr(engine.os, "rename", late)
        second = compile(small, "onnxruntime")
        x = np.ones((1, 3, 8, 8), np.float32)
        np.testing.assert_array_equal(first(x), second(x))
        assert list(cache.iterdir()) == [folder]

    def test_sizes_do_not_pile_up(self, small):
        compiled = compile(small, "openvino")
        for side in range(8, 18):
            agree(compiled, small, 1, 3, side, 8)
        assert len(compiled._run.compiled) == engine.COMPILED_KEPT


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


class TestAuto:
    def test_torch_where_the_runtime_does_not_take_the_model(self, caplog):
        class Branches(nn.Module):
            def forward(self, x):
                return x.mean((2, 3)) if x.sum() > 0 else -x.mean((2, 3))

        model = nn.Sequential(nn.Conv2d(3, 4, 1), Branches()).eval()
        compiled = compile(model)
        assert compiled.name == "torch"
        assert "openvino does not take the model, torch computes it: torch.export does not" in caplog.text
        agree(compiled, model, 2, 3, 5, 5)
        with pytest.raises(ValueError, match="does not take this model"):
            compile(model, "openvino")

    def test_torch_where_the_runtime_lacks_an_operation(self, caplog):
        class Eigenvalues(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 1)

            def forward(self, x):
                x = self.conv(x).mean((2, 3))
                return torch.linalg.eigvalsh(x[:, :, None] * x[:, None, :])

        model = Eigenvalues().eval()
        compiled = compile(model)
        assert compiled.name == "torch"
        agree(compiled, model, 2, 3, 8, 8)
        assert "torch computes it" in caplog.text
        for name in ("openvino", "onnxruntime"):
            with pytest.raises(ValueError, match=r"does not take this model: No .*_linalg_eigh") as caught:
                compile(model, name)
            assert "\n" not in str(caught.value)

    def test_torch_where_nothing_can_be_kept(self, small, cache):
        cache.write_text("a file, no folder")
        assert compile(small).name == "torch"


def test_bfloat16(small):
    x = torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        expected = small(x)
    torch.testing.assert_close(compile(small, "openvino", precision="bf16")(x), expected, rtol=0.05, atol=0.05)


def test_threads_take_turns(small):
    compiled = compile(small, "openvino")
    images = [np.full((1, 3, 8, 8), value, np.float32) for value in range(20)]
    expected = [compiled(image) for image in images]
    with ThreadPoolExecutor(8) as threads:
        for result, right in zip(threads.map(compiled, images * 5), expected * 5, strict=True):
            np.testing.assert_array_equal(result, right)


def test_number_of_threads(small):
    (request,) = compile(small, "openvino", threads=1)._run.compile((3, 8, 8), "LATENCY")
    assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


def test_threads(small):
    before = torch.get_num_threads()
    seen = []
    small.register_forward_hook(lambda *args: seen.append(torch.get_num_threads()))
    compile(small, "torch", threads=2)(np.zeros((1, 3, 8, 8), np.float32))
    assert seen[-1] == 2
    assert torch.get_num_threads() == before


SIGNAL_AFTER_ENDED_MODELS = """
import faulthandler, os, signal, sys
from pathlib import Path
from glocal.deploy import runtimes
faulthandler.enable()
signal.signal(signal.SIGUSR1, lambda number, frame: print("reached"))
models = [runtimes.load(Path(sys.argv[1])) for _ in range(2)]
while models:
    del models[0]  # the first ends before the second
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_signals_reach_a_process_whose_models_have_ended(small, tmp_path):
    export(small, tmp_path / "small.xml", "openvino")
    result = fresh.run(SIGNAL_AFTER_ENDED_MODELS, tmp_path / "small.xml")
    assert (result.returncode, result.stdout) == (0, "reached\n"), result.stderr
