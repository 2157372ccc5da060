"""DINO becomes files for any size: ONNX and OpenVINO compute its boxes, which the export compares."""

import pytest
import torch
from torch import nn

import glocal
from glocal.deploy.files import export

pytestmark = pytest.mark.slow


class Boxes(nn.Module):
    """Boxes, scores and labels of images that are not padded."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        size = torch.stack([torch.arange(1, side + 1)[-1] for side in images.shape[2:]])
        return list(self.model.head.best(self.model.maps(images), size.expand(images.shape[0], 2)))


@pytest.mark.parametrize(("ending", "scales"), [("onnx", 5), ("xml", 4)])
def test_export_for_any_size(ending, scales, tmp_path):
    pytest.importorskip("openvino" if ending == "xml" else "onnxruntime")
    torch.manual_seed(0)
    args = {"width": 64, "depth": 2, "num_queries": 50, "scales": scales}
    model = glocal.create("dino", "van_pico", num_classes=5, head_args=args).eval()
    for parameter in model.head.parameters():
        if parameter.ndim > 1:  # as it starts, the head moves no box
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    assert export(Boxes(model), tmp_path / f"model.{ending}").difference < 1e-3
