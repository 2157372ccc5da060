"""Changes of images and their objects together."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from glocal.data.preprocessing import Whole
from glocal.tasks.detection.augmentation import DetectionAugmentation, random_crop
from glocal.tasks.detection.picture import Picture, boxes_of_masks, cropped, joined, mirrored, pasted, resized


def rectangles(boxes, size):
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def picture(size=(40, 60), boxes=((4, 6, 20, 18), (30, 2, 58, 38)), masks=True, seed=0):
    """Rectangles, each filled with its own grey level."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 20, (3, *size), dtype=torch.uint8, generator=generator)
    found = rectangles(boxes, size)
    for label, mask in enumerate(found):
        pixels[:, mask] = 100 + 50 * label
    labels = torch.arange(len(boxes))
    return Picture(pixels, torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), labels, found if masks else None)


class TestPicture:
    def test_a_mirror_image_is_torchvisions(self):
        one = picture()
        boxes = tv_tensors.BoundingBoxes(one.boxes, format="XYXY", canvas_size=one.size)
        image, boxes, masks = (
            v2.functional.horizontal_flip(one.pixels),
            *map(v2.functional.horizontal_flip, (boxes, tv_tensors.Mask(one.masks))),
        )
        found = mirrored(one)
        assert torch.equal(found.pixels, image)
        assert torch.equal(found.boxes, boxes.as_subclass(torch.Tensor))
        assert torch.equal(found.masks, masks.as_subclass(torch.Tensor))
        assert torch.equal(mirrored(found).boxes, one.boxes)

    @pytest.mark.parametrize("size", [(80, 120), (27, 41), (41, 27)], ids=str)
    def test_boxes_follow_the_pixels(self, size):
        one = picture()
        found = resized(one, size)
        assert found.pixels.shape[1:] == found.masks.shape[1:] == size
        factors = torch.tensor([size[1] / 60, size[0] / 40] * 2, dtype=torch.float64)
        assert torch.allclose(found.boxes, one.boxes * factors, atol=1e-12)
        assert (boxes_of_masks(found.masks) - found.boxes).abs().max() <= 0.5 + 1e-9  # nearest-exact: by the middles

    def test_a_published_resize_takes_the_upper_left_corner_of_masks(self):
        one = picture((4, 4), ((1, 1, 3, 3),))
        assert boxes_of_masks(resized(one, (2, 2), "nearest").masks).tolist() == [[1, 1, 2, 2]]
        assert boxes_of_masks(resized(one, (2, 2)).masks).tolist() == [[0, 0, 1, 1]]

    def test_what_a_crop_cuts_off_is_gone_from_every_field(self):
        found = cropped(picture(), (slice(0, 30), slice(0, 25)))
        assert found.size == (30, 25)
        assert found.boxes.tolist() == [[4, 6, 20, 18]]
        assert found.labels.tolist() == [0]
        assert found.masks.shape == (1, 30, 25)
        found = cropped(picture(), (slice(10, 40), slice(10, 60)))
        assert found.boxes.tolist() == [[0, 0, 10, 8], [20, 0, 48, 28]]
        assert torch.equal(boxes_of_masks(found.masks), found.boxes)

    @pytest.mark.parametrize("box", [(20, 10, 20, 14), (-9, 3, -2, 8), (60, 3, 70, 9), (5, 40, 9, 44)], ids=str)
    def test_boxes_without_extent_in_the_image_vanish(self, box):
        one = Picture(torch.zeros(3, 40, 60), torch.tensor([box, (1, 1, 5, 5)]).double(), torch.tensor([1, 0]))
        assert one.visible().labels.tolist() == [0]

    def test_a_mask_without_a_pixel_vanishes(self):
        one = picture()
        one.masks[0] = False
        assert one.visible().labels.tolist() == [1]

    def test_boxes_of_masks_reach_to_the_ends_of_pixels(self):
        masks = torch.zeros(2, 9, 9, dtype=torch.bool)
        masks[0, 2:6, 3:7] = True
        assert boxes_of_masks(masks).tolist() == [[3, 2, 7, 6], [0, 0, 0, 0]]


class TestPasting:
    def test_a_covered_object_shrinks_and_a_hidden_one_is_gone(self):
        ground = picture((30, 30), ((2, 2, 12, 12), (20, 20, 24, 24)))
        other = picture((30, 30), ((2, 2, 7, 12), (18, 18, 28, 28)), seed=1)
        found = pasted(ground, other)
        assert found.labels.tolist() == [0, 0, 1]
        assert found.boxes.tolist() == [[7, 2, 12, 12], [2, 2, 7, 12], [18, 18, 28, 28]]
        assert torch.equal(boxes_of_masks(found.masks), found.boxes)
        assert not (found.masks.sum(0) > 1).any()
        assert (found.pixels[:, 20:24, 20:24] == 150).all()
        assert (found.pixels[:, 5, 9] == 100).all()

    def test_a_larger_picture_is_cut_off(self):
        found = pasted(picture((20, 30), ((1, 1, 5, 5),)), picture((40, 60)))
        assert found.size == (20, 30)
        assert found.boxes.tolist() == [[1, 1, 5, 5], [4, 6, 20, 18]]

    def test_a_picture_without_objects_changes_nothing(self):
        ground = picture()
        assert pasted(ground, picture(boxes=())) is ground


