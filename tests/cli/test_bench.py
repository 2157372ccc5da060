"""`glocal bench` and `glocal doctor` as their user sees them."""

import json
import pkgutil
import runpy

import pytest

from glocal import ops
from glocal.cli import main
from glocal.ops import dispatch

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = ["--baseline", "test_resnet", "--sizes", "32", "--batch-sizes", "1,2", "--rounds", "1", "--device", "cpu"]


def test_table_and_json(capsys, tmp_path):
    file = tmp_path / "times.json"
    assert main(["bench", "van_pico", "transxnet_pico", *QUICK, "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    for text in (
        "inference, fp32",
        "test_resnet",
        "van_pico",
        "transxnet_pico",
        "ms/image",
        "to test_resnet",
        "fastest",
    ):
        assert text in shown
    result = json.loads(file.read_text())
    assert {"date", "device", "threads", "torch", "timm", "glocal"} <= set(result["machine"])
    assert result["options"]["batch_sizes"] == "1,2"
    assert [(row["model"], row["batch_size"]) for row in result["timings"]] == [
        (name, batch) for batch in (1, 2) for name in ("test_resnet", "van_pico", "transxnet_pico")
    ]


def test_heads_of_segmentation(capsys, tmp_path):
    file = tmp_path / "times.json"
    options = ["--task", "segmentation", "--head", "semantic_fpn", "--backbones", "--json", str(file)]
    assert main(["bench", "van_pico", *QUICK, "--batch-sizes", "1", *options]) == 0
    shown = capsys.readouterr().out
    for text in ("van_pico + semantic_fpn", "test_resnet + semantic_fpn", "params (M)", "MACs (G)"):
        assert text in shown
    result = json.loads(file.read_text())
    assert [(row["model"], row["head"]) for row in result["timings"]] == [
        (name, head) for name in ("test_resnet", "van_pico") for head in ("", "semantic_fpn")
    ]
    assert all(row["params"] > 0 and row["macs"] > 0 for row in result["timings"])


def test_detectors(capsys, tmp_path):
    file = tmp_path / "times.json"
    options = ["--task", "detection", "--head-args", "{width: 16, depth: 1}", "--json", str(file)]
    assert main(["bench", "van_pico", *QUICK, "--batch-sizes", "1", *options]) == 0
    shown = capsys.readouterr().out
    for text in ("van_pico + retinanet", "params (M)", "objects", "parts of the time, %", "backbone", "results"):
        assert text in shown
    result = json.loads(file.read_text())
    assert result["options"]["head_args"] == {"width": 16, "depth": 1}
    assert all(row["boxes"] > 0 and sum(row["parts"].values()) == pytest.approx(1) for row in result["timings"])


def test_a_failing_model_is_a_row_and_an_exit_code(capsys):
    assert (
        main(["bench", "vgg11", "--baseline", "test_resnet", "--sizes", "16", "--rounds", "1", "--device", "cpu"]) == 1
    )
    assert "vgg11" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "glocal bench needs MODEL"),
        (["van_pic"], "unknown model 'van_pic': did you mean van_pico"),
        (["van_pico", "--baseline", "convnext_tin"], "unknown model 'convnext_tin': did you mean"),
        (["van_pico,x"], "models are given as NAME or NAME,argument=value"),
        (["van_pico", "--sizes", "0"], "--sizes must be numbers such as 224,512x384, got '0'"),
        (["van_pico", "--batch-sizes", "a"], "--batch-sizes must be numbers such as 1,8, got 'a'"),
        (["van_pico", "--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["van_pico", "--mode", "test"], "--mode must be one of infer, train, got 'test'"),
        (["van_pico", "--precision", "int8"], "--precision must be one of fp32, bf16, fp16, got 'int8'"),
        (["van_pico", "--mode", "train", "--fuse"], "--fuse is for inference"),
        (["van_pico", "--engine", "openvino", "--fuse"], "--fuse is for --engine torch, not openvino"),
        (["van_pico", "--engine", "openvino", "--mode", "train"], "--mode is for --engine torch, not openvino"),
        (["van_pico", "--engine", "onnxruntime", "--precision", "bf16"], "does not compute in bf16"),
        (["van_pico", "--engine", "openvino", "--device", "cuda"], "computes on a CPU, not on cuda"),
        (["van_pico", "--device", "tpu9"], "there is no device 'tpu9' here"),
        (["van_pico", "--json", "no/where/x.json"], "--json"),
        (["van_pico", "--task", "pose"], "--task must be one of classification, segmentation, detection, "),
        (["van_pico", "--head", "upernet"], "--head is for --task segmentation, detection, instances"),
        (["van_pico", "--backbones"], "--backbones is for --task segmentation, detection, instances"),
        (["van_pico", "--task", "segmentation", "--head", "unet"], "the heads of segmentation are upernet, semantic_"),
        (["van_pico", "--task", "instances", "--head", "dino"], "the heads of instances are mask_rcnn, cascade_mask"),
        (["van_pico", "--task", "detection", "--head-args", "{scales: 5}"], "the head retinanet does not take"),
        (["van_pico", "--task", "detection", "--head", "dino", "--head-args", "{scales: 3}"], "the argument scales: "),
    ],
)
def test_one_line_for_every_mistake(args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *args]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert message in shown.err
    assert not any(tmp_path.iterdir())


def test_doctor_names_every_op(capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    names = [module.name for module in pkgutil.iter_modules(ops.__path__) if module.ispkg]
    assert {"aggregated_attention", "channel_norm", "depthwise_conv", "grid_attention"} < set(names)
    for text in (*names, "torch", "timm", "triton", "GPU"):
        assert text in shown


@pytest.mark.parametrize(
    ("choice", "code", "message"),
    [
        ("reference", 0, "GLOCAL_OPS=reference"),
        ("cuda", 2, "GLOCAL_OPS must be one of auto, reference, triton, got 'cuda'"),
    ],
)
def test_doctor_says_what_the_environment_chose(choice, code, message, monkeypatch, capsys):
    monkeypatch.setenv("GLOCAL_OPS", choice)
    monkeypatch.setattr(dispatch, "_choice", runpy.run_path(dispatch.__file__)["_choice"])  # as a new process reads it
    assert main(["doctor"]) == code
    shown = capsys.readouterr()
    assert message in shown.out + shown.err
    assert "Traceback" not in shown.err
