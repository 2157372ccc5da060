"""Files of detectors: the authors' files by their names and shapes, heads alone, classifiers', ours, and wrong ones."""

import re
from collections import OrderedDict

import numpy as np
import pytest
import torch

import glocal
from glocal.models.create import load_for_training, load_weights
from glocal.models.detectors import DETECTORS
from golden.dense import dense_weights
from golden.detectors import all_keys, file_weights, head_weights, parse
from golden.official import fill_official

NAMES = {
    "retinanet": ("retinanet", {}),
    "maskrcnn": ("mask_rcnn", {}),
    "cascade2fc": ("cascade_mask_rcnn", {"box_head": "2fc"}),
    "cascade": ("cascade_mask_rcnn", {"box_head": "4conv1fc"}),
    "dino4": ("dino", {"scales": 4}),
    "dino5": ("dino", {"scales": 5}),
}
TRANSXNET = "retinanet_transxnet_t_256x320"
ARGS = dict(name="retinanet", backbone="transxnet_t")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights():
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in file_weights(TRANSXNET).items()
    }


@pytest.fixture(scope="module")
def loaded(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "retinanet_tiny.pth"
    torch.save({"meta": {"CLASSES": ("person",)}, "state_dict": OrderedDict(weights), "optimizer": {"state": {}}}, path)
    return glocal.create(**ARGS, checkpoint=path)


def same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert not [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])]


# Of these the golden cases of every run load the weights, or other tests here the whole file.
LOADED = ("dino4_transnext_tiny", "retinanet_van_b0", "retinanet_transxnet_t")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] * case.startswith(LOADED))
        for case in all_keys()["cases"]
        if NAMES[parse(case)[0]][0] in DETECTORS
    ],
)
def test_the_authors_names_and_shapes_of_a_head_load(case, tmp_path, caplog):
    name, head_args = NAMES[parse(case)[0]]
    shapes = all_keys()["cases"][case]
    file = {
        key: torch.full(shape, 0.125, dtype=torch.int64 if key.endswith("tracked") else torch.float32)
        for key, shape in shapes.items()
    }
    torch.save({"state_dict": file}, tmp_path / "head.pth")
    model = glocal.create(name, parse(case)[1], checkpoint=tmp_path / "head.pth", head_args=head_args)
    assert "the head alone" in caplog.text
    tensors = model.head.state_dict()
    assert len(tensors) == len(shapes)
    assert all((tensor == 0.125).all() or name.endswith("tracked") for name, tensor in tensors.items())


def test_the_authors_file_of_transxnet_lacks_the_norm_of_the_first_map(weights, loaded):
    assert not [name for name in weights if name.startswith("backbone.norm0")]
    norms = [loaded.backbone.model.stages[0].output_norm, loaded.backbone.model.stages[1].output_norm]
    assert torch.equal(norms[0].weight, torch.ones(48))
    assert torch.equal(norms[1].weight, weights["backbone.norm2.weight"])
    assert torch.equal(loaded.backbone.model.stages[3].norm.bias, weights["backbone.norm6.bias"])
    assert torch.equal(loaded.head.neck.coarser[1].bias, weights["neck.fpn_convs.4.conv.bias"])


def test_the_log_names_what_the_file_lacks(weights, tmp_path, caplog):
    torch.save(weights, tmp_path / "retinanet_tiny.pth")
    glocal.create(**ARGS, checkpoint=tmp_path / "retinanet_tiny.pth")
    assert "the weights lack stages.0.output_norm.weight, stages.0.output_norm.bias, which nothing uses" in caplog.text


class Hub:
    def __init__(self):
        self.scalars = OrderedDict(loss=np.float64(0.5))


def test_mmengine_wrapping(weights, loaded, tmp_path):
    file = {"meta": {"experiment_name": "run"}, "state_dict": OrderedDict(weights), "message_hub": Hub()}
    torch.save(file, tmp_path / "epoch_12.pth")
    same(glocal.create(**ARGS, checkpoint=tmp_path / "epoch_12.pth"), loaded)


def test_the_head_alone(loaded, tmp_path, caplog):
    torch.save(head_weights(TRANSXNET), tmp_path / "head.pth")
    same(glocal.create(**ARGS, checkpoint=tmp_path / "head.pth").head, loaded.head)
    assert "the head alone" in caplog.text


