"""What heads of detectors are given: kinds of numbers that mean the same, and what cannot be used."""

import pytest
import torch

from glocal.models.detectors import DETECTORS
from glocal.models.detectors.targets import checked

CLASSES, SIZE = 3, (40, 64)
DIMS = (4, 5, 6, 7)
ARGS = {
    "retinanet": {"width": 8, "depth": 1},
    "dino": {"width": 64, "depth": 1, "num_queries": 9},
    "d_fine": {"size": "s", "width": 8, "depth": 1, "num_queries": 9},
}
BOXES, LABELS, MASKS = torch.tensor([[4.0, 5.0, 40.0, 31.0]]), torch.tensor([1]), torch.ones(1, *SIZE, dtype=torch.bool)
RIGHT = {"boxes": BOXES, "labels": LABELS, "masks": MASKS}
NOTHING = {"boxes": BOXES[:0], "labels": LABELS[:0], "masks": MASKS[:0]}

heads = pytest.mark.parametrize("name", DETECTORS)
pytestmark = pytest.mark.usefixtures("one_thread")


def build(name):
    torch.manual_seed(0)
    return DETECTORS[name].build(DIMS, CLASSES, **ARGS.get(name, {"width": 8, "hidden": 8}))


def maps_of(batch=1):
    draw = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, dim, 64 // s, 64 // s, generator=draw) for dim, s in zip(DIMS, (4, 8, 16, 32), strict=True)
    ]


@heads
def test_only_training_takes_targets_and_it_needs_them(name):
    head = build(name)
    with pytest.raises(ValueError, match="targets are for training mode, which needs them"):
        head.train()(maps_of(), [SIZE])
    with pytest.raises(ValueError, match="targets are for training mode, which needs them"):
        head.eval()(maps_of(), [SIZE], [RIGHT])


@heads
@pytest.mark.parametrize("sizes", [[SIZE], torch.tensor([SIZE], dtype=torch.int32), torch.tensor([SIZE]).float()])
def test_other_kinds_of_numbers_give_the_same(name, sizes):
    head, losses = build(name).train(), []
    other = {"boxes": BOXES.short(), "labels": LABELS.int(), "masks": MASKS.byte()}
    for own, target in ((torch.tensor([SIZE]), RIGHT), (sizes, other)):
        torch.manual_seed(0)
        losses.append(head(maps_of(), own, [target]))
    for loss, value in losses[0].items():
        torch.testing.assert_close(losses[1][loss], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"labels": torch.tensor([CLASSES])}, "there is a label 3, and labels are 0 to 2"),
        ({"labels": torch.tensor([-1])}, "there is a label -1, and"),
        ({"labels": torch.tensor([0, 1])}, r"boxes are \(1, 4\), and labels \(2,\)"),
        ({"boxes": BOXES[:, :3]}, r"boxes are \(1, 3\)"),
        (
            {"boxes": torch.tensor([[4.0, 5.0, 4.0, 31.0]])},
            r"\[4.0, 5.0, 4.0, 31.0\] is no box x1, y1, x2, y2 with an ext",
        ),
        ({"boxes": torch.tensor([[4.0, 5.0, 40.0, 4.0]])}, r"\[.*\] is no box"),
        ({"boxes": torch.tensor([[4.0, 5.0, torch.nan, 31.0]])}, r"\[.*\] is no box"),
        ({"boxes": torch.tensor([[4.0, 5.0, torch.inf, 31.0]])}, r"\[.*\] is no box"),
    ],
)
def test_an_object_that_cannot_be_trained_on(target, message):
    with pytest.raises(ValueError, match=rf"targets\[1\]: {message}"):
        checked([NOTHING, RIGHT | target], [SIZE] * 2, CLASSES, False, torch.zeros(1))


@heads
def test_every_head_refuses_a_class_that_it_does_not_have(name):
    with pytest.raises(ValueError, match=r"targets\[0\]: there is a label 3"):
        build(name).train()(maps_of(), [SIZE], [RIGHT | {"labels": torch.tensor([CLASSES])}])


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (MASKS[:, :39], r"masks are \(1, 39, 64\), not \(1, 40, 64\) or larger"),
        (MASKS[:, :, :63], r"masks are \(1, 40, 63\), not"),
        (MASKS[:0], r"masks are \(0, 40, 64\), not"),
        (MASKS[0], r"masks are \(40, 64\), not"),
        (None, "there are no masks, on which this head is trained"),
    ],
)
def test_masks_that_do_not_fit(masks, message):
    target = {key: value for key, value in {**RIGHT, "masks": masks}.items() if value is not None}
    with pytest.raises(ValueError, match=rf"targets\[0\]: {message}"):
        build("mask_rcnn").train()(maps_of(), [SIZE], [target])


@heads
def test_as_many_targets_and_sizes_as_images(name):
    head = build(name)
    with pytest.raises(ValueError, match=r"there are 2 targets for 1 image$"):
        head.train()(maps_of(), [SIZE], [RIGHT] * 2)
    with pytest.raises(ValueError, match=r"sizes of 2 images must be \(2, 2\), not \(1, 2\)"):
        head.eval()(maps_of(2), [SIZE])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_boxes_are_in_the_type_of_the_maps_and_in_single_precision_at_least(kind, expected):
    (target,) = checked([RIGHT | {"boxes": BOXES.double() + 2**-18}], [SIZE], CLASSES, True, torch.zeros(1, dtype=kind))
    assert target["boxes"].dtype == expected
    assert (target["boxes"] != BOXES).all()
    assert torch.equal(target["masks"], MASKS)


def test_no_objects_may_have_any_shape():
    nothing = {"boxes": torch.zeros(0), "labels": torch.zeros(0)}
    (target,) = checked([nothing], [SIZE], CLASSES, False, torch.zeros(1))
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["labels"].dtype == torch.int64
