"""Folders of images and of masks."""

import os

import numpy as np
import pytest
from PIL import Image

from glocal.data import mask_classes
from glocal.data.formats import class_folders, mask_folders
from glocal.data.image import UnreadableImageError, set_strict
from glocal.data.masks import IGNORE, distinct_colors
from glocal.data.open import open_for_evaluation, open_for_training
from glocal.data.samples import Opening
from glocal.tasks.registry import find_task

COLORS = [[0, 0, 0], [200, 10, 20], [10, 200, 20]]


def image(path, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 99, 200)).save(path)


def values(highest=2, kind=np.uint8):
    """A mask of 6 × 4 pixels with all values from 0 to the highest."""
    return (np.arange(24).reshape(4, 6) % (highest + 1)).astype(kind)


def mask(path, pixels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values() if pixels is None else pixels).save(path)


def pairs(root, names, images="images", masks="masks", pixels=None):
    """Write an image .jpg and a mask .png of each name."""
    for name in names:
        image(root / images / f"{name}.jpg")
        mask(root / masks / f"{name}.png", pixels)
    return root


def train(root, **args):
    return mask_folders.open_training(str(root), Opening(args=args))


def labels(source, split="train", place=0):
    return source.splits[split].labels[place].load((4, 6))


def names_of(source, split):
    return [os.path.basename(path) for path in source.splits[split].images]


def refused(root, reason, **args):
    with pytest.raises((ValueError, OSError), match=reason):
        train(root, **args)


class TestLayouts:
    @pytest.mark.parametrize(
        ("images", "masks"),
        [("images", "masks"), ("imgs", "labels"), ("JPEGImages", "SegmentationClass"), ("Images", "annotations")],
    )
    @pytest.mark.parametrize("inner", [False, True], ids=["train/images", "images/train"])
    @pytest.mark.parametrize(("train_name", "val_name"), [("train", "val"), ("training", "validation")])
    def test_parts(self, tmp_path, images, masks, inner, train_name, val_name):
        for part, names in ((train_name, ["a", "b"]), (val_name, ["c"])):
            folders = [f"{half}/{part}" if inner else f"{part}/{half}" for half in (images, masks)]
            pairs(tmp_path, names, *folders)
        assert mask_folders.matches(str(tmp_path))
        source = train(tmp_path)
        assert source.task == "segmentation"
        assert {split: names_of(source, split) for split in source.splits} == {
            "train": ["a.jpg", "b.jpg"],
            "val": ["c.jpg"],
        }
        assert np.array_equal(labels(source), values())
        assert source.held_out is None

    def test_without_parts_some_are_held_out_and_found_again(self, tmp_path):
        source = train(pairs(tmp_path, map(str, range(10))))
        assert (len(source.splits["train"]), len(source.splits["val"])) == (8, 2)
        again = mask_folders.open_evaluation(str(tmp_path), Opening(), source.held_out)
        assert again.splits["val"].images == source.splits["val"].images
        assert again.splits["val"].labels == source.splits["val"].labels
        assert set(source.splits["val"].images).isdisjoint(source.splits["train"].images)

    def test_a_group_stays_together(self, tmp_path):
        pairs(tmp_path, [f"scene{number // 4}_{number}" for number in range(20)])
        source = mask_folders.open_training(str(tmp_path), Opening(group=r"scene\d+"))
        scenes = {split: {name.split("_")[0] for name in names_of(source, split)} for split in source.splits}
        assert (len(scenes["train"]), len(scenes["val"])) == (4, 1)
        assert scenes["train"].isdisjoint(scenes["val"])
        again = mask_folders.open_evaluation(str(tmp_path), Opening(), source.held_out)
        assert again.splits["val"].images == source.splits["val"].images

    def test_other_data_is_not_divided_for_evaluation(self, tmp_path):
        held_out = train(pairs(tmp_path / "one", map(str, range(10)))).held_out
        source = mask_folders.open_evaluation(str(pairs(tmp_path / "two", "abc")), Opening(), held_out)
        assert list(source.splits) == ["all"]

    def test_a_train_part_alone_is_divided(self, tmp_path):
        source = train(pairs(tmp_path, map(str, range(10)), "images/train", "masks/train"))
        assert (len(source.splits["train"]), len(source.splits["val"])) == (8, 2)

    def test_a_test_part_is_validated_on_where_there_is_no_other(self, tmp_path):
        pairs(tmp_path, "ab", "images/train", "masks/train")
        source = train(pairs(tmp_path, "c", "images/test", "masks/test"))
        assert names_of(source, "val") == ["c.jpg"]
        assert any("validated on the part 'test'" in note for note in source.notes)

    def test_a_test_part_without_masks_is_left_out(self, tmp_path):
        pairs(tmp_path, "ab", "images/train", "masks/train")
        pairs(tmp_path, "c", "images/val", "masks/val")
        image(tmp_path / "images" / "test" / "d.jpg")
        source = train(tmp_path)
        assert set(source.splits) == {"train", "val"}
        assert any("left out images/test, which has no masks" in note for note in source.notes)

    def test_folders_by_their_names(self, tmp_path):
        source = train(pairs(tmp_path, "abc", "photos of 2024", "truth"), images="photos of 2024", masks="truth")
        assert len(source.splits["train"]) == 2

    def test_folders_below_are_part_of_a_name(self, tmp_path):
        pairs(tmp_path, "ab", "images/x", "masks/x", values(1))
        pairs(tmp_path, "ab", "images/y", "masks/y", values(2))
        source = train(tmp_path)
        everything = source.splits["train"] + source.splits["val"]
        for path, label_map in zip(everything.images, everything.labels, strict=True):
            assert label_map.load((4, 6)).max() == {"x": 1, "y": 2}[path.split(os.sep)[-2]]

    @pytest.mark.parametrize(
        ("of_image", "of_mask"),
        [("{}.jpg", "{}_mask.png"), ("{}_leftImg8bit.png", "{}_gtFine_labelIds.png"), ("{}.jpg", "{}.jpg.png"),
         ("{}.png", "{}_L.png"), ("{}_sat.jpg", "{}_mask.png"), ("{}.v2.jpg", "{}.v2.png")],
    )  # fmt: skip
    def test_names_with_something_behind(self, tmp_path, of_image, of_mask):
        for name in "abc":
            image(tmp_path / "images" / of_image.format(name))
            mask(tmp_path / "masks" / of_mask.format(name))
        source = train(tmp_path)
        assert len(source.splits["train"]) + len(source.splits["val"]) == 3
        assert not any("without" in note for note in source.notes)


