"""R-CNNs with masks on every family and on backbones of timm: detections, a step of training, files.

Two pairs are quick; the slow tests take all.
"""

import pytest
import torch

import glocal

BACKBONES = [*(name for name in glocal.model_names() if name.endswith("_pico")), "test_convnext", "test_mambaout"]
HEADS = {
    "mask_rcnn": ("mask_rcnn", {}),
    "cascade-2fc": ("cascade_mask_rcnn", {"box_head": "2fc"}),
    "cascade-4conv1fc": ("cascade_mask_rcnn", {"box_head": "4conv1fc"}),
}
QUICK = {"van_pico": "mask_rcnn", "test_mambaout": "cascade-2fc"}  # the maps of the last are (B, H, W, C)
PAIRS = [
    pytest.param(name, backbone, marks=[] if QUICK.get(backbone) == name else pytest.mark.slow)
    for backbone in BACKBONES
    for name in HEADS
]

pytestmark = pytest.mark.usefixtures("one_thread")
pairs = pytest.mark.parametrize(("name", "backbone"), PAIRS)
image_sizes = pytest.mark.parametrize("size", [(96, 128), pytest.param((101, 159), marks=pytest.mark.slow)], ids=str)


def build(name, backbone, **args):
    torch.manual_seed(0)
    head, head_args = HEADS[name]
    return glocal.create(head, backbone, num_classes=4, head_args={"width": 16, "hidden": 32, **head_args}, **args)


@pairs
@image_sizes
def test_an_image_gives_the_same_alone_and_in_a_batch(name, backbone, size):
    model = build(name, backbone).double().eval()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    sizes = torch.tensor([size, (size[0] - 30, size[1] - 9)])
    with torch.no_grad():
        together = model(images, sizes)
        alone = [model(images[place : place + 1], sizes[place : place + 1])[0] for place in range(2)]
    for one, same, limits in zip(together, alone, sizes, strict=True):
        assert 0 < len(one["boxes"]) <= 100
        assert one.keys() == same.keys()
        for key, values in one.items():
            torch.testing.assert_close(values, same[key])
        masks = model.paste(one["masks"], one["boxes"], limits)
        assert masks.shape == (len(one["boxes"]), *limits.tolist())


@pairs
@image_sizes
def test_a_step_of_training_has_finite_gradients(name, backbone, size):
    model = build(name, backbone).train()
    boxes = torch.tensor([[10.0, 10.0, 60.0, 50.0], [0.0, 20.0, 30.0, 90.0]])
    masks = torch.rand(2, *size) > 0.5
    targets = [
        {"boxes": boxes, "labels": torch.tensor([3, 0]), "masks": masks},
        {"boxes": boxes[:0], "labels": torch.empty(0, dtype=torch.int64), "masks": masks[:0]},
    ]
    losses = model(torch.randn(2, 3, *size), torch.tensor([size] * 2), targets)
    sum(loss.sum() for name, loss in losses.items() if "loss" in name).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert not [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()]


@pairs
def test_our_file_comes_back(name, backbone, tmp_path):
    model = build(name, backbone)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = build(name, backbone, checkpoint=tmp_path / "model.pt")
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("backbone", ["transnext_micro", "resnet10t"])
def test_the_head_as_it_is(name, backbone):
    torch.manual_seed(0)
    head, head_args = HEADS[name]
    model = glocal.create(head, backbone, 3, head_args=head_args).eval()
    with torch.no_grad():
        (found,) = model(torch.randn(1, 3, 160, 97))
    assert found["masks"].shape == (100, 28, 28)