def test_a_classifier_starts_the_backbone(tmp_path, caplog):
    torch.save({"state_dict": fill_official("transxnet_t")}, tmp_path / "classifier.pth")
    model = glocal.create(**ARGS, checkpoint=tmp_path / "classifier.pth")
    assert "the head starts anew" in caplog.text
    stem = fill_official("transxnet_t")["patch_embed.proj.conv.weight"].float()
    assert torch.equal(model.backbone.model.stem.conv.weight, stem)
    assert torch.equal(model.backbone.model.stages[3].norm.weight, torch.ones(448))


def without(*names):
    return lambda weights: {name: tensor for name, tensor in weights.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("backbone.norm2.weight"), "1 missing: stages.1.output_norm.weight"),
        (without("backbone.norm6.weight"), "1 missing: stages.3.norm.weight"),
        (without("bbox_head.retina_reg.bias"), "1 missing: head.regressor.bias"),
        (without("neck.fpn_convs.4.conv.bias"), "1 missing: head.neck.coarser.1.bias"),
        (lambda w: w | {"bbox_head.more": torch.zeros(2)}, "1 left over: head.more"),
        (lambda w: w | {"rpn_head.rpn_cls.bias": torch.zeros(3)}, "1 left over: 'rpn_head.rpn_cls.bias'"),
        (lambda w: w | {"bbox_head.retina_cls.bias": torch.zeros(9)}, r"head.classifier.bias \(9,\) for \(720,\)"),
        (lambda w: w | {"backbone.norm0.more": torch.zeros(2)}, "1 left over: stages.0.output_norm.more"),
    ],
)
def test_a_file_that_does_not_fit(change, message, weights, tmp_path, loaded):
    torch.save(change(weights), tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=message):
        load_weights(loaded, DETECTORS["retinanet"], "transxnet_t", tmp_path / "wrong.pth")


def test_a_head_that_uses_the_first_map_needs_its_norm(tmp_path):
    weights = without("backbone.norm0.weight", "backbone.norm0.bias")(dense_weights("sfpn", "transxnet_t"))
    torch.save(weights, tmp_path / "segmentation.pth")
    with pytest.raises(ValueError, match=r"2 missing: stages.0.output_norm.weight"):
        glocal.create("semantic_fpn", "transxnet_t", checkpoint=tmp_path / "segmentation.pth")


def test_other_classes_start_anew_in_training(weights, loaded, tmp_path, caplog):
    torch.save(weights, tmp_path / "retinanet_tiny.pth")
    model = glocal.create(**ARGS, num_classes=7)
    load_for_training(model, "retinanet", "transxnet_t", tmp_path / "retinanet_tiny.pth")
    shapes = "head.classifier.weight (720, 256, 3, 3) for (63, 256, 3, 3), head.classifier.bias (720,) for (63,)"
    assert f"has another head, or one for other classes (2 of another shape: {shapes}); layers of" in caplog.text
    assert "that start anew: 1 of" in caplog.text
    same(model.backbone, loaded.backbone)
    same(model.head.neck, loaded.head.neck)
    same(model.head.regressor, loaded.head.regressor)


@pytest.mark.parametrize(
    ("head_args", "message", "same"),
    [
        (
            {"width": 64},
            r"of another shape: head\..* \(256, .*\) for \(64, .*; .* anew: 18 of 18",
            [],
        ),
        (
            {"depth": 2},
            r"8 left over: head.class_tower.2.weight, .*; .* anew: 0 of",
            ["class_tower.1.weight", "regressor.bias"],
        ),
        (
            {"depth": 5},
            r"4 missing: head.class_tower.4.weight, .*; .* anew: 2 of",
            ["class_tower.3.weight"],
        ),
    ],
    ids=str,
)
def test_a_head_of_another_size_is_named_in_training(head_args, message, same, weights, loaded, tmp_path, caplog):
    """Of a layer, nothing is loaded but the whole: some biases of a wider head would fit."""
    torch.save(weights, tmp_path / "retinanet_tiny.pth")
    model = glocal.create(**ARGS, head_args=head_args)
    before = {name: tensor.clone() for name, tensor in model.head.state_dict().items()}
    load_for_training(model, "retinanet", "transxnet_t", tmp_path / "retinanet_tiny.pth")
    assert re.search(message, caplog.text)
    ours, theirs = model.head.state_dict(), loaded.head.state_dict()
    changed = {name for name, tensor in ours.items() if not torch.equal(tensor, before[name])}
    assert all(torch.equal(ours[name], theirs[name]) for name in changed)
    assert set(same) <= changed
    assert bool(changed) == bool(same)
