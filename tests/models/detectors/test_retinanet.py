"""RetinaNet equals the authors' code on the golden cases; and what it does without objects."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from torchvision.ops import box_iou

import glocal
from glocal.models.create import ALL_HEADS, split
from glocal.models.detectors import retinanet
from glocal.models.detectors.matching import BACKGROUND, IGNORED
from glocal.models.detectors.retinanet import RetinaNetHead
from golden.detectors import (
    CHANNELS,
    FOLDER,
    assert_close,
    assert_gradients,
    head_weights,
    load,
    original_scale,
    parse,
    sizes,
    stage_maps,
    targets,
)

CASES = sorted(path.stem for path in FOLDER.glob("retinanet_*.npz"))

pytestmark = pytest.mark.usefixtures("one_thread")
cases = pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if "transxnet" in case else []) for case in CASES]
)


@cache
def official_names(case):
    """Our name of each of the authors' tensors → theirs."""
    names = {}
    for name, tensor in head_weights(case).items():
        _, ours = split({name: tensor}, ALL_HEADS["retinanet"])
        names[next(iter(ours)).removeprefix("head.")] = name
    return names


@cache
def build(case):
    head = RetinaNetHead(CHANNELS[parse(case)[1]], 80).double()
    weights = head_weights(case)
    head.load_state_dict({ours: weights[name] for ours, name in official_names(case).items()})
    return head


@cache
def outputs_of(case):
    with torch.no_grad():
        return build(case).outputs(stage_maps(case))


@cases
def test_outputs(case):
    golden, head = load(case), build(case)
    with torch.no_grad():
        for level, x in enumerate(head.neck(stage_maps(case)[1:])):
            assert_close(x, golden, f"neck{level}")
    for level, (logits, codes) in enumerate(outputs_of(case)):
        assert_close(logits, golden, f"cls{level}")
        assert_close(codes, golden, f"reg{level}")


