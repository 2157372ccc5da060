"""PASCAL VOC's format of objects."""

import numpy as np
import pytest
from PIL import Image

from glocal.data.formats import mask_folders, voc_objects
from glocal.data.samples import Opening
from object_formats import Reads, stems, write_pairs
from pictures import box_seen, picture, save

SIZE = (8, 12)
CAT = ("cat", (1, 1, 4, 3))  # xmin, ymin, xmax, ymax, as the format counts: the first pixel is 1
DOG = ("dog", (12, 8, 12, 8))

reads = Reads(voc_objects)
open_all, objects, notes, refused = reads.open_all, reads.objects, reads.notes, reads.refused


def xml(objects, size=SIZE, filename="x.png"):
    parts = [f"<filename>{filename}</filename>"]
    if size:
        parts.append(f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>")
    for name, corners, *more in objects:
        tags = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(voc_objects.CORNERS, corners, strict=False))
        parts.append(f"<object><name>{name}</name>{''.join(more)}<bndbox>{tags}</bndbox></object>")
    return f"<annotation>{''.join(parts)}</annotation>"


def write(root, images, lists=None, image_folder="JPEGImages", xml_folder="Annotations"):
    """Write the files of images: {stem: objects, or the whole XML}; lists: {name: stems}."""
    written = (str, type(None))
    texts = {stem: text if isinstance(text, written) else xml(text) for stem, text in images.items()}
    write_pairs(root / image_folder, root / xml_folder, texts, ".xml", SIZE)
    for name, listed in (lists or {}).items():
        file = root / "ImageSets" / "Main" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(listed) + "\n")