class TestKnownDataSets:
    @pytest.mark.parametrize("train_ids", [False, True])
    def test_cityscapes(self, tmp_path, train_ids):
        kind = "labelTrainIds" if train_ids else "labelIds"
        pixels = values(23)
        for part, city, name in (("train", "ulm", "ulm_0"), ("train", "bonn", "bonn_1"), ("val", "kiel", "kiel_2")):
            image(tmp_path / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png")
            folder = tmp_path / "gtFine" / part / city
            mask(folder / f"{name}_gtFine_{kind}.png", np.where(pixels < 19, pixels, 255) if train_ids else pixels)
            mask(folder / f"{name}_gtFine_color.png")
            mask(folder / f"{name}_gtFine_instanceIds.png", pixels.astype(np.uint16) * 1000)
            (folder / f"{name}_gtFine_polygons.json").write_text("{}")
        image(tmp_path / "leftImg8bit" / "test" / "rome" / "rome_0_leftImg8bit.png")
        assert mask_folders.matches(str(tmp_path))
        source = train(tmp_path)
        assert names_of(source, "train") == ["bonn_1_leftImg8bit.png", "ulm_0_leftImg8bit.png"]
        assert names_of(source, "val") == ["kiel_2_leftImg8bit.png"]
        assert (len(source.class_names), source.class_names[13]) == (19, "car")
        assert source.about["colors"][13] == [0, 0, 142]
        assert source.about["ids"][13] == (13 if train_ids else 26)
        assert source.notes == ()
        row = labels(source).reshape(-1)
        if train_ids:
            assert row.tolist() == [*range(19), *[IGNORE] * 5]
        else:
            assert row[[7, 8, 11, 23]].tolist() == [0, 1, 2, 10]
            assert (row[[0, 1, 6, 9, 18]] == IGNORE).all()

    @pytest.mark.parametrize("as_rgb", [False, True])
    def test_voc(self, tmp_path, as_rgb):
        lists = tmp_path / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("b\na\n")
        (lists / "val.txt").write_text("c\nnot_there\n")
        pixels = np.array([[0, 1, 20, 15, 255, 255]] * 4, np.uint8)
        palette = distinct_colors(256)
        palette[255] = [224, 224, 192]
        for name in "abcd":  # d is of the detection part
            image(tmp_path / "JPEGImages" / f"{name}.jpg")
            mask(tmp_path / "SegmentationClass" / f"{name}.png")
            picture = Image.frombytes("P", (6, 4), pixels.tobytes())
            picture.putpalette([channel for color in palette for channel in color])
            picture.convert("RGB" if as_rgb else "P").save(tmp_path / "SegmentationClass" / f"{name}.png")
        assert mask_folders.matches(str(tmp_path))
        source = train(tmp_path)
        assert names_of(source, "train") == ["b.jpg", "a.jpg"]
        assert names_of(source, "val") == ["c.jpg"]
        assert (len(source.class_names), source.class_names[20]) == (21, "tvmonitor")
        assert source.about == {"colors": distinct_colors(21), "ids": list(range(21))}
        assert labels(source).tolist() == [[0, 1, 20, 15, IGNORE, IGNORE]] * 4
        assert any("left out 1 image without a mask" in note and "not_there" in note for note in source.notes)

    def ade(self, tmp_path):
        pixels = np.array([[0, 1, 2, 150, 3, 0]] * 4, np.uint8)
        for part, names in (("training", "ab"), ("validation", "c")):
            pairs(tmp_path, names, f"images/{part}", f"annotations/{part}", pixels)
        return tmp_path

    def test_ade20k(self, tmp_path):
        rows = [f"{number}\t0.1\t10\t1\tthing {number}, other" for number in range(1, 149)]
        rows += ["149\t0.1\t10\t1\tscreen, silver screen", "150\t0.1\t10\t1\tscreen, CRT screen"]
        (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + "\n".join(rows) + "\n")
        source = train(self.ade(tmp_path))
        assert labels(source)[0].tolist() == [IGNORE, 0, 1, 149, 2, IGNORE]
        assert len(source.class_names) == 150
        assert source.class_names[0] == "thing 1"
        assert source.class_names[148:] == ["screen, silver screen", "screen, CRT screen"]
        assert source.about["ids"] == list(range(1, 151))

    def test_reduce_zero_label_with_names(self, tmp_path):
        names = [f"class {number}" for number in range(150)]
        refused(self.ade(tmp_path), "value 150 .*which is no class.*{reduce_zero_label: true}", classes=names)
        source = train(tmp_path, classes=names, reduce_zero_label=True)
        assert labels(source)[0].tolist() == [IGNORE, 0, 1, 149, 2, IGNORE]

    def test_reduce_zero_label_without_names(self, tmp_path):
        source = train(self.ade(tmp_path), reduce_zero_label=True)
        assert source.class_names == ["1", "2", "3", "150"]
        assert labels(source)[0].tolist() == [IGNORE, 0, 1, 3, 2, IGNORE]


class TestClasses:
    def test_the_values_that_occur(self, tmp_path):
        pixels = np.array([[0, 3, 7, 255, 0, 0]] * 4, np.uint8)
        source = train(pairs(tmp_path, "abc", pixels=pixels))
        assert source.class_names == ["0", "3", "7"]
        assert source.about == {"colors": distinct_colors(3), "ids": [0, 3, 7]}
        assert labels(source)[0].tolist() == [0, 1, 2, IGNORE, 0, 0]
        assert any("the 3 values in 3 masks are taken for them" in note for note in source.notes)

    def test_the_values_in_training_masks_alone(self, tmp_path):
        pairs(tmp_path, "ab", "images/train", "masks/train", values(1))
        pairs(tmp_path, "c", "images/val", "masks/val", values(2))
        source = train(tmp_path)
        assert source.class_names == ["0", "1"]
        with pytest.raises(
            UnreadableImageError, match=r"c\.png: the mask has the value 2 on 8 pixels.*no mask that was"
        ):
            labels(source, "val")

    def test_16_bit_values(self, tmp_path):
        pixels = np.array([[0, 255, 300, 40_000, 0, 0]] * 4, np.uint16)
        source = train(pairs(tmp_path, "abc", pixels=pixels))
        assert source.class_names == ["0", "255", "300", "40000"]
        assert labels(source)[0].tolist() == [0, 1, 2, 3, 0, 0]

    def test_a_list_of_more_than_255_names_has_a_class_255(self, tmp_path):
        pixels = np.array([[0, 255, 299, 0, 0, 0]] * 4, np.uint16)
        source = train(pairs(tmp_path, "abc", pixels=pixels), classes=[str(number) for number in range(300)])
        assert labels(source)[0].tolist() == [0, 255, 299, 0, 0, 0]

    @pytest.mark.parametrize("beside", [False, True])
    def test_a_file_of_names(self, tmp_path, beside):
        (tmp_path / ("classes.txt" if beside else "names.txt")).write_text("sky\nroad\ncafé\n\n")
        args = {} if beside else {"classes": "names.txt"}
        source = train(pairs(tmp_path, "abc"), **args)
        assert source.class_names == ["sky", "road", "café"]
        assert np.array_equal(labels(source), values())

    def test_a_file_elsewhere_by_its_whole_path_alone(self, tmp_path, monkeypatch):
        (tmp_path / "names.txt").write_text("sky\nroad\ncar\n")
        monkeypatch.chdir(tmp_path)
        root = pairs(tmp_path / "data", "abc")
        refused(root, "there is no file 'names.txt' in .*data .of others, give the whole path", classes="names.txt")
        assert train(root, classes=str(tmp_path / "names.txt")).class_names == ["sky", "road", "car"]

    def test_values_of_classes(self, tmp_path):
        source = train(pairs(tmp_path, "abc"), classes={"two": 2, "zero": 0}, ignore=1)
        assert source.class_names == ["two", "zero"]
        assert labels(source)[0].tolist() == [1, IGNORE, 0, 1, IGNORE, 0]

    def test_a_class_that_counts_nowhere_by_its_name(self, tmp_path):
        source = train(pairs(tmp_path, "abc"), classes=["zero", "one", "two"], ignore=["one"])
        assert source.class_names == ["zero", "two"]
        assert labels(source)[0].tolist() == [0, IGNORE, 1, 0, IGNORE, 1]
        assert source.about["ids"] == [0, 2]

    @pytest.mark.parametrize("ignore", ["zero", 0, "0", ["0"], [0]], ids=repr)
    def test_a_value_that_counts_nowhere_is_no_class(self, tmp_path, ignore):
        source = train(pairs(tmp_path, "abc"), classes=["zero", "one", "two"], ignore=ignore)
        assert source.class_names == ["one", "two"]
        assert labels(source)[0].tolist() == [IGNORE, 0, 1, IGNORE, 0, 1]

    def test_a_colour_that_counts_nowhere(self, tmp_path):
        pairs(tmp_path, "abc", pixels=np.array(COLORS, np.uint8)[values()])
        source = train(tmp_path, classes={"zero": COLORS[0], "two": COLORS[2]}, ignore="200,10,20")
        assert labels(source)[0].tolist() == [0, IGNORE, 1, 0, IGNORE, 1]
        source = train(tmp_path, classes=dict(zip(["zero", "one", "two"], COLORS, strict=True)), ignore=[COLORS[0]])
        assert source.class_names == ["one", "two"]
        assert labels(source)[0].tolist() == [IGNORE, 0, 1, IGNORE, 0, 1]

    @pytest.mark.parametrize(
        ("name", "text"),
        [("palette.csv", "name,r,g,b\nzero,0,0,0\none,200,10,20\ntwo,10,200,20\n"),
         ("palette.json", '{"zero": [0, 0, 0], "one": [200, 10, 20], "two": [10, 200, 20]}'),
         ("label_colors.txt", "0 0 0\tzero\n200 10 20\tone\n10 200 20\ttwo\n"),
         ("labelmap.txt", "# label:color_rgb:parts:actions\nzero:0,0,0::\none:200,10,20::\ntwo:10,200,20::\n")],
        ids=["csv", "json", "camvid", "cvat"],
    )  # fmt: skip
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
    def test_colours(self, tmp_path, name, text, mode):
        (tmp_path / name).write_text(text)
        pairs(tmp_path, "abc")
        for path in (tmp_path / "masks").iterdir():
            picture = Image.fromarray(np.array(COLORS, np.uint8)[values()]).convert("RGB" if mode == "P" else mode)
            if mode == "P":  # its indices are in another order than the list
                picture = Image.frombytes("P", (6, 4), (2 - values()).tobytes())
                picture.putpalette([channel for color in reversed(COLORS) for channel in color])
            picture.save(path)
        assert mask_folders.matches(str(tmp_path))
        source = train(tmp_path)
        assert source.class_names == ["zero", "one", "two"]
        assert source.about == {"colors": COLORS, "ids": [0, 1, 2]}
        assert np.array_equal(labels(source), values())

    def test_indices_beside_a_palette_file(self, tmp_path):
        (tmp_path / "palette.csv").write_text("name,r,g,b\nzero,0,0,0\none,200,10,20\ntwo,10,200,20\n")
        source = train(pairs(tmp_path, "abc"))
        assert np.array_equal(labels(source), values())
        assert source.about["colors"] == COLORS

    def test_black_and_white_are_colours(self, tmp_path):
        source = train(
            pairs(tmp_path, "abc", pixels=255 * values(1)), classes={"no": [0, 0, 0], "yes": [255, 255, 255]}
        )
        assert np.array_equal(labels(source), values(1))

    def test_a_palette_of_other_colours_is_refused_until_said(self, tmp_path):
        picture = Image.frombytes("P", (6, 4), values().tobytes())
        picture.putpalette([0, 0, 1, 2, 2, 2, 3, 3, 3])
        pairs(tmp_path, "abc")
        for path in (tmp_path / "masks").iterdir():
            picture.save(path)
        classes = {"zero": [0, 0, 0], "one": [200, 10, 20], "two": [10, 200, 20]}
        refused(tmp_path, "colour 0 0 1 .*values=indices", classes=classes)
        source = train(tmp_path, classes=classes, values="indices")
        assert np.array_equal(labels(source), values())

    def test_the_palette_of_masks_gives_the_colours(self, tmp_path):
        picture = Image.frombytes("P", (6, 4), values().tobytes())
        picture.putpalette([channel for color in COLORS for channel in color])
        pairs(tmp_path, "abc")
        for path in (tmp_path / "masks").iterdir():
            picture.save(path)
        source = train(tmp_path)
        assert source.class_names == ["0", "1", "2"]
        assert source.about["colors"] == COLORS

    @pytest.mark.parametrize(
        ("name", "text", "reason"),
        [("classes.txt", "a\n\nb\n", "classes.txt, line 2: no name"),
         ("classes.txt", "a\nb\na\n", "two classes have the name 'a'"),
         ("classes.txt", "", "holds no classes"),
         ("classes.txt", "a\n", "a single class, 'a'"),
         ("classes.json", "{", "classes.json is no JSON"),
         ("classes.json", "[" * 9999, "classes.json is no JSON"),
         ("classes.json", '["a", ' + "9" * 9999 + "]", "classes.json is no JSON"),
         ("classes.json", '{"a": 0, "b": 1, "a": 2}', "classes.json has 'a' twice"),
         ("classes.json", '{"0": "a", "1": "b", "1": "c"}', "classes.json has '1' twice"),
         ("classes.json", "3", "expected a list of classes"),
         ("classes.json", '[{"name": "a", "id": 0}, {"name": "b"}]', "no id of 'b'"),
         ("classes.json", '{"a": 0, "b": 0}', "two classes have the id 0"),
         ("classes.json", '{"a": 0, "b": -1}', "the id of 'b' must be from 0"),
         ("classes.json", '{"a": [0, 0, 0], "b": [0, 0, 256]}', "the colour of 'b' must be three numbers"),
         ("palette.csv", "name,r,g,b\na,0,0,0\nb,0,0\n", "class 2: 3 cells, where the header has 4"),
         ("palette.csv", "name,r,g,b\na,0,0,0\nb,0,0,x\n", "expected a whole number"),
         ("palette.csv", "r,g,b\n0,0,0\n", "has no column 'name'")],
        ids=str,
    )  # fmt: skip
    def test_a_wrong_list_is_refused(self, tmp_path, name, text, reason):
        (tmp_path / name).write_text(text)
        refused(pairs(tmp_path, "abc"), reason)

    @pytest.mark.parametrize(
        ("args", "reason"),
        [({"classes": "missing.txt"}, "there is no file 'missing.txt'"),
         ({"classes": 3}, "expected a list of classes, got 3"),
         ({"binary": "yes"}, "binary must be true or false, got 'yes'"),
         ({"binary": True, "reduce_zero_label": True}, "exclude each other"),
         ({"binary": True, "classes": ["a", "b", "c"]}, "masks of 0 and 255 have two classes, not 3"),
         ({"reduce_zero_label": True, "classes": {"a": 0, "b": 1}}, "the class list says itself"),
         ({"ignore": 1.5}, "ignore: expected values, colours"),
         ({"ignore": ["1,2"]}, "ignore: expected values, colours"),
         ({"ignore": "0,0,256"}, "ignore: expected values, colours"),
         ({"ignore": "-1"}, "no class is called '-1'"),
         ({"ignore": ["d"], "classes": ["a", "b", "c"]}, "no class is called 'd'"),
         ({"ignore": ["d"]}, "without a class list, no class is called 'd'"),
         ({"ignore": [[0, 0, 0]]}, "read as numbers, not as colours"),
         ({"values": "colors"}, "the class list has no colours"),
         ({"ignore": [1, 2]}, "holds a single class, '0'"),
         ({"ignore": [1, 2], "classes": ["a", "b", "c"]}, "holds a single class, 'a'"),
         ({"values": "names", "classes": ["a", "b", "c"]}, "values must be indices or colors, got 'names'"),
         ({"values": "colors", "classes": ["a", "b", "c"]}, "the class list has no colours"),
         ({"images": 3}, "images must be the name of a folder"),
         ({"masks": "nowhere"}, "holds no folder of images beside one of masks")],
    )  # fmt: skip
    def test_wrong_arguments_are_refused(self, tmp_path, args, reason):
        refused(pairs(tmp_path, "abc"), reason, **args)


class TestHostileData:
    def test_halves_without_the_other(self, tmp_path):
        pairs(tmp_path, "abc")
        image(tmp_path / "images" / "lonely.jpg")
        mask(tmp_path / "masks" / "orphan.png")
        mask(tmp_path / "masks" / "orphan2.png")
        source = train(tmp_path)
        assert len(source.splits["train"] + source.splits["val"]) == 3
        assert any("left out 1 image without a mask" in note and "lonely.jpg" in note for note in source.notes)
        assert any("left out 2 masks without an image" in note and "orphan.png" in note for note in source.notes)

    def test_halves_without_the_other_are_refused_if_strict(self, tmp_path, strict):
        image(pairs(tmp_path, "abc") / "images" / "lonely.jpg")
        refused(tmp_path, "--strict: 1 image without a mask, the first: .*lonely.jpg")

    def test_no_names_fit(self, tmp_path):
        image(tmp_path / "images" / "a.jpg")
        mask(tmp_path / "masks" / "b.png")
        refused(tmp_path, "the first image is 'a.jpg', the first mask 'b.png'")

    @pytest.mark.parametrize("half", ["images", "masks"])
    def test_an_empty_folder(self, tmp_path, half):
        pairs(tmp_path, "abc")
        for path in (tmp_path / half).iterdir():
            path.unlink()
        refused(tmp_path, f"{half} holds no {half}")

    @pytest.mark.parametrize(("half", "name"), [("images", "a.png"), ("masks", "a.tif")])
    def test_two_files_of_a_name(self, tmp_path, half, name):
        mask(pairs(tmp_path, "abc") / half / name)
        refused(tmp_path, r"a\..*a\..* differ in their endings alone")

    def test_two_folders_of_masks(self, tmp_path):
        pairs(tmp_path, "abc")
        pairs(tmp_path, "abc", masks="labels")
        refused(tmp_path, "'labels', 'masks', each named like a folder of masks.*{masks: NAME}")
        assert len(train(tmp_path, masks="labels").class_names) == 3

    def test_another_size(self, tmp_path):
        mask(pairs(tmp_path, "abc") / "masks" / "a.png", values()[:3])
        source = train(tmp_path)
        everything = source.splits["train"] + source.splits["val"]
        place = [os.path.basename(path) for path in everything.images].index("a.jpg")
        with pytest.raises(UnreadableImageError, match=r"a\.png: the mask is 6×3 pixels, its image 6×4"):
            everything.labels[place].load((4, 6))

    def test_another_size_is_noted_before_the_training(self, tmp_path):
        mask(pairs(tmp_path, "abc") / "masks" / "b.png", values()[:3])
        assert any(
            "1 of 3 masks have another size than their images" in note and "b.png: the mask is 6×3" in note
            for note in train(tmp_path).notes
        )

    def test_another_size_is_refused_if_strict(self, tmp_path, strict):
        mask(pairs(tmp_path, "abc") / "masks" / "b.png", values()[:3])
        refused(tmp_path, r"1 of 3 masks have another size than their images.*b\.png: the mask is 6×3 pixels")

    def test_another_size_of_all(self, tmp_path):
        refused(pairs(tmp_path, "abc", pixels=values()[:3]), "3 of 3 masks have another size than their images")

    def test_a_turned_mask_is_not_refused_by_its_stored_size(self, tmp_path):
        assert train(pairs(tmp_path, "abc", pixels=values().T)).notes == train(pairs(tmp_path, "abc")).notes

    @pytest.mark.parametrize("is_strict", [False, True])
    def test_how_many_masks_are_checked(self, tmp_path, monkeypatch, is_strict):
        monkeypatch.setattr(mask_classes, "CHECKED", 2)
        mask(pairs(tmp_path, "abc") / "masks" / "b.png", values(4))
        set_strict(is_strict)
        try:
            if is_strict:
                refused(tmp_path, "1 of 3 masks read cannot be used", classes=["zero", "one", "two"])
            else:
                assert not any("cannot be used" in note for note in train(tmp_path, classes=["a", "b", "c"]).notes)
        finally:
            set_strict(False)

    def test_some_labels_beyond_the_classes(self, tmp_path):
        mask(pairs(tmp_path, "abc") / "masks" / "b.png", values(4))
        source = train(tmp_path, classes=["zero", "one", "two"])
        assert any("1 of 3 masks read cannot be used" in note and "b.png" in note for note in source.notes)

    def test_some_labels_beyond_the_classes_are_refused_if_strict(self, tmp_path, strict):
        mask(pairs(tmp_path, "abc") / "masks" / "b.png", values(4))
        refused(tmp_path, "1 of 3 masks read cannot be used", classes=["zero", "one", "two"])

    def test_all_labels_beyond_the_classes(self, tmp_path):
        pairs(tmp_path, "abc")
        refused(tmp_path, r"3 of 3 masks .*a\.png: the mask has the value 2 on 8 pixels", classes=["zero", "one"])

    @pytest.mark.parametrize("args", [{}, {"classes": ["no", "yes"]}, {"classes": ["a", "b", "c"]}], ids=str)
    def test_masks_of_0_and_255(self, tmp_path, args):
        refused(pairs(tmp_path, "abc", pixels=255 * values(1)), "hold only 0 and 255.*{binary: true}", **args)

    def test_masks_of_0_and_255_of_which_those_that_are_checked_hold_0(self, tmp_path, monkeypatch):
        monkeypatch.setattr(mask_classes, "CHECKED", 2)
        mask(pairs(tmp_path, "abc", pixels=0 * values()) / "masks" / "b.png", 255 * values(1))
        refused(tmp_path, "hold only 0 and 255.*{binary: true}", classes=["no", "yes"])

    def test_classes_that_those_that_are_checked_lack(self, tmp_path, monkeypatch):
        monkeypatch.setattr(mask_classes, "CHECKED", 2)
        mask(pairs(tmp_path, "abc", pixels=255 * values(1)) / "masks" / "b.png", values(1))
        assert train(tmp_path, classes=["no", "yes"]).class_names == ["no", "yes"]

    @pytest.mark.parametrize("args", [{}, {"classes": ["background", "foreground"]}], ids=str)
    @pytest.mark.parametrize("mode", ["L", "1", "RGB"])
    def test_binary_masks(self, tmp_path, args, mode):
        pairs(tmp_path, "abc")
        for path in (tmp_path / "masks").iterdir():
            Image.fromarray(255 * values(1)).convert(mode).save(path)
        source = train(tmp_path, binary=True, **args)
        assert source.class_names == ["background", "foreground"]
        assert source.about["ids"] == [0, 255]
        assert np.array_equal(labels(source), values(1))

    def test_binary_masks_with_other_values(self, tmp_path):
        refused(pairs(tmp_path, "abc", pixels=100 * values(2)), "the value 100 on 8 pixels", binary=True)

    def test_three_equal_channels(self, tmp_path):
        pairs(tmp_path, "abc", pixels=np.stack([values()] * 3, -1))
        source = train(tmp_path)
        assert source.class_names == ["0", "1", "2"]
        assert np.array_equal(labels(source), values())

    def test_colours_without_a_palette(self, tmp_path):
        pairs(tmp_path, "abc", pixels=np.array(COLORS, np.uint8)[values()])
        refused(tmp_path, "the mask has colours, but the class list has none")

    def test_numbers_of_objects_are_no_classes(self, tmp_path):
        pairs(tmp_path, "abc")
        for place, path in enumerate(sorted((tmp_path / "masks").iterdir())):
            Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) + 2400 * place).save(path)
        refused(tmp_path, "the masks hold 7,200 values, from 0 to 7,199")

    @pytest.mark.parametrize("args", [{}, {"classes": ["a", "b"]}], ids=str)
    def test_all_ignored(self, tmp_path, args):
        refused(pairs(tmp_path, "abc", pixels=np.full((4, 6), 255, np.uint8)), "0 and 255|nothing but ignored", **args)

    def test_one_mask_that_is_all_ignored(self, tmp_path):
        mask(pairs(tmp_path, "abc") / "masks" / "b.png", np.full((4, 6), 255, np.uint8))
        source = train(tmp_path, classes=["a", "b", "c"])
        assert any("nothing but ignored pixels in 1 mask of 3 read" in note for note in source.notes)

    def test_an_empty_file(self, tmp_path):
        (pairs(tmp_path, "abc") / "masks" / "a.png").write_bytes(b"")
        source = train(tmp_path)
        assert any(
            "1 of 3 masks read cannot be used" in note and "a.png: the file is empty" in note for note in source.notes
        )

    def test_masks_in_jpeg(self, tmp_path):
        for name in "abc":
            image(tmp_path / "images" / f"{name}.jpg")
            mask(tmp_path / "masks" / f"{name}.jpg")
        refused(tmp_path, "a mask must not be JPEG, whose compression may change labels: save masks as PNG")

    def test_a_single_pair_cannot_be_divided(self, tmp_path):
        refused(pairs(tmp_path, "a"), "a single image with a mask, so that none can be held out")

    def test_a_validation_part_alone(self, tmp_path):
        pairs(tmp_path, "ab", "images/val", "masks/val")
        refused(tmp_path, "a part to validate on and none to train on")
        assert list(mask_folders.open_evaluation(str(tmp_path), Opening(), None).splits) == ["val"]

    def test_a_file(self, tmp_path):
        image(tmp_path / "a.png")
        refused(tmp_path / "a.png", "is a file: give the folder")

    @pytest.mark.parametrize("how", [Opening(val_fraction=0.1), Opening(group="x")], ids=["val_fraction", "group"])
    def test_a_validation_part_is_not_drawn_twice(self, tmp_path, how):
        pairs(tmp_path, "ab", "images/train", "masks/train")
        pairs(tmp_path, "c", "images/val", "masks/val")
        with pytest.raises(ValueError, match=r"does not apply to .*: it has a validation part"):
            mask_folders.open_training(str(tmp_path), how)


