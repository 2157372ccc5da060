"""Boxes: overlaps equal torchvision's, codes and their inverse equal the golden ones."""

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou

from glocal.models.detectors.boxes import clip, decode, encode, giou, giou_loss, iou, pairwise_iou
from golden.detectors import load

UNITS = {name: torch.from_numpy(values) for name, values in load("units_det").items() if values.dtype.kind in "fi"}


def random_boxes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 80
    return torch.cat([corners, corners + 1 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * 50], 1)


BOXES, OTHERS = random_boxes(9), random_boxes(7, seed=1)


RCNN = (0.1, 0.1, 0.2, 0.2)
exactly = dict(rtol=1e-9, atol=1e-9)


def test_golden_decoding():
    boxes, codes, size = UNITS["decode_boxes"], UNITS["decode_deltas"], UNITS["decode_shape"].tolist()
    torch.testing.assert_close(decode(boxes, codes, size=size), UNITS["decoded"], **exactly)
    torch.testing.assert_close(decode(boxes, codes), UNITS["decoded_unclipped"], **exactly)


def test_golden_decoding_of_several_classes():
    boxes, codes = UNITS["decode_boxes"][:, None], UNITS["decode_deltas3"].view(-1, 3, 4)
    decoded = decode(boxes, codes, RCNN, UNITS["decode_shape"].tolist())
    torch.testing.assert_close(decoded, UNITS["decoded3"].view(-1, 3, 4), **exactly)


def test_golden_encoding():
    torch.testing.assert_close(encode(UNITS["decode_boxes"], UNITS["encode_gt"]), UNITS["encoded"], **exactly)
    torch.testing.assert_close(encode(UNITS["decode_boxes"], UNITS["encode_gt"], RCNN), UNITS["encoded_roi"], **exactly)


def test_golden_giou():
    torch.testing.assert_close(giou(UNITS["decode_boxes"], UNITS["encode_gt"]), UNITS["giou"], **exactly)


def test_overlaps_of_all_pairs():
    torch.testing.assert_close(pairwise_iou(BOXES, OTHERS), box_iou(BOXES, OTHERS))
    torch.testing.assert_close(giou(BOXES[:, None], OTHERS), generalized_box_iou(BOXES, OTHERS))


def test_overlaps_of_boxes_at_the_same_places():
    torch.testing.assert_close(iou(BOXES[:7], OTHERS), box_iou(BOXES[:7], OTHERS).diagonal())
    torch.testing.assert_close(giou_loss(BOXES[:7], OTHERS), 1 - generalized_box_iou(BOXES[:7], OTHERS).diagonal())


def test_boxes_without_extent_overlap_nothing():
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]], requires_grad=True)
    assert iou(point, point).item() == 0
    loss = giou_loss(point, point).sum()
    loss.backward()
    assert point.grad.isfinite().all()


def test_no_boxes():
    assert pairwise_iou(BOXES, torch.empty(0, 4)).shape == (9, 0)


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)])
def test_decoding_inverts_encoding(scales):
    torch.testing.assert_close(decode(OTHERS, encode(OTHERS, BOXES[:7], scales), scales), BOXES[:7])


def test_decoding_broadcasts():
    codes = torch.randn(7, 3, 4, dtype=torch.float64)
    boxes = decode(OTHERS[:, None], codes, size=(60, 70))
    for place in range(3):
        torch.testing.assert_close(boxes[:, place], decode(OTHERS, codes[:, place], size=(60, 70)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_codes_of_narrow_types_are_single_precision(dtype):
    assert encode(BOXES[:7].to(dtype), OTHERS.to(dtype)).dtype == torch.float32
    assert decode(BOXES[:7].float(), torch.zeros(7, 4, dtype=dtype)).dtype == torch.float32


@pytest.mark.parametrize("size", [(40, 60), torch.tensor([40, 60])])
def test_clipping(size):
    boxes = torch.tensor([[-5.0, 3.0, 70.0, 39.5], [61.0, -2.0, 90.0, 41.0]])
    assert clip(boxes, size).tolist() == [[0, 3, 60, 39.5], [60, 0, 60, 40]]


def test_clipping_boxes_of_several_images():
    boxes = torch.full((2, 3, 4), 50.0)
    assert clip(boxes, torch.tensor([[[10, 20]], [[60, 40]]])).tolist() == [[[20, 10] * 2] * 3, [[40, 50] * 2] * 3]
