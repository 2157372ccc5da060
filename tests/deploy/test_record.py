"""A model recorded in one run for OpenVINO computes what the model does, or is not recorded."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

import glocal
from agreement import randomised
from glocal.deploy import compile, engine
from glocal.deploy.graph import LogitsAndEmbedding
from glocal.deploy.record import NotRecordedError, record

pytest.importorskip("openvino")
pytestmark = pytest.mark.usefixtures("one_thread")

PICO = [name for name in glocal.model_names() if name.endswith("_pico")]
QUICK = ("transxnet_pico", "van_pico")  # the others are slow tests


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def only_recorded(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("torch.export was asked")

    monkeypatch.setattr(engine, "export", refuse)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in [*PICO, "test_vit"]]
)
@pytest.mark.parametrize("inference", [pytest.param(False, marks=pytest.mark.slow), True])
def test_every_family(name, inference, only_recorded):
    depths = {"depths": (1, 1, 1, 1)} if name in PICO else {}
    model = randomised(timm.create_model(name, num_classes=7, **depths), 0.2).float().eval()
    model = LogitsAndEmbedding(model.to(memory_format=torch.channels_last))
    side = 75 if name in PICO else 160
    with torch.inference_mode(inference):  # in which the predictor compiles
        compiled = compile(model, "openvino", input_size=(3, side, side))
        images = torch.randn(3, 3, side, side)
        for batch in (images, images[:1]):
            for ours, theirs in zip(compiled(batch), model(batch), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.detach().std()))


class Part(nn.Module):
    def __init__(self, compute):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.compute = compute

    def forward(self, x):
        return self.compute(self.conv(x)).mean((2, 3))


def with_a_written_channel(x):
    x = x.clone()
    x[:, 1] = 0
    x[:, 2].mul_(3)
    return x


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x.relu_().add_(1),
        with_a_written_channel,
        lambda x: torch.cat(x.view(1, 2, 2, 6, 6).unbind(1)[::-1], 1),
    ],
    ids=["in place", "a written channel", "several results"],
)
def test_what_writes_is_recorded_as_what_is_computed(compute, only_recorded):
    model = Part(compute).eval()
    images = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(compile(model, "openvino", (3, 8, 8))(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * x.max().item(),
        lambda x: x * float(x.max()),
        lambda x: x[:, : int(x.sum().abs()) % 3 + 1],
        lambda x: x * torch.tensor(x.tolist()),
    ],
    ids=["branch", "item", "float", "int", "list"],
)
def test_a_model_that_decides_by_values_is_not_recorded(compute):
    with torch.no_grad(), pytest.raises((NotRecordedError, RuntimeError)):
        record(Part(compute).eval(), torch.randn(1, 3, 8, 8))


def test_values_that_leave_torch_unseen_are_found_by_the_comparison():
    """NumPy's part would be a constant."""
    model = Part(lambda x: x * torch.from_numpy(x.numpy())).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        compiled = compile(model, "auto", (3, 8, 8))
        torch.testing.assert_close(compiled(images), model(images))
    assert compiled.name == "torch"


def test_what_does_not_depend_on_the_images_is_a_constant():
    model = Part(lambda x: x * torch.arange(6).sin().cumsum(0).softmax(0)).eval()
    graph = record(model, torch.zeros(1, 3, 8, 8)).graph
    names = [node.target.__name__ for node in graph.nodes if node.op == "call_function"]
    assert names == ["convolution.default", "mul.Tensor", "mean.dim"]


def test_torch_export_takes_what_is_not_recorded(monkeypatch, caplog):
    def refuse(*args, **options):
        raise NotRecordedError("out of luck")

    monkeypatch.setattr(engine, "write_openvino", refuse)
    model = Part(torch.sin).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(compile(model, "openvino", (3, 8, 8))(images), model(images), rtol=1e-4, atol=1e-5)
    assert "the quick way fails (out of luck), torch.export takes about 1 s" in caplog.text


def test_torch_export_takes_what_is_recorded_wrongly(monkeypatch, caplog):
    write = engine.write_openvino
    wrong = Part(torch.cos).eval()
    monkeypatch.setattr(engine, "write_openvino", lambda model, path, input_size: write(wrong, path, input_size))
    model = Part(torch.sin).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(compile(model, "openvino", (3, 8, 8))(images), model(images), rtol=1e-4, atol=1e-5)
    assert "the quick way fails (the graph differs from the model)" in caplog.text


def test_says_what_it_does_and_how_to_do_without(caplog):
    model = Part(torch.sin).eval()
    compile(model, "openvino", (3, 8, 8))
    assert "compiling the model for openvino, which takes about 1 s and is kept in" in caplog.text
    assert '--engine torch (engine="torch") does without' in caplog.text
    caplog.clear()
    compile(model, "openvino", (3, 8, 8))(np.zeros((1, 3, 8, 8), np.float32))
    assert not caplog.text
