"""Models with the papers' heads, prepared for deployment."""

import pytest
import torch

import glocal
from glocal.deploy import fuse
from glocal.deploy.files import export
from glocal.models.heads import HEADS


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