class TestData:
    def test_boxes_from_the_first_pixel_to_the_end_of_the_last(self, tmp_path):
        write(tmp_path, {"a": [DOG, CAT], "b": []})
        assert voc_objects.matches(str(tmp_path))
        source = open_all(tmp_path)
        assert (source.task, source.class_names) == ("detection", ["cat", "dog"])
        assert source.about == {"ids": [0, 1], "masks": False, "voc": True}
        found = source.splits["all"].labels[0]
        assert found.boxes.tolist() == [[11, 7, 12, 8], [0, 0, 4, 3]]
        assert found.labels.tolist() == [1, 0]
        assert found.areas.tolist() == [1, 12]
        assert len(source.splits["all"].labels[1]) == 0

    def test_pixels_counted_from_0(self, tmp_path):
        write(tmp_path, {"a": [("cat", (0, 0, 4, 3)), ("dog", (2, 2, 12, 8))]})
        assert objects(tmp_path).boxes.tolist() == [[0, 0, 4, 3], [2, 2, 12, 8]]
        assert "pixels are counted from 0" in notes(tmp_path)

    def test_fractions_of_pixels(self, tmp_path):
        write(tmp_path, {"a": [("cat", (1.5, 2.25, 4, 3))]})
        assert objects(tmp_path).boxes.tolist() == [[0.5, 1.25, 4, 3]]

    @pytest.mark.parametrize(("difficult", "crowd"), [("0", False), ("1", True), ("", False)])
    def test_difficult_objects_count_neither_as_found_nor_as_missed(self, tmp_path, difficult, crowd):
        write(tmp_path, {"a": [(*CAT, f"<difficult>{difficult}</difficult>")]})
        assert objects(tmp_path).crowd.tolist() == [crowd]

    def test_parts_of_objects_are_no_objects(self, tmp_path):
        part = (
            "<part><name>head</name><bndbox><xmin>9</xmin><ymin>2</ymin><xmax>10</xmax><ymax>3</ymax></bndbox></part>"
        )
        write(tmp_path, {"a": [(*CAT, part)]})
        assert objects(tmp_path).boxes.tolist() == [[0, 0, 4, 3]]

    def test_lists_of_train_and_val(self, tmp_path):
        write(tmp_path, {stem: [CAT] for stem in "abcde"}, {"train": "ca", "val": "b", "test": "d", "cat_train": "e"})
        source = open_all(tmp_path)
        assert {split: stems(samples) for split, samples in source.splits.items()} == {
            "train": ["c", "a"],
            "val": ["b"],
        }

    def test_lists_of_trainval_and_test(self, tmp_path):
        write(tmp_path, {stem: [CAT] for stem in "abc"}, {"trainval": "ab", "test": "c"})
        source = voc_objects.open_training(str(tmp_path), Opening())
        assert {split: stems(samples) for split, samples in source.splits.items()} == {
            "train": ["a", "b"],
            "val": ["c"],
        }

    def test_without_lists_a_part_is_held_out_and_found_again(self, tmp_path):
        write(tmp_path, {f"{number:02}": [CAT] for number in range(10)})
        source = voc_objects.open_training(str(tmp_path), Opening())
        assert (len(source.splits["train"]), len(source.splits["val"])) == (8, 2)
        again = voc_objects.open_evaluation(str(tmp_path), Opening(), source.held_out)
        assert again.splits["val"].images == source.splits["val"].images

    def test_files_beside_the_images_of_parts(self, tmp_path):
        for part in ("train", "valid"):
            write(tmp_path, {f"{part}1": [CAT]}, image_folder=part, xml_folder=part)
        assert voc_objects.matches(str(tmp_path))
        source = open_all(tmp_path)
        assert {split: stems(samples) for split, samples in source.splits.items()} == {
            "train": ["train1"], "val": ["valid1"]
        }  # fmt: skip

    def test_one_name_in_two_folders(self, tmp_path):
        write(tmp_path, {"left/a": [CAT], "right/a": [DOG]})
        source = open_all(tmp_path)
        assert [objects.labels.tolist() for objects in source.splits["all"].labels] == [[0], [1]]
        assert [image[-len("right/a.png") :] for image in source.splits["all"].images] == ["/left/a.png", "right/a.png"]

    def test_a_list_of_classes(self, tmp_path):
        write(tmp_path, {"a": [CAT]})
        (tmp_path / "classes.txt").write_text("bird\ncat\n")
        assert open_all(tmp_path).class_names == ["bird", "cat"]
        assert objects(tmp_path, classes=["cat"]).labels.tolist() == [0]

    def test_the_name_in_the_file_where_the_file_has_another(self, tmp_path):
        write(tmp_path, {"photo": None})
        (tmp_path / "Annotations").mkdir()
        (tmp_path / "Annotations" / "1.xml").write_text(xml([CAT], filename="C:\\photos\\photo.png"))
        assert stems(open_all(tmp_path).splits["all"]) == ["photo"]

    def test_with_masks_it_stays_a_segmentation(self, tmp_path):
        write(tmp_path, {"a": [CAT]})
        assert not mask_folders.matches(str(tmp_path))
        (tmp_path / "SegmentationClass").mkdir()
        (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
        assert mask_folders.matches(str(tmp_path))
        assert voc_objects.matches(str(tmp_path))

    @pytest.mark.parametrize("folders", [("photos", "Annotations"), ("cat", "dog"), ("train/cat", "val/cat")], ids=str)
    def test_other_folders_do_not_match(self, tmp_path, folders):
        write(tmp_path, {"a": None}, image_folder=folders[0])
        save(tmp_path / folders[1] / "b.png", Image.new("RGB", (2, 2)))
        (tmp_path / "model.xml").write_text("<a/>")
        assert not voc_objects.matches(str(tmp_path))


@pytest.mark.parametrize("frame", ["upright", "stored"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_orientations_and_pictures_that_boxes_are_of(tmp_path, orientation, frame):
    box = (2, 1, 7, 3)
    upright = picture(SIZE, [box])
    stored = save(tmp_path / "JPEGImages" / "a.png", upright, orientation)
    labelled = upright if frame == "upright" else stored
    x1, y1, x2, y2 = box_seen(labelled, (255, 0, 0))
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(xml([("cat", (x1 + 1, y1 + 1, x2, y2))], labelled.size[::-1]))
    found = objects(tmp_path, orientation=frame) if orientation == 3 else objects(tmp_path)
    assert found.boxes.tolist() == [list(box)]


class TestHostileData:
    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [(("cat", (5, 1, 4, 3)), "whose width or height is not above zero"),
         (("cat", ("nan", 1, 4, 3)), "NaN or infinite"), (("cat", ("inf", 1, 4, 3)), "NaN or infinite"),
         (("cat", ("one", 1, 4, 3)), "NaN or infinite"), (("cat", (1, 1, 4)), "NaN or infinite"),
         (("cat", ()), "without a box"), (("cat", (40, 40, 50, 50)), "outside the image"),
         (("", (1, 1, 4, 3)), "without a name")],
        ids=lambda value: str(value)[:40],
    )  # fmt: skip
    def test_an_object_is_left_out_and_named(self, tmp_path, wrong, reason):
        write(tmp_path, {"a": [CAT, wrong, DOG], "b": [CAT]})
        assert f"left out 1 object {'without' if 'without' in reason else ''}" in notes(tmp_path)
        assert reason in notes(tmp_path)
        assert f"{tmp_path / 'Annotations' / 'a.xml'}, object 2" in notes(tmp_path)
        assert objects(tmp_path).labels.tolist() == [0, 1]

    def test_it_is_refused_if_strict(self, tmp_path, strict):
        write(tmp_path, {"a": [CAT, ("cat", (5, 1, 4, 3))]})
        refused(tmp_path, "1 object with a box whose .*refused with --strict")

    def test_a_class_that_is_not_listed(self, tmp_path):
        write(tmp_path, {"a": [CAT, DOG]})
        (tmp_path / "classes.txt").write_text("dog\n")
        assert "1 object of a class that is not listed" in notes(tmp_path)
        assert objects(tmp_path).boxes.tolist() == [[11, 7, 12, 8]]

    @pytest.mark.parametrize(
        "text",
        ["", "<annotation>", xml([CAT])[:-30], '<!DOCTYPE a [<!ENTITY x "y">]>' + xml([CAT]),
         '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "<a>" * 50],
        ids=["empty", "open", "cut off", "entity", "external entity", "deep"],
    )  # fmt: skip
    def test_a_broken_file(self, tmp_path, text):
        write(tmp_path, {"a": [CAT], "b": text})
        assert "left out 1 XML file that cannot be read, the first: " in notes(tmp_path)
        assert "b.xml" in notes(tmp_path)
        assert stems(open_all(tmp_path).splits["all"]) == ["a"]

    def test_files_without_the_other(self, tmp_path):
        write(tmp_path, {"a": [CAT], "b": None, "c": [CAT]})
        (tmp_path / "JPEGImages" / "c.png").unlink()
        assert "left out 1 image without an XML file" in notes(tmp_path)
        assert "left out 1 XML file without an image of its name" in notes(tmp_path)

    def test_a_list_that_names_what_is_not_there(self, tmp_path):
        write(tmp_path, {"a": [CAT], "b": None}, {"train": "abx"})
        assert "1 image of a list, without an XML file" in notes(tmp_path)
        assert "1 image of a list, without a file" in notes(tmp_path)

    @pytest.mark.parametrize("name", ["../../a.png", "/etc/passwd", "..\\a.png", ""])
    def test_a_name_that_leads_out_of_the_folder(self, tmp_path, name):
        write(tmp_path / "data", {"b": [CAT]})
        save(tmp_path / "a.png", Image.new("RGB", SIZE[::-1]))
        (tmp_path / "data" / "Annotations" / "1.xml").write_text(xml([CAT], filename=name))
        assert "1 XML file without an image of its name" in notes(tmp_path / "data")
        assert stems(open_all(tmp_path / "data").splits["all"]) == ["b"]

    def test_an_image_of_another_size(self, tmp_path):
        write(tmp_path, {"a": [CAT], "b": xml([CAT], (9, 12))})
        assert "1 image of another size than the annotations say, the first: b.png of 12×8 pixels" in notes(tmp_path)
        assert stems(open_all(tmp_path).splits["all"]) == ["a"]

    @pytest.mark.parametrize("size", [None, (0, 0)], ids=str)
    def test_a_size_that_is_not_said(self, tmp_path, size):
        write(tmp_path, {"a": xml([("cat", (1, 1, 40, 40))], size)})
        assert objects(tmp_path).boxes.tolist() == [[0, 0, 12, 8]]

    def test_no_objects_at_all(self, tmp_path):
        write(tmp_path, {"a": [], "b": []})
        refused(tmp_path, "holds no objects")

    def test_two_images_of_one_name(self, tmp_path):
        write(tmp_path, {"a": xml([CAT], filename="a.bmp")})
        save(tmp_path / "JPEGImages" / "a.bmp", Image.new("RGB", SIZE[::-1]))
        assert open_all(tmp_path).splits["all"].images[0].endswith("a.bmp")


def test_many_objects(tmp_path):
    boxes = np.random.RandomState(0).randint(1, 5, (1000, 4))
    boxes[:, 2:] += boxes[:, :2]
    write(tmp_path, {"a": [("cat", box) for box in boxes.tolist()]})
    assert np.array_equal(objects(tmp_path).boxes, np.minimum(boxes - [1, 1, 0, 0], [12, 8, 12, 8]))
