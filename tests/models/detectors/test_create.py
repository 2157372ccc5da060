"""glocal.create for detectors: arguments, defaults, mistakes, and timm's contract."""

import pytest
import torch

import glocal
from glocal.models.detectors import DETECTORS

NARROW = {"width": 16, "depth": 1}


def test_classes_are_those_of_coco_by_default():
    with torch.device("meta"):
        assert glocal.create("retinanet", "van_pico").head.classifier.out_channels == 9 * 80
        assert glocal.create("semantic_fpn", "van_pico").head.classifier.out_channels == 150


def test_arguments_of_the_head_and_the_backbone():
    model = glocal.create(
        "retinanet", "transnext_pico", 3, head_args={"width": 24, "depth": 2}, backbone_args={"img_size": 96}
    )
    assert model.head.classifier.weight.shape == (27, 24, 3, 3)
    assert len(model.head.class_tower) == len(model.head.box_tower) == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(name="yolo"), ValueError, "there is no head 'yolo', only semantic_fpn, .*, retinanet"),
        (dict(num_classes=0), ValueError, "at least 1, not 0"),
        (
            dict(head_args={"heads": 3}),
            TypeError,
            "the head retinanet does not take the argument 'heads': only depth, wid",
        ),
        (
            dict(name="upernet", head_args={"width": 3}),
            TypeError,
            "the head upernet does not take .* 'width': it has none",
        ),
        (dict(head_args={"width": 0}), ValueError, "the argument width: Expected `int` >= 1"),
        (dict(head_args={"width": "8"}), ValueError, "the argument width: Expected `int`, got `str`"),
        (dict(head_args=[1]), TypeError, "head_args must be a mapping of names to values, got"),
        (dict(backbone_args={"heads": 3}), TypeError, "van_pico does not take these arguments"),
        (dict(backbone="vit_tiny_patch16_224"), ValueError, "no maps at the strides 4, 8, 16, 32"),
        (
            dict(pretrained=True, head_args={"width": 8}),
            ValueError,
            "no retinanet on van_pico, width=8 has been publish",
        ),
    ],
)
def test_mistakes(arguments, error, message):
    with pytest.raises(error, match=message):
        glocal.create(**{"name": "retinanet", "backbone": "van_pico", **arguments})


def test_contract_of_timm():
    model = glocal.create("retinanet", "transnext_pico", 3, head_args=NARROW)
    assert model.pretrained_cfg["architecture"] == "transnext_pico"
    model.set_grad_checkpointing()
    assert all(stage.grad_checkpointing for stage in model.backbone.model.stages)
    assert (
        model.no_weight_decay() == {name for name in model.no_weight_decay() if name.startswith("backbone.")} != set()
    )
    assert "stem" in model.group_matcher()


def test_recomputed_blocks_give_the_same_losses():
    torch.manual_seed(0)
    model = glocal.create("retinanet", "van_pico", 3, head_args=NARROW).train()
    images, sizes = torch.randn(1, 3, 64, 96), torch.tensor([[64, 96]])
    targets = [{"boxes": torch.tensor([[5.0, 5.0, 50.0, 60.0]]), "labels": torch.tensor([2])}]
    expected = model(images, sizes, targets)
    model.set_grad_checkpointing()
    for name, loss in model(images, sizes, targets).items():
        torch.testing.assert_close(loss, expected[name])


@pytest.mark.parametrize(
    ("name", "head_args"),
    [
        ("retinanet", NARROW),
        ("faster_rcnn", {"width": 16, "hidden": 32}),
        ("mask_rcnn", {"width": 16, "hidden": 32}),
        ("cascade_mask_rcnn", {"width": 16, "hidden": 32, "box_head": "2fc"}),
        ("dino", {"width": 64, "depth": 1}),
    ],
)
def test_maps_of_nan_do_not_look_as_if_nothing_were_there(name, head_args):
    torch.manual_seed(0)
    head = DETECTORS[name].build([8, 8, 8, 8], 2, **head_args).eval()
    maps = [torch.full((1, 8, 32 // stride, 32 // stride), torch.nan) for stride in (4, 8, 16, 32)]
    with torch.no_grad():
        (found,) = head.detections(maps, torch.tensor([[32, 32]]))
    assert len(found["scores"])
    assert not all(column.isfinite().all() for column in found.values())


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_builds_on_the_meta_device(name):
    with torch.device("meta"):
        model = glocal.create(name, "van_pico", 3)
    assert all(parameter.is_meta for parameter in model.parameters())
