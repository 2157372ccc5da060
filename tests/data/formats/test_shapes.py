"""The embedded set `shapes`."""

import math
from hashlib import sha256

import numpy as np
import pytest

from glocal.data.formats import shapes
from glocal.data.image import UnreadableImageError
from glocal.data.samples import Opening

pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def source():
    return shapes.open_training("shapes", Opening(args={"count": 100}))


def test_it_has_images_to_train_on_and_to_validate_on(source):
    assert source.task == "segmentation"
    assert source.class_names == ["background", "circle", "square", "triangle", "star", "ring"]
    assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 100, "val": 25}
    assert source.img_size == 128
    assert len(source.about["colors"]) == 6
    assert source.about["things"] == [False, True, True, True, True, True]


def test_images_and_masks_fit(source):
    samples = source.splits["train"] + source.splits["val"]
    assert {(image.shape, image.dtype) for image in samples.images} == {((128, 128, 3), np.dtype(np.uint8))}
    assert {label_map.load((128, 128)).shape for label_map in samples.labels} == {(128, 128)}
    assert len({image.tobytes() for image in samples.images}) == 125


def test_every_class_is_met_often(source):
    pixels = np.bincount(np.concatenate([one.labels.ravel() for one in source.splits["train"].labels]), minlength=6)
    assert (pixels[1:] / pixels.sum() > 0.01).all()
    assert pixels[0] / pixels.sum() < 0.9


def test_it_is_the_same_on_every_machine(source):
    samples = source.splits["train"] + source.splits["val"]
    content = sha256()
    for image, label_map in zip(samples.images, samples.labels, strict=True):
        content.update(image.tobytes())
        content.update(label_map.labels.tobytes())
        content.update(label_map.numbers.tobytes())
    assert content.hexdigest() == "80b9b60dce18436c0ec445640e4317d45482e7fb0bca50e0e5e38630ffc7d70d"


def test_an_image_is_the_same_in_a_set_of_any_size(source):
    few = shapes.open_evaluation("shapes", Opening(args={"count": 8}), None)
    for split, samples in few.splits.items():
        for place, (image, label_map) in enumerate(zip(samples.images, samples.labels, strict=True)):
            assert np.array_equal(image, source.splits[split].images[place])
            assert label_map.content() == source.splits[split].labels[place].content()


@pytest.mark.parametrize("index", range(10))
def test_the_objects_make_the_label_map(source, index):
    label_map = source.splits["train"].labels[index]
    painted = np.zeros((128, 128), np.int64)
    for one in label_map.objects:
        assert not painted[one.mask].any()
        painted[one.mask] = one.label
    assert np.array_equal(painted, label_map.labels)


@pytest.mark.parametrize("index", range(10))
def test_the_segments_are_the_background_and_the_objects(source, index):
    label_map = source.splits["train"].labels[index]
    ids, classes, crowd = label_map.load_segments((128, 128))
    assert np.array_equal(classes[ids], label_map.load((128, 128)))
    assert not (ids == 0)[np.any([one.mask for one in label_map.objects], 0)].any()
    assert all(np.array_equal(ids == number, one.mask) for number, one in enumerate(label_map.objects, 1))
    assert not crowd.any()
    with pytest.raises(UnreadableImageError, match=f"shapes/train/{index}: the mask is 128×128 pixels"):
        label_map.load_segments((128, 100))


@pytest.mark.parametrize("index", range(10))
def test_a_box_is_around_what_is_seen(source, index):
    for one in source.splits["train"].labels[index].objects:
        x1, y1, x2, y2 = one.box
        assert one.mask[y1:y2, x1:x2].sum() == one.mask.sum() >= shapes.SMALLEST
        assert one.mask[y1].any()
        assert one.mask[y2 - 1].any()
        assert one.mask[:, x1].any()
        assert one.mask[:, x2 - 1].any()


