"""The losses of region proposals equal a loop over anchors; proposals are inside the image and apart."""

import math

import pytest
import torch
from torchvision.ops import box_iou

from glocal.models.detectors import rpn as rpn_file
from glocal.models.detectors.rpn import RPN
from golden.detectors import choose

STRIDES = (4, 8, 16, 32, 64)
KINDS = {"mask_rcnn": {}, "cascade": {"inside": True, "beta": 1 / 9}}
SIZE = (90, 120)  # padded to 96 × 128
OBJECTS = {
    "three": [[5.0, 6.0, 50.0, 61.0], [20.0, 30.0, 70.5, 66.0], [1.0, 2.0, 9.0, 12.0]],  # no anchor fits the last
    "none": [],
    "more than are drawn": [[x, y, x + 32.0, y + 32.0] for x in range(0, 84, 12) for y in range(0, 60, 10)],
}

pytestmark = pytest.mark.usefixtures("one_thread")


def build(**args):
    torch.manual_seed(0)
    rpn = RPN(8, **args).double()
    for conv in (rpn.conv, rpn.classifier, rpn.regressor):
        torch.nn.init.normal_(conv.weight, std=0.2)
    return rpn


def maps(height=128, width=160):
    """Of a batch that is padded by more than the image."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(1, 8, -(-height // s), -(-width // s), generator=draw, dtype=torch.float64) for s in STRIDES]


def iou(one, other):
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other))
    return width * height / (areas - width * height)


def anchors(logits, inside):
    """(level, row, column, shape, box) of each anchor that takes part."""
    for level, (stride, of_level) in enumerate(zip(STRIDES, logits, strict=True)):
        for row in range(min(of_level.shape[2], math.ceil(96 / stride))):
            for column in range(min(of_level.shape[3], math.ceil(128 / stride))):
                for shape, ratio in enumerate((0.5, 1, 2)):
                    wide, high = 8 * stride / math.sqrt(ratio), 8 * stride * math.sqrt(ratio)
                    x, y = column * stride, row * stride
                    box = (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)
                    if not inside or (min(box[:2]) >= 0 and box[2] < SIZE[1] and box[3] < SIZE[0]):
                        yield level, row, column, shape, box


def by_anchors(logits, codes, objects, inside, beta):
    """Both losses of each level."""
    rows = list(anchors(logits, inside))
    overlaps = [[iou(box, other) for other in objects] for *_, box in rows]
    owners = []
    for of_anchor in overlaps:
        best = max(of_anchor, default=0)
        owners.append(of_anchor.index(best) if best >= 0.7 else None if best < 0.3 else "ignored")
    for i in range(len(objects)):
        best = max(of_anchor[i] for of_anchor in overlaps)
        for place, of_anchor in enumerate(overlaps):
            if best >= 0.3 and of_anchor[i] == best:
                owners[place] = i
    positives = [place for place, owner in enumerate(owners) if isinstance(owner, int)]
    negatives = [place for place, owner in enumerate(owners) if owner is None]
    assert bool(positives) == bool(objects)
    if len(positives) > 128:
        positives = choose(torch.tensor(positives), 128).tolist()
    if len(negatives) > 256 - len(positives):
        negatives = choose(torch.tensor(negatives), 256 - len(positives)).tolist()
    count = max(len(positives), 1) + max(len(negatives), 1)
    classes, boxes = [0.0] * 5, [0.0] * 5
    for place in positives + negatives:
        level, row, column, shape, (x1, y1, x2, y2) = rows[place]
        sign = 1 if place in positives else -1
        classes[level] += math.log1p(math.exp(-sign * logits[level][0, shape, row, column].item()))
        if sign < 0:
            continue
        left, top, right, bottom = objects[owners[place]]
        wanted = (
            ((left + right) - (x1 + x2)) / 2 / (x2 - x1),
            ((top + bottom) - (y1 + y2)) / 2 / (y2 - y1),
            math.log((right - left) / (x2 - x1)),
            math.log((bottom - top) / (y2 - y1)),
        )
        for i, value in enumerate(wanted):
            error = abs(codes[level][0, 4 * shape + i, row, column].item() - value)
            boxes[level] += error**2 / (2 * beta) if error < beta else error - beta / 2
    return [value / count for value in classes], [value / count for value in boxes]


@pytest.mark.parametrize("objects", OBJECTS.values(), ids=OBJECTS)
@pytest.mark.parametrize("args", KINDS.values(), ids=KINDS)
def test_losses_equal_a_loop_over_anchors(args, objects):
    rpn = build(**args).train()
    with torch.no_grad():
        logits, codes = rpn(maps())
        targets = [{"boxes": torch.tensor(objects, dtype=torch.float64).reshape(-1, 4)}]
        losses = rpn.losses(logits, codes, [SIZE], targets, choose)
    classes, boxes = by_anchors(logits, codes, objects, args.get("inside", False), args.get("beta", 0))
    assert losses["loss_rpn_cls"].tolist() == pytest.approx(classes, rel=1e-6)
    assert losses["loss_rpn_bbox"].tolist() == pytest.approx(boxes, rel=1e-6)


@pytest.mark.parametrize("most", [20, 1000])
def test_proposals(most):
    rpn = build(training_proposals=most).train()
    (found,) = rpn.proposals(*rpn(maps()), torch.tensor([SIZE]))
    assert 0 < len(found.boxes) <= most
    assert (found.scores.diff() <= 0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([SIZE[1], SIZE[0]] * 2)).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_proposals_of_a_level_are_apart_and_those_of_others_are_not():
    rpn = build().eval()
    with torch.no_grad():
        logits, codes = rpn(maps())
        for level, x in enumerate(logits):
            one = [y if i == level else torch.full_like(y, -50) for i, y in enumerate(logits)]
            (found,) = rpn.proposals(one, codes, torch.tensor([SIZE]))
            boxes = found.boxes[found.scores > 1e-10]
            assert 0 < len(boxes) <= x.numel()
            assert box_iou(boxes, boxes).fill_diagonal_(0).max() <= 0.7
        (found,) = rpn.proposals(logits, codes, torch.tensor([SIZE]))
        assert box_iou(found.boxes, found.boxes).fill_diagonal_(0).max() > 0.7


@pytest.mark.parametrize(("training", "most"), [(True, 2000), (False, 1000)])
@torch.no_grad()
def test_of_a_level_the_suppression_sees_the_best(training, most, monkeypatch):
    seen = []
    monkeypatch.setattr(rpn_file, "best_apart", lambda boxes, scores, levels, count: seen.append(levels))
    rpn = build().train(training)
    rpn.proposals(*rpn(maps()), torch.tensor([SIZE]))
    assert seen[0].bincount().tolist() == [most, min(most, 3 * 16 * 20), 3 * 8 * 10, 3 * 4 * 5, 3 * 2 * 3]
