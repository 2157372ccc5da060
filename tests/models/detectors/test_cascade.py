"""What the stages of a cascade hand on, how their losses count, and what becomes of their masks."""

import pytest
import torch
from torchvision.ops import batched_nms, generalized_box_iou_loss

import glocal
from glocal.deploy.reparameterize import fuse
from glocal.models.detectors.boxes import decode, encode
from glocal.models.detectors.cascade import cascade_mask_rcnn
from glocal.models.detectors.mask_head import mean_logits
from glocal.models.detectors.rcnn import Regions
from golden.detectors import choose

DIMS = (4, 5, 6, 7)
KINDS = pytest.mark.parametrize("box_head", ["2fc", "4conv1fc"])

pytestmark = pytest.mark.usefixtures("one_thread")


def build(box_head):
    torch.manual_seed(0)
    head = cascade_mask_rcnn(DIMS, 3, box_head, width=8, hidden=16).double().train()
    head.choose = choose
    return head


def inputs():
    torch.manual_seed(1)
    maps = [torch.randn(1, dim, 64 // s, 96 // s).double() for dim, s in zip(DIMS, (4, 8, 16, 32), strict=True)]
    boxes = torch.tensor([[5.0, 6, 40, 51], [20, 30, 90, 60]], dtype=torch.float64)
    target = {"boxes": boxes, "labels": torch.tensor([2, 0]), "masks": torch.ones(2, 64, 96, dtype=torch.bool)}
    return maps, torch.tensor([[64, 96]]), [target]


@KINDS
def test_weights_of_the_stages(box_head):
    weighted = build(box_head)(*inputs())
    head = build(box_head)
    head.stages = [stage._replace(weight=1.0) for stage in head.stages]
    for name, value in head(*inputs()).items():
        weight = {"s1": 0.5, "s2": 0.25}.get(name[:2], 1) if "loss" in name else 1
        torch.testing.assert_close(weighted[name], weight * value)


@KINDS
def test_regions_of_the_next_stage(box_head):
    """Corrected for the true class, or the likeliest of the classes; objects are left out; inside the image."""
    head = build(box_head)
    boxes = torch.tensor([[5.0, 6, 40, 51], [6, 7, 41, 50], [50, 3, 80, 40]], dtype=torch.float64)
    regions = Regions(boxes, torch.tensor([2, 2, 3]), torch.tensor([0, 0]), torch.tensor([True, False]))
    logits = torch.tensor([[0.0, 0, 0, 0], [9, 0, 0, 0], [0, 5, 1, 9]], dtype=torch.float64)
    columns = head.box_heads[0].regressor.out_features
    codes = torch.linspace(-9, 9, 3 * columns, dtype=torch.float64).view(3, columns)
    (found,) = head.next_regions(0, logits, codes, [regions], [(64, 96)])
    used = codes[1:] if box_head == "2fc" else torch.stack([codes[1, 8:12], codes[2, 4:8]])
    torch.testing.assert_close(found, decode(boxes[1:], used, (0.1, 0.1, 0.2, 0.2), (64, 96)))


@KINDS
@torch.no_grad()
def test_detections_of_three_stages(box_head):
    """Each stage corrects the regions for its own likeliest class; the mean of the logits decides on the class."""
    head = build(box_head).eval()
    for box in head.box_heads:
        torch.nn.init.normal_(box.classifier.weight, std=2.0)
        torch.nn.init.normal_(box.regressor.weight, std=0.5)
    maps, sizes, _ = inputs()
    pyramid = head.pyramid(maps)
    boxes, total = head.rpn.proposals(*head.rpn(pyramid), sizes)[0].boxes, 0
    for stage, scales in enumerate([(0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)]):
        logits, codes = head.classified(stage, pyramid[:4], [boxes])
        codes = codes.view(len(boxes), -1, 4).expand(-1, 3, -1)
        total = total + logits
        for_each_class = decode(boxes[:, None], codes, scales, (64, 96))
        boxes = for_each_class[torch.arange(len(boxes)), logits[:, :3].argmax(1)]
    scores = (total / 3).softmax(1)[:, :3]
    region, label = (scores > 0.05).nonzero(as_tuple=True)
    chosen, scores = for_each_class[region, label], scores[region, label]
    kept = batched_nms(chosen, scores, label, 0.5)[:100]
    (found,) = head(maps, sizes)
    assert len(kept) > 10
    torch.testing.assert_close(found["scores"], scores[kept])
    torch.testing.assert_close(found["boxes"], chosen[kept])
    assert torch.equal(found["labels"], label[kept])


@KINDS
def test_losses_of_boxes(box_head):
    head = build(box_head)
    stage = head.stages[1]
    boxes = torch.tensor([[5.0, 6, 40, 51], [22, 29, 80, 66], [50, 3, 80, 40]], dtype=torch.float64)
    _, _, (target,) = inputs()
    regions = Regions(boxes, torch.tensor([2, 0, 3]), torch.tensor([0, 1]), torch.tensor([True, False]))
    columns = head.box_heads[1].regressor.out_features
    codes, logits = torch.randn(3, columns).double(), torch.randn(3, 4).double()
    losses = head.box_losses(stage, logits, codes, [regions], [target])
    used = codes[:2] if box_head == "2fc" else torch.stack([codes[0, 8:], codes[1, :4]])
    if box_head == "2fc":
        errors = (used - encode(boxes[:2], target["boxes"], stage.scales)).abs()
        expected = torch.where(errors < 1, errors**2 / 2, errors - 0.5).sum() / 3
    else:
        expected = 10 * generalized_box_iou_loss(decode(boxes[:2], used, stage.scales), target["boxes"]).sum() / 3
    torch.testing.assert_close(losses["loss_bbox"], expected, rtol=1e-6, atol=0)
    right = logits.argmax(1) == regions.labels
    assert losses["acc"].item() == pytest.approx(100 * right.double().mean().item())


def test_batch_norms_of_box_heads_become_part_of_convolutions():
    """torch.export cannot follow a batch norm over a number of regions that is open."""
    head = build("4conv1fc").eval()
    for norm in (block.norm for one in head.box_heads for block in one.convs):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
        torch.nn.init.normal_(norm.running_mean)
    fused = fuse(head)
    assert not [module for module in fused.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    x = torch.randn(5, 8, 7, 7, dtype=torch.float64)
    for one, other in zip(head.box_heads, fused.box_heads, strict=True):
        torch.testing.assert_close(one(x), other(x))


def test_masks_of_several_stages():
    stages = [torch.tensor([0.3, -2.0, 400.0, -400.0]), torch.tensor([1.0, 5.0, 300.0, -500.0])]
    found = mean_logits(stages)
    assert found.isfinite().all()
    mean = (stages[0].sigmoid() + stages[1].sigmoid()) / 2
    torch.testing.assert_close(found[:2], mean[:2].logit())
    assert found[2] == pytest.approx(300.7, abs=0.1)  # the less sure of both, twice
    assert found[3] == pytest.approx(-400.7, abs=0.1)


def test_an_unknown_box_head():
    with pytest.raises(ValueError, match="box_head"):
        glocal.create("cascade_mask_rcnn", "van_pico", 3, head_args={"box_head": "3fc"})
