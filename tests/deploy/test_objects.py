"""Models that find objects: files, engines and the service give what PyTorch gives."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import glocal
from glocal.cli import main
from glocal.deploy.engine import compile
from glocal.deploy.files import compare, export
from glocal.deploy.graph import axes_of, trace
from glocal.deploy.runtimes import load
from glocal.models.detection import DetectionModel
from glocal.models.detectors.retinanet import RetinaNetHead
from glocal.ops import grouped_nms
from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint
from glocal.tasks.detection.agreement import difference
from glocal.tasks.detection.outputs import Detections

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["boxes", "scores", "labels", "masks"]
CLASSES = ["square", "<b>disc</b>", "car", "tree"]
RUNTIMES = {"onnx": "onnxruntime", "xml": "openvino"}
HEADS = {
    "retinanet": {"width": 16, "depth": 1},
    "faster_rcnn": {"width": 16, "hidden": 32},
    "mask_rcnn": {"width": 16, "hidden": 32},
    "cascade_mask_rcnn": {"width": 16, "hidden": 32},
    "cascade_mask_rcnn 4conv1fc": {"width": 16, "hidden": 32, "box_head": "4conv1fc"},
    "dino": {"width": 64, "depth": 1, "num_queries": 50},
    "dino 5 scales": {"width": 64, "depth": 1, "num_queries": 50, "scales": 5},
    "d_fine": {"size": "s", "width": 16, "depth": 1, "num_queries": 50},
}  # the head's name, perhaps with more behind it


class FourMaps(nn.Module):
    """The smallest backbone, whose graph is written in a moment."""

    def __init__(self):
        super().__init__()
        sides = [(3, 8, 4), (8, 8, 2), (8, 8, 2), (8, 8, 2)]
        self.stages = nn.ModuleList(nn.Conv2d(a, b, stride, stride, padding=stride // 2) for a, b, stride in sides)

    def forward(self, x):
        return [x := torch.tanh(stage(x)) for stage in self.stages]


class Dots(nn.Module):
    """A box at each bright pixel."""

    def forward(self, images):
        row, column = (images[0, 0] > 0).nonzero(as_tuple=True)
        boxes = torch.stack([column, row, column + 1, row + 1], 1).to(images.dtype)
        return boxes[grouped_nms(boxes, images[0, 0, row, column], torch.zeros_like(row), 0.5)]


def small():
    torch.manual_seed(0)
    model = DetectionModel(FourMaps(), RetinaNetHead([8] * 4, 3, width=8, depth=0)).eval()
    nn.init.normal_(model.head.classifier.weight, std=1)  # so that there are objects
    return Detections(model)


def built(head):
    torch.manual_seed(0)
    model = glocal.create(head.split()[0], "van_pico", num_classes=4, head_args=HEADS[head]).eval()
    if head == "retinanet":
        nn.init.normal_(model.head.classifier.weight, std=1)
    if head.startswith("d"):  # dino and d_fine
        for parameter in model.head.parameters():
            if parameter.ndim > 1:  # as it starts, the head moves no box
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return Detections(model)


def written(model, path, head="retinanet"):
    names = NAMES[: 4 if "mask" in head else 3]
    return export(model, path, input_size=(3, 96, 128), output_names=names)


def one_by_one(run, images, sizes):
    return [run(images[i : i + 1].numpy(), sizes[i : i + 1].numpy()) for i in range(len(images))]


class TestFiles:
    @pytest.mark.parametrize("ending", [pytest.param("onnx", marks=pytest.mark.slow), "xml"])  # OpenVINO reads ONNX's
    def test_a_small_detector(self, ending, tmp_path):
        """It takes images of any size, even where padding is all but one pixel."""
        pytest.importorskip(RUNTIMES[ending])
        model, path = small(), tmp_path / f"model.{ending}"
        result = written(model, path)
        assert (result.inputs, result.open_axes) == (["images", "sizes"], ("size",))
        assert result.difference < 1e-4
        images = torch.randn(3, 3, 65, 47, generator=torch.Generator().manual_seed(1))
        sizes = torch.tensor([[65, 47], [50, 31], [1, 1]])
        found = [[torch.from_numpy(x) for x in part] for part in one_by_one(load(path), images, sizes)]
        with torch.no_grad():
            expected = [model(images[i : i + 1], sizes[i : i + 1]) for i in range(3)]
        assert expected[0][1].shape[1] > 20
        assert difference(expected, found) < 1e-4
        limits = sizes.flip(1).repeat(1, 2)[:, None]
        assert all((part[0] <= limit).all() for part, limit in zip(found, limits, strict=True))

    @pytest.mark.slow
    @pytest.mark.parametrize("ending", RUNTIMES)
    @pytest.mark.parametrize("head", HEADS)
    def test_every_head(self, head, ending, tmp_path):
        pytest.importorskip(RUNTIMES[ending])
        result = written(built(head), tmp_path / f"model.{ending}", head)
        assert result.compared == [(1, 3, 96, 128), (1, 3, 81, 130)]
        assert result.difference < 1e-4

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_a_graph_of_torch_takes_images_of_few_objects(self, count):
        """torchvision says of its suppression that two boxes are left at least."""
        program = trace(Dots(), dynamic=("size",))
        images = torch.zeros(1, 3, 9, 12)
        images[0, :, 4, [2, 5, 8][:count]] = 1
        assert program.module()(images).shape == (count, 4)

    def test_a_batch_is_not_open(self):
        assert axes_of(small(), None) == ("size",)
        with pytest.raises(ValueError, match="takes an image at a time"):
            axes_of(small(), ("batch", "size"))

    @pytest.mark.parametrize(
        ("change", "largest"),
        [
            (lambda head: head.neck.laterals[0].weight.data.mul_(1.01), None),
            (lambda head: head.regressor.bias.data.add_(0.01), None),
            (lambda head: setattr(head.anchors, "strides", (9, 16, 32, 64, 128)), None),
            (lambda head: None, 0.0),
        ],
        ids=["weights", "codes", "anchors", "nothing"],
    )
    def test_another_model_is_noticed(self, change, largest):
        other = small()
        change(other.model.head)

        @torch.no_grad()
        def run(images, sizes):
            return [x.numpy() for x in other(torch.from_numpy(images), torch.from_numpy(sizes))]

        images = [torch.randn(1, 3, 160, 192, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
        found = compare(small(), run, images)
        assert found == 0.0 if largest == 0.0 else found > 1e-3

    def test_a_file_that_ignores_sizes_is_noticed(self):
        model = small()

        @torch.no_grad()
        def run(images, sizes):
            return [x.numpy() for x in model(torch.from_numpy(images))]

        assert compare(model, run, [torch.randn(1, 3, 64, 96)]) > 1e-2


def objects(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    boxes = 100 * torch.rand(1, count, 4, generator=draw)
    return [boxes, torch.rand(1, count, generator=draw), torch.randint(0, 3, (1, count), generator=draw)]


class TestDifference:
    def test_order_and_rows_that_fill_up_do_not_count(self):
        one = objects(20)
        order = torch.randperm(20)
        more = [nn.functional.pad(x[:, order], (0, 0) * (x.ndim - 2) + (0, 4), value=-1) for x in one]
        assert difference([one], [more]) == 0.0

    @pytest.mark.parametrize("column", [0, 1])
    def test_in_standard_deviations(self, column):
        one = objects(50)
        other = list(one)
        other[column] = one[column] + 1e-3
        expected = 1e-3 / float(one[column].double().std(correction=0))
        assert difference([one], [other]) == pytest.approx(expected, rel=1e-3)

    def test_masks_count(self):
        one = [*objects(10), torch.randn(1, 10, 28, 28)]
        other = [*one[:3], one[3].clone()]
        other[3][:, :, 3, 4] += 0.5
        assert difference([one], [other]) == pytest.approx(0.5 / float(one[3].std()), rel=1e-2)

    @pytest.mark.parametrize(("changed", "noticed"), [(1, False), (4, True)])
    def test_a_few_may_be_others(self, changed, noticed):
        """Two errors of 80 for each: one that is not found, and one that was not expected."""
        one = objects(40)
        other = [column.clone() for column in one]
        other[2][0, :changed] = 7
        found = difference([one], [other])
        assert found > 0.1 if noticed else found == 0.0

    @pytest.mark.parametrize("side", [0, 1])
    def test_nothing_on_one_side(self, side):
        given = [objects(5), objects(0)]
        assert difference([given[side]], [given[1 - side]]) == np.inf
        assert difference([objects(0)], [objects(0)]) == 0.0

    def test_numbers_that_are_none(self):
        one = objects(5)
        assert difference([one], [[one[0] * np.nan, *one[1:]]]) == np.inf
        with pytest.raises(RuntimeError, match="non-finite"):
            difference([[one[0] * np.nan, *one[1:]]], [one])


class TestEngines:
    @pytest.mark.slow
    @pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
    def test_a_batch_and_the_cache(self, engine, tmp_path, monkeypatch):
        """A file takes an image at a time, and the engine a batch, with rows that fill up."""
        pytest.importorskip(engine)
        monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path))
        model = small()
        images = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(2))
        sizes = torch.tensor([[64, 96], [33, 40], [9, 12]])
        expected = compile(model, "torch")(images, sizes)
        compiled = compile(model, engine)
        found = compiled(images, sizes)
        assert [x.shape for x in found] == [x.shape for x in expected]
        assert difference([expected], [found]) < 1e-4
        whole = compile(model, "torch")(images[:1])
        assert difference([whole], [compiled(images[:1])]) < 1e-4
        (folder,) = tmp_path.iterdir()
        before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
        again = compile(model, engine)
        assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
        assert difference([expected], [again(images, sizes)]) < 1e-4

    def test_auto_is_torch(self):
        assert compile(small()).name == "torch"


@pytest.fixture(scope="module", params=["detection", "instances"])
def run(request, tmp_path_factory):
    """A run folder of a small model, which takes images whole, padded to multiples of 32 pixels."""
    head = {"detection": "retinanet", "instances": "mask_rcnn"}[request.param]
    model = built(head).model
    whole = {"shorter": 48, "longer": 96, "multiple": 32, "align": "pad", "antialias": False}
    preprocessing = {"input_size": [3, 48, 48], "mean": [0.5] * 3, "std": [0.25] * 3, "whole": whole}
    args = {"head": head, "head_args": HEADS[head], "score_threshold": 0.05}
    info = CheckpointInfo("van_pico", CLASSES, preprocessing, task=request.param, task_args=args)
    folder = tmp_path_factory.mktemp(request.param)
    save_checkpoint(folder / "model.safetensors", model.state_dict(), info)
    return folder


def photo(width, height, seed=0):
    spots = np.random.RandomState(seed).randint(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize((width, height))


class TestService:
    @pytest.mark.parametrize("run", ["instances"], indirect=True)
    def test_boxes_and_masks(self, run):
        pytest.importorskip("fastapi")
        pytest.importorskip("prometheus_client")
        from fastapi.testclient import TestClient

        from glocal.data.segments import mask_of_text
        from glocal.deploy.config import ServeConfig
        from glocal.deploy.predictor import Predictor
        from glocal.deploy.server import create_app

        images = [photo(*size, seed) for seed, size in enumerate([(60, 40), (33, 71), (60, 40)])]
        files = []
        for number, image in enumerate(images):
            content = io.BytesIO()
            image.save(content, "PNG")
            files.append(("images", (f"{number}.png", content.getvalue())))
        expected = Predictor(run, engine="torch", threads=1)(images)
        with TestClient(create_app(ServeConfig(checkpoint=str(run), engine="torch", threads=1))) as client:
            results = client.post("/predict", files=files).json()["results"]
            (shown, *_) = client.post("/show", files=files[:1]).json()["results"]
        for result, one in zip(results, expected, strict=True):
            assert (result["size"], result["classes"]) == (one.size, one.classes)
            np.testing.assert_allclose(result["boxes"], one.boxes, atol=1e-3)
            np.testing.assert_allclose(result["scores"], one.scores, atol=1e-5)
            masks = [mask_of_text(text, one.size) for text in result.get("rles", [])]
            assert len(masks) == len(one.boxes) > 0
            expected_masks = [mask_of_text(text, one.size) for text in one.rles]
            assert np.mean(np.array(masks) != np.array(expected_masks)) < 1e-3
        assert shown["overlay"].startswith("data:image/png")
        assert len(shown["lines"]) == max(1, expected[0].shown)


def columns(row):
    """A result in a table as tensors."""
    numbers = [CLASSES.index(name) for name in row["classes"]]
    return [torch.tensor([values]) for values in (row["boxes"], row["scores"], numbers)]


@pytest.mark.slow
class TestCommands:
    @pytest.mark.parametrize("to", ["onnx", "openvino"])
    def test_export(self, run, to, tmp_path, capsys):
        pytest.importorskip("onnxruntime" if to == "onnx" else to)
        path = tmp_path / {"onnx": "model.onnx", "openvino": "model.xml"}[to]
        command = ["export", "--checkpoint", str(run), "--to", to, "--output", str(path)]
        assert main(command) == 0
        assert "their sizes" in capsys.readouterr().out
        assert path.exists()

    @pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
    def test_predict(self, run, engine, tmp_path):
        pytest.importorskip(engine)
        folder = tmp_path / "images"
        folder.mkdir()
        for number, size in enumerate([(60, 40), (33, 71)]):
            photo(*size, number).save(folder / f"{number}.png")
        rows = {}
        for name in ("torch", engine):
            path = tmp_path / f"{name}.json"
            assert (
                main(["predict", str(folder), "--checkpoint", str(run), "--engine", name, "--output", str(path)]) == 0
            )
            rows[name] = json.loads(path.read_text())
        for one, other in zip(*rows.values(), strict=True):
            assert len(one["boxes"]) > 0
            assert one.get("rles") is None or len(other["rles"]) == len(other["boxes"])
            assert difference([columns(one)], [columns(other)]) < 1e-3


@pytest.mark.parametrize("run", ["detection"], indirect=True)
@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--dynamic", "batch"], "takes an image at a time"),
        (["--dynamic", "none", "--batch-size", "2"], "--batch-size: a file of a model that finds objects"),
        (["--preprocess"], "--preprocess is for models with images of one size"),
    ],
)
def test_export_refuses_in_a_line(run, options, error, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    assert main(["export", "--checkpoint", str(run), "--output", str(path), *options]) == 2
    message = capsys.readouterr().err
    assert error in message
    assert message.count("\n") == 1
