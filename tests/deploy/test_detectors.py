"""Files of detectors for other runtimes, with open height and width, find what PyTorch finds."""

import pytest
import torch

import glocal
from glocal.deploy.files import export
from glocal.deploy.graph import Outputs
from glocal.tasks.detection.outputs import Detections

HEADS = {
    "retinanet": ("retinanet", {"width": 16, "depth": 1}),
    "mask_rcnn": ("mask_rcnn", {"width": 16, "hidden": 32}),
    "cascade-2fc": ("cascade_mask_rcnn", {"box_head": "2fc", "width": 16, "hidden": 32}),
    "cascade-4conv1fc": ("cascade_mask_rcnn", {"box_head": "4conv1fc", "width": 16, "hidden": 32}),
}
ENDINGS = ["onnx", "xml"]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", HEADS)
def test_a_file_finds_the_same(name, ending, tmp_path):
    pytest.importorskip("onnxruntime" if ending == "onnx" else "openvino")
    torch.manual_seed(0)
    head, args = HEADS[name]
    model = glocal.create(head, "van_pico", num_classes=4, head_args=args).eval()
    if head == "retinanet":
        torch.nn.init.normal_(model.head.classifier.weight, std=1)  # so that there are detections
    names = ["boxes", "scores", "labels", "masks"][: 3 if head == "retinanet" else 4]
    result = export(
        Outputs(Detections(model)),
        tmp_path / f"model.{ending}",
        dynamic=("size",),
        input_size=(3, 128, 160),
        output_names=names,
    )
    assert result.compared == [(1, 3, 128, 160), (1, 3, 97, 146)]
    assert result.difference < 1e-4
