"""Models with the papers' heads, prepared for deployment."""

import copy
import json

import numpy as np
import pytest
import torch

import glocal
from glocal.cli import main
from glocal.deploy import fuse
from glocal.deploy.files import IMAGES_OF_DECISIONS, compare, decides, difference, export, random_images
from glocal.deploy.runtimes import as_list, load
from glocal.models.dense import DenseModel, dense_backbone
from glocal.models.heads import HEADS
from glocal.models.heads.mask2former import Mask2FormerHead
from glocal.tasks.checkpoint import find_checkpoint, read_info
from glocal.tasks.loading import load_trained


def build(head):
    torch.manual_seed(0)
    model = glocal.create(head, "van_pico", num_classes=5).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("head", HEADS)
def test_fused_model_computes_the_same(head):
    model = build(head).double()
    images = torch.randn(2, 3, 65, 70, dtype=torch.float64)
    with torch.no_grad():
        outputs, fused = model(images), fuse(model)(images)
    torch.testing.assert_close(fused, outputs, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["semantic_fpn", "upernet"])
@pytest.mark.parametrize("ending", ["onnx", "xml"])
def test_export_for_any_size(head, ending, tmp_path):
    pytest.importorskip("openvino" if ending == "xml" else "onnxruntime")
    assert export(build(head), tmp_path / f"model.{ending}").difference < 1e-4


def metadata_of(path):
    if path.suffix == ".xml":
        import openvino

        return json.loads(openvino.Core().read_model(path).get_rt_info("glocal").value)
    import onnx

    return json.loads({entry.key: entry.value for entry in onnx.load(path).metadata_props}["glocal"])


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["onnx", "xml"])
def test_a_run_becomes_a_file_that_describes_itself(ending, masks_checkpoint, tmp_path):
    pytest.importorskip("openvino" if ending == "xml" else "onnxruntime")
    path = tmp_path / f"masks.{ending}"
    to = {"onnx": "onnx", "xml": "openvino"}[ending]
    assert main(["export", "--checkpoint", str(masks_checkpoint), "--to", to, "--output", str(path)]) == 0
    about, info = metadata_of(path), read_info(find_checkpoint(masks_checkpoint))
    assert (about["task"], about["model"], about["class_names"]) == ("segmentation", "van_pico", info.class_names)
    assert {name: about[name] for name in ("head", "colors", "ids")} == info.task_args
    assert about["preprocessing"]["whole"] == info.preprocessing["whole"]
    images = torch.randn(2, 3, 45, 70)
    with torch.no_grad():
        expected = load_trained(masks_checkpoint).model(images)
    (logits,) = as_list(load(path)(images.numpy()))
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4 * float(expected.std()))


@pytest.mark.slow
def test_the_file_of_its_maps(masks_checkpoint, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "maps.onnx"
    assert main(["export", "--checkpoint", str(masks_checkpoint), "--features", "--output", str(path)]) == 0
    images = torch.randn(1, 3, 45, 70)
    with torch.no_grad():
        expected = load_trained(masks_checkpoint).model.maps(images)
    for found, one in zip(load(path)(images.numpy()), expected, strict=True):
        np.testing.assert_allclose(found, one.numpy(), atol=1e-4 * float(one.std()))


@pytest.mark.parametrize("head", HEADS)
def test_outputs_have_names(head):
    model = build(head)
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 64, 64))
    assert len(model.output_names) == (len(outputs) if isinstance(outputs, tuple) else 1)
    assert model.output_names == getattr(outputs, "_fields", ("logits",))


@pytest.mark.parametrize(
    ("options", "name"),
    [(["--preprocess"], "--preprocess"), (["--precision", "int8", "--calibration", "digits"], "--precision int8")],
)
def test_what_needs_one_size_is_refused(options, name, masks_checkpoint, tmp_path, capsys):
    path = tmp_path / "masks.xml"
    given = ["export", "--checkpoint", str(masks_checkpoint), "--to", "openvino", "--output", str(path), *options]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {name} is for models with images of one size")
    assert error.count("\n") == 1
    assert not path.exists()


def test_a_fixed_size_is_also_that_of_the_images(masks_checkpoint, tmp_path, monkeypatch):
    from glocal.deploy import export_model

    given = {}
    monkeypatch.setattr(export_model, "export", lambda *args: given.update(size=args[5], about=args[7]))
    options = export_model.ExportConfig(checkpoint=str(masks_checkpoint), dynamic="none", img_size=64)
    export_model.export_model(options, tmp_path / "x.onnx")
    assert given["size"] == (3, 64, 64)
    assert (given["about"]["preprocessing"]["whole"]["shorter"], given["about"]["head"]) == (64, "semantic_fpn")


