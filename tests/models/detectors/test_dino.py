"""The parts of DINO equal loops, sums and searches written down anew, and the head holds at every size and count."""

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_convert, generalized_box_iou

from glocal.errors import InvalidValueError
from glocal.layers.deformable_attention import DeformableAttention
from glocal.models.detectors.dino.decoder import box_code
from glocal.models.detectors.dino.denoising import Denoising, groups_of, hidden_pairs
from glocal.models.detectors.dino.head import DINOHead
from glocal.models.detectors.dino.losses import losses_of, of_denoising
from glocal.models.detectors.dino.matching import match, matching_cost
from glocal.models.detectors.dino.positions import as_tokens, padded_size, padding_of, sine_positions

DIMS = (8, 16, 24, 32)


def small(**args) -> DINOHead:
    torch.manual_seed(0)
    return DINOHead(DIMS, 7, **{"width": 64, "depth": 2, "num_queries": 30} | args)


def maps_of(height, width, batch=2, requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (batch, channels, *(-(-side // (4 * 2**i)) for side in (height, width))) for i, channels in enumerate(DIMS)
    ]
    return [torch.randn(shape, generator=generator).requires_grad_(requires_grad) for shape in shapes]


def objects(*counts):
    """Targets of images with the sizes `SIZES`."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for count, (height, width) in zip(counts, [(64, 96), (50, 61)], strict=False):
        first = torch.rand(count, 2, generator=generator) * 0.6
        side = 0.1 + torch.rand(count, 2, generator=generator) * 0.3
        boxes = torch.cat((first, first + side), 1) * torch.tensor([width, height] * 2)
        found.append({"boxes": boxes, "labels": torch.randint(0, 7, (count,), generator=generator)})
    return found


SIZES = torch.tensor([[64, 96], [50, 61]])


# Positions


@pytest.mark.parametrize("batch_size", [(64, 96), (75, 61), (100, 93)], ids=str)
@pytest.mark.parametrize("stride", [4, 8, 16, 32, 64])
def test_padding_is_that_of_the_nearest_pixel(batch_size, stride):
    sizes = torch.tensor([batch_size, (50, 61), (33, 7)])
    pixels = torch.ones(3, *batch_size)
    for row, (height, width) in zip(pixels, sizes.tolist(), strict=True):
        row[:height, :width] = 0
    shape = [-(-side // stride) for side in batch_size]
    expected = F.interpolate(pixels[None], shape)[0].bool()
    assert torch.equal(padding_of(sizes, torch.tensor(batch_size), *shape), expected)


@pytest.mark.parametrize(
    ("sizes", "shape", "expected"),
    [
        ([[61, 90], [50, 93]], (16, 24), (61, 93)),  # the batch as large as its largest image
        ([[61, 90], [50, 70]], (16, 24), (61, 96)),  # padded further in one axis
        ([[61, 93]], (15, 23), (61, 93)),  # a backbone whose maps leave out the last pixels
    ],
)
def test_size_of_the_padded_batch(sizes, shape, expected):
    assert padded_size(torch.zeros(1, 1, *shape), 4, torch.tensor(sizes)).tolist() == list(expected)


def test_codes_of_positions():
    padding = torch.ones(1, 3, 4, dtype=torch.bool)
    padding[:, :2, :3] = False
    codes = sine_positions(padding, 8, torch.float64)[0].reshape(3, 4, 8)
    for row in range(2):
        for column in range(3):
            expected = []
            for place, count in ((row + 1, 2), (column + 1, 3)):
                for channel in range(4):
                    angle = 2 * np.pi * place / (count + 1e-6) / 20 ** (2 * (channel // 2) / 4)
                    expected.append(np.cos(angle) if channel % 2 else np.sin(angle))
            np.testing.assert_allclose(codes[row, column], expected, rtol=1e-12)


def test_code_of_a_box_begins_with_its_height():
    box = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    expected = []
    for value in (0.2, 0.1, 0.3, 0.4):
        for channel in range(4):
            angle = 2 * np.pi * value / 10000 ** (2 * (channel // 2) / 4)
            expected.append(np.cos(angle) if channel % 2 else np.sin(angle))
    np.testing.assert_allclose(box_code(box, 4), expected, rtol=1e-12)


def test_places_and_shares_count_what_is_image():
    maps = [torch.zeros(2, 4, 4, 6), torch.zeros(2, 4, 2, 3)]
    tokens = as_tokens(maps, torch.zeros(2, 4), torch.tensor([[32, 48], [16, 24]]), torch.tensor([32, 48]))
    assert tokens.shares.flatten().tolist() == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 2 / 3, 0.5])
    assert tokens.places[1, 0].tolist() == pytest.approx([0.5 / 3, 0.5 / 2])
    assert tokens.places[1, 24].tolist() == pytest.approx([0.5 / 2, 0.5 / 1])
    assert (~tokens.padding).sum(1).tolist() == [30, 8]


# Denoising


class Loop:
    """In place of chance, numbers that are easy to follow."""

    def __init__(self):
        self.state = np.random.RandomState(3)
        self.drawn = []

    def uniform(self, shape):
        self.drawn.append(self.state.uniform(size=shape))
        return self.drawn[-1]

    def integers(self, low, high, shape):
        self.drawn.append(self.state.randint(low, high, size=shape))
        return self.drawn[-1]


@pytest.mark.parametrize("counts", [(3, 2), (0, 1), (60, 2), (120, 0)], ids=str)
def test_denoising_queries_one_by_one(counts):
    denoising = Denoising(7, 4)
    denoising.reset_parameters()
    denoising.random = Loop()
    targets = objects(*counts)
    noisy = denoising(targets, SIZES)
    share, other, sign, distance = denoising.random.drawn
    size, groups = max(counts), max(1, 100 // max(counts))
    assert (noisy.size, noisy.groups) == (size, groups)
    content, boxes = torch.zeros(2, 2 * size * groups, 4), torch.zeros(2, 2 * size * groups, 4)
    target, others = 0, iter(other)
    for group in range(groups):
        for kind in range(2):  # near an object, then farther away
            for image, (height, width) in enumerate(SIZES.tolist()):
                for i, (box, label) in enumerate(
                    zip(targets[image]["boxes"].tolist(), targets[image]["labels"].tolist(), strict=True)
                ):
                    row = group * 2 * size + kind * size + i
                    content[image, row] = denoising.label_embed[next(others) if share[target] < 0.25 else label]
                    x1, y1, x2, y2 = np.array(box) / [width, height, width, height]
                    sides = np.array([x2 - x1, y2 - y1] * 2)
                    moved = (2 * sign[target] - 1) * (distance[target] + kind) * sides / 2
                    x1, y1, x2, y2 = np.clip(np.array([x1, y1, x2, y2]) + moved, 0, 1)
                    p = np.clip([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 0, 1)
                    boxes[image, row] = torch.from_numpy(np.log(np.maximum(p, 1e-3) / np.maximum(1 - p, 1e-3)))
                    target += 1
    torch.testing.assert_close(noisy.content, content)
    torch.testing.assert_close(noisy.boxes, boxes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "groups"), [(0, 1), (1, 100), (3, 33), (100, 1), (250, 1)])
def test_number_of_groups(size, groups):
    assert groups_of(size) == groups


@pytest.mark.parametrize(("size", "groups"), [(2, 3), (1, 1), (0, 1)])
def test_who_sees_whom(size, groups):
    hidden = hidden_pairs(size, groups, 4, torch.device("cpu"))
    count = 2 * size * groups
    assert hidden.shape == (count + 4, count + 4)
    for row in range(count + 4):
        for column in range(count + 4):
            group_of = [i // (2 * size) if i < count else None for i in (row, column)]
            seen = column >= count or group_of[0] == group_of[1]
            assert hidden[row, column] == (not seen)


def test_positive_queries_lead_back_to_their_objects():
    denoising = Denoising(7, 4)
    denoising.reset_parameters()
    targets = objects(3, 2)
    noisy = denoising(targets, SIZES)
    for image, (queries, found) in enumerate(of_denoising(noisy, targets, torch.device("cpu"))):
        assert len(queries) == len(targets[image]["labels"]) * noisy.groups
        expected = targets[image]["boxes"][found] / SIZES[image].flip(0).repeat(2)
        centre = (expected[:, :2] + expected[:, 2:]) / 2
        side = expected[:, 2:] - expected[:, :2]
        assert ((noisy.boxes[image, queries, :2].sigmoid() - centre).abs() <= side / 2 + 1e-3).all()


def test_boxes_keep_their_places_in_a_model_of_lower_precision():
    """An image of 1333 pixels: bfloat16 has 1328 and 1336."""
    target = {"boxes": torch.tensor([[1200.0, 300.0, 1325.0, 750.0]]), "labels": torch.tensor([2])}
    found = []
    for dtype in (torch.bfloat16, torch.float64):
        denoising = Denoising(7, 4)
        denoising.reset_parameters()
        denoising.random = Loop()
        found.append(denoising.to(dtype)([target], torch.tensor([[800, 1333]])))
    low, high = found
    assert low.content.dtype == torch.bfloat16
    torch.testing.assert_close(low.boxes.double(), high.boxes, rtol=1e-4, atol=1e-4)


def test_noise_by_default_follows_torchs_seed():
    denoising, targets = Denoising(7, 4), objects(3, 2)
    denoising.reset_parameters()
    torch.manual_seed(4)
    first, second = (denoising(targets, SIZES).boxes for _ in range(2))
    torch.manual_seed(4)
    assert torch.equal(denoising(targets, SIZES).boxes, first)
    assert not torch.equal(first, second)


# Matching


def predictions(queries, seed=0):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(1, 2, queries, 4, generator=generator, dtype=torch.float64) * 0.5 + 0.1
    return torch.randn(1, 2, queries, 7, generator=generator, dtype=torch.float64), boxes


def test_cost_pair_by_pair():
    class_logits, boxes = predictions(5)
    target, (height, width) = objects(3)[0], SIZES[0].tolist()
    cost = matching_cost(class_logits[0, 0], boxes[0, 0], target, SIZES[0])
    for query, (logits, box) in enumerate(zip(class_logits[0, 0], boxes[0, 0], strict=True)):
        cx, cy, w, h = box.tolist()
        corners = torch.tensor(
            [[(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]]
        )
        for i, (wanted, label) in enumerate(zip(target["boxes"].double(), target["labels"], strict=True)):
            p = 1 / (1 + np.exp(-logits[label].item()))
            focal = 0.25 * (1 - p) ** 2 * -np.log(p + 1e-12) - 0.75 * p**2 * -np.log(1 - p + 1e-12)
            x1, y1, x2, y2 = wanted.tolist()
            own = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
            distance = sum(abs(a - b) for a, b in zip(box.tolist(), own, strict=True))
            giou = generalized_box_iou(corners.double(), wanted[None]).item()
            assert cost[query, i].item() == pytest.approx(2 * focal + 5 * distance - 2 * giou, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_no_other_match_costs_less(seed):
    class_logits, boxes = predictions(5, seed)
    targets = objects(3, 2)
    for image, (queries, found) in enumerate(match(class_logits, boxes, targets, SIZES)[0]):
        cost = matching_cost(class_logits[0, image], boxes[0, image], targets[image], SIZES[image]).numpy()
        count = cost.shape[1]
        least = min(sum(cost[q, i] for i, q in enumerate(chosen)) for chosen in permutations(range(5), count))
        assert cost[queries, found].sum() == pytest.approx(least)
        assert sorted(found.tolist()) == list(range(count))
        assert queries.tolist() == sorted(set(queries.tolist()))


def test_more_objects_than_queries():
    class_logits, boxes = predictions(2)
    (queries, found), _ = match(class_logits, boxes, objects(5, 0), SIZES)[0]
    assert queries.tolist() == [0, 1]
    assert len(set(found.tolist())) == 2


def test_predictions_that_are_no_numbers_are_matched_all_the_same():
    class_logits, boxes = predictions(4)
    boxes[0, 0, 1] = torch.nan
    (queries, _), _ = match(class_logits, boxes, objects(3, 1), SIZES)[0]
    assert queries.tolist() == [0, 2, 3]


# Losses


def test_losses_query_by_query():
    class_logits, boxes = (one[0] for one in predictions(4))
    targets = objects(3, 1)
    matched = [(torch.tensor([0, 2, 3]), torch.tensor([1, 2, 0])), (torch.tensor([1]), torch.tensor([0]))]
    found = losses_of(class_logits, boxes, matched, targets, SIZES, torch.tensor(3.0, dtype=torch.float64))
    expected = dict.fromkeys(("loss_cls", "loss_bbox", "loss_iou"), 0.0)
    for image, (height, width) in enumerate(SIZES.tolist()):
        own = dict(zip(*(one.tolist() for one in matched[image]), strict=True))
        for query in range(4):
            wanted = targets[image]["labels"][own[query]].item() if query in own else None
            for label, x in enumerate(class_logits[image, query].tolist()):
                p = 1 / (1 + np.exp(-x))
                positive, negative = 0.25 * (1 - p) ** 2 * -np.log(p), 0.75 * p**2 * -np.log(1 - p)
                expected["loss_cls"] += (positive if label == wanted else negative) / 3
            if query in own:
                scale = torch.tensor([width, height] * 2)
                box = targets[image]["boxes"][own[query]].double()[None]
                target = box_convert(box / scale, "xyxy", "cxcywh")
                corners = box_convert(boxes[image, query][None], "cxcywh", "xyxy") * scale
                expected["loss_bbox"] += 5 * (boxes[image, query] - target).abs().sum().item() / 3
                expected["loss_iou"] += 2 * (1 - generalized_box_iou(corners, box).item()) / 3
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(expected, rel=1e-6)


# Deformable attention with padding and boxes


def test_padding_reads_as_zero():
    torch.manual_seed(0)
    layer = DeformableAttention(8, 2, 1, 3).double()
    layer.reset_parameters()
    torch.nn.init.normal_(layer.value.bias)
    query, value = torch.randn(1, 2, 8).double(), torch.randn(1, 12, 8).double()
    reference = torch.rand(1, 2, 1, 2).double()
    padding = torch.zeros(1, 12, dtype=torch.bool)
    padding[0, 5:] = True
    out = layer(query, value, reference, [(3, 4)], padding)
    changed = value.masked_fill(padding[..., None], 9.0)
    torch.testing.assert_close(layer(query, changed, reference, [(3, 4)], padding), out)
    assert not torch.allclose(layer(query, value, reference, [(3, 4)]), out)


def test_a_box_is_read_in_half_sides_by_the_number_of_points():
    """With a box of 2 · points cells, an offset means as many cells as with a point."""
    torch.manual_seed(0)
    layer = DeformableAttention(8, 2, 1, 3).double()
    layer.reset_parameters()
    query, value = torch.randn(1, 2, 8).double(), torch.randn(1, 20, 8).double()
    place = torch.rand(1, 2, 1, 2).double()
    sides = torch.tensor([6 / 5, 6 / 4]).double().expand(1, 2, 1, 2)
    by_box = layer(query, value, torch.cat((place, sides), -1), [(4, 5)])
    torch.testing.assert_close(by_box, layer(query, value, place, [(4, 5)]))


# The head


def test_starts_without_an_opinion():
    head = small()
    outputs = head.outputs(maps_of(64, 96), SIZES)
    torch.testing.assert_close(outputs.boxes[0], outputs.decoded.references[0])
    assert head.classifiers[0].bias[0].sigmoid().item() == pytest.approx(0.01)
    assert (head.encoder.layers[0].attention.offsets.weight == 0).all()
    assert head.decoder.layers[1].cross_attn.offsets.bias.abs().max() == 4
    spread = (6 / (64 + 512)) ** 0.5
    assert head.encoder.layers[0].ffn[0].weight.abs().max() <= spread
    assert head.level_embed.std().item() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("scales", [4, 5])
@pytest.mark.parametrize("size", [(64, 96), (33, 47), (1, 1), (32, 200)], ids=str)
def test_any_size(size, scales):
    head = small(scales=scales).eval()
    sizes = torch.tensor([size, [max(1, side // 2) for side in size]])
    with torch.no_grad():
        found = head(maps_of(*size), sizes)
    for image, (height, width) in zip(found, sizes.tolist(), strict=True):
        assert image["boxes"].shape == (30 * 7, 4)
        assert image["labels"].dtype == torch.int64
        assert (image["scores"].diff() <= 0).all()
        limits = torch.tensor([width, height] * 2)
        assert (image["boxes"] >= 0).all()
        assert (image["boxes"] <= limits).all()


def test_an_image_is_seen_the_same_beside_a_larger_one():
    """The memory of an image does not read what is padding; the maps are given, so that the backbone cannot."""
    head = small(depth=1).double().eval()
    torch.nn.init.normal_(head.encoder.layers[0].attention.offsets.weight, std=0.5)
    maps = [x.double() for x in maps_of(64, 96)]
    with torch.no_grad():
        first = head.outputs(maps, SIZES)
        padding = first.tokens.padding[1]
        levels, start = head.neck(maps[1:]), 0
        for x in levels:
            x[1].flatten(1)[:, padding[start : start + x[0, 0].numel()]] = 7.0
            start += x[0, 0].numel()
        tokens = as_tokens(levels, head.level_embed, SIZES, torch.tensor([64, 96]))
        torch.testing.assert_close(head.encoder(tokens)[1, ~padding], first.memory[1, ~padding])


def test_maps_with_fewer_positions_than_queries_fill_up_with_the_whole_image():
    head = small()
    outputs = head.outputs(maps_of(32, 32), torch.tensor([[32, 32]] * 2))
    places = outputs.tokens.x.shape[1]
    assert places == 16 + 4 + 1 + 1
    filled = outputs.selected.index >= places
    assert (filled.sum(1) == 30 - places).all()
    assert (outputs.decoded.references[0][filled] == 1).all()
    # Layers move nothing in the beginning, but a logit of 1 is finite: of a box that a layer moves and of one that the
    # head says.
    torch.testing.assert_close(outputs.decoded.references[1][filled], torch.tensor(1 / 1.001).expand(filled.sum(), 4))
    torch.testing.assert_close(outputs.boxes[0][filled], torch.tensor(1 / 1.00001).expand(filled.sum(), 4))


def test_a_box_leads_back_to_the_layer_before_and_no_further():
    head = small(depth=3)
    head.outputs(maps_of(64, 96), SIZES).boxes[2].sum().backward()
    gradients = [regressor[-1].bias.grad for regressor in head.regressors]
    assert not gradients[0].any()
    assert (gradients[1] != 0).all()
    assert (gradients[2] != 0).all()
    assert gradients[3] is None


@pytest.mark.parametrize("counts", [(0, 0), (3, 0), (120, 2), (40, 1)], ids=str)
def test_losses_and_gradients_are_numbers_whatever_the_count(counts):
    head, maps = small(), maps_of(64, 96, requires_grad=True)
    losses = head(maps, SIZES, objects(*counts))
    for of in ("", "d0.", "enc_"):
        for name in ("loss_cls", "loss_bbox", "loss_iou"):
            assert {of + name} <= losses.keys()
            assert of == "enc_" or f"{of}dn_{name}" in losses
    assert len(losses) == 15
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    has_noise = bool((head.denoising.label_embed.grad != 0).any())
    assert has_noise == (max(counts) > 0)
    assert (losses["dn_loss_bbox"] > 0) == (max(counts) > 0)


def test_divisors_are_the_matched_queries():
    """Twice the images give twice the objects: all losses of matched queries keep their values."""
    head, targets = small(), objects(3, 2)
    maps = maps_of(64, 96)
    once = head(maps, SIZES, targets)
    twice = head([torch.cat((x, x)) for x in maps], SIZES.repeat(2, 1), targets * 2)
    for name in ("loss_cls", "d0.loss_bbox", "enc_loss_iou"):
        torch.testing.assert_close(once[name], twice[name], rtol=1e-4, atol=1e-5)


def test_divisors_are_means_of_all_processes(monkeypatch):
    """Two processes, the other without objects: the divisor is half of ours."""
    head, targets, maps = small(), objects(4, 4), maps_of(64, 96)
    torch.manual_seed(1)
    alone = head(maps, SIZES, targets)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda counts: None)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    torch.manual_seed(1)
    shared = head(maps, SIZES, targets)
    for name, loss in alone.items():
        torch.testing.assert_close(shared[name], 2 * loss, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_learns_to_find_two_boxes():
    head, maps, targets = small(depth=1), maps_of(64, 96), objects(1, 1)
    optimizer = torch.optim.AdamW(head.parameters(), 3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        losses = head(maps, SIZES, targets)
        sum(losses.values()).backward()
        optimizer.step()
    with torch.no_grad():
        found = head.eval()(maps, SIZES)
    for image, target in zip(found, targets, strict=True):
        assert generalized_box_iou(image["boxes"][:1], target["boxes"]).item() > 0.5
        assert image["labels"][0] == target["labels"][0]


@pytest.mark.parametrize(("args", "message"), [({"scales": 3}, "4 or 5"), ({"width": 96}, "multiple of 64")])
def test_refuses_other_arguments(args, message):
    with pytest.raises(InvalidValueError, match=message):
        small(**args)
