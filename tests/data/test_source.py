import numpy as np
import pytest

from glocal.data.source import open_for_evaluation, open_for_training, stratified_split


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

    def test_split_does_not_depend_on_the_seed(self, digits):
        other = open_for_training("digits", seed=7)
        assert np.array_equal(np.stack(other.splits["val"].images), np.stack(digits.splits["val"].images))

    def test_val_fraction_is_refused_not_ignored(self):
        with pytest.raises(ValueError, match="--val-fraction does not apply to digits"):
            open_for_training("digits", val_fraction=0.3)

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