@cases
def test_anchors(case):
    golden = load(case)
    for level, anchors in enumerate(build(case).anchors([codes for _, codes in outputs_of(case)])):
        assert tuple(anchors.shape) == tuple(golden[f"anchors{level}_shape"])
        expected = torch.from_numpy(golden[f"anchors{level}"]).double()
        torch.testing.assert_close(anchors[:: max(1, len(anchors) // 24)][: len(expected)], expected)


def check(found, golden, image, kind=""):
    """Boxes, scores and labels of an image are the golden ones, in their order."""
    expected = {name: torch.from_numpy(golden[f"det{image}{kind}_{name}"]) for name in ("boxes", "scores", "labels")}
    boxes = found["boxes"] / original_scale(golden, image)
    torch.testing.assert_close(boxes, expected["boxes"].double(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found["scores"], expected["scores"].double(), rtol=1e-9, atol=0)
    assert found["labels"].tolist() == expected["labels"].tolist()


@cases
def test_detections(case):
    golden = load(case)
    with torch.no_grad():
        for image, found in enumerate(build(case).eval()(stage_maps(case), sizes(golden))):
            check(found, golden, image)


@pytest.mark.slow
@cases
def test_single_precision(case):
    """Rounding may exchange neighbours: each box is compared with the nearest golden one."""
    golden = load(case)
    with torch.no_grad():
        found = deepcopy(build(case)).eval().float()([x.float() for x in stage_maps(case)], sizes(golden))
    for image, one in enumerate(found):
        assert one["boxes"].dtype == one["scores"].dtype == torch.float32
        scores = torch.from_numpy(golden[f"det{image}_scores"]).float()
        torch.testing.assert_close(one["scores"], scores, rtol=1e-4, atol=1e-5)
        boxes = torch.from_numpy(golden[f"det{image}_boxes"]) * original_scale(golden, image)
        assert torch.cdist(one["boxes"].double(), boxes.double()).amin(1).max() < 0.01  # pixels


@cases
def test_candidates_and_what_suppression_leaves(case, monkeypatch):
    golden, head, outputs, candidates = load(case), build(case).eval(), outputs_of(case), []
    suppress = retinanet.suppress

    def count(boxes, *args):
        candidates.append(len(boxes))
        return suppress(boxes, *args)

    monkeypatch.setattr(retinanet, "suppress", count)
    monkeypatch.setattr(retinanet, "DETECTIONS", None)
    monkeypatch.setattr(head, "outputs", lambda _: outputs)
    for image, found in enumerate(head.detections(None, sizes(golden))):
        assert candidates[image] == int(golden[f"det{image}_candidates"])
        assert len(found["boxes"]) == int(golden[f"det{image}_kept"])
        places = torch.arange(64) * (len(found["boxes"]) // 64)
        check({name: values[places] for name, values in found.items()}, golden, image, "_tail")


@cases
def test_assigned_anchors(case):
    golden, head = load(case), build(case)
    codes = [codes for _, codes in outputs_of(case)]
    anchors = head.anchors(codes)
    counts = [len(of_level) for of_level in anchors]
    assigned = head.assigned(codes, anchors, sizes(golden), targets(golden))
    found = [[[int((x >= 0).sum()), int((x == IGNORED).sum())] for x in one.split(counts)] for one in assigned]
    assert torch.tensor(found)[..., 0].tolist() == golden["pos_per_level"].tolist()
    assert torch.tensor(found)[..., 1].tolist() == golden["ignored_per_level"].tolist()


@cases
def test_losses_and_gradients(case):
    golden, head = load(case), build(case).train()
    maps = [x.requires_grad_() for x in stage_maps(case)]
    losses = head(maps, sizes(golden), targets(golden))
    assert losses.keys() == {"loss_cls", "loss_bbox"}
    for name, loss in losses.items():
        torch.testing.assert_close(loss, torch.from_numpy(golden[name]).double(), rtol=1e-9, atol=1e-12)
    total = sum(loss.sum() for loss in losses.values())
    assert total.item() == pytest.approx(float(golden["loss"]), rel=1e-9)
    total.backward()
    for level, x in enumerate(maps):
        assert_close(torch.zeros_like(x) if x.grad is None else x.grad, golden, f"input_grad{level}")
    names = official_names(case)
    assert_gradients({names[name]: parameter.grad for name, parameter in head.named_parameters()}, golden)


def small(classes=3):
    torch.manual_seed(0)
    return RetinaNetHead((4, 6, 8, 10), classes, width=8, depth=1)


def maps_of(height, width, batch=2):
    return [torch.randn(batch, dim, -(-height // s), -(-width // s)) for dim, s in ((4, 4), (6, 8), (8, 16), (10, 32))]


NOTHING = {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)}
SOMETHING = {"boxes": torch.tensor([[10.0, 12.0, 60.0, 50.0]]), "labels": torch.tensor([1])}


@pytest.mark.parametrize("objects", [[NOTHING, NOTHING], [NOTHING, SOMETHING]])
def test_images_without_objects_train_the_classifier(objects):
    head = small().train()
    losses = head(maps_of(96, 97), torch.tensor([[96, 97], [90, 64]]), objects)
    assert (losses["loss_cls"] > 0).all()
    assert (losses["loss_bbox"].sum() > 0) == (objects[1] is SOMETHING)
    sum(loss.sum() for loss in losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    assert head.classifier.weight.grad.abs().sum() > 0


def test_an_image_without_objects_counts_as_one_anchor():
    head, maps, sizes_of = small().train(), maps_of(64, 64), torch.tensor([[64, 64]] * 2)
    together = head(maps, sizes_of, [NOTHING] * 2)["loss_cls"]
    alone = [head([x[place : place + 1] for x in maps], sizes_of[:1], [NOTHING])["loss_cls"] for place in range(2)]
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)


@torch.no_grad()
def test_the_smallest_object_gets_its_nearest_anchors():
    """Of all IoU above 0, as an anchor of stride 8 is at least 32 pixels wide."""
    head, maps = small(), maps_of(64, 96, 1)
    levels = [x[:, :36] for x in head.neck(maps[1:])]
    tiny = {"boxes": torch.tensor([[17.0, 25.0, 19.0, 27.0]]), "labels": torch.tensor([0])}
    anchors = head.anchors(levels)
    (found,) = head.assigned(levels, anchors, torch.tensor([[64, 96]]), [tiny])
    overlaps = box_iou(tiny["boxes"], torch.cat(anchors))[0]
    assert 0 < overlaps.max() < 0.01
    assert torch.equal(found == 0, overlaps == overlaps.max())
    assert (found[found != 0] == BACKGROUND).all()


def test_a_new_head_finds_nothing():
    """Each class starts with the probability 0.01."""
    head = small().eval()
    with torch.no_grad():
        found = head(maps_of(64, 64), torch.tensor([[64, 64]] * 2))
        assert head.outputs(maps_of(64, 64))[0][0].sigmoid().mean().item() == pytest.approx(0.01, rel=0.05)
    for one in found:
        assert [tuple(one[name].shape) for name in ("boxes", "scores", "labels")] == [(0, 4), (0,), (0,)]
        assert one["labels"].dtype == torch.int64


def test_boxes_end_at_the_image_not_at_its_padding():
    head = small().eval()
    torch.nn.init.normal_(head.classifier.weight, std=3)
    with torch.no_grad():
        found = head(maps_of(96, 128), torch.tensor([[50, 128], [96, 70]]))
    for one, (height, width) in zip(found, [(50, 128), (96, 70)], strict=True):
        assert len(one["boxes"]) == 100
        assert one["boxes"].min() >= 0
        assert one["boxes"][:, 0::2].max() == width
        assert one["boxes"][:, 1::2].max() == height


def test_mixed_precision_computes_boxes_and_losses_in_single_precision():
    head = small()
    torch.nn.init.normal_(head.classifier.weight, std=3)
    size = torch.tensor([[96, 97]])
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.train()(maps_of(96, 97, 1), size, [SOMETHING])
        with torch.no_grad():
            (found,) = head.eval()(maps_of(96, 97, 1), size)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert len(found["boxes"]) == 100
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    sum(loss.sum() for loss in losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize(
    ("backbone", "millions"),
    [
        ("van_b0", 13.4),
        ("van_b1", 23.6),
        ("van_b2", 36.3),
        ("van_b3", 54.5),
    ],
)
def test_parameters_are_the_published(backbone, millions):
    with torch.device("meta"):
        model = glocal.create("retinanet", backbone)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
