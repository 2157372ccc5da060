import os
import unicodedata

import pytest
from PIL import Image

from glocal.data.open import open_for_evaluation, open_for_training
from glocal.data.samples import Opening


@pytest.fixture
def table(tmp_path):
    """Writes table.csv from its text, and the images it may name: 00.png to 39.png; returns its path."""
    for index in range(40):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index:02}.png")

    def write(text, **options):
        path = tmp_path / "table.csv"
        path.write_text(text, **({"encoding": "utf-8"} | options))
        return str(path)

    return write


def rows(count, labels=("cat", "dog")):
    return "".join(f"{index:02}.png,{labels[index % len(labels)]}\n" for index in range(count))


def reds(samples):
    """The images by their red value, which is their number."""
    return [samples.load(index).getpixel((0, 0))[0] for index in range(len(samples))]


class TestTraining:
    @pytest.mark.parametrize("header", ["path,label", "image,class", "FILE,Label", "filename,class", "x,label"])
    def test_columns_have_several_names(self, table, header):
        source = open_for_training(table(f"{header}\n{rows(10)}"))
        assert source.class_names == ["cat", "dog"]
        assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 8, "val": 2}

    def test_every_row_is_there_once_with_its_label(self, table):
        source = open_for_training(table("path,label\n" + rows(20)))
        found = {
            red: label
            for samples in source.splits.values()
            for red, label in zip(reds(samples), samples.labels, strict=True)
        }
        assert found == {index: index % 2 for index in range(20)}

    def test_split_column(self, table):
        text = "split,path,label\ntrain,00.png,a\ntrain,01.png,b\nval,02.png,b\nVALIDATION,03.png,a\ntest,04.png,b\n"
        source = open_for_training(table(text))
        assert reds(source.splits["train"]) == [0, 1]
        assert reds(source.splits["val"]) == [2, 3]
        assert source.splits["val"].labels == [1, 0]
        assert source.held_out is None
        assert any("left out 1 row of the split 'test'" in note for note in source.notes)

    @pytest.mark.parametrize(
        ("train", "val"), [("Train", "VAL"), ("training_set", "dev"), ("train", "Eval"), ("train", "test")]
    )
    def test_splits_in_any_spelling(self, table, train, val):
        source = open_for_training(table(f"path,label,split\n00.png,a,{train}\n01.png,b,{train}\n02.png,b,{val}\n"))
        assert (reds(source.splits["train"]), reds(source.splits["val"])) == ([0, 1], [2])
        assert any("validated on the rows of the split 'test'" in note for note in source.notes) == (val == "test")

    @pytest.mark.parametrize(("train", "val"), [("0", "1"), ("False", "True"), ("FALSE", "TRUE"), ("0.0", "1.0")])
    def test_is_valid_divides_the_rows_too(self, table, train, val):
        source = open_for_training(table(f"path,label,is_valid\n00.png,a,{train}\n01.png,b,{train}\n02.png,b,{val}\n"))
        assert (reds(source.splits["train"]), reds(source.splits["val"])) == ([0, 1], [2])
        assert source.held_out is None

    def test_one_class_in_two_writings(self, table):
        composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
        source = open_for_training(table(f"path,label\n{rows(8, [composed, decomposed, 'dog', 'dog'])}"))
        assert source.class_names == [composed, "dog"]

    def test_several_names_in_the_column_of_one_are_noted(self, table):
        assert open_for_training(table(f"path,label\n{rows(8)}")).notes == ()
        (note,) = open_for_training(table(f"path,label\n{rows(8, ['cat|pet', 'dog|pet'])}")).notes
        assert "'cat|pet' in the column 'label' is taken for one name; several belong in a column 'labels'" in note

    def test_paths_may_be_absolute(self, table, tmp_path):
        text = f"path,label\n{tmp_path / '00.png'},a\n01.png,a\n02.png,b\n03.png,b\n"
        source = open_for_training(table(text))
        assert sorted(reds(source.splits["train"] + source.splits["val"])) == [0, 1, 2, 3]

    def test_paths_are_relative_to_the_file_not_to_the_process(self, table, tmp_path, monkeypatch):
        path = table("path,label\n" + rows(4))
        monkeypatch.chdir(tmp_path.parent)
        assert len(open_for_training(os.path.relpath(path)).splits["train"]) == 2

    def test_numbers_are_sorted_as_numbers(self, table):
        source = open_for_training(table("path,label\n" + rows(22, [str(number) for number in range(11)])))
        assert source.class_names == [str(number) for number in range(11)]

    def test_quotes_blank_lines_and_a_byte_order_mark(self, table):
        text = '\ufeffpath,label\r\n"00.png","cat, big"\r\n\r\n01.png,dog\r\n02.png,"cat, big"\r\n03.png,dog\r\n'
        assert open_for_training(table(text, newline="")).class_names == ["cat, big", "dog"]

    def test_repeated_paths_are_noted(self, table):
        source = open_for_training(table("path,label\n" + rows(6) + rows(2)))
        assert any("2 rows with a path that is there already" in note for note in source.notes)

    def test_val_fraction_beside_a_split_column_is_refused(self, table):
        with pytest.raises(ValueError, match="--val-fraction does not apply"):
            open_for_training(table("path,label,split\n00.png,a,train\n01.png,b,val\n"), Opening(val_fraction=0.1))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is empty"),
            ("path,label\n", "holds a header and no rows"),
            ("path,name\n00.png,cat\n", "no column 'label', 'class' or 'labels': its header has 'path', 'name'"),
            ("path;label\n00.png;cat\n", "columns are separated by commas"),
            ("label,other\ncat,00.png\n", "no column 'path'"),
            ("path,label,path\n00.png,a,b\n", "has the column 'path' more than once"),
            ("path,label,class\n00.png,a,b\n", "has the columns 'label', 'class': leave one"),
            ("path,label\n00.png,a\n01.png,\n", "row 3: no label .''"),
            ("path,label\n00.png,a\n01.png,NaN\n", "row 3: no label .'NaN'"),
            ("path,label\n00.png,a\n\n,b\n", "row 4: no path"),
            ("path,label\n00.png,a\n01.png\n", "row 3: 1 cell, where the header has 2"),
            ("path,label\n00.png,a\n01.png,b,c\n", "row 3: 3 cells, where the header has 2"),
            ('path,label\n00.png,a\n01.png,"b\n', "row 3: unexpected end of data"),
            ("path,label\n00.png,a\nx.png,b\ny.png,b\n", "2 files of 3 missing, the first in row 3: .*x.png"),
            ("path,label\n00.png,a\n01.png,a\n", "holds a single class, 'a'"),
            ("path,label\n00.png,a\n01.png,b\n", "every class has a single image"),
            ("path,label,split\n00.png,a,train\n01.png,b,later\n", "row 3: 'split' must be train or val, got 'later'"),
            ("path,label,is_valid\n00.png,a,0\n01.png,b,val\n", "row 3: 'is_valid' must be 0 or 1 .True., got 'val'"),
            ("path,label,split,is_valid\n00.png,a,train,0\n", "has the columns 'split', 'is_valid': leave one"),
            ("path,label,split\n00.png,a,train\n01.png,b,train\n", "no row has the split 'val'"),
            ("path,label,split\n00.png,a,test\n", "no row has the split 'train' or 'val'"),
            ("path,label,split\n0.png,a,test\n00.png,a,train\n01.png,b,train\n02.png,c,val\n", "train does not: 'c'"),
        ],
    )
    def test_refused_with_the_reason(self, table, text, message):
        path = table(text)
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            open_for_training(path)
        assert path in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_other_encoding_is_refused(self, table):
        with pytest.raises(ValueError, match=r"table\.csv is not UTF-8 text"):
            open_for_training(table("path,label\n00.png,Bär\n", encoding="latin-1"))

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.csv"):
            open_for_training(str(tmp_path / "absent.csv"))


