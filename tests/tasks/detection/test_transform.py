"""From images and their objects to examples."""

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.data.image import UnreadableImageError
from glocal.data.objects import Objects
from glocal.data.prepare import Prepare
from glocal.data.preprocessing import Preprocessing, Whole
from glocal.data.samples import DataSource, Samples
from glocal.tasks.detection.augmentation import DetectionAugmentation
from glocal.tasks.detection.masks import masks_of_target
from glocal.tasks.detection.transform import MeasuringTransform, TrainingTransform, check_others

WHOLE = Whole(32, 53, 32, antialias=False)
PREPROCESSING = Preprocessing((3, 32, 32), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "bilinear", whole=WHOLE)


def objects(size=(50, 70), segments=True, crowd=(False, True, False)):
    """Three rectangles, the second a crowd."""
    boxes = np.array([[5, 4, 25, 24], [30, 10, 60, 40], [1, 30, 20, 50]], np.float64)
    found = tuple(
        f"[[{left},{top},{right},{top},{right},{bottom},{left},{bottom}]]".encode()
        for left, top, right, bottom in boxes
    )
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return Objects(boxes, np.array([0, 1, 2]), np.array(crowd), areas, found if segments else (), size)


def image(size=(50, 70), seed=0):
    pixels = np.random.RandomState(seed).randint(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels)


def training(masks=True, preprocessing=PREPROCESSING, **changes):
    options = {"hflip": 0.0, "photometric": False, **changes}
    return TrainingTransform(preprocessing, DetectionAugmentation(preprocessing.whole, **options), masks)


class TestTraining:
    def test_boxes_are_scaled_as_the_image_and_crowds_left_out(self):
        example = training()(image(), objects())
        assert example.image.shape == (3, 32, 64)  # 32 × 45, and zeros up to multiples of 32
        assert example.target["size"].tolist() == [32, 45]
        assert example.target["labels"].tolist() == [0, 2]
        factors = torch.tensor([45 / 70, 32 / 50] * 2)
        assert torch.allclose(example.target["boxes"], torch.tensor(objects().boxes[[0, 2]]).float() * factors)
        assert example.target["masks"].shape == (2, 32, 45)
        assert example.target["boxes"].dtype == torch.float32
        assert example.geometry.input_size == (32, 45)
        assert example.geometry.tensor_size == (32, 64)

    def test_pixels_are_those_of_measuring(self):
        assert torch.equal(training()(image(), objects()).image, Prepare(PREPROCESSING)(image()).image)

    def test_padding_is_zero_after_the_normalisation(self):
        found = training()(image(), objects()).image
        assert not found[:, :, 45:].any()
        assert found[:, :, 44].any()

    def test_a_box_that_is_too_thin_for_single_precision_vanishes(self):
        found = objects(crowd=(False,) * 3)
        found.boxes[1] = [40, 10, 40 + 1e-8, 40]
        example = training(masks=False)(image(), found)
        assert example.target["labels"].tolist() == [0, 2]
        assert example.target["boxes"].shape == (2, 4)

    def test_boxes_alone(self):
        assert "masks" not in training(False)(image(), objects(segments=False)).target

    def test_masks_are_needed_for_instances(self):
        with pytest.raises(UnreadableImageError, match="no segment"):
            training()(image(), objects(segments=False))

    def test_an_image_without_objects(self):
        example = training()(image(), Objects.none((50, 70)))
        assert example.target["boxes"].shape == (0, 4)
        assert example.target["labels"].shape == (0,)
        assert example.target["masks"].shape == (0, 32, 45)

    @pytest.mark.parametrize("transform", [training(), MeasuringTransform(PREPROCESSING)], ids=["train", "val"])
    def test_an_annotation_of_another_size_is_refused(self, transform):
        with pytest.raises(UnreadableImageError, match="70×50 pixels, and its objects are of 50×70"):
            transform(image(), objects(size=(70, 50)))

    def test_other_images_are_drawn(self):
        others = Samples(
            [np.asarray(image(seed=1)), np.zeros((40, 50, 3), np.uint8)], [objects(), Objects.none((40, 50))]
        )
        change = training(copy_paste=1.0, others=others)
        torch.manual_seed(0)
        counts = {len(change(image(), objects().subset([0])).target["labels"]) for _ in range(20)}
        assert counts == {1, 2}  # the other's first object covers that of the image; its second is a crowd

    def test_an_unreadable_other_image_is_passed_over(self, tmp_path):
        others = Samples([str(tmp_path / "none.png"), np.asarray(image())], [objects(), objects()])
        torch.manual_seed(0)
        for _ in range(5):
            training(copy_paste=1.0, others=others)(image(), objects())
        with pytest.raises(UnreadableImageError, match=r"none\.png"):
            training(mosaic=1.0, others=others.subset([0]))(image(), objects())


class TestMeasuring:
    def test_the_target_is_as_annotated_with_crowds(self):
        example = MeasuringTransform(PREPROCESSING)(image(), objects())
        assert torch.equal(example.image, Prepare(PREPROCESSING)(image()).image)
        assert np.array_equal(example.target["boxes"].numpy(), objects().boxes)
        assert example.target["boxes"].dtype == torch.float64
        assert example.target["crowd"].tolist() == [False, True, False]
        assert example.target["size"].tolist() == [50, 70]
        assert "rles" not in example.target

    def test_masks_are_run_lengths(self):
        example = MeasuringTransform(PREPROCESSING, masks=True)(image(), objects())
        assert example.target["lengths"].sum() == len(example.target["rles"])
        assert np.array_equal(masks_of_target(example.target), objects().masks((50, 70)))

    @pytest.mark.parametrize("counts", [b'"0"', b"[5]", b"[-3,3503]", b'"\xc3\xa9"'], ids=repr)
    def test_broken_run_lengths_are_refused(self, counts):
        one = objects(crowd=(False,) * 3).subset([0])
        broken = Objects(
            one.boxes, one.labels, one.crowd, one.areas, (b'{"size":[50,70],"counts":' + counts + b"}",), one.size
        )
        with pytest.raises(UnreadableImageError, match="a segment is broken"):
            MeasuringTransform(PREPROCESSING, masks=True)(image(), broken)


def test_copy_paste_needs_masks():
    source = DataSource("made", ["a"], {"train": Samples([], [])}, about={"masks": False})
    options = type("Options", (), {"copy_paste": 0.5, "mosaic": 0.0})
    with pytest.raises(ValueError, match="--copy-paste needs masks, and made has boxes alone"):
        check_others(options, source)
