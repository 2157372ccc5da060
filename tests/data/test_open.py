import numpy as np
import pytest

from glocal.data.masks import ArrayMap, Coding, MaskFile
from glocal.data.open import open_for_evaluation, open_for_training
from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.splits import content_key, fingerprint, stratified_split

# Of 600 images, classes that 1 % to 50 % of them have.
LABELS = [tuple(np.flatnonzero(row)) for row in np.random.RandomState(0).rand(600, 8) < np.linspace(0.01, 0.5, 8)]


class TestStratifiedSplit:
    @pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
    def test_every_class_gives_its_part(self, fraction):
        labels = [0] * 40 + [1] * 20 + [2] * 100
        kept, drawn = stratified_split(labels, fraction, seed=3)
        assert sorted(kept + drawn) == list(range(160))
        assert np.bincount(np.asarray(labels)[drawn]).tolist() == [40 * fraction, 20 * fraction, 100 * fraction]

    @pytest.mark.parametrize("fraction", [0.001, 0.999])
    def test_no_class_is_lost_on_either_side(self, fraction):
        labels = [0, 0, 1, 1, 1]
        for part in stratified_split(labels, fraction, seed=0):
            assert {labels[i] for i in part} == {0, 1}

    def test_single_sample_is_kept(self):
        assert stratified_split([0, 1, 1], 0.5, seed=0)[0][0] == 0

    def test_seed_decides(self):
        labels = [0] * 50 + [1] * 50
        assert stratified_split(labels, 0.2, 1) == stratified_split(labels, 0.2, 1)
        assert stratified_split(labels, 0.2, 1) != stratified_split(labels, 0.2, 2)


class TestMultiLabelSplit:
    @pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
    def test_every_class_gives_about_its_part(self, fraction):
        kept, drawn = stratified_split(LABELS, fraction, seed=3)
        assert sorted(kept + drawn) == list(range(600))
        sizes = np.bincount([label for labels in LABELS for label in labels])
        part = np.bincount([label for index in drawn for label in LABELS[index]], minlength=8)
        assert np.abs(part - fraction * sizes).max() <= 0.15 * sizes.max()
        assert abs(len(drawn) - fraction * 600) <= 60

    @pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
    def test_no_class_is_lost_from_what_is_kept(self, fraction):
        kept, _ = stratified_split(LABELS, fraction, seed=1)
        assert {label for index in kept for label in LABELS[index]} == set(range(8))

    def test_images_without_a_label_are_divided_too(self):
        kept, drawn = stratified_split([()] * 10 + [(0,)] * 10, 0.3, seed=0)
        assert sum(index < 10 for index in drawn) == 3
        assert len(kept) == 14

    def test_seed_decides(self):
        assert stratified_split(LABELS, 0.2, 1) == stratified_split(LABELS, 0.2, 1)
        assert stratified_split(LABELS, 0.2, 1) != stratified_split(LABELS, 0.2, 2)


def test_a_data_set_is_known_by_its_files_in_any_order():
    assert fingerprint(["a/1.png", "b/2.png"]) == fingerprint(["b/2.png", "a/1.png"])
    assert fingerprint(["a/1.png", "b/2.png"]) != fingerprint(["a/1.png", "b/3.png"])


class TestSamples:
    @pytest.mark.parametrize(("labels", "expected"), [([0, 2], [5, 7]), ([(0, 1), ()], [(5, 6), ()])])
    def test_relabel(self, labels, expected):
        assert Samples(["a", "b"], labels).relabel([5, 6, 7]).labels == expected

    @pytest.mark.parametrize(("image", "expected"), [("a.png", False), (np.zeros((2, 2, 3), np.uint8), True)])
    def test_in_memory(self, image, expected):
        assert Samples([image], [0]).in_memory is expected


class TestDigits:
    @pytest.fixture(scope="class")
    def digits(self):
        return open_for_training("digits")

    def test_all_1797_are_there_once(self, digits):
        train, val = digits.splits["train"], digits.splits["val"]
        assert (len(train), len(val)) == (1438, 359)
        assert len({image.tobytes() for image in [*train.images, *val.images]}) > 1790  # some are equal in the source
        assert digits.class_names == list("0123456789")

    def test_images_are_32x32_rgb_and_use_the_whole_range(self, digits):
        images = np.stack(digits.splits["val"].images)
        assert images.shape == (359, 32, 32, 3)
        assert images.dtype == np.uint8
        assert images.min() == 0
        assert images.max() == 255

    def test_they_are_not_to_be_mirrored(self, digits):
        assert digits.hflip == 0

    def test_split_does_not_depend_on_the_seed(self, digits):
        other = open_for_training("digits", Opening(seed=7))
        assert np.array_equal(np.stack(other.splits["val"].images), np.stack(digits.splits["val"].images))

    def test_val_fraction_is_refused_not_ignored(self):
        with pytest.raises(ValueError, match="--val-fraction does not apply to digits"):
            open_for_training("digits", Opening(val_fraction=0.3))

    @pytest.mark.parametrize(
        ("split", "name", "count"), [("auto", "val", 359), ("train", "train", 1438), ("all", "all", 1797)]
    )
    def test_evaluation_splits(self, split, name, count):
        source, chosen = open_for_evaluation("digits", split)
        assert chosen == name
        assert len(source.splits[chosen]) == count


