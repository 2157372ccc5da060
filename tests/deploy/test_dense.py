"""Models with the papers' heads, prepared for deployment."""

import json

import numpy as np
import pytest
import torch

import glocal
from glocal.cli import main
from glocal.deploy import fuse
from glocal.deploy.files import export
from glocal.deploy.runtimes import as_list, load
from glocal.models.heads import HEADS
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
