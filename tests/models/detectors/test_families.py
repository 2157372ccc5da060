"""RetinaNet on every family and on backbones of timm: detections, a step of training, files.

The quick tests take three families and one backbone of timm; the slow ones take all.
"""

import pytest
import torch

import glocal

QUICK = ("transxnet_pico", "transnext_pico", "van_pico", "test_mambaout")  # the maps of the last are (B, H, W, C)
BACKBONES = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in (*(name for name in glocal.model_names() if name.endswith("_pico")), "test_convnext", "test_mambaout")
]
ARGS = dict(num_classes=4, head_args={"width": 16, "depth": 1})

pytestmark = pytest.mark.usefixtures("one_thread")
backbones = pytest.mark.parametrize("backbone", BACKBONES)
image_sizes = pytest.mark.parametrize("size", [(96, 128), pytest.param((101, 159), marks=pytest.mark.slow)], ids=str)


def build(backbone, **args):
    torch.manual_seed(0)
    return glocal.create("retinanet", backbone, **{**ARGS, **args})


def build_sure(backbone, **args):
    """A model in eval mode that detects something: its logits have a standard deviation of 3."""
    model = build(backbone, **args).eval()
    with torch.no_grad():
        logits, _ = model.head.outputs(model.maps(torch.randn(1, 3, 96, 96)))[0]
        model.head.classifier.weight *= 3 / logits.std()
    return model


@backbones
@image_sizes
def test_an_image_gives_the_same_alone_and_in_a_batch(backbone, size):
    model = build_sure(backbone).double()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    sizes = torch.tensor([size, (size[0] - 30, size[1] - 9)])
    with torch.no_grad():
        together = model(images, sizes)
        alone = [model(images[place : place + 1], sizes[place : place + 1])[0] for place in range(2)]
    for one, same in zip(together, alone, strict=True):
        assert 0 < len(one["boxes"]) <= 100
        assert (one["scores"].diff() <= 0).all()
        for name, values in one.items():
            torch.testing.assert_close(values, same[name])


@backbones
@image_sizes
def test_without_sizes_the_images_are_whole(backbone, size):
    model = build_sure(backbone)
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        found, same = model(images), model(images, torch.tensor([size]))
    assert torch.equal(found[0]["boxes"], same[0]["boxes"])


@backbones
@image_sizes
def test_a_step_of_training_has_finite_gradients(backbone, size):
    model = build(backbone).train()
    targets = [
        {"boxes": torch.tensor([[10.0, 10.0, 60.0, 50.0], [0.0, 20.0, 30.0, 90.0]]), "labels": torch.tensor([3, 0])},
        {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)},
    ]
    losses = model(torch.randn(2, 3, *size), torch.tensor([size] * 2), targets)
    sum(loss.sum() for loss in losses.values()).backward()
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not [name for name, grad in trained.items() if grad is None or not grad.isfinite().all()]
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if "stages.0.output_norm" in name}


@backbones
def test_our_file_comes_back(backbone, tmp_path):
    model = build(backbone)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = build(backbone, checkpoint=tmp_path / "model.pt")
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["transxnet_t", "resnet10t", "convnext_atto"])
def test_the_head_as_it_is(backbone):
    model = build_sure(backbone, num_classes=80, head_args=None)
    with torch.no_grad():
        (found,) = model(torch.randn(1, 3, 160, 97))
    assert len(found["boxes"]) == 100
