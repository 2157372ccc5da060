"""TorchScript, FX, torch.compile and torch.export give what eager execution gives."""

import pytest
import timm
import torch
from timm.layers import set_scriptable
from timm.models import FeatureListNet, get_notrace_functions, get_notrace_modules
from torch._dynamo.testing import CompileCounter
from torchvision.models.feature_extraction import create_feature_extractor

import glocal
from agreement import random, randomised

pytestmark = pytest.mark.usefixtures("one_thread")

PICO = [name for name in glocal.model_names() if name.endswith("_pico")]


# The families with the most ways of their own; of the others the slow tests take those graphs that cost seconds each.
QUICK = ("transxnet_pico", "transnext_pico")


def build(name, num_classes=7, **kwargs):
    """One block for each stage: tracing takes its time."""
    return randomised(timm.create_model(name, num_classes=num_classes, depths=(1, 1, 1, 1), **kwargs), 0.2)


def image(*size, batch=2):
    return random(batch, 3, *size)


@pytest.fixture(scope="module", params=PICO)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return build(name).eval()


def of_families(*quick):
    """Runs a test for these families in CI, and for all where tests may be slow."""
    marked = [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in PICO]
    return pytest.mark.parametrize("name", marked, scope="module", indirect=True)


@torch.no_grad()
def agree(actual, expected, *sizes):
    for size in sizes:
        torch.testing.assert_close(actual(image(*size)), expected(image(*size)), rtol=1e-8, atol=1e-8)


class TestTorchScript:
    def test_script(self, name, model):
        with set_scriptable(True):
            twin = build(name).eval()
        agree(torch.jit.script(twin), model, (33, 47), (33, 47))

    @of_families(*QUICK)
    def test_scripted_features(self, name):
        features = timm.create_model(name, features_only=True, out_indices=(1, 3), depths=(1, 1, 1, 1)).eval()
        scripted = torch.jit.script(features)
        x = image(33, 47).float()
        with torch.no_grad():
            for actual, expected in zip(scripted(x), features(x), strict=True):
                torch.testing.assert_close(actual, expected)

    @pytest.mark.slow
    def test_scripted_training(self, name):
        scripted = torch.jit.script(build(name, drop_rate=0.0).train())
        scripted(image(32, 32)).sum().backward()
        assert all(parameter.grad is not None for parameter in scripted.parameters())

    @pytest.mark.slow
    def test_trace(self, model):
        traced = torch.jit.trace(model, image(33, 47), check_trace=False)
        agree(traced, model, (33, 47))


class TestFX:
    @pytest.mark.parametrize("training", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["train", "eval"])
    def test_symbolic_trace(self, name, training):
        twin = build(name, drop_rate=0.0).train(training)
        leaves = dict(leaf_modules=get_notrace_modules(), autowrap_functions=get_notrace_functions())
        leaves["param_shapes_constant"] = True
        graph = create_feature_extractor(twin, return_nodes=["head.fc"], tracer_kwargs=leaves)
        x = image(33, 47)
        out = graph(x)["head.fc"]
        torch.testing.assert_close(out.detach(), twin(x).detach())
        out.sum().backward()
        assert all(parameter.grad is not None for parameter in graph.parameters())

    def test_list_wrapper_scripts(self):
        features = timm.create_model("van_pico", features_only=True, feature_cls="list").eval()
        assert isinstance(features, FeatureListNet)
        assert len(torch.jit.script(features)(image(32, 32).float())) == 4


class TestCompile:
    @of_families("transnext_pico")
    def test_one_graph_in_eval_mode(self, name, model):
        torch._dynamo.reset()
        agree(torch.compile(model, fullgraph=True, backend="eager"), model, (33, 47))

    @pytest.mark.slow
    def test_after_eager_use(self, model):
        """What eager execution cached is not baked into the graph."""
        torch._dynamo.reset()
        agree(model, model, (32, 32))
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        agree(compiled, model, (32, 32))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)
        agree(compiled, model, (32, 32))

    @pytest.mark.slow
    def test_one_graph_in_training(self, name):
        torch._dynamo.reset()
        plain, twin = build(name, drop_rate=0.0), build(name, drop_rate=0.0)
        outputs = []
        for model in (plain, torch.compile(twin, fullgraph=True, backend="eager")):
            out = model.train()(image(64, 64))
            out.square().sum().backward()
            outputs.append(out.detach())
        torch.testing.assert_close(*outputs)
        for p, q in zip(plain.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)

    @pytest.mark.slow
    def test_batch_sizes_share_a_graph(self, model):
        """One graph for the first batch size, one for all others."""
        torch._dynamo.reset()
        counter = CompileCounter()
        compiled = torch.compile(model, fullgraph=True, backend=counter)
        with torch.no_grad():
            for batch in (2, 3, 4, 7, 16):
                torch.testing.assert_close(compiled(image(32, 32, batch=batch)), model(image(32, 32, batch=batch)))
        assert counter.frame_count == 2

    @pytest.mark.slow
    def test_aot_autograd(self, model):
        torch._dynamo.reset()
        agree(torch.compile(model, fullgraph=True, backend="aot_eager"), model, (33, 47))


class TestExport:
    @pytest.mark.parametrize("size", [(33, 47), (64, 96), (100, 75)], ids=str)
    def test_formulations_for_graphs_change_nothing(self, model, monkeypatch, size):
        """Without the export itself, which takes its time."""
        x = image(*size)
        with torch.no_grad():
            expected = model(x)
            monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
            torch.testing.assert_close(model(x), expected, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("size", [pytest.param((64, 64), marks=pytest.mark.slow), (33, 47)], ids=str)
    @of_families("transxnet_pico")
    def test_static(self, name, model, size):
        program = torch.export.export(model, (image(*size),))
        agree(program.module(), model, size)

    @pytest.mark.slow
    def test_dynamic_batch(self, model):
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(model, (image(32, 32, batch=2),), dynamic_shapes=({0: batch},))
        with torch.no_grad():
            for n in (1, 2, 5):
                x = image(32, 32, batch=n)
                torch.testing.assert_close(program.module()(x), model(x), rtol=1e-8, atol=1e-8)

    @pytest.mark.slow
    def test_features(self, name):
        features = timm.create_model(name, features_only=True).eval()
        x = image(32, 32).float()
        with torch.no_grad():
            program = torch.export.export(features, (x,))
            for actual, expected in zip(program.module()(x), features(x), strict=True):
                torch.testing.assert_close(actual, expected)