@pytest.fixture(scope="module")
def queries():
    """A small Mask2Former in eval mode, and eight images of 64×64 pixels with its results."""
    torch.manual_seed(0)
    maps = dense_backbone("van_pico")
    sizes = dict(dim=64, num_queries=20, num_heads=4, encoder_depth=1, decoder_depth=3)
    model = DenseModel(maps, Mask2FormerHead(maps.feature_info.channels(), 5, **sizes)).eval()
    assert decides(model)
    images = list(random_images([(1, 3, 64, 64)] * IMAGES_OF_DECISIONS))
    with torch.no_grad():
        return model, images, [list(model(image)) for image in images]


def function(model):
    """A model as a function of arrays, as a runtime is."""

    @torch.no_grad()
    def run(images):
        return [tensor.numpy() for tensor in model(torch.from_numpy(images))]

    return run


WRONG = {
    "eps of a norm": lambda head: setattr(head.norm, "eps", 1e-3),
    "rows in another order": lambda head: head.layers[1].ffn[0].weight.data.copy_(head.layers[1].ffn[0].weight.flip(0)),
    "another activation": lambda head: head.layers[0].ffn.__setitem__(1, torch.nn.GELU()),
    "no level embedding": lambda head: head.level_embed.data.zero_(),
    "places a little off": lambda head: head.pixel_decoder.layers[0].attention.offsets.bias.data.mul_(1.01),
}


def wrong(model, change):
    model = copy.deepcopy(model)
    WRONG[change](model.head)
    return model


class TestDecisionsBySigns:
    """Mask2Former's attention masks are signs, which rounding may change: see docs/decisions/rounded-decisions.md."""

    def test_a_changed_sign_is_no_wrong_file(self, queries, monkeypatch):
        model, images, results = queries
        blocked, calls = Mask2FormerHead.blocked, []

        def changed(mask_logits, size):
            found = blocked(mask_logits, size)
            calls.append(found)
            if len(calls) == 2:  # in the second layer, for the first image
                found[0, 3, 5] = ~found[0, 3, 5]
            return found

        monkeypatch.setattr(Mask2FormerHead, "blocked", staticmethod(changed))
        assert difference(results, function(model), images) > 1e-3
        calls.clear()
        assert difference(results, function(model), images, decides=True) < 1e-4

    @pytest.mark.parametrize("change", WRONG)
    def test_another_model(self, queries, change):
        model, images, results = queries
        assert difference(results, function(wrong(model, change)), images, decides=True) > 1e-4

    @pytest.mark.parametrize("decided", [False, True])
    def test_no_numbers(self, queries, decided):
        _, images, results = queries
        found = iter([*results[:-1], [torch.full_like(tensor, torch.nan) for tensor in results[-1]]])
        assert difference(results, lambda _: [t.numpy() for t in next(found)], images, decided) == float("inf")

    def test_a_part_of_every_image(self):
        images, results = torch.zeros(8, 3, 4, 4), torch.randn(8, 100, 6, generator=torch.Generator().manual_seed(0))
        found = results.clone()
        found[:, 7] += 0.01
        assert difference([[results]], lambda _: [found.numpy()], [images], decides=True) == pytest.approx(
            0.01, rel=0.1
        )

    def test_most_of_one_image(self):
        images, results = torch.zeros(8, 3, 4, 4), torch.randn(8, 100, 6, generator=torch.Generator().manual_seed(0))
        found = results.clone()
        found[2, 50:] += 0.1
        assert difference([[results]], lambda _: [found.numpy()], [images], decides=True) == pytest.approx(
            1e-3, rel=0.1
        )

    @pytest.mark.slow
    @pytest.mark.parametrize("ending", ["onnx", "xml"])
    def test_export_for_any_size(self, queries, ending, tmp_path):
        pytest.importorskip("openvino" if ending == "xml" else "onnxruntime")
        model, images, _ = queries
        result = export(model, tmp_path / f"model.{ending}", input_size=(3, 65, 97))
        assert {shape[2:] for shape in result.compared} == {(65, 97), (65, 114)}
        assert result.difference < 1e-4
        written = load(result.path)
        for change in WRONG:
            assert compare(wrong(model, change), written, images) > 1e-4, change