class TestMultiLabel:
    def test_names_are_separated_by_bars_or_semicolons(self, table):
        text = "path,labels,split\n00.png,sea|boat,train\n01.png,boat;  sun ,train\n02.png,,train\n03.png,sun,val\n"
        source = open_for_training(table(text))
        assert source.task == "multilabel"
        assert source.class_names == ["boat", "sea", "sun"]
        assert source.splits["train"].labels == [(0, 1), (0, 2), ()]
        assert source.splits["val"].labels == [(2,)]

    def test_a_comma_is_noted(self, table):
        assert open_for_training(table(f"path,labels\n{rows(8, ['cat|pet', 'dog;pet'])}")).notes == ()
        source = open_for_training(table("path,labels\n" + rows(8, ['"cat,pet"', "dog"])))
        assert source.class_names == ["cat,pet", "dog"]
        (note,) = source.notes
        assert "'cat,pet' in the column 'labels' is taken for one name; | or ; separates several" in note

    @pytest.mark.parametrize("cell", ["nan", "NaN", "a|nan"])
    def test_refuses_what_is_no_label(self, table, cell):
        with pytest.raises(ValueError, match=r"row 3: no label \('.*' in the column 'labels'\)"):
            open_for_training(table(f"path,labels,split\n00.png,a,train\n01.png,{cell},val\n"))

    def test_name_that_is_there_twice_counts_once(self, table):
        source = open_for_training(table("path,labels,split\n00.png,b|b|a,train\n01.png,a,val\n"))
        assert source.splits["train"].labels == [(0, 1)]

    def test_drawn_split_keeps_every_class_in_training(self, table):
        source = open_for_training(table("path,labels\n" + rows(40, ["a", "a|b", "b|c", "", "a|b|c"]) + "00.png,d\n"))
        train, val = source.splits["train"], source.splits["val"]
        assert {label for labels in train.labels for label in labels} == {0, 1, 2, 3}
        assert len(train) + len(val) == 41
        assert 6 <= len(val) <= 10
        assert any("'d': too few images" in note for note in source.notes)


