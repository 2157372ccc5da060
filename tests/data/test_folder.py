import pytest
from PIL import Image

from glocal.data.source import open_for_evaluation, open_for_training


@pytest.fixture
def make(tmp_path):
    """Makes a folder of tiny images from names and counts, such as {"train/cat": 3}; returns its path."""

    def make(classes, root="data"):
        for name, count in classes.items():
            folder = tmp_path / root / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (4, 4), (index, 0, 0)).save(folder / f"{index:02}.png")
        return str(tmp_path / root)

    return make


def counts(source):
    return {split: len(samples) for split, samples in source.splits.items()}


class TestTraining:
    def test_train_and_val_folders(self, make):
        source = open_for_training(make({"train/cat": 3, "train/dog": 4, "val/cat": 2, "val/dog": 1}))
        assert source.class_names == ["cat", "dog"]
        assert counts(source) == {"train": 7, "val": 3}
        assert source.splits["val"].labels == [0, 0, 1]
        assert source.held_out is None

    def test_one_folder_is_split(self, make):
        source = open_for_training(make({"cat": 10, "dog": 20}), val_fraction=0.3)
        assert counts(source) == {"train": 21, "val": 9}
        assert not set(source.splits["train"].images) & set(source.splits["val"].images)

    def test_default_fraction_is_a_fifth(self, make):
        assert counts(open_for_training(make({"cat": 10, "dog": 20}))) == {"train": 24, "val": 6}

    def test_seed_draws_the_split(self, make):
        root = make({"cat": 20, "dog": 20})
        first, again, other = (open_for_training(root, seed=seed).splits["val"].images for seed in (1, 1, 2))
        assert first == again
        assert first != other

    def test_images_below_subfolders_belong_to_the_class(self, make):
        assert counts(open_for_training(make({"cat/a": 5, "cat/b/c": 5, "dog": 10}))) == {"train": 16, "val": 4}

    def test_validation_labels_follow_the_training_classes(self, make):
        source = open_for_training(make({"train/ant": 2, "train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1}))
        assert source.splits["val"].labels == [1, 2]
        assert any("no validation images of 'ant'" in note for note in source.notes)

    def test_class_that_is_called_train(self, make):
        assert open_for_training(make({"bus": 5, "train": 5})).class_names == ["bus", "train"]

    def test_what_is_left_out_is_noted(self, make, tmp_path):
        root = make({"cat": 5, "dog": 5, ".cache": 2})
        (tmp_path / "data/cat/notes.txt").touch()
        Image.new("RGB", (4, 4)).save(tmp_path / "data/loose.png")
        notes = " ".join(open_for_training(root).notes)
        assert "left out 1 file whose names do not end like an image's" in notes
        assert "left out 1 image beside the class folders" in notes

    @pytest.mark.parametrize(
        ("classes", "message"),
        [
            ({"cat": 3, "dog": 0}, "no images in the class folder 'dog'"),
            ({"cat": 0, "dog": 0}, "holds no images: 2 class folders, all empty"),
            ({"cat": 3}, "holds a single class, 'cat'"),
            ({"cat": 1, "dog": 1}, "every class has a single image"),
            ({"": 3}, "has no class folders .3 images directly in it"),
            ({"": 0}, "has no class folders .it is empty"),
            ({"train/cat": 1, "train/dog": 1}, "has no subfolder 'val' beside 'train'"),
            ({"val/cat": 1, "val/dog": 1}, "has no subfolder 'train' beside 'val'"),
            (
                {"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/cow": 1},
                "val holds classes that train does not: 'cow'",
            ),
            ({"train/cat": 1, "train/dog": 0, "val/cat": 1}, "no images in the class folder 'dog'"),
            ({"train/cat": 1, "val/cat": 1}, "holds a single class, 'cat'"),
            ({"training/cat": 1, "test/cat": 1}, "rename the parts to 'train' and 'val'"),
        ],
    )
    def test_refused_with_the_reason(self, make, classes, message):
        root = make(classes)
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            open_for_training(root)
        assert root in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_file_instead_of_a_folder(self, tmp_path):
        (tmp_path / "a.zip").touch()
        with pytest.raises(NotADirectoryError, match="is a file"):
            open_for_training(str(tmp_path / "a.zip"))

    def test_val_fraction_beside_a_val_folder_is_refused(self, make):
        with pytest.raises(ValueError, match="--val-fraction does not apply"):
            open_for_training(make({"train/a": 1, "train/b": 1, "val/a": 1}), val_fraction=0.1)

    def test_long_lists_are_cut(self, make):
        root = make({"train/a": 1, "train/b": 1, **{f"val/x{index}": 1 for index in range(8)}})
        with pytest.raises(ValueError, match="'x4' and 3 more"):
            open_for_training(root)


class TestEvaluation:
    def test_val_of_a_divided_folder(self, make):
        source, split = open_for_evaluation(make({"train/cat": 3, "train/dog": 3, "val/cat": 2}))
        assert split == "val"
        assert len(source.splits[split]) == 2

    def test_val_alone_is_enough(self, make):
        source, split = open_for_evaluation(make({"val/cat": 2}))
        assert (split, len(source.splits[split])) == ("val", 2)

    def test_all_of_an_undivided_folder(self, make):
        source, split = open_for_evaluation(make({"cat": 3, "dog": 3}))
        assert (split, len(source.splits[split])) == ("all", 6)

    def test_folder_of_the_training_gives_what_was_held_out(self, make, tmp_path):
        root = make({"cat": 10, "dog": 10})
        trained = open_for_training(root, val_fraction=0.3, seed=5)
        source, split = open_for_evaluation(root, held_out=trained.held_out)
        assert split == "val"
        assert source.splits["val"].images == trained.splits["val"].images
        (tmp_path / "data").rename(tmp_path / "moved")
        source, split = open_for_evaluation(str(tmp_path / "moved"), held_out=trained.held_out)
        assert (split, len(source.splits[split])) == ("val", 6)

    def test_other_folder_is_measured_whole(self, make):
        held_out = open_for_training(make({"cat": 10, "dog": 10})).held_out
        source, split = open_for_evaluation(make({"cat": 9, "dog": 10}, "other"), held_out=held_out)
        assert (split, len(source.splits[split])) == ("all", 19)

    def test_all_of_the_training_folder(self, make):
        root = make({"cat": 10, "dog": 10})
        source, split = open_for_evaluation(root, "all", open_for_training(root).held_out)
        assert len(source.splits[split]) == 20

    def test_missing_split_is_named(self, make):
        with pytest.raises(ValueError, match="has no split 'val': it has all"):
            open_for_evaluation(make({"cat": 3}), "val")

    def test_empty_class_is_noted(self, make):
        source, _ = open_for_evaluation(make({"cat": 3, "dog": 0}))
        assert any("no images in the class folder 'dog'" in note for note in source.notes)