def test_objects_hide_others_in_part(source):
    labels = source.splits["train"].labels
    assert {len(one.classes) for one in labels} == {1, 2, 3, 4}
    touching = [
        one
        for one in labels
        if np.any((one.numbers[1:] != one.numbers[:-1]) & (one.numbers[1:] > 0) & (one.numbers[:-1] > 0))
    ]
    assert len(touching) > 20


def test_an_object_differs_from_its_ground(source):
    """The outline is seen: the colours of both sides of it differ on average."""
    differences = []
    for image, label_map in zip(source.splits["train"].images, source.splits["train"].labels, strict=True):
        edge = label_map.numbers[:, 1:] != label_map.numbers[:, :-1]
        differences += [np.abs(np.diff(image.astype(int), axis=1))[edge].sum(-1).mean()]
    assert np.median(differences) > 60


@pytest.mark.parametrize(
    ("name", "area"),
    [("circle", math.pi), ("square", 2.0), ("triangle", 3 * math.sqrt(3) / 4), ("ring", math.pi * (1 - 0.55**2)),
     ("star", 10 * 0.5 * 0.45 * math.sin(math.pi / 5))],
    ids=["circle", "square", "triangle", "ring", "star"],
)  # fmt: skip
def test_an_outline_has_the_area_of_its_shape(name, area):
    found = []
    for seed in range(200):
        random = np.random.RandomState(seed)
        radius = np.random.RandomState(seed).randint(16 * 200 * 13 // 100, 16 * 200 * 27 // 100) / 16
        (rows, columns), mask = shapes._outline(random, name, 200)
        if rows.start > 0 and columns.start > 0 and rows.stop < 200 and columns.stop < 200:
            found.append(mask.sum() / (area * radius**2))
    assert len(found) > 20
    assert np.allclose(found, 1, atol=0.05)
    assert abs(np.mean(found) - 1) < 0.01


def test_inside_a_polygon_equals_the_angles_around_a_point():
    corners = [(97 * x, 97 * y) for x, y in ((3, 5), (60, 10), (40, 33), (61, 70), (20, 50), (5, 61))]
    x, y = np.arange(31, 97 * 72, 194)[None, :], np.arange(41, 97 * 73, 194)[:, None]  # none lies on an edge
    mask = shapes._inside(corners, x, y)
    turns = np.zeros(mask.shape)
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        angle = np.arctan2(y2 - y, x2 - x) - np.arctan2(y1 - y, x1 - x)
        turns += (angle + np.pi) % (2 * np.pi) - np.pi
    assert np.array_equal(mask, np.abs(turns) > np.pi)


@pytest.mark.parametrize("size", [32, 100, 256])
def test_sizes(size):
    source = shapes.open_training("shapes", Opening(args={"size": size, "count": 4}))
    assert source.img_size == size
    assert source.splits["train"].images[3].shape == (size, size, 3)
    assert source.splits["val"].labels[0].load((size, size)).max() > 0


@pytest.mark.parametrize(
    "args", [{"size": 31}, {"size": 257}, {"size": 64.0}, {"size": True}, {"count": 3}, {"count": "many"}], ids=str
)
def test_other_sizes_are_refused(args):
    with pytest.raises(ValueError, match=f"shapes: {next(iter(args))} must be a whole number from"):
        shapes.open_training("shapes", Opening(args=args))


@pytest.mark.parametrize("how", [Opening(val_fraction=0.1), Opening(group="x")], ids=["val_fraction", "group"])
def test_its_split_is_fixed(how):
    with pytest.raises(ValueError, match="does not apply to shapes: its split is fixed"):
        shapes.open_training("shapes", how)


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(shapes, "find_spec", lambda name: None)
    shapes._photo.cache_clear()
    with pytest.raises(ImportError, match=r"needs scikit-image: pip install 'glocal\[train\]'"):
        shapes.open_training("shapes", Opening())


def test_it_is_opened_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shapes.matches("shapes")
    assert not shapes.matches("shape")
    (tmp_path / "shapes").mkdir()
    assert not shapes.matches("shapes")