class TestEvaluation:
    def test_all_of_another_table(self, table):
        source, split = open_for_evaluation(table("path,label\n" + rows(4)))
        assert (split, len(source.splits[split])) == ("all", 4)

    def test_val_of_a_divided_table(self, table):
        source, split = open_for_evaluation(table("path,label,split\n00.png,a,train\n01.png,b,val\n"))
        assert (split, reds(source.splits[split])) == ("val", [1])

    @pytest.mark.parametrize("header", ["path,label", "path,labels"])
    def test_table_of_the_training_gives_what_was_held_out(self, table, header):
        path = table(f"{header}\n{rows(30)}")
        trained = open_for_training(path, Opening(val_fraction=0.3, seed=5))
        source, split = open_for_evaluation(path, held_out=trained.held_out)
        assert split == "val"
        assert source.splits["val"] == trained.splits["val"]

    @pytest.mark.parametrize("labels", [("cat", "dog"), ("cat|pet", "pet", "")])
    def test_groups_of_the_training_stay_as_they_were_held_out(self, table, labels):
        header = "path,label,Patient" if len(labels) == 2 else "path,labels,Patient"
        path = table(f"{header}\n" + "".join(f"{i:02}.png,{labels[i % len(labels)]},{i // 5}\n" for i in range(40)))
        trained = open_for_training(path, Opening(group="patient"))
        of_part = {part: {red // 5 for red in reds(samples)} for part, samples in trained.splits.items()}
        assert not of_part["train"] & of_part["val"]
        assert len(of_part["val"]) == 2
        source, split = open_for_evaluation(path, held_out=trained.held_out)
        assert split == "val"
        assert source.splits["val"] == trained.splits["val"]

    def test_an_empty_cell_is_no_group(self, table):
        text = "path,label,scene\n00.png,cat,\n01.png,dog,nan\n"
        text += "".join(f"{i:02}.png,{'cat' if i % 2 else 'dog'},{i // 5}\n" for i in range(2, 40))
        path = table(text)
        notes = open_for_training(path, Opening(group="scene")).notes
        assert any("of 10 groups held out" in note for note in notes)
        assert any("2 images of no group, each taken for one: " in note for note in notes)

    def test_a_group_that_is_no_column(self, table):
        path = table("path,label\n" + rows(8))
        with pytest.raises(ValueError, match=r"has no column 'patient' \(--group\): its header has 'path', 'label'"):
            open_for_training(path, Opening(group="patient"))

    def test_a_group_beside_a_given_split(self, table):
        path = table("path,label,split\n00.png,a,train\n01.png,b,val\n")
        with pytest.raises(ValueError, match=r"--group does not apply to .*: it has a column 'split'"):
            open_for_training(path, Opening(group="label"))

    def test_changed_table_is_measured_whole(self, table):
        held_out = open_for_training(table("path,label\n" + rows(30))).held_out
        source, split = open_for_evaluation(table("path,label\n" + rows(29)), held_out=held_out)
        assert (split, len(source.splits[split])) == ("all", 29)
