import io
import pickle
import unicodedata

import numpy as np
import pytest
from PIL import Image

from glocal.data.image import UnreadableImageError
from glocal.data.open import open_for_evaluation, open_for_training
from glocal.data.samples import Opening

datasets = pytest.importorskip("datasets", reason="needs the extra [data]")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def image(number, mode="RGB"):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).convert(mode).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


CLASS = datasets.ClassLabel(names=["cat", "dog"])


def table(count, first=0, label=CLASS, labels=None, column="label", **columns):
    numbers = range(first, first + count)
    features = {"picture": datasets.Image(), column: label}
    values = {"picture": [image(number) for number in numbers], column: labels or [n % 2 for n in numbers], **columns}
    features |= {name: datasets.Value("string") for name in columns}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


@pytest.fixture
def save(tmp_path):
    """Saves a table, or several by the names of their splits; returns what `glocal` calls it."""

    def save(data=None, **splits):
        saved = datasets.DatasetDict(splits) if splits else data
        saved.save_to_disk(str(tmp_path / "saved"))
        return f"hf:{tmp_path / 'saved'}"

    return save


def reds(samples):
    return [samples.load(index).getpixel((0, 0))[0] for index in range(len(samples))]


class TestSaved:
    @pytest.mark.parametrize(
        "names", [("train", "validation"), ("train", "val"), ("train", "test"), ("Train", "Valid"), ("training", "dev")]
    )
    def test_train_and_validation(self, save, names):
        source = open_for_training(save(**dict(zip(names, (table(6), table(4, 6)), strict=True))))
        assert source.class_names == ["cat", "dog"]
        assert reds(source.splits["train"]) == list(range(6))
        assert reds(source.splits["val"]) == [6, 7, 8, 9]
        assert source.splits["val"].labels == [0, 1, 0, 1]
        assert source.task == "classification"
        assert not source.splits["val"].in_memory

    def test_one_class_in_two_writings(self, save):
        composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
        words = datasets.Value("string")
        source = open_for_training(save(table(8, label=words, labels=[composed, decomposed, "dog", "dog"] * 2)))
        assert source.class_names == [composed, "dog"]
        number = datasets.ClassLabel(names=[decomposed, "dog"])
        assert open_for_training(save(table(8, label=number))).class_names == [composed, "dog"]

    def test_validation_goes_before_test(self, save):
        source = open_for_training(save(train=table(6), test=table(4), validation=table(3)))
        assert len(source.splits["val"]) == 3
        assert any("left out the split 'test'" in note for note in source.notes)

    def test_table_without_validation_is_split(self, save):
        name = save(table(20))
        trained = open_for_training(name, Opening(val_fraction=0.3, seed=2))
        assert sorted(reds(trained.splits["train"] + trained.splits["val"])) == list(range(20))
        source, split = open_for_evaluation(name, held_out=trained.held_out)
        assert split == "val"
        assert reds(source.splits["val"]) == reds(trained.splits["val"])

    @pytest.mark.parametrize(
        "groups", [[str(n // 4) for n in range(20)], [n // 4 for n in range(20)]], ids=["text", "number"]
    )
    def test_groups_of_the_training_stay_as_they_were_held_out(self, save, groups):
        name = save(table(20).add_column("patient", groups))
        trained = open_for_training(name, Opening(group="patient"))
        of_part = {part: {red // 4 for red in reds(samples)} for part, samples in trained.splits.items()}
        assert (len(of_part["train"]), len(of_part["val"])) == (4, 1)
        source, split = open_for_evaluation(name, held_out=trained.held_out)
        assert split == "val"
        assert reds(source.splits["val"]) == reds(trained.splits["val"])

    def test_a_row_without_a_group_is_one(self, save):
        name = save(table(20, patient=["", None, *(str(n // 3) for n in range(18))]))
        notes = open_for_training(name, Opening(group="patient")).notes
        assert any("of 8 groups held out" in note for note in notes)
        assert any("2 images of no group, each taken for one: 'hf:" in note for note in notes)

    def test_groups_that_are_none(self, save):
        name = save(table(20).add_column("patient", [[n] for n in range(20)]))
        with pytest.raises(ValueError, match=r"column 'patient' \(--group\) holds neither texts nor numbers"):
            open_for_training(name, Opening(group="patient"))
        with pytest.raises(
            ValueError, match=r"has no column 'scene' \(--group\): it has 'picture', 'label', 'patient'"
        ):
            open_for_training(name, Opening(group="scene"))

    def test_groups_beside_a_given_split(self, save):
        with pytest.raises(ValueError, match=r"--group does not apply to .*: it has a validation split"):
            open_for_training(save(train=table(4), validation=table(4)), Opening(group="label"))

    def test_other_table_is_measured_whole(self, save):
        source, split = open_for_evaluation(save(table(5)), held_out={"files": "other"})
        assert (split, len(source.splits[split])) == ("all", 5)

    def test_validation_alone_can_be_measured(self, save):
        source, split = open_for_evaluation(save(test=table(5)))
        assert (split, len(source.splits[split])) == ("val", 5)

    def test_several_labels(self, save):
        labels = [[0], [1, 0], [], [1]] * 5
        source = open_for_training(save(table(20, label=datasets.Sequence(CLASS), labels=labels, column="labels")))
        assert source.task == "multilabel"
        assert set(source.splits["train"].labels) <= {(0,), (0, 1), (), (1,)}

    def test_labels_without_names(self, save):
        source = open_for_training(save(table(20, label=datasets.Value("int64"), labels=[3, 10] * 10)))
        assert source.class_names == ["3", "10"]
        assert set(source.splits["train"].labels) == {0, 1}

    def test_choice_of_a_column_is_noted(self, save):
        data = table(20).rename_column("label", "fine").add_column("coarse", [0, 1] * 10).cast_column("coarse", CLASS)
        assert any(
            "labels are those of the column 'fine', not of 'coarse'" in n for n in open_for_training(save(data)).notes
        )


class TestImages:
    def test_decoded_as_files_are(self, save):
        data = table(4)
        data = data.remove_columns("picture").add_column("picture", [image(n, "L") for n in (0, 64, 128, 255)])
        samples = open_for_evaluation(save(data.cast_column("picture", datasets.Image())))[0].splits["all"]
        assert samples.load(3).mode == "RGB"

    def test_unreadable_one_is_named(self, save):
        data = table(2).remove_columns("picture").add_column("picture", [image(0), {"bytes": b"broken", "path": None}])
        name = save(data.cast_column("picture", datasets.Image()))
        samples = open_for_evaluation(name)[0].splits["all"]
        with pytest.raises(UnreadableImageError, match=r"saved \(train\), row 1: not an image"):
            samples.load(1)
        assert str(samples.images[1]) == f"{name} (train), row 1"

    def test_missing_one_is_named(self, save):
        data = table(2).remove_columns("picture").add_column("picture", [image(0), None])
        samples = open_for_evaluation(save(data.cast_column("picture", datasets.Image())))[0].splits["all"]
        with pytest.raises(UnreadableImageError, match="row 1: the file is empty"):
            samples.load(1)

    def test_go_to_another_process(self, save):
        samples = open_for_evaluation(save(table(3)))[0].splits["all"]
        assert reds(pickle.loads(pickle.dumps(samples))) == [0, 1, 2]


class TestFolders:
    def test_folder_of_images(self, tmp_path):
        for number in range(8):
            path = tmp_path / f"images/{('train', 'test')[number % 2]}/{('cat', 'dog')[number // 4]}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image(number)["bytes"])
        source = open_for_training(f"hf:{tmp_path / 'images'}")
        assert source.class_names == ["cat", "dog"]
        assert sorted(reds(source.splits["val"])) == [1, 3, 5, 7]

    @pytest.mark.parametrize(
        ("folders", "message"),
        [
            (("Train/cat", "Train/dog", "Val/cat", "Val/dog"), "takes 'Train', 'Val' for no part: give .* without hf:"),
            (("__background__", "cat"), "leaves out '__background__': give .* without hf:"),
            (("train/__background__", "train/cat", "test/cat"), "leaves out '__background__': give .* without hf:"),
        ],
    )
    def test_what_the_library_would_mix_or_leave_out(self, tmp_path, folders, message):
        for number, folder in enumerate(folders):
            (tmp_path / "images" / folder).mkdir(parents=True)
            (tmp_path / "images" / folder / "a.png").write_bytes(image(number)["bytes"])
        with pytest.raises(ValueError, match=message):
            open_for_training(f"hf:{tmp_path / 'images'}")

    def test_folder_of_parquet_files(self, tmp_path):
        (tmp_path / "parquet").mkdir()
        for split, first in [("train", 0), ("validation", 6)]:
            table(6, first).to_parquet(str(tmp_path / f"parquet/{split}-00000.parquet"))
        source = open_for_training(f"hf:{tmp_path / 'parquet'}")
        assert source.class_names == ["cat", "dog"]
        assert reds(source.splits["val"]) == list(range(6, 12))


class TestRefused:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (lambda: table(4).remove_columns("picture"), "has no column of images: it has 'label'"),
            (lambda: table(4).remove_columns("label"), "has no column of class labels: it has 'picture'"),
            (lambda: table(4, labels=[0, 1, None, 1]), "row 2: no label .None in the column 'label'"),
            (lambda: table(4, labels=[0, 1, 0, -1]), "row 3: no label .-1 in the column 'label'"),
            (lambda: table(4).select([]), "holds no rows"),
            (lambda: table(4, label=datasets.ClassLabel(names=["cat"]), labels=[0] * 4), "a single class, 'cat'"),
            (lambda: table(4, label=datasets.Value("float64"), labels=[0.5] * 4), "neither names nor whole numbers"),
        ],
    )
    def test_with_the_reason(self, save, data, message):
        name = save(data())
        with pytest.raises((ValueError, OSError), match=message) as caught:
            open_for_training(name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_no_split_for_training(self, save):
        with pytest.raises(ValueError, match="has no split 'train': it has 'val'"):
            open_for_training(save(test=table(4)))

    def test_val_fraction_beside_a_validation_split(self, save):
        with pytest.raises(ValueError, match="--val-fraction does not apply"):
            open_for_training(save(train=table(4), test=table(4)), Opening(val_fraction=0.1))

    @pytest.mark.parametrize("name", ["hf:no/such-set", "hf:/no/such/folder"])
    def test_what_is_not_there(self, name):
        with pytest.raises(OSError, match=f"{name} cannot be opened") as caught:
            open_for_training(name)
        assert "\n" not in str(caught.value)

    def test_no_name(self):
        with pytest.raises(ValueError, match="hf: needs the name"):
            open_for_training("hf:")

    @pytest.mark.parametrize(("data", "library"), [("hf:cifar10", "datasets"), ("a-{0..1}.tar", "webdataset")])
    def test_missing_extra(self, monkeypatch, data, library):
        import sys

        for module in (library, "webdataset.shardlists"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=rf"needs the library {library}: pip install 'glocal\[data\]'"):
            open_for_training(data)


class TestMasks:
    """A column of masks makes a segmentation."""

    COLORS = ((0, 0, 0), (200, 10, 20), (10, 200, 20))

    def masks(self, count, name="annotation", mode="L", label=None, broken=()):
        """Images with masks of the values 0, 1, 2, whose first pixel tells the row."""
        cells = []
        for number in range(count):
            pixels = np.full((8, 8), number % 3, np.uint8)
            pixels[4] = [0, 1, 2, 0, 1, 2, 0, 1]
            colors = np.array(self.COLORS, np.uint8)[pixels]
            content = io.BytesIO()
            Image.fromarray(colors if mode == "RGB" else pixels).save(content, "PNG")
            cells.append({"bytes": b"" if number in broken else content.getvalue(), "path": None})
        features = {"image": datasets.Image(), name: datasets.Image()}
        values = {"image": [image(number) for number in range(count)], name: cells}
        if label is not None:
            features["scene"], values["scene"] = label, [number % 2 for number in range(count)]
        return datasets.Dataset.from_dict(values, features=datasets.Features(features))

    @pytest.mark.parametrize("name", ["annotation", "label", "mask"])
    def test_it_is_a_segmentation(self, save, name):
        source = open_for_training(save(train=self.masks(6, name), validation=self.masks(3, name)))
        assert source.task == "segmentation"
        assert source.class_names == ["0", "1", "2"]
        assert reds(source.splits["train"]) == list(range(6))
        assert [one.load((8, 8))[0, 0] for one in source.splits["train"].labels] == [0, 1, 2, 0, 1, 2]
        assert len(source.splits["val"]) == 3

    def test_classes_and_values(self, save):
        how = Opening(args={"classes": ["a", "b"], "reduce_zero_label": True})
        source = open_for_training(save(train=self.masks(6), validation=self.masks(3)), how)
        assert source.class_names == ["a", "b"]
        assert source.splits["train"].labels[1].load((8, 8))[4].tolist() == [-1, 0, 1, -1, 0, 1, -1, 0]

    def test_colours(self, save):
        how = Opening(args={"classes": dict(zip("abc", map(list, self.COLORS), strict=True))})
        source = open_for_training(save(train=self.masks(6, mode="RGB"), validation=self.masks(3)), how)
        assert source.splits["train"].labels[0].load((8, 8))[4].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
        assert source.about["colors"] == list(map(list, self.COLORS))

    def test_without_validation_some_are_held_out_and_found_again(self, save):
        data = save(self.masks(10))
        source = open_for_training(data)
        assert (len(source.splits["train"]), len(source.splits["val"])) == (8, 2)
        again, split = open_for_evaluation(data, held_out=source.held_out)
        assert split == "val"
        assert reds(again.splits["val"]) == reds(source.splits["val"])

    def test_other_masks_are_measured_whole(self, tmp_path):
        held_out = []
        for name, broken in (("one", ()), ("two", (0,))):
            self.masks(10, broken=broken).save_to_disk(str(tmp_path / name))
            held_out.append(open_for_training(f"hf:{tmp_path / name}").held_out["files"])
        assert held_out[0] != held_out[1]

    def test_labels_of_classes_come_first(self, save):
        data = save(train=self.masks(6, label=CLASS), validation=self.masks(4, label=CLASS))
        source = open_for_training(data)
        assert source.task == "classification"
        assert any("--data-args masks=annotation trains a segmentation" in note for note in source.notes)
        assert open_for_training(data, Opening(args={"masks": "annotation"})).task == "segmentation"

    def test_a_broken_mask_is_named(self, save):
        source = open_for_training(save(train=self.masks(6, broken=(4,)), validation=self.masks(3)))
        assert any("1 of 6 masks read cannot be used" in note for note in source.notes)
        with pytest.raises(UnreadableImageError, match=r"row 4, annotation: the file is empty"):
            source.splits["train"].labels[4].load((8, 8))

    def test_masks_can_be_sent_to_another_process(self, save):
        source = open_for_training(save(train=self.masks(6), validation=self.masks(3)))
        sent = pickle.loads(pickle.dumps(source.splits["val"].labels[1]))
        assert np.array_equal(sent.load((8, 8)), source.splits["val"].labels[1].load((8, 8)))

    @pytest.mark.parametrize(
        ("args", "reason"),
        [({"masks": "nothing"}, "has no column of masks 'nothing': it has 'picture'"),
         ({"classes": ["a", "b"]}, "'classes' is for masks: say their column")],
    )  # fmt: skip
    def test_arguments_without_masks_are_refused(self, save, args, reason):
        with pytest.raises(ValueError, match=reason):
            open_for_training(save(table(6)), Opening(args=args))