class TestArguments:
    """Arguments say what a folder's names do not."""

    FORMATS = (mask_folders, class_folders)

    def test_folders_by_their_names(self, tmp_path):
        pairs(tmp_path, "abc", "photos of 2024", "truth")
        how = Opening(args={"images": "photos of 2024", "masks": "truth"})
        assert open_for_training(str(tmp_path), formats=self.FORMATS).task == "classification"
        source = open_for_training(str(tmp_path), how, self.FORMATS)
        assert source.task == "segmentation"
        again, split = open_for_evaluation(str(tmp_path), "auto", source.held_out, how, self.FORMATS)
        assert (again.task, split) == ("segmentation", "val")

    def test_colours(self, tmp_path):
        pairs(tmp_path, "abc", pixels=np.array(COLORS, np.uint8)[values()])
        (tmp_path / "names.csv").write_text("name,r,g,b\nzero,0,0,0\none,200,10,20\ntwo,10,200,20\n")
        source = open_for_training(str(tmp_path), Opening(args={"classes": "names.csv"}), self.FORMATS)
        assert np.array_equal(labels(source), values())

    def test_of_another_format(self, tmp_path):
        pairs(tmp_path, "abc", "cat", "dog")
        with pytest.raises(ValueError, match=r"takes no arguments, got 'images_of'"):
            open_for_training(str(tmp_path), Opening(args={"images_of": "x"}), self.FORMATS)


