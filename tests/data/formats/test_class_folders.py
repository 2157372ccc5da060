import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from glocal.data.open import open_for_evaluation, open_for_training
from glocal.data.samples import Opening


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
        source = open_for_training(make({"cat": 10, "dog": 20}), Opening(val_fraction=0.3))
        assert counts(source) == {"train": 21, "val": 9}
        assert not set(source.splits["train"].images) & set(source.splits["val"].images)

    def test_default_fraction_is_a_fifth(self, make):
        assert counts(open_for_training(make({"cat": 10, "dog": 20}))) == {"train": 24, "val": 6}

    def test_seed_draws_the_split(self, make):
        root = make({"cat": 20, "dog": 20})
        first, again, other = (open_for_training(root, Opening(seed=seed)).splits["val"].images for seed in (1, 1, 2))
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
        assert "left out 1 file that is no image: 1 .txt" in notes
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
            (
                {"train/cat": 1, "Training/cat": 1, "val/cat": 1},
                "has 'Training', 'train', each of them named like a train",
            ),
            ({"train/cat": 1, "val": 2}, "'val' is named like a part of a data set, but without class folders"),
            ({"cat": 3, "dog": 3, "test": 3}, "'test' is named like a part of a data set, but without class folders"),
            ({"Train": 3, "TEST": 3}, "'TEST', 'Train' are named like a part of a data set"),
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
            open_for_training(make({"train/a": 1, "train/b": 1, "val/a": 1}), Opening(val_fraction=0.1))
        with pytest.raises(ValueError, match=r"--group does not apply to .*: it has a subfolder 'val'"):
            open_for_training(make({"train/a": 1, "train/b": 1, "val/a": 1}, "other"), Opening(group="a"))

    def test_long_lists_are_cut(self, make):
        root = make({"train/a": 1, "train/b": 1, **{f"val/x{index}": 1 for index in range(8)}})
        with pytest.raises(ValueError, match="'x4' and 3 more"):
            open_for_training(root)


class TestParts:
    @pytest.mark.parametrize(
        ("train", "val"),
        [
            ("Train", "Val"),
            ("TRAIN", "VALID"),
            ("training", "validation"),
            ("train_set", "val-set"),
            ("train", "dev"),
            ("train2017", "val2017"),
            ("train-data", "Eval"),
            ("training_set", "test_set"),
            ("train", "TEST"),
        ],
    )
    def test_any_spelling_is_recognised(self, make, train, val):
        root = make({f"{train}/cat": 2, f"{train}/dog": 2, f"{val}/cat": 1, f"{val}/dog": 1})
        source = open_for_training(root)
        assert (source.class_names, counts(source)) == (["cat", "dog"], {"train": 4, "val": 2})
        assert all(f"{os.sep}{val}{os.sep}" in image for image in source.splits["val"].images)
        assert any(f"validated on {val!r}" in note for note in source.notes) == val.lower().startswith("test")
        evaluated, split = open_for_evaluation(root)
        assert (split, evaluated.splits[split].images) == ("val", source.splits["val"].images)

    @pytest.mark.parametrize("test", ["test/cat", "test"])
    def test_the_test_part_is_left_out_where_there_is_another(self, make, test):
        source = open_for_training(make({"train/cat": 2, "train/dog": 2, "valid/cat": 1, test: 3, "extra/x": 1}))
        assert counts(source) == {"train": 4, "val": 1}
        assert any("left out 'extra', 'test' beside 'train', 'valid'" in note for note in source.notes)

    def test_a_test_part_alone_is_evaluated(self, make):
        source, split = open_for_evaluation(make({"test/cat": 2, "test/dog": 1}))
        assert (split, source.class_names, len(source.splits[split])) == ("val", ["cat", "dog"], 3)


