"""DINO on every family and on backbones of timm: detections, a step of training, files. The quick tests take one."""

import pytest
import torch

import glocal

BACKBONES = [
    pytest.param(name, marks=[] if name == "transnext_pico" else pytest.mark.slow)
    for name in (*(name for name in glocal.model_names() if name.endswith("_pico")), "test_convnext", "test_mambaout")
]
SIZES = torch.tensor([[96, 128], [70, 101]])

pytestmark = pytest.mark.usefixtures("one_thread")
backbones = pytest.mark.parametrize("backbone", BACKBONES)
scales = pytest.mark.parametrize("scales", [pytest.param(4, marks=pytest.mark.slow), 5])


def build(backbone, scales=4, **args):
    torch.manual_seed(0)
    head_args = {"width": 64, "depth": 2, "num_queries": 20, "scales": scales}
    return glocal.create("dino", backbone, num_classes=4, head_args=head_args, **args)


@backbones
@scales
def test_an_image_gives_the_same_in_each_place_of_a_batch(backbone, scales):
    model = build(backbone, scales).double().eval()
    images = torch.randn(2, 3, 96, 128, dtype=torch.float64)
    with torch.no_grad():
        found, turned = model(images, SIZES), model(images.flip(0), SIZES.flip(0))
    for one, same in zip(found, reversed(turned), strict=True):
        assert one["boxes"].shape == (80, 4)
        for name, values in one.items():
            torch.testing.assert_close(values, same[name])


@backbones
@scales
def test_a_step_of_training_has_finite_gradients(backbone, scales):
    model = build(backbone, scales).train()
    targets = [
        {"boxes": torch.tensor([[10.0, 10.0, 60.0, 50.0], [0.0, 20.0, 30.0, 90.0]]), "labels": torch.tensor([3, 0])},
        {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)},
    ]
    losses = model(torch.randn(2, 3, 96, 128), SIZES, targets)
    sum(losses.values()).backward()
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not [name for name, grad in trained.items() if grad is None or not grad.isfinite().all()]


@backbones
def test_our_file_comes_back(backbone, tmp_path):
    model = build(backbone)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = build(backbone, checkpoint=tmp_path / "model.pt")
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_mixed_precision(dtype):
    """Boxes and losses stay in single precision."""
    model = build("transnext_pico")
    images = torch.randn(1, 3, 64, 64)
    targets = [{"boxes": torch.tensor([[5.0, 5.0, 50.0, 60.0]]), "labels": torch.tensor([2])}]
    with torch.autocast("cpu", dtype):
        losses = model.train()(images, None, targets)
        with torch.no_grad():
            (found,) = model.eval()(images)
    assert {loss.dtype for loss in losses.values()} == {found["boxes"].dtype} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_model_of_lower_precision_keeps_its_places(dtype):
    """Places and boxes stay in single precision, whose rounding is finer than a position of a large map."""
    model = build("transnext_pico").eval()
    images = torch.randn(1, 3, 64, 64)
    maps = [x.to(dtype) for x in model.maps(images)]
    with torch.no_grad():
        outputs = model.head.to(dtype).outputs(maps, torch.tensor([[64, 64]]))
    assert outputs.tokens.places.dtype == outputs.tokens.shares.dtype == outputs.boxes.dtype == torch.float32
    assert outputs.memory.dtype == dtype
    assert outputs.boxes.isfinite().all()