class TestMatching:
    """Folders of classes are not taken for masks."""

    def test_classes_called_images_and_masks(self, tmp_path):
        for number in range(4):
            image(tmp_path / "images" / f"{number}.png")
            image(tmp_path / "masks" / f"{number}.png")
        assert not mask_folders.matches(str(tmp_path))
        assert class_folders.open_training(str(tmp_path), Opening()).class_names == ["images", "masks"]

    def test_grey_classes_of_other_sizes(self, tmp_path):
        for number in range(4):
            image(tmp_path / "images" / f"{number}.png")
            mask(tmp_path / "masks" / f"{number}.png", np.full((9, 9), number, np.uint8))
        assert not mask_folders.matches(str(tmp_path))

    def test_two_classes_called_like_images_and_masks_are_noted(self, tmp_path):
        for number in range(4):
            image(tmp_path / "photos" / f"{number}.png")
            mask(tmp_path / "labels" / f"{number}.png", np.full((9, 9), number, np.uint8))
        assert any(
            "give --task segmentation" in note for note in class_folders.open_training(str(tmp_path), Opening()).notes
        )
        (tmp_path / "labels").rename(tmp_path / "dogs")
        assert not class_folders.open_training(str(tmp_path), Opening()).notes

    @pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "another size"])
    def test_one_wrong_mask_does_not_hide_the_others(self, tmp_path, content):
        first = pairs(tmp_path, "abcd") / "masks" / "a.png"
        if content is None:
            mask(first, values()[:3])
        else:
            first.write_bytes(content)
        assert mask_folders.matches(str(tmp_path))

    def test_a_class_list_beside_says_that_they_are_masks(self, tmp_path):
        pairs(tmp_path, "abcd", pixels=values()[:3])
        assert not mask_folders.matches(str(tmp_path))
        (tmp_path / "classes.txt").write_text("a\nb\nc\n")
        assert mask_folders.matches(str(tmp_path))

    def test_names_are_enough_where_the_task_is_asked_for(self, tmp_path):
        pairs(tmp_path, "abcd", pixels=values()[:3])
        with pytest.raises(ValueError, match="4 of 4 masks have another size"):
            open_for_training(str(tmp_path), Opening(), find_task("segmentation").formats)

    def test_few_names_fit(self, tmp_path):
        pairs(tmp_path, "a")
        for number in range(4):
            image(tmp_path / "images" / f"i{number}.jpg")
            mask(tmp_path / "masks" / f"m{number}.png")
        assert not mask_folders.matches(str(tmp_path))

    def test_labels_of_boxes(self, tmp_path):
        image(tmp_path / "images" / "a.jpg")
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 1 1\n")
        assert not mask_folders.matches(str(tmp_path))

    @pytest.mark.parametrize("name", ["nothing", "file"])
    def test_no_folder(self, tmp_path, name):
        (tmp_path / "file").write_text("")
        assert not mask_folders.matches(str(tmp_path / name))

    def test_images_without_masks_do_not_hide_the_others(self, tmp_path):
        image(pairs(tmp_path, "abc") / "images" / "0.jpg")
        assert mask_folders.matches(str(tmp_path))