class TestClasses:
    def test_hidden_folders_are_none(self, make):
        hidden = {".ipynb_checkpoints": 1, "__MACOSX/cat": 2, "@eaDir": 1, "__pycache__": 1}
        inside = {"cat/.thumbnails": 2, "cat/@eaDir/a.png": 2, "dog/__MACOSX": 1, "dog/.ipynb_checkpoints": 3}
        source = open_for_training(make({"cat": 6, "dog": 6, **hidden, **inside}))
        assert (source.class_names, counts(source), source.notes) == (["cat", "dog"], {"train": 10, "val": 2}, ())

    def test_names_with_underlines_are(self, make):
        assert open_for_training(make({"__background__": 5, "cat": 5})).class_names == ["__background__", "cat"]

    def test_one_name_in_two_writings_is_one(self, make):
        composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
        root = make({f"train/{composed}": 2, "train/dog": 2, f"val/{decomposed}": 1, f"train/{decomposed}": 1})
        source = open_for_training(root)
        assert (source.class_names, counts(source)) == ([composed, "dog"], {"train": 5, "val": 1})
        assert source.splits["train"].labels == [0, 0, 0, 1, 1]

    @pytest.mark.skipif(os.name != "posix" or os.uname().sysname == "Darwin", reason="needs names of any bytes")
    @pytest.mark.parametrize("open_data", [open_for_training, open_for_evaluation])
    def test_a_name_that_is_not_utf8_is_refused(self, make, open_data):
        root = make({"cat": 2, "dog": 2, os.fsdecode(b"caf\xe9"): 2})
        with pytest.raises(ValueError, match=r"a class folder must be renamed, the name 'caf\\udce9' is not UTF-8"):
            open_data(root)

    def test_files_left_out_are_named_by_ending(self, make, tmp_path):
        root = make({"cat": 5, "dog": 5})
        for name in ("1.psd", "2.PSD", "3.txt", "readme"):
            (tmp_path / "data/cat" / name).touch()
        assert f"{root}: left out 4 files that are no images: 2 .psd, 1 .txt, 1 without an ending" in str(
            open_for_training(root).notes
        )


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
class TestLinks:
    def test_a_link_to_the_root_adds_nothing(self, make, tmp_path):
        root = make({"cat": 6, "dog": 6})
        for link in ("cat/back", "l1", "l2", "dog/l1", "dog/l2"):
            os.symlink(tmp_path / "data", tmp_path / "data" / link)
        os.symlink(tmp_path, tmp_path / "data/cat/up")
        source = open_for_training(root)
        images = [image for samples in source.splits.values() for image in samples.images]
        assert (source.class_names, len(images), len(set(map(os.path.realpath, images)))) == (["cat", "dog"], 12, 12)
        assert "left out links to folders that are there already: 'l1', 'l2'" in str(source.notes)

    def test_links_that_lead_nowhere(self, make, tmp_path):
        """Those named like images are read, and reported then; the others are files like any other."""
        root = make({"cat": 5, "dog": 5})
        for link, target in (("a", "b"), ("b", "a"), ("cat/x.png", "x.png"), ("cat/c", "c"), ("dog/y.png", "none.png")):
            os.symlink(target, tmp_path / "data" / link)
        source = open_for_training(root)
        assert (source.class_names, sum(counts(source).values())) == (["cat", "dog"], 12)
        assert "left out 1 file that is no image" in str(source.notes)

    def test_no_image_is_in_two_classes(self, make, tmp_path):
        root = make({"cat": 6, "dog/small": 6})
        os.symlink(tmp_path / "data/cat", tmp_path / "data/aaa")
        os.symlink(tmp_path / "data/dog/small", tmp_path / "data/cat/dogs")
        source = open_for_training(root)
        assert (source.class_names, counts(source)) == (["cat", "dog"], {"train": 10, "val": 2})
        assert "folders that are there already: 'aaa'" in str(source.notes)

    def test_no_image_is_in_both_parts(self, make, tmp_path):
        root = make({"train/cat": 2, "train/dog": 2, "val/dog": 1})
        os.symlink(tmp_path / "data/train/cat", tmp_path / "data/val/cat")
        assert counts(open_for_training(root)) == {"train": 4, "val": 1}

    def test_a_part_that_is_another(self, make, tmp_path):
        root = make({"train/cat": 2, "train/dog": 2})
        os.symlink(tmp_path / "data/train", tmp_path / "data/val")
        with pytest.raises(ValueError, match="val holds nothing but links"):
            open_for_training(root)

    def test_folders_elsewhere_are_followed(self, make, tmp_path):
        elsewhere = make({"a": 5, "b/deeper": 5}, "elsewhere")
        (tmp_path / "data").mkdir()
        os.symlink(f"{elsewhere}/a", tmp_path / "data/cat")
        os.symlink(f"{elsewhere}/b", tmp_path / "data/dog")
        assert counts(open_for_training(str(tmp_path / "data"))) == {"train": 8, "val": 2}


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
        trained = open_for_training(root, Opening(val_fraction=0.3, seed=5))
        source, split = open_for_evaluation(root, held_out=trained.held_out)
        assert split == "val"
        assert source.splits["val"].images == trained.splits["val"].images
        (tmp_path / "data").rename(tmp_path / "moved")
        source, split = open_for_evaluation(str(tmp_path / "moved"), held_out=trained.held_out)
        assert (split, len(source.splits[split])) == ("val", 6)

    def test_groups_of_the_training_stay_as_they_were_held_out(self, make, tmp_path):
        root = make({"cat": 20, "dog/inner": 20})
        how = Opening(seed=5, group=r"^\w+/(?:inner/)?(\d)")  # 00 to 09 and 10 to 19, of both classes
        trained = open_for_training(root, how)
        groups = [{Path(image).name[0] for image in trained.splits[part].images} for part in ("train", "val")]
        assert sorted(groups, key=sorted) == [{"0"}, {"1"}]
        assert f"{root}: 1 of 2 groups held out, 50.0% of the images" in trained.notes
        (tmp_path / "data").rename(tmp_path / "moved")
        again, split = open_for_evaluation(str(tmp_path / "moved"), held_out=trained.held_out)
        assert split == "val"
        assert again.splits["val"].content() == trained.splits["val"].content()

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
