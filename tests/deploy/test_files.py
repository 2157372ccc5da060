"""Exported files compute what the model does, for every family and any size, or are not kept."""

import json

import numpy as np
import pytest
import timm
import torch
from torch import nn

import glocal
from agreement import randomised
from glocal.data.preprocessing import Preprocessing
from glocal.deploy import export, files, runtimes
from glocal.deploy.files import ExportMismatchError, compare, random_images
from glocal.deploy.graph import LogitsAndEmbedding, Maps
from glocal.layers.position import LogCPB, RelativePosition
from glocal.ops import offset_bias

pytest.importorskip("onnxscript", reason="needs the extra [export]")
pytest.importorskip("openvino", reason="needs the extra [export]")
pytestmark = pytest.mark.usefixtures("one_thread")

PICO = [name for name in glocal.model_names() if name.endswith("_pico")]
ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}


def build(name):
    """One block for each stage, as an export takes its time."""
    return randomised(timm.create_model(name, num_classes=7, depths=(1, 1, 1, 1)), 0.2).float().eval()


class Small(nn.Module):
    """Takes any size, and is exported within a second."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu().mean((2, 3))


class Tiny(nn.Module):
    """As much of timm's contract as the names of outputs ask for: two stages, and a classifier or none."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.stages = nn.ModuleList([nn.Conv2d(3, 6, 3, 4, 1), nn.Conv2d(6, 8, 3, 2, 1)])
        self.fc = nn.Linear(8, num_classes) if num_classes else nn.Identity()

    def forward_intermediates(self, x, intermediates_only):
        x = self.stages[0](x)
        return [x, self.stages[1](x.relu())]

    def forward_features(self, x):
        return self.forward_intermediates(x, True)[-1]

    def forward_head(self, x, pre_logits=False):
        return x.mean((2, 3)) if pre_logits else self.fc(x.mean((2, 3)))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class Tables(nn.Module):
    """An image's sum weighted by a table of positions: OSRA's encoding or TransNeXt's log-spaced bias."""

    def __init__(self, table: str):
        super().__init__()
        torch.manual_seed(0)
        self.log = table == "log-cpb"
        self.table = LogCPB(2, 56) if self.log else RelativePosition(2, (16, 16), 4)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x):
        height, width = x.shape[-2:]
        if self.log:
            bias, rows, columns = self.table(height, width, height // 4, width // 4)
            table = (bias if rows is None else offset_bias(bias, rows, columns))[None]
        else:
            table = self.table(x)
        return (x.mean(1).flatten(1)[:, None, :, None] * table).sum(2)  # (B, heads, keys)


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small().eval()


class TestEveryFamily:
    @pytest.mark.parametrize("to", ["onnx", "openvino"])
    @pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in PICO])
    def test_any_batch_and_size(self, name, to, tmp_path):
        model = build(name)
        result = export(model, tmp_path / f"model{ENDINGS[to]}")
        assert result.difference < 1e-4
        assert {shape[0] for shape in result.compared} == {1, 3}
        assert len({shape[2:] for shape in result.compared}) == 2
        other = runtimes.load(result.path)
        shapes = [(2, 3, 64, 64), (1, 3, 100, 75), (5, 3, 33, 47), (1, 3, 96, 256)]
        assert compare(model, other, random_images(shapes)) < 1e-4

    @pytest.mark.slow
    @pytest.mark.parametrize("name", PICO)
    def test_maps(self, name, tmp_path):
        model = Maps(build(name))
        result = export(model, tmp_path / "maps.onnx", dynamic=("size",))
        maps = runtimes.load(result.path)(np.zeros((1, 3, 64, 96), np.float32))
        assert [m.shape[2:] for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", PICO)
    def test_nothing_open(self, name, tmp_path):
        result = export(build(name), tmp_path / "model.xml", dynamic=(), input_size=(3, 75, 64), batch=2)
        assert result.compared == [(2, 3, 75, 64)]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", PICO)
    def test_torch(self, name, tmp_path):
        assert export(build(name), tmp_path / "model.pt2").difference < 1e-4


class TestFiles:
    @pytest.mark.parametrize("to", ENDINGS)
    @pytest.mark.parametrize(
        "dynamic",
        [(), ("batch", "size"), *(pytest.param((one,), marks=pytest.mark.slow) for one in ("batch", "size"))],
        ids=",".join,
    )
    def test_what_is_open(self, small, tmp_path, to, dynamic):
        result = export(small, tmp_path / f"model{ENDINGS[to]}", dynamic=dynamic, input_size=(3, 20, 30), batch=2)
        assert result.difference < 1e-4
        other = runtimes.load(result.path)
        shapes = {"batch": (5, 3, 20, 30), "size": (2, 3, 41, 17)}
        for name, shape in shapes.items():
            if name in dynamic:
                assert compare(small, other, random_images([shape])) < 1e-4
            else:
                with pytest.raises(ExportMismatchError, match="does not take images of " + "×".join(map(str, shape))):
                    compare(small, other, random_images([shape]))

    def test_metadata(self, small, tmp_path):
        import onnx
        import openvino

        metadata = {"class_names": ["Käse", "b"], "preprocessing": {"mean": [0.5]}}
        for to, ending in ENDINGS.items():
            export(small, tmp_path / f"model{ending}", to, metadata=metadata)
        proto = onnx.load(tmp_path / "model.onnx")
        assert json.loads({entry.key: entry.value for entry in proto.metadata_props}["glocal"]) == metadata
        assert json.loads(openvino.Core().read_model(tmp_path / "model.xml").get_rt_info("glocal").value) == metadata
        extra = {"glocal": ""}
        torch.export.load(tmp_path / "model.pt2", extra_files=extra)
        assert json.loads(extra["glocal"]) == metadata

    @pytest.mark.parametrize(
        ("model", "outputs"),
        [
            ("classifier", {"logits": ["batch", 4]}),
            ("no classifier", {"embedding": ["batch", 8]}),
            ("both", {"logits": ["batch", 4], "embedding": ["batch", 8]}),
            ("maps", {"features_0": ["batch", 6], "features_1": ["batch", 8]}),
        ],
    )
    def test_names(self, model, outputs, tmp_path):
        """Of inputs, outputs and their axes; ONNX Runtime then takes and gives tensors by them."""
        import onnxruntime
        import openvino

        torch.manual_seed(0)
        small = Tiny(num_classes=0 if model == "no classifier" else 4).eval()
        small = {"both": LogitsAndEmbedding, "maps": Maps}.get(model, lambda same: same)(small)
        session = onnxruntime.InferenceSession(export(small, tmp_path / "model.onnx").path)
        assert {i.name: i.shape for i in session.get_inputs()} == {"images": ["batch", 3, "height", "width"]}
        found = {o.name: o.shape for o in session.get_outputs()}
        assert {name: shape[:2] for name, shape in found.items()} == outputs
        assert all("height" in h and "width" in w for h, w in (shape[2:] for shape in found.values() if shape[2:]))
        graph = openvino.Core().read_model(export(small, tmp_path / "model.xml").path)
        assert [tensor.names for tensor in graph.inputs] == [{"images"}]
        assert [tensor.names for tensor in graph.outputs] == [{name} for name in outputs]

    def test_names_with_preprocessing(self, small, tmp_path):
        import onnxruntime

        path = export(
            small, tmp_path / "model.onnx", preprocessing=Preprocessing((3, 32, 32), (0.5,) * 3, (0.25,) * 3)
        ).path
        session = onnxruntime.InferenceSession(path)
        assert [(i.name, i.shape) for i in session.get_inputs()] == [("images", ["batch", "height", "width", 3])]
        assert [o.shape[0] for o in session.get_outputs()] == ["batch"]

    @pytest.mark.parametrize("to", ["onnx", "openvino"])
    def test_half_precision_is_half_the_size(self, tmp_path, to):
        wide = nn.Sequential(nn.Conv2d(3, 400, 3), nn.Conv2d(400, 50, 3)).eval()
        options = {"input_size": (3, 16, 16), "dynamic": ("batch",)}
        sizes = [
            export(wide, tmp_path / f"{precision}{ENDINGS[to]}", precision=precision, **options).megabytes
            for precision in ("fp32", "fp16")
        ]
        weights = 4 * sum(parameter.numel() for parameter in wide.parameters()) / 1e6
        assert weights < sizes[0] < 1.1 * weights
        assert weights / 2 < sizes[1] < 1.1 * weights / 2

    def test_the_model_stays_as_it_was(self, tmp_path):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.BatchNorm2d(4)).train()
        model[3].eval()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        export(model, tmp_path / "model.onnx")
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert [part.training for part in model] == [True, True, True, False]

    @pytest.mark.parametrize("table", ["encoding", "log-cpb"])
    def test_tables_of_positions_where_the_size_is_known(self, table, tmp_path):
        """What OpenVINO computes before it runs, too; `export` compares both."""
        path = export(Tables(table).eval(), tmp_path / "model.xml", dynamic=("size",), input_size=(3, 20, 28)).path
        x = torch.randn(1, 3, 12, 40)
        with torch.no_grad():
            expected = Tables(table).eval()(x)
        known = runtimes.openvino(path, x.shape)(x.numpy())[0]
        np.testing.assert_allclose(known, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


class TestWhatIsRefused:
    def test_a_file_that_computes_something_else(self, small, tmp_path, monkeypatch):
        path = tmp_path / "model.onnx"
        path.write_text("from before")
        load = runtimes.load
        monkeypatch.setattr(runtimes, "load", lambda file: lambda x: [load(file)(x)[0] + 1e-2])
        with pytest.raises(ExportMismatchError, match="computes something else than PyTorch: a difference of"):
            export(small, path)
        assert path.read_text() == "from before"
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
    def test_no_numbers(self, small, wrong):
        assert compare(
            small, lambda x: [np.full((len(x), 4), wrong, np.float32)], random_images([(1, 3, 8, 8)])
        ) == float("inf")

    def test_a_model_without_finite_results(self, small, tmp_path):
        nn.init.constant_(small.conv.bias, float("inf"))
        with pytest.raises(RuntimeError, match="the model gives non-finite values"):
            export(small, tmp_path / "model.onnx")
        assert not list(tmp_path.iterdir())

    def test_results_that_are_nearly_the_same(self):
        """Rounding is not measured by the little that is left."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).eval()
        nn.init.constant_(model[1].bias, 1000.0)

        def other(x):
            with torch.no_grad():
                return [model(torch.from_numpy(x)).numpy() + np.float32(1e-4)]

        assert compare(model, other, random_images([(1, 3, 2, 2)])) < 1e-3

    def test_weights_and_graph_are_one(self, small, tmp_path, monkeypatch):
        """A kill between the two files leaves no old graph beside new weights."""
        export(small, tmp_path / "model.xml")
        replaced, original = [], files.os.replace

        def replace(old, new):
            replaced.append((new.suffix, new.with_suffix(".xml").exists()))
            original(old, new)

        monkeypatch.setattr(files.os, "replace", replace)
        export(small, tmp_path / "model.xml")
        assert replaced == [(".bin", False), (".xml", False)]

    def test_other_shapes(self, small):
        assert compare(small, lambda x: [np.zeros((1, 5), np.float32)], random_images([(1, 3, 8, 8)])) == float("inf")

    def test_a_model_that_branches_on_its_images(self, tmp_path):
        class Branches(nn.Module):
            def forward(self, x):
                return x if x.sum() > 0 else -x

        with pytest.raises(ValueError, match=r"torch\.export does not take this model with batch and size left open: "):
            export(Branches(), tmp_path / "model.onnx")
        assert not list(tmp_path.iterdir())

    def test_a_model_of_one_size(self, tmp_path):
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        with pytest.raises(ValueError, match="size left open"):
            export(model, tmp_path / "model.onnx")
        assert export(model, tmp_path / "model.onnx", dynamic=("batch",), input_size=(3, 8, 8)).difference < 1e-4

    def test_what_is_wrong_only_where_the_size_is_known_is_not_kept(self, small, tmp_path, monkeypatch):
        as_written = runtimes.openvino
        monkeypatch.setattr(
            runtimes, "openvino", lambda path, shape=None: as_written(path) if shape is None else lambda x: [x[:, 0, 0]]
        )
        with pytest.raises(ExportMismatchError, match="the file for openvino computes something else than PyTorch"):
            export(small, tmp_path / "model.xml")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("model", {}, "the file must end with one of .onnx, .xml, .pt2"),
            ("model.onnx", {"to": "openvino"}, "a file for openvino ends with .xml, not .onnx"),
            ("model.onnx", {"precision": "int4"}, "the precision must be one of fp32, fp16"),
            ("model.onnx", {"dynamic": ("width",)}, "dynamic may be batch or size, got 'width'"),
            ("model.pt2", {"precision": "fp16"}, "a file for torch is fp32"),
        ],
    )
    def test_arguments(self, small, tmp_path, name, options, message):
        with pytest.raises(ValueError, match=message):
            export(small, tmp_path / name, **options)
        assert not list(tmp_path.iterdir())

    def test_a_runtime_that_is_not_installed(self, small, tmp_path, monkeypatch):
        monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"openvino needs openvino: pip install 'glocal\[export\]'"):
            export(small, tmp_path / "model.xml")

    def test_a_full_disk(self, small, tmp_path, monkeypatch):
        def full(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(files, "_write_onnx", full)
        with pytest.raises(OSError, match="No space left"):
            export(small, tmp_path / "model.onnx")
        assert not list(tmp_path.iterdir())
