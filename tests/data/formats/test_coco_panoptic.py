"""COCO's panoptic format."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from glocal.data.formats import coco_panoptic, mask_folders
from glocal.data.image import UnreadableImageError
from glocal.data.masks import IGNORE
from glocal.data.samples import Opening

CATEGORIES = [
    {"id": 90, "name": "sky", "isthing": 0, "color": [1, 2, 3]},
    {"id": 1, "name": "person", "isthing": 1, "color": [4, 5, 6], "supercategory": "x"},
    {"id": 3, "name": "car", "isthing": 1, "color": [7, 8, 9]},
]
NUMBERS = np.array([[0, 7, 7, 300], [70_000, 70_000, 300, 300]])  # of the segments, more than a byte holds
SEGMENTS = [
    {"id": 7, "category_id": 3, "area": 2, "bbox": [1, 0, 2, 1], "iscrowd": 0},
    {"id": 300, "category_id": 90, "iscrowd": 0},
    {"id": 70_000, "category_id": 1, "iscrowd": 1},
]
LABELS = [[IGNORE, 1, 1, 2], [0, 0, 2, 2]]


def write_part(root, part, names, categories=None, segments=None, images=None, file=None):
    """Write images, masks and the JSON file of a part; returns the file."""
    folder = root / (part if images is None else images)
    masks = root / "annotations" / f"panoptic_{part}"
    for place in (folder, masks):
        place.mkdir(parents=True, exist_ok=True)
    colors = np.stack([NUMBERS % 256, NUMBERS // 256 % 256, NUMBERS // 65_536], -1).astype(np.uint8)
    for name in names:
        Image.new("RGB", (4, 2)).save(folder / f"{name}.jpg")
        Image.fromarray(colors).save(masks / f"{name}.png")
    content = {
        "info": {"year": 2017},
        "images": [{"id": place, "file_name": f"{name}.jpg", "width": 4} for place, name in enumerate(names)],
        "annotations": [
            {"image_id": place, "file_name": f"{name}.png", "segments_info": segments or SEGMENTS}
            for place, name in enumerate(names)
        ],
        "categories": categories or CATEGORIES,
    }
    path = file or root / "annotations" / f"panoptic_{part}.json"
    path.write_text(json.dumps(content))
    return path


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def train(root, **args):
    return coco_panoptic.open_training(str(root), Opening(args=args))


def refused(root, reason, **args):
    with pytest.raises((ValueError, OSError), match=reason):
        train(root, **args)


class TestData:
    def test_parts(self, tmp_path):
        write_part(tmp_path, "train2017", "ba")
        write_part(tmp_path, "val2017", "c")
        assert coco_panoptic.matches(str(tmp_path))
        source = train(tmp_path)
        assert source.task == "segmentation"
        assert [os.path.basename(path) for path in source.splits["train"].images] == ["a.jpg", "b.jpg"]
        assert [os.path.basename(path) for path in source.splits["val"].images] == ["c.jpg"]
        assert source.notes == ()

    def test_categories_by_their_ids(self, tmp_path):
        write_part(tmp_path, "train2017", "ab")
        source = train(tmp_path)
        assert source.class_names == ["person", "car", "sky"]
        assert source.about == {
            "colors": [[4, 5, 6], [7, 8, 9], [1, 2, 3]],
            "ids": [1, 3, 90],
            "things": [True, True, False],
        }

    @pytest.mark.parametrize("ids", [(0, 1), (1, 2), (1, 90), (90, 1)], ids=str)
    def test_names_do_not_shift(self, tmp_path, ids):
        categories = [{"id": number, "name": f"class {number}"} for number in ids]
        segments = [{"id": 7, "category_id": ids[0]}, {"id": 300, "category_id": ids[1]},
                    {"id": 70_000, "category_id": ids[1]}]  # fmt: skip
        write_part(tmp_path, "train2017", "ab", categories, segments)
        source = train(tmp_path)
        labels = source.splits["train"].labels[0].load((2, 4))
        assert source.class_names[labels[0, 1]] == f"class {ids[0]}"
        assert source.class_names[labels[1, 3]] == f"class {ids[1]}"

    def test_labels(self, tmp_path):
        write_part(tmp_path, "train2017", "ab")
        label_map = train(tmp_path).splits["train"].labels[0]
        assert label_map.load((2, 4)).dtype == np.int32
        assert label_map.load((2, 4)).tolist() == LABELS

    def test_segments(self, tmp_path):
        write_part(tmp_path, "train2017", "ab")
        label_map = train(tmp_path).splits["train"].labels[0]
        assert label_map.segments.tolist() == [[7, 1, 0], [300, 2, 0], [70_000, 0, 1]]
        segments = label_map.load_segments((2, 4))
        assert segments.ids.dtype == np.int32
        assert segments.ids.tolist() == [[IGNORE, 0, 0, 1], [2, 2, 1, 1]]
        assert segments.classes.tolist() == [1, 2, 0]
        assert segments.crowd.tolist() == [False, False, True]

    def test_segments_of_another_size_than_the_image(self, tmp_path):
        write_part(tmp_path, "train2017", "ab")
        with pytest.raises(UnreadableImageError, match="the mask is 4×2 pixels, its image 5×2"):
            train(tmp_path).splits["train"].labels[0].load_segments((2, 5))

    def test_without_a_validation_part_some_are_held_out_and_found_again(self, tmp_path):
        write_part(tmp_path, "train2017", [f"{number:02}" for number in range(10)])
        source = train(tmp_path)
        assert (len(source.splits["train"]), len(source.splits["val"])) == (8, 2)
        again = coco_panoptic.open_evaluation(str(tmp_path), Opening(), source.held_out)
        assert again.splits["val"].images == source.splits["val"].images
        assert list(coco_panoptic.open_evaluation(str(tmp_path), Opening(), None).splits) == ["all"]

    @pytest.mark.parametrize("images", ["images/train2017", "images", "train2017"])
    def test_folders_of_images(self, tmp_path, images):
        write_part(tmp_path, "train2017", "ab", images=images)
        assert len(train(tmp_path).splits["train"]) == 1

    def test_folders_by_their_names(self, tmp_path):
        write_part(tmp_path, "train2017", "ab", images="photos")
        (tmp_path / "annotations" / "panoptic_train2017").rename(tmp_path / "segments")
        refused(tmp_path, "there is no folder of masks, such as .*panoptic_train2017: say its name", images="photos")
        assert len(train(tmp_path, images="photos", masks="segments").splits["train"]) == 1

    def test_a_file_beside_the_images(self, tmp_path):
        write_part(tmp_path, "train2017", "ab", file=tmp_path / "panoptic_train2017.json")
        (tmp_path / "annotations" / "panoptic_train2017").rename(tmp_path / "panoptic_train2017")
        assert len(train(tmp_path).splits["train"]) == 1

    def test_other_folders_do_not_match(self, tmp_path):
        (tmp_path / "annotations").mkdir()
        (tmp_path / "annotations" / "instances_train2017.json").write_text("{}")
        assert not coco_panoptic.matches(str(tmp_path))
        assert not coco_panoptic.matches(str(tmp_path / "nowhere"))

    def test_other_formats_do_not_take_it(self, tmp_path):
        write_part(tmp_path, "train2017", "ab")
        assert not mask_folders.matches(str(tmp_path))


class TestHostileData:
    def test_missing_files(self, tmp_path):
        write_part(tmp_path, "train2017", "abcd")
        (tmp_path / "train2017" / "b.jpg").unlink()
        (tmp_path / "annotations" / "panoptic_train2017" / "c.png").unlink()
        source = train(tmp_path)
        assert len(source.splits["train"] + source.splits["val"]) == 2
        assert any("left out 2 images without a file, the first: " in note and "b.jpg" in note for note in source.notes)

    def test_missing_files_are_refused_if_strict(self, tmp_path, strict):
        write_part(tmp_path, "train2017", "abc")
        (tmp_path / "train2017" / "b.jpg").unlink()
        refused(tmp_path, r"1 image without a file, the first: .*b\.jpg \(refused with --strict\)")

    def test_images_without_segments(self, tmp_path):
        file = write_part(tmp_path, "train2017", "abc")
        change(file, annotations=json.loads(file.read_text())["annotations"][:2])
        assert any("left out 1 image without segments, the first: c.jpg" in note for note in train(tmp_path).notes)

    def test_a_segment_that_is_not_listed(self, tmp_path):
        write_part(tmp_path, "train2017", "ab", segments=SEGMENTS[:2])
        with pytest.raises(UnreadableImageError, match=r"a\.png: the mask has the segment 70,000 on 2 pixels"):
            train(tmp_path).splits["train"].labels[0].load((2, 4))

    def test_no_segments(self, tmp_path):
        file = write_part(tmp_path, "train2017", "ab")
        change(file, annotations=[{"image_id": n, "file_name": f"{'ab'[n]}.png", "segments_info": []} for n in (0, 1)])
        for name in "ab":
            Image.new("RGB", (4, 2)).save(tmp_path / "annotations" / "panoptic_train2017" / f"{name}.png")
        assert (train(tmp_path).splits["train"].labels[0].load((2, 4)) == IGNORE).all()

    def test_another_size(self, tmp_path):
        write_part(tmp_path, "train2017", "ab")
        with pytest.raises(UnreadableImageError, match="the mask is 4×2 pixels, its image 2×4"):
            train(tmp_path).splits["train"].labels[0].load((4, 2))

    def test_a_mask_of_one_channel(self, tmp_path):
        write_part(tmp_path, "train2017", "ab")
        for name in "ab":
            Image.new("L", (4, 2)).save(tmp_path / "annotations" / "panoptic_train2017" / f"{name}.png")
        with pytest.raises(UnreadableImageError, match="one channel, where three hold the numbers of segments"):
            train(tmp_path).splits["train"].labels[0].load((2, 4))

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [({"categories": [{"id": 1, "name": "a"}]}, "a single category, 'a'"),
         ({"categories": []}, "no file of COCO's format: .*length >= 1"),
         ({"categories": CATEGORIES[:2]}, r"a segment of 'a\.png' has the category 3, which is not listed"),
         ({"categories": [*CATEGORIES, {"id": 3, "name": "bus"}]}, "several categories have the id '3'"),
         ({"categories": [*CATEGORIES, {"id": 4, "name": "car"}]}, "several categories have the name 'car'"),
         ({"images": [{"id": 0, "file_name": "a.jpg"}]}, r"no image has the id 1 of 'b\.png'"),
         ({"images": [{"id": 0, "file_name": "a.jpg"}] * 2}, "two images have one id"),
         ({"images": [{"id": 0, "file_name": "../a.jpg"}, {"id": 1, "file_name": "b.jpg"}]}, "no name of a file"),
         ({"images": [{"id": 0, "file_name": "/a.jpg"}, {"id": 1, "file_name": "b.jpg"}]}, "no name of a file"),
         ({"images": [{"id": 0}]}, "missing required field `file_name`"),
         ({"images": 3}, "Expected `array`, got `int`"),
         ({"annotations": [{"image_id": 0, "file_name": "a.png", "segments_info": [SEGMENTS[0]] * 2}]},
          r"two segments of 'a\.png' have one id"),
         ({"annotations": [{"image_id": 0, "file_name": "a.png", "segments_info": [{"id": 0, "category_id": 1}]}]},
          "Expected `int` >= 1"),
         ({"annotations": [{"image_id": 0, "file_name": "a.png", "segments_info": []}] * 2},
          "has two lists of segments"),
         ({"annotations": []}, "no image is there with its mask")],
    )  # fmt: skip
    def test_a_wrong_file_is_refused(self, tmp_path, changes, reason):
        change(write_part(tmp_path, "train2017", "ab"), **changes)
        refused(tmp_path, reason)

    @pytest.mark.parametrize("text", ["", "{", "[" * 9999, '{"images": ' + "[" * 9999])
    def test_no_json(self, tmp_path, text):
        write_part(tmp_path, "train2017", "ab").write_text(text)
        refused(tmp_path, "is no file of COCO's format")

    def test_other_categories_to_validate_on(self, tmp_path):
        write_part(tmp_path, "train2017", "ab")
        change(write_part(tmp_path, "val2017", "c"), categories=[*CATEGORIES, {"id": 4, "name": "bus"}])
        refused(tmp_path, "has other categories than the other part")

    def test_two_files_of_one_part(self, tmp_path):
        write_part(tmp_path, "train2017", "ab")
        write_part(tmp_path, "train2018", "ab")
        refused(tmp_path, "has two files of annotations for train")

    def test_a_validation_part_alone(self, tmp_path):
        write_part(tmp_path, "val2017", "ab")
        refused(tmp_path, "a part to validate on and none to train on")
        assert list(coco_panoptic.open_evaluation(str(tmp_path), Opening(), None).splits) == ["val"]

    def test_no_folder_of_images(self, tmp_path):
        write_part(tmp_path, "train2017", "ab", images="photos")
        refused(tmp_path, "no image is there with its mask|there is no folder of images")

    def test_a_validation_part_is_not_drawn_twice(self, tmp_path):
        write_part(tmp_path, "train2017", "ab")
        write_part(tmp_path, "val2017", "c")
        with pytest.raises(ValueError, match=r"--val-fraction does not apply to .*: it has a validation part"):
            coco_panoptic.open_training(str(tmp_path), Opening(val_fraction=0.1))
