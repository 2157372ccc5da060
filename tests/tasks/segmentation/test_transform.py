"""Random changes of images and label maps: both stay together, and the published rules hold."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.data.image import UnreadableImageError
from glocal.data.masks import IGNORE, ArrayMap
from glocal.data.preprocessing import Preprocessing
from glocal.data.seeds import random_state
from glocal.tasks.segmentation import transform as module
from glocal.tasks.segmentation.transform import (
    SegmentationAugmentation,
    TrainingTransform,
    crop_place,
    photometric_distortion,
    resized,
    scale_saturation,
)

PLAIN = {"resize_range": (1.0, 1.0), "scale": None, "max_class_share": 1.0, "hflip": 0.0, "photometric": False}
PUBLISHED = {"resize_range": (0.5, 2.0), "scale": (2048, 512), "max_class_share": 0.75, "hflip": 0.5}


def transform(size=(64, 64), mean=(0.0,) * 3, std=(1.0,) * 3, **changes):
    return TrainingTransform(Preprocessing((3, *size), mean, std), SegmentationAugmentation(**PLAIN | changes))


def patches(height, width, classes, seed=0, side=16):
    """(H, W) labels in patches, some of them ignored."""
    random = np.random.RandomState(seed)
    small = random.randint(-1, classes, (-(-height // side), -(-width // side)))
    return small.repeat(side, 0).repeat(side, 1)[:height, :width].astype(np.int32)


def coloured(labels):
    """An image whose red and green say its labels: 0 where ignored, else 40, 80, … and the same from above."""
    red = (40 * (labels + 1)).astype(np.uint8)
    return Image.fromarray(np.stack([red, 255 - red, np.full_like(red, 128)], -1))


class TestGeometry:
    @pytest.mark.parametrize("size", [(64, 64), (37, 91)], ids=str)
    @pytest.mark.parametrize("shape", [(100, 131), (33, 200), (20, 17), (1, 50), (500, 320)], ids=str)
    @pytest.mark.parametrize("scale", [None, (90, 50)], ids=str)
    def test_labels_stay_with_the_image(self, shape, size, scale):
        labels = patches(*shape, classes=5, side=24)
        change = transform(size, **PUBLISHED | {"scale": scale, "resize_range": (1.0, 2.0)}, photometric=False)
        for seed in range(5):
            with random_state(seed):
                image, target, geometry, _ = change(coloured(labels), ArrayMap(labels))
            assert (image.shape, image.dtype) == ((3, *size), torch.float32)
            assert (target.shape, target.dtype) == (size, torch.int64)
            assert geometry is None
            padding = (image == 0).all(0)  # of the image, blue is 128 everywhere
            assert (target[padding] == IGNORE).all()
            shown = (image[0] * 255 / 40 - 1).round()
            agree = (shown == target) | padding
            mixed = torch.nn.functional.max_pool2d(_edges(target), 5, 1, 2)[0, 0] > 0  # the colours of two patches
            mixed[:3], mixed[-3:], mixed[:, :3], mixed[:, -3:] = (
                True,
                True,
                True,
                True,
            )  # the other patch may be cut off
            assert agree[~mixed].all()
            assert agree.float().mean() > 0.7

    @pytest.mark.parametrize(
        ("size", "scale", "ratio", "expected"),
        [
            ((512, 683), (2048, 512), 1.0, [512, 683]),  # the shorter side decides
            ((480, 640), (2048, 512), 1.0, [512, 683]),  # 682.67
            ((640, 480), (2048, 512), 0.5, [341, 256]),  # 341.33
            ((100, 1000), (2048, 512), 1.0, [205, 2048]),  # the longer side decides; 204.8
            ((100, 1000), (2048, 512), 2.0, [410, 4096]),
            ((3, 5000), (2048, 512), 0.1, [1, 205]),  # no side has 0 pixels
        ],
    )
    def test_size(self, size, scale, ratio, expected):
        assert resized(size, scale, ratio) == expected

    def test_without_scale_the_whole_image_fits_into_the_crop(self):
        labels = np.zeros((30, 60), np.int32)
        image, target, *_ = transform((64, 96))(coloured(labels), ArrayMap(labels))
        assert (target == 0).nonzero().amax(0).tolist() == [47, 95]
        assert (target[48:] == IGNORE).all()
        assert (image[2] > 0).nonzero().amax(0).tolist() == [47, 95]

    def test_padding_is_0_after_normalisation(self):
        labels = np.ones((10, 12), np.int32)
        change = transform((16, 20), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), scale=(12, 10))
        image, target, *_ = change(Image.new("RGB", (12, 10), (255, 0, 51)), ArrayMap(labels))
        expected = torch.tensor([0.5 / 0.2, -0.4 / 0.3, -0.1 / 0.4])
        torch.testing.assert_close(image[:, :10, :12], expected[:, None, None].expand(3, 10, 12))
        assert not image[:, 10:].any()
        assert not image[:, :, 12:].any()
        assert (target[:10, :12] == 1).all()
        assert (target[10:] == IGNORE).all()
        assert (target[:, 12:] == IGNORE).all()

    def test_unchanged_where_nothing_is_to_change(self):
        pixels = np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8)
        labels = patches(64, 64, 300, side=4)
        image, target, *_ = transform()(Image.fromarray(pixels), ArrayMap(labels))
        assert torch.equal((image * 255).round().byte(), torch.from_numpy(pixels).permute(2, 0, 1))
        assert torch.equal(target, torch.from_numpy(labels).long())

    @pytest.mark.parametrize(
        ("rule", "expected"),
        [("nearest-exact", [1, 3, 5, 7]), ("nearest", [0, 2, 4, 6])],
    )
    def test_which_label_a_smaller_map_takes(self, rule, expected):
        labels = np.tile(np.arange(8, dtype=np.int32), (8, 1))
        target = transform((4, 4), label_interpolation=rule)(coloured(labels), ArrayMap(labels)).target
        assert target[0].tolist() == expected

    def test_the_image_is_resized_without_antialias(self):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[:, 3::4] = 255
        image = transform((2, 2))(Image.fromarray(pixels), ArrayMap(np.zeros((8, 8), int))).image
        assert torch.equal(image, torch.zeros(3, 2, 2))  # between columns 1 and 2, and 5 and 6; others are not seen

    def test_all_sizes_of_the_range_occur(self):
        labels = patches(64, 64, 4)
        change, widths = transform((256, 256), resize_range=(0.5, 2.0), scale=(64, 64)), []
        for seed in range(300):
            with random_state(seed):
                padding = (change(coloured(labels), ArrayMap(labels)).image == 0).all(0)
            widths.append(int((~padding[0]).sum()))
        assert 32 <= min(widths) < 35
        assert 125 < max(widths) <= 128
        assert np.mean(widths) == pytest.approx(80, abs=5)

    @pytest.mark.parametrize(("hflip", "expected"), [(0.0, 0), (0.3, 60), (1.0, 200)])
    def test_flip(self, hflip, expected):
        labels = np.tile(np.arange(4, dtype=np.int32), (4, 1))
        change, flipped = transform((4, 4), hflip=hflip), 0
        for seed in range(200):
            with random_state(seed):
                image, target, *_ = change(coloured(labels), ArrayMap(labels))
            assert torch.equal((image[0] * 255 / 40 - 1).round().long(), target)
            flipped += target[0].tolist() == [3, 2, 1, 0]
        assert flipped == pytest.approx(expected, abs=25 if 0 < hflip < 1 else 0)

    def test_a_mask_of_another_size(self):
        with pytest.raises(UnreadableImageError, match="the mask is 5×4 pixels, its image 4×5"):
            transform()(Image.new("RGB", (4, 5)), ArrayMap(np.zeros((4, 5), int)))

    def test_a_map_that_is_a_view(self):
        class View:
            def load(self, size):
                labels = patches(64, 64, 4)[::-1].T
                labels.setflags(write=False)
                return labels

        target = transform()(Image.new("RGB", (64, 64)), View()).target
        assert torch.equal(target, torch.from_numpy(patches(64, 64, 4)[::-1].T.copy()).long())


def _edges(target):
    """(1, 1, H, W): 1 where a neighbour at the right or below has another label, and on those neighbours."""
    edges = torch.zeros(target.shape)
    across, down = target[:, 1:] != target[:, :-1], target[1:] != target[:-1]
    edges[:, 1:] += across
    edges[:, :-1] += across
    edges[1:] += down
    edges[:-1] += down
    return (edges > 0).float()[None, None]


class TestCrop:
    def place(self, labels, size, share, seed=0):
        with random_state(seed):
            return crop_place(torch.from_numpy(labels), size, share)

    def test_every_place_is_equally_likely(self):
        labels = np.zeros((7, 6), np.int32)
        places = [self.place(labels, (4, 4), 1.0, seed) for seed in range(1200)]
        counts = np.zeros((4, 3))
        for rows, columns in places:
            assert (rows.stop - rows.start, columns.stop - columns.start) == (4, 4)
            counts[rows.start, columns.start] += 1
        assert counts.min() > 60  # 100 are expected of each
        assert counts.max() < 140

    def test_crops_are_drawn_until_a_second_class_has_its_share(self):
        """The upper left corner of a map: few crops hold it."""
        labels = np.zeros((100, 100), np.int32)
        labels[:40, :40] = 1
        shares = {}
        for share in (1.0, 0.75):
            found = [self.place(labels, (40, 40), share, seed) for seed in range(300)]
            shares[share] = np.mean([0.25 < labels[place].mean() < 0.75 for place in found])
        once = shares[1.0]
        assert once == pytest.approx(0.11, abs=0.05)
        assert shares[0.75] == pytest.approx(1 - (1 - once) ** 11, abs=0.1)  # ten are looked at, one is not

    def test_the_share_is_of_the_pixels_that_are_not_ignored(self, monkeypatch):
        labels = np.full((10, 10), IGNORE, np.int32)
        labels[0, :3] = 0
        labels[0, 3] = 1  # 75 %: too many of one class
        monkeypatch.setattr(module, "_random_place", places := Places())
        self.place(labels, (10, 10), 0.75)
        assert places.count == 11
        labels[1, 0] = 1
        monkeypatch.setattr(module, "_random_place", places := Places())
        self.place(labels, (10, 10), 0.75)
        assert places.count == 1

    @pytest.mark.parametrize("label", [0, 7, IGNORE])
    def test_where_no_crop_will_do_the_last_is_taken(self, monkeypatch, label):
        monkeypatch.setattr(module, "_random_place", places := Places())
        assert self.place(np.full((10, 12), label, np.int32), (4, 5), 0.75) == places.last
        assert places.count == 11

    @pytest.mark.parametrize("label", [0, IGNORE])
    @pytest.mark.parametrize("shape", [(100, 90), (3, 5)], ids=str)
    def test_one_class_and_nothing_but_ignored_pixels(self, label, shape):
        labels = np.full(shape, label, np.int32)
        change = transform((32, 40), **PUBLISHED, photometric=True)
        image, target, *_ = change(Image.new("RGB", shape[::-1], (9, 99, 200)), ArrayMap(labels))
        assert image.isfinite().all()
        assert set(target.unique().tolist()) <= {label, IGNORE}


class Places:
    def __init__(self):
        self.count = 0

    def __call__(self, labels, size):
        self.count += 1
        self.last = tuple(slice(min(self.count, 3), min(self.count, 3) + side) for side in size)
        return self.last if min(size) < 10 else tuple(slice(0, side) for side in size)


def colours(count=200, seed=0):
    """(3, 1, N) pixels in 0…1, with grey, black, white and pure colours among them."""
    random = torch.Generator().manual_seed(seed)
    special = torch.tensor([[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]).t()
    return torch.cat([torch.rand(3, count, generator=random), special], 1)[:, None]


def each(pixels, change):
    """Pixels changed one by one in Python. change: h, s, v in 0…1 to the same."""
    found = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in pixels[:, 0].t().tolist()]
    return torch.tensor(found).t()[:, None]


class Fixed:
    """Draws of `photometric_distortion`: chances and uniform numbers, in order."""

    def __init__(self, monkeypatch, chances, numbers=()):
        chances, numbers = iter(chances), iter(numbers)
        self.ranges = []

        def uniform(low, high):
            self.ranges.append((low, high))
            return next(numbers)

        monkeypatch.setattr(module, "_chance", lambda probability: next(chances))
        monkeypatch.setattr(module, "_uniform", uniform)


class TestPhotometric:
    @pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.5])
    def test_saturation_is_that_of_hsv(self, factor):
        expected = each(colours(), lambda h, s, v: (h, min(1, factor * s), v))
        torch.testing.assert_close(scale_saturation(colours(), factor), expected, rtol=0, atol=1e-5)

    def test_nothing(self, monkeypatch):
        Fixed(monkeypatch, [False] * 5)
        assert torch.equal(photometric_distortion(colours()), colours())

    def test_brightness_adds(self, monkeypatch):
        fixed = Fixed(monkeypatch, [True, False, False, False, False], [-32])
        expected = (colours() - 32 / 255).clamp(0, 1)
        torch.testing.assert_close(photometric_distortion(colours()), expected)
        assert fixed.ranges == [(-32, 32)]

    @pytest.mark.parametrize("first", [True, False])
    def test_contrast_multiplies(self, monkeypatch, first):
        fixed = Fixed(monkeypatch, [False, True, first, False, False], [1.5])
        torch.testing.assert_close(photometric_distortion(colours()), (1.5 * colours()).clamp(0, 1))
        assert fixed.ranges == [(0.5, 1.5)]

    @pytest.mark.parametrize("shift", [-18, 7, 18])
    def test_hue_turns_by_degrees_of_180(self, monkeypatch, shift):
        fixed = Fixed(monkeypatch, [False, False, False, False, True], [shift])
        expected = each(colours(), lambda h, s, v: ((h + shift / 180) % 1, s, v))
        torch.testing.assert_close(photometric_distortion(colours()), expected, rtol=0, atol=1e-5)
        assert fixed.ranges == [(-18, 18)]

    @pytest.mark.parametrize("first", [True, False])
    def test_contrast_before_or_after_the_colours(self, monkeypatch, first):
        Fixed(monkeypatch, [False, True, first, True, False], [1.5, 0.5])
        steps = [lambda x: (1.5 * x).clamp(0, 1), lambda x: scale_saturation(x, 0.5)]
        expected = colours()
        for step in steps if first else steps[::-1]:
            expected = step(expected)
        found = photometric_distortion(colours())
        torch.testing.assert_close(found, expected)

    def test_values_stay_in_range_and_each_change_has_a_half(self):
        changed = 0
        for seed in range(400):
            with random_state(seed):
                found = photometric_distortion(colours(20))
            assert -1e-6 < found.min() <= found.max() < 1 + 1e-6
            changed += not torch.equal(found, colours(20))
        assert changed / 400 == pytest.approx(1 - 0.5**4, abs=0.05)


def test_the_seed_decides():
    labels = patches(120, 90, 5)
    change = transform((48, 64), **PUBLISHED | {"scale": (100, 80)}, photometric=True)
    examples = []
    for seed in (3, 4, 3):
        with random_state(seed):
            torch.rand(1)
            examples.append(change(coloured(labels), ArrayMap(labels)))
    assert torch.equal(examples[0].image, examples[2].image)
    assert torch.equal(examples[0].target, examples[2].target)
    assert not torch.equal(examples[0].image, examples[1].image)
