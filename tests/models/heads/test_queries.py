"""Instances and panoptic segments of queries equal programs that go over pixels one by one."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import glocal
from glocal.models.dense import DenseModel
from glocal.models.heads.mask2former import QueryPredictions
from glocal.models.heads.queries import instances, panoptic

THINGS = {0, 1}
CLASSES = 4  # 2 and 3 are stuff


def outputs_of(seed, queries, size, sure=6.0, coarse=4):
    """Random queries, about half of them sure of a class, with masks like blobs, (1, queries, H, W); float64."""
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randint(0, CLASSES + 1, (queries,), generator=draw)
    class_logits = torch.randn(queries, CLASSES + 1, generator=draw).double()
    class_logits[torch.arange(queries), chosen] += sure * torch.rand(queries, generator=draw).double()
    blobs = torch.randn(1, queries, coarse, coarse, generator=draw).double()
    return QueryPredictions(class_logits[None], 4 * F.interpolate(blobs - 0.7, size=size, mode="bicubic"))


def softmax(row):
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def panoptic_by_pixels(class_logits, mask_logits, sure, visible, things=THINGS):
    """Lists: the id of each pixel, row by row; and [class, score] of each segment."""
    height, width = len(mask_logits[0]), len(mask_logits[0][0])
    pixels = [(y, x) for y in range(height) for x in range(width)]
    kept = []
    for row, mask in zip(class_logits, mask_logits, strict=True):
        probabilities = softmax(row)
        label = probabilities.index(max(probabilities))
        if label != CLASSES and probabilities[label] > sure:
            kept.append((label, probabilities[label], {(y, x): sigmoid(mask[y][x]) for y, x in pixels}))
    owner = {}
    for pixel in pixels:
        products = [score * mask[pixel] for _, score, mask in kept]
        owner[pixel] = products.index(max(products)) if products else None
    ids, segments, stuff = dict.fromkeys(pixels, -1), [], {}
    for number, (label, score, mask) in enumerate(kept):
        mine = [pixel for pixel in pixels if owner[pixel] == number]
        whole = [pixel for pixel in pixels if mask[pixel] >= 0.5]
        seen = [pixel for pixel in mine if mask[pixel] >= 0.5]
        if not seen or len(mine) / len(whole) < visible:
            continue
        if label in things or label not in stuff:
            segments.append([label, score])
            place = stuff[label] = len(segments) - 1
        else:
            place = stuff[label]
            segments[place][1] = max(segments[place][1], score)
        ids.update(dict.fromkeys(seen, place))
    return [[ids[y, x] for x in range(width)] for y in range(height)], segments


def instances_by_pixels(class_logits, mask_logits, count):
    """(class, score, mask) of each instance, the surest first."""
    pairs = []
    for row, mask in zip(class_logits, mask_logits, strict=True):
        pairs += [(probability, label, mask) for label, probability in enumerate(softmax(row)[:-1])]
    pairs.sort(key=lambda pair: -pair[0])
    found = []
    for probability, label, mask in pairs[:count]:
        inside = [sigmoid(value) for row in mask for value in row if value > 0]
        if inside:
            found.append(
                (label, probability * sum(inside) / len(inside), [[value > 0 for value in row] for row in mask])
            )
    return sorted(found, key=lambda one: -one[1])


SIZES = [(1, 1), (7, 5), (13, 1), (9, 17)]


class TestPanoptic:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("queries", [1, 6, 40])
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_equals_a_program_by_pixels(self, size, queries, seed):
        outputs = outputs_of(seed, queries, size)
        (found,) = panoptic(outputs, size, THINGS, sure=0.6, visible=0.3)
        ids, segments = panoptic_by_pixels(*(tensor[0].tolist() for tensor in outputs), 0.6, 0.3)
        assert found.ids.tolist() == ids
        assert found.classes.tolist() == [label for label, _ in segments]
        assert found.scores.tolist() == pytest.approx([score for _, score in segments])

    def test_the_cases_have_what_the_rules_are_for(self):
        """Pixels of no segment, several segments, merged stuff: else the comparison would compare little."""
        outputs = outputs_of(4, 40, (9, 17))
        found, apart = (panoptic(outputs, (9, 17), things, 0.6, 0.3)[0] for things in (THINGS, range(CLASSES)))
        assert -1 in found.ids
        assert 2 < len(found.classes) < len(apart.classes)

    def test_300_queries(self):
        outputs = outputs_of(0, 300, (18, 17))
        outputs.class_logits[..., :CLASSES] += 20 * F.one_hot(torch.arange(300) % CLASSES)
        outputs.mask_logits.fill_(-9)
        for place in range(300):  # a pixel for each: more segments than a byte counts
            outputs.mask_logits[0, place, place // 17, place % 17] = 9
        (found,) = panoptic(outputs, (18, 17), range(CLASSES), sure=0.5)
        ids, segments = panoptic_by_pixels(*(tensor[0].tolist() for tensor in outputs), 0.5, 0.8, range(CLASSES))
        assert found.ids.tolist() == ids
        assert len(found.classes) == len(segments) == 300

    @pytest.mark.parametrize("empty", ["no class", "no mask", "unsure"])
    def test_nothing_is_found(self, empty):
        outputs = outputs_of(0, 5, (7, 5))
        if empty == "no class":
            outputs.class_logits[..., CLASSES] = 50
        elif empty == "no mask":
            outputs.mask_logits.fill_(-3)
        else:
            outputs.class_logits.zero_()
        (found,) = panoptic(outputs, (7, 5), THINGS)
        assert (found.ids == -1).all()
        assert found.classes.shape == found.scores.shape == (0,)

    @pytest.mark.parametrize(("covered", "left"), [(19, True), (20, True), (21, False)])
    def test_a_segment_of_which_80_percent_can_be_seen_is_kept(self, covered, left):
        class_logits = torch.full((1, 2, CLASSES + 1), -9.0)
        class_logits[0, 0, 0], class_logits[0, 1, 1] = 3, 9  # the second is surer
        mask_logits = torch.full((1, 2, 10, 10), -9.0)
        mask_logits[0, 0] = 5
        mask_logits[0, 1].view(-1)[:covered] = 9
        (found,) = panoptic(QueryPredictions(class_logits, mask_logits), (10, 10), THINGS)
        assert found.classes.tolist() == ([0, 1] if left else [1])
        assert (found.ids == -1).sum() == (0 if left else 100 - covered)

    def test_masks_are_resized(self):
        small, size = outputs_of(3, 10, (5, 6)), (18, 23)
        large = QueryPredictions(small.class_logits, F.interpolate(small.mask_logits, size, mode="bilinear"))
        one, other = (panoptic(outputs, size, THINGS, 0.6, 0.3)[0] for outputs in (small, large))
        assert len(one.classes) > 0
        assert torch.equal(one.ids, other.ids)

    def test_each_image_of_a_batch_is_as_alone(self):
        alone = [outputs_of(seed, 12, (7, 9)) for seed in range(3)]
        together = QueryPredictions(*(torch.cat(parts) for parts in zip(*alone, strict=True)))
        for one, outputs in zip(panoptic(together, (7, 9), THINGS), alone, strict=True):
            (expected,) = panoptic(outputs, (7, 9), THINGS)
            assert all(torch.equal(a, b) for a, b in zip(one, expected, strict=True))


class TestInstances:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(("queries", "count"), [(1, 100), (6, 5), (40, 100)])
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_equals_a_program_by_pixels(self, size, queries, count, seed):
        outputs = outputs_of(seed, queries, size)
        (found,) = instances(outputs, size, count)
        expected = instances_by_pixels(*(tensor[0].tolist() for tensor in outputs), count)
        assert found.classes.tolist() == [label for label, _, _ in expected]
        assert found.scores.tolist() == pytest.approx([score for _, score, _ in expected])
        assert found.masks.tolist() == [mask for _, _, mask in expected]

    def test_300_queries_give_100(self):
        outputs = outputs_of(0, 300, (9, 7))
        (found,) = instances(outputs, (9, 7))
        assert 50 < len(found.classes) <= 100
        assert (found.scores.diff() <= 0).all()
        assert len(instances(outputs, (9, 7), 300)[0].classes) > 255

    def test_nothing_is_found(self):
        outputs = outputs_of(0, 5, (7, 5))
        outputs.mask_logits.fill_(-3)
        (found,) = instances(outputs, (30, 20))
        assert found.masks.shape == (0, 30, 20)
        assert found.classes.shape == found.scores.shape == (0,)


class TestPeer:
    """transformers, where it means the same.

    Its panoptic segments differ in general: it compares the area of the product, not of the mask, with the visible
    part, and fills a segment beyond its mask. Where queries are quite sure, masks cover all pixels, and nothing is
    fused, both are the same. Its masks are 384×384.
    """

    @pytest.fixture(scope="class")
    def processor(self):
        module = pytest.importorskip("transformers.models.mask2former.image_processing_mask2former")
        return module.Mask2FormerImageProcessor()

    @pytest.fixture(scope="class")
    def outputs(self):
        soft = outputs_of(5, 8, (384, 384), sure=0)
        labels = torch.tensor([0, 1, 2, 3, 0, 1, 4, 4])
        class_logits = 60.0 * F.one_hot(labels, CLASSES + 1)[None] + torch.arange(8)[None, :, None] / 8
        class_logits[..., 0] += 50 * (labels == 0)
        highest = soft.mask_logits[:, :6].argmax(1, keepdim=True)
        mask_logits = torch.where(torch.arange(8)[None, :, None, None] == highest, 20.0, -20.0)
        return QueryPredictions(class_logits.float(), mask_logits)

    def test_panoptic(self, processor, outputs):
        theirs = SimpleNamespace(class_queries_logits=outputs[0], masks_queries_logits=outputs[1])
        (other,) = processor.post_process_panoptic_segmentation(theirs, threshold=0.8, label_ids_to_fuse=set())
        (found,) = panoptic(outputs, (384, 384), range(CLASSES))
        assert len(found.classes) == 6
        assert torch.equal(found.ids + 1, other["segmentation"].long())
        assert found.classes.tolist() == [one["label_id"] for one in other["segments_info"]]
        assert found.scores.tolist() == pytest.approx([one["score"] for one in other["segments_info"]], abs=1e-6)

    def test_instances(self, processor):
        outputs = QueryPredictions(*(tensor.float() for tensor in outputs_of(5, 8, (384, 384))))
        theirs = SimpleNamespace(class_queries_logits=outputs[0], masks_queries_logits=outputs[1])
        (other,) = processor.post_process_instance_segmentation(theirs, threshold=0, return_binary_maps=True)
        (found,) = instances(outputs, (384, 384), 8)
        scores = torch.tensor([one["score"] for one in other["segments_info"]])
        order = scores.argsort(descending=True)
        labels = torch.tensor([one["label_id"] for one in other["segments_info"]])
        assert found.classes.tolist() == labels[order].tolist()
        assert torch.allclose(found.scores, scores[order], atol=2e-6)
        assert torch.equal(found.masks, other["segmentation"][order].bool())


class TestModel:
    def test_a_model_gives_both(self):
        torch.manual_seed(0)
        model = glocal.create("mask2former", "van_pico", num_classes=3).eval()
        with torch.no_grad():
            outputs = model(torch.randn(2, 3, 45, 37))
        segments, objects = model.panoptic(outputs, (45, 37), things=[0]), model.instances(outputs, (45, 37))
        assert [one.ids.shape for one in segments] == [(45, 37)] * 2
        assert all(one.masks.shape == (len(one.classes), 45, 37) for one in objects)

    @pytest.mark.parametrize("of", [DenseModel.instances, lambda *args: DenseModel.panoptic(*args, things=[0])])
    def test_logits_are_refused(self, of):
        with pytest.raises(TypeError, match="only mask2former gives"):
            of(torch.zeros(1, 3, 5, 5), (20, 20))
