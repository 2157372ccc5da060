"""R-CNNs beyond the golden cases: nothing to find, mixed sizes, types, what is drawn, and mistakes."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import glocal
from glocal.models.detectors import DETECTORS, rcnn, rpn
from glocal.models.detectors.boxes import encode
from glocal.models.detectors.rcnn import RCNN
from golden.detectors import choose

DIMS = (4, 5, 6, 7)
CLASSES = 5
HEADS = [
    ("faster_rcnn", {}),
    ("mask_rcnn", {}),
    ("cascade_mask_rcnn", {"box_head": "2fc"}),
    ("cascade_mask_rcnn", {"box_head": "4conv1fc"}),
]
heads = pytest.mark.parametrize(("name", "args"), HEADS, ids=lambda value: value if isinstance(value, str) else "")

pytestmark = pytest.mark.usefixtures("one_thread")


def build(name, args=None, seed=0, dtype=torch.float64) -> RCNN:
    """A narrow head that is sure enough to find something."""
    torch.manual_seed(seed)
    head = DETECTORS[name].build(DIMS, CLASSES, width=8, hidden=16, **(args or {}))
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=1.5 / math.sqrt(parameter[0].numel()))
    head.choose = choose
    return head.to(dtype)


def inputs(*sizes, dtype=torch.float64, seed=0):
    """Maps of a batch with images of these sizes, and the sizes."""
    draw = torch.Generator().manual_seed(seed)
    height, width = (-(-max(side) // 32) * 32 for side in zip(*sizes, strict=True))
    maps = [
        torch.randn(len(sizes), dim, height // stride, width // stride, generator=draw, dtype=torch.float64).to(dtype)
        for dim, stride in zip(DIMS, (4, 8, 16, 32), strict=True)
    ]
    return maps, torch.tensor(sizes)


def target(size, boxes=((5, 6, 50, 61), (20, 30, 70.5, 66), (1, 2, 9, 12)), dtype=torch.float64):
    boxes = torch.tensor(boxes, dtype=dtype).reshape(-1, 4)
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    return {"boxes": boxes, "labels": torch.arange(len(boxes)) % CLASSES, "masks": masks}


def total(losses):
    return sum(value.sum() for name, value in losses.items() if "loss" in name)


def away(head):
    """Propose nothing: every box lies outside of the image."""
    with torch.no_grad():
        head.rpn.regressor.weight.zero_()
        head.rpn.regressor.bias.fill_(1000)


def check_nothing(found, masks):
    assert found["boxes"].shape == (0, 4)
    assert found["scores"].shape == found["labels"].shape == (0,)
    assert found["labels"].dtype == torch.int64
    assert ("masks" in found) == masks
    assert not masks or found["masks"].shape == (0, 28, 28)


@heads
class TestDetections:
    @torch.no_grad()
    def test_what_a_result_is(self, name, args):
        head = build(name, args).eval()
        maps, sizes = inputs((64, 96), (50, 70))
        results = head(maps, sizes)
        assert len(results) == 2
        for found, (height, width) in zip(results, sizes.tolist(), strict=True):
            assert 0 < len(found["boxes"]) <= 100
            assert (found["scores"].diff() <= 0).all()
            assert (found["scores"] > 0.05).all()
            assert set(found["labels"].tolist()) <= set(range(CLASSES))
            assert (found["boxes"] >= 0).all()
            assert (found["boxes"] <= torch.tensor([width, height] * 2)).all()
            assert name == "faster_rcnn" or found["masks"].shape == (len(found["boxes"]), 28, 28)

    @pytest.mark.slow  # test_rcnn_families.py has quick ones
    @torch.no_grad()
    def test_an_image_gives_the_same_alone(self, name, args):
        """Of images with one padded size: the rest of the padding would be seen by convolutions."""
        head = build(name, args).eval()
        maps, sizes = inputs((64, 96), (50, 70), (64, 65))
        together = head(maps, sizes)
        for i, found in enumerate(together):
            (alone,) = head([x[i : i + 1] for x in maps], sizes[i : i + 1])
            assert found.keys() == alone.keys()
            for key, value in found.items():
                torch.testing.assert_close(value, alone[key], rtol=1e-9, atol=1e-9)

    @torch.no_grad()
    def test_no_score_above_the_threshold(self, name, args):
        head = build(name, args).eval()
        for box_head in head.box_heads:
            box_head.classifier.bias[-1] = 1e4
        for found in head(*inputs((64, 96), (50, 70))):
            check_nothing(found, name != "faster_rcnn")

    @torch.no_grad()
    def test_no_proposal(self, name, args):
        head = build(name, args).eval()
        away(head)
        for found in head(*inputs((64, 96), (50, 70))):
            check_nothing(found, name != "faster_rcnn")

    @torch.no_grad()
    def test_single_precision(self, name, args):
        (found,) = build(name, args, dtype=torch.float32).eval()(*inputs((64, 96), dtype=torch.float32))
        (expected,) = build(name, args).eval()(*inputs((64, 96)))
        count = len(expected["boxes"])
        # neighbours in the order may be exchanged
        near = (found["scores"][:, None] - expected["scores"]).abs() + (
            found["boxes"][:, None] - expected["boxes"]
        ).abs().amax(2)
        assert (near.amin(0) < 1e-2).sum() > 0.9 * count

    @torch.no_grad()
    def test_half_precision(self, name, args):
        head = build(name, args, dtype=torch.bfloat16).eval()
        (found,) = head(*inputs((64, 96), dtype=torch.bfloat16))
        assert found["boxes"].dtype == found["scores"].dtype == torch.float32
        assert found["boxes"].isfinite().all()


@heads
class TestLosses:
    def losses(self, head, targets, sizes=((64, 96), (50, 70)), **kwargs):
        maps, sizes = inputs(*sizes, **kwargs)
        for x in maps:
            x.requires_grad_()
        losses = head.train()(maps, sizes, targets)
        total(losses).backward()
        gradients = [x.grad for x in maps] + [p.grad for p in head.parameters()]
        assert all(one is not None and one.isfinite().all() for one in gradients)
        assert all(value.isfinite().all() for value in losses.values())
        return {name: value.detach() for name, value in losses.items()}

    def test_names(self, name, args):
        losses = self.losses(build(name, args), [target((64, 96)), target((50, 70))])
        parts = ["loss_cls", "acc", "loss_bbox", *([] if name == "faster_rcnn" else ["loss_mask"])]
        prefixes = ("s0.", "s1.", "s2.") if name.startswith("cascade") else ("",)
        assert set(losses) == {"loss_rpn_cls", "loss_rpn_bbox", *(p + part for p in prefixes for part in parts)}
        assert all(0 <= value <= 100 for part, value in losses.items() if part.endswith("acc"))

    @pytest.mark.parametrize("objects", [(), ((5, 6, 50, 61),)], ids=["none", "in one image"])
    def test_images_without_objects(self, name, args, objects):
        losses = self.losses(build(name, args), [target((64, 96), objects), target((50, 70), ())])
        boxes = sum(float(value.sum()) for part, value in losses.items() if "bbox" in part or "mask" in part)
        assert (boxes > 0) == bool(objects)
        assert all(value.sum() > 0 for part, value in losses.items() if part.endswith("cls"))

    @pytest.mark.parametrize("objects", [(), ((5, 6, 50, 61),)], ids=["no object", "an object"])
    def test_no_proposal(self, name, args, objects):
        head = build(name, args)
        away(head)
        losses = self.losses(head, [target((64, 96), objects)], [(64, 96)])
        classes = [value for part, value in losses.items() if part.endswith("loss_cls")]
        assert all((value > 0) == bool(objects) for value in classes)
        assert all(buffer.isfinite().all() for buffer in head.buffers())

    def test_a_very_small_image(self, name, args):
        """All anchors of the cascade cross its border."""
        losses = self.losses(build(name, args), [target((20, 25), ((2, 3, 15, 18),))], [(20, 25)])
        assert (losses["loss_rpn_cls"].sum() > 0) == (not name.startswith("cascade"))

    def test_the_size_of_given_masks_does_not_matter(self, name, args):
        if name == "faster_rcnn":
            pytest.skip("has no masks")
        one = target((50, 70))
        larger = {**one, "masks": torch.nn.functional.pad(one["masks"], (0, 60, 0, 90))}
        first, second = (self.losses(build(name, args), [given], [(50, 70)]) for given in (one, larger))
        assert all(torch.equal(first[part], second[part]) for part in first)

    def test_mixed_precision(self, name, args):
        head = build(name, args, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            losses = self.losses(head, [target((64, 96)), target((50, 70))], dtype=torch.float32)
        assert all(value.dtype == torch.float32 for value in losses.values())

    def test_all_that_is_drawn_is_drawn_by_choose(self, name, args, monkeypatch):
        monkeypatch.setattr(rcnn, "SAMPLED", 20)
        monkeypatch.setattr(rpn, "SAMPLED", 20)
        head, counts = build(name, args), []
        head.choose = lambda indices, count: counts.append((len(indices), count)) or indices[:count]
        first = self.losses(head, [target((64, 96))], [(64, 96)])
        assert all(length > count for length, count in counts)
        assert len(counts) >= 2  # anchors and regions; later stages may have no more regions than needed
        torch.manual_seed(1)
        head.choose = lambda indices, count: indices[-count:]
        assert not torch.equal(self.losses(head, [target((64, 96))], [(64, 96)])["loss_rpn_cls"], first["loss_rpn_cls"])


class TestMaskRCNN:
    @torch.no_grad()
    def test_masks_are_computed_of_detections_alone(self):
        head, seen = build("cascade_mask_rcnn").eval(), []
        for one in head.mask_heads:
            one.register_forward_hook(lambda module, args, out: seen.append(len(out)))
        results = head(*inputs((64, 96), (50, 70)))
        assert seen == [len(found["boxes"]) for found in results for _ in range(3)]

    def test_faster_rcnn_finds_the_same_boxes(self):
        mask, faster = build("mask_rcnn").eval(), build("faster_rcnn").eval()
        weights = {key: value for key, value in mask.state_dict().items() if not key.startswith("mask_heads")}
        faster.load_state_dict(weights)
        with torch.no_grad():
            one, other = mask(*inputs((64, 96)))[0], faster(*inputs((64, 96)))[0]
        assert torch.equal(one["boxes"], other["boxes"])
        assert torch.equal(one["scores"], other["scores"])

    def test_the_start(self):
        torch.manual_seed(0)
        head = DETECTORS["mask_rcnn"].build((8, 8, 8, 8), 20)
        (box,), (mask,) = head.box_heads, head.mask_heads
        deviations = {
            head.rpn.conv: 0.01,
            head.rpn.classifier: 0.01,
            head.rpn.regressor: 0.01,
            box.classifier: 0.01,
            box.regressor: 0.001,
            mask.convs[0].conv: (2 / (256 * 9)) ** 0.5,
            mask.classifier: (2 / 20) ** 0.5,
        }
        for module, expected in deviations.items():
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert module.bias.abs().max() == 0


@pytest.mark.parametrize(("name", "owner"), [("mask_rcnn", 1), ("cascade_mask_rcnn", 0)])
def test_an_object_claims_the_region_that_fits_it_best(name, owner):
    """The region is nearer to the first object, and the second one has no better: in a cascade it gets none."""
    head = build(name)
    objects = target((64, 96), [[0, 0, 50, 50], [0, 0, 50, 30]])
    region = torch.tensor([[0, 0, 50, 40]], dtype=torch.float64)  # IoU 0.8 and 0.75
    drawn = head.draw(head.stages[0], region, objects)
    assert drawn.owners.tolist() == [0, 1, owner]
    assert drawn.labels.tolist() == [0, 1, owner]
    assert drawn.are_objects.tolist() == [True, True, False]


def test_losses_of_regions():
    head = build("mask_rcnn")
    objects = target((64, 96))
    drawn = head.draw(head.stages[0], torch.tensor([[5, 6, 50, 60], [70, 1, 90, 20]], dtype=torch.float64), objects)
    count, labels = len(drawn.labels), drawn.labels
    assert labels.tolist() == [0, 1, 2, 0, CLASSES]
    logits, codes = torch.randn(count, CLASSES + 1).double(), torch.randn(count, 4 * CLASSES).double()
    losses = head.box_losses(head.stages[0], logits, codes, [drawn], [objects])
    own = torch.stack([codes[row, 4 * label : 4 * label + 4] for row, label in enumerate(labels[:4].tolist())])
    wanted = encode(drawn.boxes[:4], objects["boxes"][[0, 1, 2, 0]], (0.1, 0.1, 0.2, 0.2))
    assert losses["loss_bbox"].item() == pytest.approx((own - wanted).abs().sum().item() / count, rel=1e-6)
    chosen = logits.log_softmax(1)[torch.arange(count), labels]
    assert losses["loss_cls"].item() == pytest.approx(-chosen.mean().item(), rel=1e-6)
    assert losses["acc"].item() == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())


@pytest.mark.parametrize(
    ("backbone", "millions"),
    [
        ("transnext_tiny", 47.9),
        pytest.param("transnext_small", 69.3, marks=pytest.mark.slow),
        pytest.param("transnext_base", 109.2, marks=pytest.mark.slow),
    ],
)
def test_parameters_are_the_published(backbone, millions):
    with torch.device("meta"):
        model = glocal.create("mask_rcnn", backbone)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.slow
def test_macs_are_the_published():
    """In 10⁹, at 800×1280: as the authors count them, with 1000 regions and 100 masks.

    Ours are 2.3 % fewer: of the classifier at 224 they are 2.5 % fewer too (5.56 for 5.7).
    """
    with torch.device("meta"):
        model, images = glocal.create("mask_rcnn", "transnext_tiny").eval(), torch.empty(1, 3, 800, 1280)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.head.rpn(model.head.pyramid(model.maps(images)))
            model.head.box_heads[0](torch.empty(1000, 256, 7, 7))
            model.head.mask_heads[0](torch.empty(100, 256, 14, 14))
    assert counter.get_total_flops() / 2e9 == pytest.approx(356, rel=0.025)
