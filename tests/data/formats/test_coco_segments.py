"""COCO's format of objects and of stuff."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from glocal.data.formats import coco_segments
from glocal.data.image import UnreadableImageError
from glocal.data.masks import IGNORE
from glocal.data.samples import Opening
from glocal.data.segments import runs_of_mask, text_of_runs

CATEGORIES = [{"id": 90, "name": "sky"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
SKY = np.array([[1, 1, 1, 1], [0, 0, 0, 0]])
CAR = [0, 1, 2, 1, 2, 2, 0, 2]  # the left half of the second row


def runs(mask):
    return {"size": list(mask.shape), "counts": text_of_runs(runs_of_mask(mask))}


def write_part(root, part, names, categories=None, segments=None, file=None, folder=None, ids=(90, 3)):
    """Write images and the JSON file of a part; returns the file."""
    folder = root / (folder or part)
    file = file or root / "annotations" / f"instances_{part}.json"
    for place in (folder, file.parent):
        place.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (4, 2)).save(folder / f"{name}.jpg")
    if segments is None:
        segments = [{"category_id": ids[0], "segmentation": runs(SKY), "iscrowd": 1},
                    {"category_id": ids[1], "segmentation": [CAR], "area": 2, "bbox": [0, 1, 2, 1]}]  # fmt: skip
    content = {
        "images": [
            {"id": place, "file_name": f"{name}.jpg", "width": 4, "height": 2} for place, name in enumerate(names)
        ],
        "annotations": [{"id": 7, "image_id": place} | one for place in range(len(names)) for one in segments],
        "categories": categories or CATEGORIES,
    }
    file.write_text(json.dumps(content))
    return file


def train(root, **args):
    return coco_segments.open_training(str(root), Opening(args=args))


def labels(source):
    return source.splits["train"].labels[0].load((2, 4))


def named(source):
    """The names of the classes of each pixel; "" where it counts nowhere."""
    return [["" if label == IGNORE else source.class_names[label] for label in row] for row in labels(source)]


def refused(root, reason, **args):
    with pytest.raises((ValueError, OSError), match=reason):
        train(root, **args)


class TestData:
    def test_objects_on_a_background(self, tmp_path):
        write_part(tmp_path, "train2017", "ba")
        write_part(tmp_path, "val2017", "c")
        assert coco_segments.matches(str(tmp_path))
        source = train(tmp_path)
        assert source.task == "segmentation"
        assert source.class_names == ["background", "person", "car", "sky"]
        assert source.about["ids"] == [0, 1, 3, 90]
        assert source.about["things"] == [False, True, True, True]
        names = {split: list(map(os.path.basename, samples.images)) for split, samples in source.splits.items()}
        assert names == {"train": ["a.jpg", "b.jpg"], "val": ["c.jpg"]}
        assert labels(source).dtype == np.int32
        assert labels(source).tolist() == [[3, 3, 3, 3], [2, 2, 0, 0]]

    def test_stuff_without_a_background(self, tmp_path):
        write_part(tmp_path, "train2017", "ab", file=tmp_path / "annotations" / "stuff_train2017.json")
        source = train(tmp_path)
        assert source.class_names == ["person", "car", "sky"]
        assert named(source) == [["sky"] * 4, ["car", "car", "", ""]]

    @pytest.mark.parametrize("ids", [(0, 1), (1, 2), (90, 1), (3, 90)], ids=str)
    @pytest.mark.parametrize("background", [True, False])
    def test_names_do_not_shift(self, tmp_path, ids, background):
        categories = [{"id": number, "name": f"class {number}"} for number in {*ids, 90}]
        write_part(tmp_path, "train2017", "ab", categories, ids=ids)
        source = train(tmp_path, background=background)
        other = "background" if background else ""
        first, second = (f"class {number}" for number in ids)
        assert named(source) == [[first] * 4, [second, second, other, other]]
        for number in ids:
            assert source.class_names[source.about["ids"].index(number)] == f"class {number}"

    def test_a_category_for_the_background(self, tmp_path):
        write_part(tmp_path, "train2017", "ab", [*CATEGORIES, {"id": 5, "name": "Background"}])
        source = train(tmp_path)
        assert source.class_names == ["person", "car", "Background", "sky"]
        assert named(source) == [["sky"] * 4, ["car", "car", "Background", "Background"]]

    def test_small_segments_lie_on_large_ones(self, tmp_path):
        small = {"category_id": 3, "segmentation": [[0, 0, 1, 0, 1, 1, 0, 1]]}
        large = {"category_id": 90, "segmentation": runs(SKY)}
        write_part(tmp_path, "train2017", "ab", segments=[small, large])
        assert named(train(tmp_path))[0] == ["car", "sky", "sky", "sky"]

    def test_run_lengths_as_numbers(self, tmp_path):
        segments = [{"category_id": 3, "segmentation": {"size": [2, 4], "counts": runs_of_mask(SKY)}}]
        write_part(tmp_path, "train2017", "ab", segments=segments)
        assert named(train(tmp_path)) == [["car"] * 4, ["background"] * 4]

    def test_several_parts_of_a_segment(self, tmp_path):
        parts = [[0, 0, 1, 0, 1, 1, 0, 1], [3, 0, 4, 0, 4, 1, 3, 1]]
        write_part(tmp_path, "train2017", "ab", segments=[{"category_id": 3, "segmentation": parts}])
        assert named(train(tmp_path))[0] == ["car", "background", "background", "car"]

    def test_roboflows_folders(self, tmp_path):
        for part, names in (("train", "ab"), ("valid", "c"), ("test", "d")):
            write_part(tmp_path, part, names, file=tmp_path / part / "_annotations.coco.json")
        assert coco_segments.matches(str(tmp_path))
        source = train(tmp_path)
        assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 2, "val": 1}
        assert any("left out the part 'test'" in note for note in source.notes)

    def test_without_a_validation_part_some_are_held_out_and_found_again(self, tmp_path):
        write_part(tmp_path, "train2017", [f"{number:02}" for number in range(10)])
        source = train(tmp_path)
        assert (len(source.splits["train"]), len(source.splits["val"])) == (8, 2)
        again = coco_segments.open_evaluation(str(tmp_path), Opening(), source.held_out)
        assert again.splits["val"].images == source.splits["val"].images

    def test_a_file_by_its_name(self, tmp_path):
        write_part(tmp_path, "train", "ab", file=tmp_path / "objects.json", folder="photos")
        assert not coco_segments.matches(str(tmp_path))
        assert not coco_segments.claims(str(tmp_path), {"images": "photos"})
        assert coco_segments.claims(str(tmp_path), {"annotations": "objects.json"})
        source = train(tmp_path, annotations="objects.json", images="photos")
        assert len(source.splits["train"]) == 1

    def test_stuff_comes_before_objects(self, tmp_path):
        write_part(tmp_path, "train2017", "ab")
        stuff = [{"id": 1, "name": "grass"}, {"id": 2, "name": "wall"}]
        write_part(
            tmp_path, "train2017", "ab", stuff, ids=(1, 2), file=tmp_path / "annotations" / "stuff_train2017.json"
        )
        assert train(tmp_path).class_names == ["grass", "wall"]
        assert train(tmp_path, annotations="instances").class_names == ["background", "person", "car", "sky"]

    def test_other_folders_do_not_match(self, tmp_path):
        (tmp_path / "annotations").mkdir()
        (tmp_path / "annotations" / "captions_train2017.json").write_text("{}")
        assert not coco_segments.matches(str(tmp_path))
        assert not coco_segments.matches(str(tmp_path / "nowhere"))

    def test_the_content_tells_segments_apart(self, tmp_path):
        write_part(tmp_path / "one", "train2017", "ab")
        write_part(tmp_path / "two", "train2017", "ab")
        write_part(tmp_path / "other", "train2017", "ab", segments=[{"category_id": 3, "segmentation": [CAR]}])
        one, two, other = (
            train(tmp_path / name).splits["train"].labels[0].content() for name in ("one", "two", "other")
        )
        assert one == two
        assert one != other


class TestHostileData:
    def test_missing_files(self, tmp_path):
        write_part(tmp_path, "train2017", "abc")
        (tmp_path / "train2017" / "b.jpg").unlink()
        assert any("left out 1 image without a file" in note and "b.jpg" in note for note in train(tmp_path).notes)

    def test_missing_files_are_refused_if_strict(self, tmp_path, strict):
        write_part(tmp_path, "train2017", "abc")
        (tmp_path / "train2017" / "b.jpg").unlink()
        refused(tmp_path, "1 image without a file, the first: .*refused with --strict")

    def test_an_image_without_objects_is_background(self, tmp_path):
        file = write_part(tmp_path, "train2017", "abc")
        content = json.loads(file.read_text())
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] == 1]
        file.write_text(json.dumps(content))
        source = train(tmp_path)
        everything = source.splits["train"] + source.splits["val"]
        assert sorted(one.load((2, 4)).max() for one in everything.labels) == [0, 0, 3]
        assert len(everything) == 3

    def test_an_image_without_stuff_is_left_out(self, tmp_path):
        file = write_part(tmp_path, "train2017", "abc")
        content = json.loads(file.read_text())
        content["annotations"] = [one for one in content["annotations"] if one["image_id"]]
        file.write_text(json.dumps(content))
        source = train(tmp_path, background=False)
        assert any("left out 1 image without segments, the first: a.jpg" in note for note in source.notes)

    def test_boxes_without_segments(self, tmp_path):
        segments = [{"category_id": 3, "segmentation": [CAR]}, {"category_id": 1, "bbox": [0, 0, 1, 1]},
                    {"category_id": 1, "segmentation": []}]  # fmt: skip
        write_part(tmp_path, "train2017", "ab", segments=segments)
        assert any("left out 4 annotations without a segment" in note for note in train(tmp_path).notes)

    def test_boxes_alone(self, tmp_path):
        write_part(tmp_path, "train2017", "ab", segments=[{"category_id": 1, "bbox": [0, 0, 1, 1]}])
        refused(tmp_path, "holds no segments")

    def test_another_size_than_the_image(self, tmp_path):
        write_part(tmp_path, "train2017", "ab")
        with pytest.raises(UnreadableImageError, match=r"json: a\.jpg: the mask is 4×2 pixels, its image 2×4"):
            train(tmp_path).splits["train"].labels[0].load((4, 2))

    @pytest.mark.parametrize(
        "segmentation",
        [{"size": [2, 4], "counts": [3]}, {"size": [2, 4], "counts": "~"}, {"size": [2, 4], "counts": [-1, 9]},
         [[0, 0, 1, 1, 2, 2, 3]], [[0, 0, 1, 1, 1e300, 2]]],
        ids=str,
    )  # fmt: skip
    def test_a_broken_segment_is_named(self, tmp_path, segmentation):
        write_part(tmp_path, "train2017", "ab", segments=[{"category_id": 3, "segmentation": segmentation}])
        with pytest.raises(UnreadableImageError, match=r"json: a\.jpg: a segment is broken"):
            labels(train(tmp_path))

    @pytest.mark.parametrize(
        ("segment", "reason"),
        [({"category_id": 4, "segmentation": [CAR]}, "annotation 1: the category 4 is not listed"),
         ({"category_id": 3, "image_id": 9}, "annotation 1: no image has the id 9"),
         ({"category_id": 3, "segmentation": [[1, 2]]}, "annotation 1: its segmentation is none of COCO's"),
         ({"category_id": 3, "segmentation": "abc"}, "annotation 1: its segmentation is none of COCO's"),
         ({"category_id": 3, "segmentation": {"counts": [8]}}, "annotation 1: its segmentation is none of COCO's"),
         ({"category_id": 3, "segmentation": {"size": [4, 2], "counts": [8]}}, "is of 2×4 pixels, its image of 4×2"),
         ({"segmentation": [CAR]}, "missing required field `category_id`")],
    )  # fmt: skip
    def test_a_wrong_annotation_is_refused(self, tmp_path, segment, reason):
        write_part(tmp_path, "train2017", "ab", segments=[segment])
        refused(tmp_path, reason)

    @pytest.mark.parametrize(
        ("categories", "args", "reason"),
        [([{"id": 3, "name": "a"}, {"id": 3, "name": "b"}], {}, "several categories have the id '3'"),
         ([{"id": 3, "name": "a"}, {"id": 4, "name": "a"}], {}, "several categories have the name 'a'"),
         ([{"id": 3, "name": "a"}], {"background": False}, "a single category, 'a'"),
         (None, {"background": "no"}, "background must be true or false, got 'no'"),
         (None, {"annotations": "nothing"}, "holds no JSON file of objects or stuff"),
         (None, {"images": 3}, "images must be the name of a folder")],
    )  # fmt: skip
    def test_what_else_is_refused(self, tmp_path, categories, args, reason):
        write_part(tmp_path, "train2017", "ab", categories, ids=(3, 3))
        refused(tmp_path, reason, **args)

    def test_names_that_lead_out_of_the_folder(self, tmp_path):
        file = write_part(tmp_path, "train2017", "ab")
        file.write_text(file.read_text().replace("a.jpg", "../a.jpg"))
        refused(tmp_path, "'../a.jpg' is no name of a file in a folder")

    @pytest.mark.parametrize("text", ["", "[]", '{"images": ' + "[" * 9999], ids=["empty", "list", "deep"])
    def test_no_file_of_coco(self, tmp_path, text):
        write_part(tmp_path, "train2017", "ab").write_text(text)
        refused(tmp_path, "is no file of COCO's format")