@pytest.mark.parametrize("opener", [open_for_training, open_for_evaluation])
def test_unknown_data_is_named(opener):
    with pytest.raises(FileNotFoundError, match=r"'digts'.*did you mean 'digits'"):
        opener("digts")


class TestContentKey:
    @staticmethod
    def key(*labels):
        images = [f"/photos/{index}.png" for index in range(len(labels))]
        return content_key(DataSource("x", ["a", "b"], {"train": Samples(images, list(labels))}))

    def test_labels_give_the_keys_that_saved_runs_hold(self):
        assert self.key(0, 1, 1)[:16] == "dbe2e11d81d9b496"
        assert self.key((0,), (), (0, 1))[:16] == "715148574e845954"
        assert self.key(0.5, 30.0)[:16] == "b9634e61f5a64744"

    @pytest.mark.parametrize(
        "wrap",
        [lambda array: array, ArrayMap, lambda array: {"boxes": array}, lambda array: (array, 1)],
        ids=["array", "label map", "mapping", "tuple"],
    )
    def test_annotations_that_differ_in_the_middle(self, wrap):
        """`repr` shows the corners of a large array alone."""
        first, other = np.zeros((2, 200, 200), np.int32)
        other[100, 100] = 1
        assert repr(first) == repr(other)
        assert self.key(wrap(first)) == self.key(wrap(first.copy()))
        assert self.key(wrap(first)) != self.key(wrap(other))

    def test_shape_and_kind_of_an_array(self):
        keys = [self.key(np.zeros(shape, kind)) for shape in ((2, 8), (4, 4)) for kind in (np.int32, np.float32)]
        assert len(set(keys)) == 4

    def test_a_mask_elsewhere(self):
        assert self.key(MaskFile("/here/a.png", Coding(()))) == self.key(MaskFile("/there/a.png", Coding(())))
        assert self.key(MaskFile("/here/a.png", Coding(()))) != self.key(MaskFile("/here/b.png", Coding(())))


def test_a_data_source_is_frozen():
    """What is opened twice, or held by two, is the same for both."""
    notes, splits = ["a"], {"all": Samples([], [])}
    source = DataSource("x", [], splits, notes=notes)
    notes.append("b")
    splits["val"] = splits["all"]
    assert (source.notes, list(source.splits)) == (("a",), ["all"])
    with pytest.raises(TypeError):
        source.splits["val"] = splits["all"]
    changed = source.with_notes("c").with_splits(val=splits["all"])
    assert (changed.notes, list(changed.splits)) == (("a", "c"), ["all", "val"])
    assert (source.notes, list(source.splits)) == (("a",), ["all"])


class Ignoring:
    """A layout that knows nothing of groups and arguments."""

    matches = staticmethod(lambda data: True)

    def open_training(self, data, how):
        splits = {part: Samples([data, data], [0, 1]) for part in ("train", "val")}
        return DataSource(data, ["a", "b"], splits)

    def open_evaluation(self, data, how, held_out):
        return self.open_training(data, how)


class Knowing(Ignoring):
    ARGS = ("images", "masks")


class TestOpening:
    @pytest.mark.parametrize("opener", [open_for_training, open_for_evaluation])
    def test_arguments_that_the_layout_does_not_know(self, opener):
        with pytest.raises(ValueError, match=r"^--data-args: digits takes no arguments, got 'masks'$"):
            opener("digits", how=Opening(args={"masks": "labels"}))
        with pytest.raises(ValueError, match=r"^--data-args: photos takes images, masks, got 'mask'$"):
            opener("photos", how=Opening(args={"masks": "x", "mask": "y"}), formats=[Knowing()])
        opener("photos", how=Opening(args={"masks": "x"}), formats=[Knowing()])

    def test_a_group_where_the_split_is_given(self):
        with pytest.raises(ValueError, match=r"^--group does not apply to digits: its split is fixed$"):
            open_for_training("digits", Opening(group="patient"))

    def test_a_group_that_the_layout_leaves_unread(self):
        with pytest.raises(ValueError, match=r"^--group does not apply to photos: its layout has no groups$"):
            open_for_training("photos", Opening(group="patient"), [Ignoring()])