def test_pictures_on_a_canvas():
    one, other = picture((10, 20), ((1, 2, 5, 6),)), picture((8, 9), ((0, 0, 3, 4),))
    found = joined([(one, (0, 0)), (other, (12, 6))], (20, 20))
    assert found.boxes.tolist() == [[1, 2, 5, 6], [6, 12, 9, 16]]
    assert torch.equal(boxes_of_masks(found.masks), found.boxes)
    assert torch.equal(found.pixels[:, :10], one.pixels)


def fitting(changed: Picture) -> bool:
    """Whether each object is where its grey level is, and its box around its mask."""
    for box, label, mask in zip(changed.boxes, changed.labels, changed.masks, strict=True):
        sides = box[2:] - box[:2]
        level = changed.pixels[:, mask].float().median()
        wrong = sides.min() >= 5 and abs(level - (100 + 50 * label)) > 5  # a strip is as blurred as its edges
        if wrong or (boxes_of_masks(mask[None])[0] - box).abs().max() > 1.6:
            return False
    return True


class TestAugmentation:
    WHOLE = Whole(40, 66, 32, antialias=False)

    def changed(self, seed, **options):
        torch.manual_seed(seed)
        return DetectionAugmentation(self.WHOLE, **options)(picture((60, 80)), lambda: picture((50, 90), seed=1))

    def test_the_size_of_measuring_without_options(self):
        found = self.changed(0, hflip=0)
        assert found.size == (40, 53)
        assert torch.allclose(
            found.boxes[0], torch.tensor([4 * 53 / 80, 6 * 40 / 60, 20 * 53 / 80, 18 * 40 / 60]).double()
        )

    @pytest.mark.parametrize(
        "options",
        [{}, {"scale_jitter": (0.3, 2.0)}, {"detr_crop": True}, {"copy_paste": 1.0}, {"mosaic": 1.0}],
        ids=str,
    )
    def test_objects_stay_where_their_pixels_are(self, options):
        found = [self.changed(seed, **options) for seed in range(12)]
        assert all(map(fitting, found))
        for one in found:
            height, width = one.size
            assert (one.boxes >= 0).all()
            assert (one.boxes <= torch.tensor([width, height] * 2)).all()
            assert len(one.boxes) == len(one.labels) == len(one.masks)
            assert one.masks.shape[1:] == one.size
        assert sum(len(one.labels) for one in found) >= 12

    def test_scales_are_drawn(self):
        found = {self.changed(seed, scales=(0.5, 0.75, 1)).size for seed in range(20)}
        assert found == {(20, 27), (30, 40), (40, 53)}

    def test_a_jittered_image_is_at_most_as_large_as_in_measuring(self):
        sizes = {self.changed(seed, scale_jitter=(0.1, 2.0)).size for seed in range(20)}
        assert (40, 53) in sizes
        assert len(sizes) > 4
        assert all(height <= 40 and width <= 53 for height, width in sizes)

    def test_detrs_crop_is_between_384_and_600_pixels_of_images_of_800(self, monkeypatch):
        from glocal.tasks.detection import augmentation

        seen = []
        monkeypatch.setattr(augmentation, "random_crop", lambda one, size: seen.append((one.size, size)) or one)
        change = DetectionAugmentation(Whole(800, 1333), detr_crop=True)
        for seed in range(20):
            torch.manual_seed(seed)
            change._detr_cropped(picture((480, 640)))
        assert {size for size, _ in seen} == {(400, 533), (500, 667), (600, 800)}
        for (height, width), (rows, columns) in seen:
            assert 384 <= rows <= min(600, height)
            assert 384 <= columns <= min(600, width)

    def test_a_crop_lies_in_the_image(self):
        places = set()
        for seed in range(30):
            torch.manual_seed(seed)
            found = random_crop(picture((5, 6), masks=False, boxes=((0, 0, 1, 1),)), (3, 9))
            assert found.size == (3, 6)
            places.add(len(found.boxes))
        assert places == {0, 1}

    def test_the_seed_decides(self):
        options = {"scale_jitter": (0.5, 2.0), "copy_paste": 0.5, "mosaic": 0.5}
        one, same, other = (self.changed(seed, **options) for seed in (3, 3, 4))
        assert torch.equal(one.pixels, same.pixels)
        assert torch.equal(one.boxes, same.boxes)
        assert one.size != other.size or not np.array_equal(one.pixels, other.pixels)
