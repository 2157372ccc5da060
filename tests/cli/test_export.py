"""`glocal export`: one command from a checkpoint to a file that a runtime reads."""

import json
import os
import signal

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from glocal.cli import main
from glocal.data.preprocessing import Preprocessing
from glocal.deploy import runtimes
from glocal.deploy.calibration import calibration_images
from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint
from glocal.tasks.loading import load_trained

pytest.importorskip("onnxscript", reason="needs the extra [export]")
pytest.importorskip("openvino", reason="needs the extra [export]")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of a small model, and the model."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    preprocessing = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3}
    save_checkpoint(
        folder / "model.safetensors",
        model.state_dict(),
        CheckpointInfo("test_resnet", ["a", "b", "c"], preprocessing, task="multilabel"),
    )
    return folder, model


def test_a_signal_leaves_nothing_half_written(run, tmp_path, capsys, monkeypatch):
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("glocal.deploy.files.compare", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["export", "--checkpoint", str(run[0]), "--to", "torch", "--output", str(tmp_path / "a.pt2")]) == 143
    assert capsys.readouterr().err == "error: stopped by SIGTERM\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch"])
def test_from_a_run(run, to, tmp_path, capsys, monkeypatch):
    folder, model = run
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--to", to, "--checkpoint", str(folder), "--dynamic", "batch"]) == 0
    path = tmp_path / f"{folder.name}{'.onnx' if to == 'onnx' else '.xml' if to == 'openvino' else '.pt2'}"
    shown = " ".join(capsys.readouterr().out.split())
    assert "largest difference from PyTorch" in shown
    assert "of 1×3×32×32, 3×3×32×32" in shown
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        np.testing.assert_allclose(runtimes.load(path)(x.numpy())[0], model(x), rtol=1e-3, atol=1e-4)
    if to == "openvino":
        import openvino

        known = json.loads(openvino.Core().read_model(path).get_rt_info("glocal").value)
        assert known["model"] == "test_resnet"
        assert known["class_names"] == ["a", "b", "c"]
        assert known["multi_label"] is True
        assert known["preprocessing"]["std"] == [0.25] * 3


def test_another_size(run, tmp_path):
    import onnx

    arguments = ["export", "--checkpoint", str(run[0]), "--img-size", "48", "--dynamic", "none"]
    assert main([*arguments, "--output", str(tmp_path / "m.onnx")]) == 0
    entries = {entry.key: entry.value for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert json.loads(entries["glocal"])["preprocessing"]["input_size"] == [3, 48, 48]
    runtimes.load(tmp_path / "m.onnx")(np.zeros((1, 3, 48, 48), np.float32))


def test_maps_of_a_model_without_weights(tmp_path):
    path = str(tmp_path / "m.onnx")
    arguments = [
        "export",
        "--model",
        "test_resnet",
        "--untrained",
        "--features",
        "--img-size",
        "64",
        "--dynamic",
        "none",
    ]
    assert main([*arguments, "--output", path]) == 0
    maps = runtimes.load(tmp_path / "m.onnx")(np.zeros((1, 3, 64, 64), np.float32))
    assert len(maps) == 5


def test_takes_images_as_they_are(run, tmp_path, capsys):
    folder, model = run
    path = tmp_path / "m.onnx"
    assert main(["export", "--checkpoint", str(folder), "--preprocess", "--output", str(path)]) == 0
    assert "uint8 (B, H, W, 3)" in " ".join(capsys.readouterr().out.split())
    pixels = np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8)
    classifier = load_trained(folder)
    prepared = Preprocessing(**classifier.preprocessing).transform()(Image.fromarray(pixels))
    with torch.no_grad():
        np.testing.assert_allclose(runtimes.load(path)(pixels[None])[0], model(prepared[None]), atol=0.02)


def test_integers(run, tmp_path, capsys):
    folder, model = run
    path = tmp_path / "m.xml"
    arguments = ["export", "--checkpoint", str(folder), "--to", "openvino", "--precision", "int8", "--dynamic", "batch"]
    assert main([*arguments, "--calibration", "digits", "--calibration-images", "40", "--output", str(path)]) == 0
    assert "of 1×3×32×32" in " ".join(capsys.readouterr().out.split())
    images = np.stack(calibration_images("digits", 8, Preprocessing(**load_trained(folder).preprocessing)))
    with torch.no_grad():
        expected = model(torch.from_numpy(images))
    found = torch.from_numpy(runtimes.load(path)(images)[0])
    assert 0 < (found - expected).abs().max() < 0.5 * expected.std()


def test_a_file_that_exists(run, tmp_path, capsys):
    path = tmp_path / "m.onnx"
    path.write_text("mine")
    arguments = ["export", "--checkpoint", str(run[0]), "--output", str(path)]
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {path} exists: --overwrite replaces it\n"
    assert path.read_text() == "mine"
    (tmp_path / "m.bin").write_text("mine")  # weights of an m.xml that is to be
    assert main([*arguments[:-1], str(tmp_path / "m.xml"), "--to", "openvino"]) == 2
    assert f"{tmp_path / 'm.bin'} exists" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--dynamic", "none"]) == 0
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --checkpoint, or --model for a model's published weights"),
        (["--model", "van_b0", "--to", "tensorrt"], "--to"),
        (["--model", "van_b0", "--dynamic", "width"], "--dynamic takes batch, size or both, or none, not 'width'"),
        (["--model", "van_b0", "--output", "x.xml"], "--output x.xml: a file for onnx ends with .onnx"),
        (["--model", "van_b0", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--model", "van_b0", "--batch-size", "4"], "--batch-size is for a fixed batch: --dynamic batch,size leaves"),
        (["--model", "van_b0", "--img-size", "64"], "--img-size is for a fixed size: --dynamic batch,size leaves it"),
        (["--model", "van_b0", "--to", "torch", "--precision", "fp16"], "--to torch writes fp32"),
        (["--model", "van_b0", "--precision", "int8"], "--precision int8 and --calibration DATA are for each other"),
        (["--model", "van_b0", "--calibration", "x"], "--precision int8 and --calibration DATA are for each other"),
        (["--model", "van_b0", "--preprocess", "--dynamic", "batch"], "--preprocess takes images of any size"),
        (["--model", "van_b0", "--preprocess", "--precision", "fp16"], "--preprocess with --precision fp16 is not"),
        (["--untrained", "--checkpoint", "x"], "--untrained is for a --model without --checkpoint"),
        (["--model", "van_pico"], "no weights of van_pico.untrained have been published"),
        (["--checkpoint", "nowhere"], "there is no checkpoint 'nowhere'"),
        (["--model", "van_b0", "--output", "nowhere/x.onnx"], "there is no such folder"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert main(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_runtime_that_is_not_installed(run, capsys, monkeypatch):
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    assert main(["export", "--to", "openvino", "--checkpoint", str(run[0])]) == 2
    assert capsys.readouterr().err == "error: openvino needs openvino: pip install 'glocal[export]'\n"
