"""YOLO's format of objects."""

import time

import numpy as np
import pytest
from PIL import Image

from glocal.data.formats import yolo
from glocal.data.samples import Opening
from glocal.data.segments import mask_of_polygons
from glocal.data.yolo_labels import labels_of
from object_formats import Reads, stems, write_pairs
from pictures import picture, save

SIZE = (8, 16)
LINE = "1 0.5 0.5 0.25 0.5"  # x from 6 to 10, y from 2 to 6
NAMES = "names: [cat, dog]\n"

reads = Reads(yolo)
open_all, objects, notes, refused = reads.open_all, reads.objects, reads.notes, reads.refused


def write(root, labels, images="images", labels_at="labels", size=SIZE):
    """Write images and their labels, by stem; None for an image without a file of labels."""
    write_pairs(root / images, root / labels_at, labels, ".txt", size)


def write_yaml(root, text, name="data.yaml"):
    (root / name).write_text(text)
    return root / name


@pytest.fixture
def folder(tmp_path):
    """A folder with images, labels and a list of classes."""
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


class TestFolders:
    def test_boxes_in_shares_of_the_sides(self, folder):
        write(folder, {"a": f"{LINE}\n0 0.25 0.25 0.5 0.5\n", "b": "", "c": None})
        assert yolo.matches(str(folder))
        source = open_all(folder)
        assert (source.task, source.class_names) == ("detection", ["cat", "dog"])
        assert source.about == {"ids": [0, 1], "masks": False}
        found = source.splits["all"].labels[0]
        assert found.boxes.tolist() == [[6, 2, 10, 6], [0, 0, 8, 4]]
        assert found.labels.tolist() == [1, 0]
        assert found.areas.tolist() == [16, 32]
        assert found.size == SIZE
        assert [len(one) for one in source.splits["all"].labels] == [2, 0, 0]
        assert any("1 image without a file of labels, taken as images without objects" in note for note in source.notes)

    def test_polygons(self, folder):
        write(folder, {"a": "1 0.125 0.25 0.625 0.25 0.125 0.75\n0 0 0 0.5 0 0.5 0.5 0 0.5"})
        source = open_all(folder)
        found = source.splits["all"].labels[0]
        assert source.about["masks"]
        assert found.boxes.tolist() == [[2, 2, 10, 6], [0, 0, 8, 4]]
        masks = [mask_of_polygons([polygon], SIZE) for polygon in ([2, 2, 10, 2, 2, 6], [0, 0, 8, 0, 8, 4, 0, 4])]
        assert np.array_equal(found.masks(SIZE), masks)
        assert found.areas.tolist() == [mask.sum() for mask in masks]

    @pytest.mark.parametrize(
        ("images", "labels"),
        [("images/{}", "labels/{}"), ("{}/images", "{}/labels")], ids=["parts inside", "parts outside"]
    )  # fmt: skip
    def test_parts(self, folder, images, labels):
        for part in ("train", "valid", "test"):
            write(folder, {f"{part}1": LINE}, images.format(part), labels.format(part))
        assert yolo.matches(str(folder))
        source = yolo.open_training(str(folder), Opening())
        found = {split: stems(samples) for split, samples in source.splits.items()}
        assert found == {"train": ["train1"], "val": ["valid1"]}

    def test_a_part_is_held_out_and_found_again(self, folder):
        write(folder, {f"{number:02}": LINE for number in range(10)})
        source = yolo.open_training(str(folder), Opening())
        assert (len(source.splits["train"]), len(source.splits["val"])) == (8, 2)
        again = yolo.open_evaluation(str(folder), Opening(), source.held_out)
        assert again.splits["val"].images == source.splits["val"].images

    def test_one_name_in_two_folders(self, folder):
        write(folder, {"left/a": "0 0.5 0.5 0.5 0.5", "right/a": LINE})
        assert [one.labels.tolist() for one in open_all(folder).splits["all"].labels] == [[0], [1]]

    def test_classes_that_are_given(self, tmp_path):
        write(tmp_path, {"a": LINE})
        assert not yolo.matches(str(tmp_path))
        assert yolo.claims(str(tmp_path), {"classes": ["x", "y"]})
        assert open_all(tmp_path, classes=["x", "y"]).class_names == ["x", "y"]
        refused(tmp_path, "has no list of its classes")

    def test_the_list_beside_the_labels(self, tmp_path):
        write(tmp_path, {"a": LINE})
        (tmp_path / "labels" / "classes.txt").write_text("cat\ndog\n")
        assert yolo.matches(str(tmp_path))
        assert open_all(tmp_path).class_names == ["cat", "dog"]

    @pytest.mark.parametrize("names", [("images", "labels"), ("cat", "dog")], ids=str)
    def test_other_folders_do_not_match(self, folder, names):
        for name in names:
            save(folder / name / "a.png", Image.new("RGB", (2, 2)))
        assert not yolo.matches(str(folder))
        assert not yolo.matches(str(folder / "nowhere"))

    def test_classes_with_a_file_of_another_kind_do_not_match(self, tmp_path):
        save(tmp_path / "cat" / "a.png", Image.new("RGB", (2, 2)))
        write_yaml(tmp_path, "model: van_b0\n")
        assert not yolo.matches(str(tmp_path))


class TestYaml:
    def parts(self, root):
        for part in ("train", "val"):
            write(root, {f"{part}1": LINE}, f"images/{part}", f"labels/{part}")

    @pytest.mark.parametrize(
        "names",
        ["names: [cat, dog]", "names:\n  0: cat\n  1: dog", "names:\n- cat\n- dog\nnc: 2",
         "names: {'0': cat, '1': dog}",
         "names: ['cat', \"dog\"]  # a comment\ndownload: |\n  import os\n  os.remove('x')\n"],
    )  # fmt: skip
    def test_classes_and_parts(self, tmp_path, names):
        self.parts(tmp_path)
        file = write_yaml(tmp_path, f"train: images/train\nval: images/val\n{names}\n")
        for data in (tmp_path, file):
            assert yolo.matches(str(data))
            source = open_all(data)
            assert source.class_names == ["cat", "dog"]
            found = {split: stems(samples) for split, samples in source.splits.items()}
            assert found == {"train": ["train1"], "val": ["val1"]}

    def test_names_that_yaml_would_take_for_something_else(self, tmp_path):
        self.parts(tmp_path)
        write_yaml(tmp_path, "train: images/train\nnames: [no, 7, null, 1e3]\n")
        assert open_all(tmp_path).class_names == ["no", "7", "null", "1e3"]

    @pytest.mark.parametrize("path", ["../datasets/coco8", "/home/author/coco8", "C:\\coco8", "nowhere", ""])
    def test_a_path_of_another_machine(self, tmp_path, path):
        self.parts(tmp_path)
        write_yaml(tmp_path, f"path: {path}\ntrain: images/train\nval: images/val\n{NAMES}")
        assert set(open_all(tmp_path).splits) == {"train", "val"}

    def test_a_path_inside(self, tmp_path):
        self.parts(tmp_path / "inner")
        write_yaml(tmp_path, f"path: inner\ntrain: images/train\nval: images/val\n{NAMES}")
        assert set(open_all(tmp_path).splits) == {"train", "val"}

    def test_roboflows_paths(self, tmp_path):
        for part in ("train", "valid"):
            write(tmp_path, {f"{part}1": LINE}, f"{part}/images", f"{part}/labels")
        write_yaml(tmp_path, f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n{NAMES}")
        refused(tmp_path, "'../test/images' is outside its folder")
        write_yaml(tmp_path, f"train: ../train/images\nval: ../valid/images\n{NAMES}")
        assert stems(open_all(tmp_path).splits["val"]) == ["valid1"]

    def test_lists_of_images_and_several_folders(self, tmp_path):
        write(tmp_path, {stem: LINE for stem in "abcd"}, "images/one", "labels/one")
        write(tmp_path, {"e": LINE}, "images/two", "labels/two")
        (tmp_path / "train.txt").write_text("./images/one/a.png\nimages/one/b.png\n\n")
        write_yaml(tmp_path, f"train: [train.txt, images/two]\nval: images/one\n{NAMES}")
        found = {split: stems(samples) for split, samples in open_all(tmp_path).splits.items()}
        assert found == {"train": ["a", "b", "e"], "val": ["a", "b", "c", "d"]}
        assert "2 images in both train and val" in notes(tmp_path)

    def test_keypoints_behind_the_box(self, tmp_path):
        write(tmp_path, {"a": f"{LINE} 0.1 0.2 2 0.3 0.4 2"})
        write_yaml(tmp_path, f"train: images\nkpt_shape: [2, 3]\n{NAMES}")
        assert objects(tmp_path).boxes.tolist() == [[6, 2, 10, 6]]
        assert not open_all(tmp_path).about["masks"]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [(f"train: /etc\n{NAMES}", "'/etc' is outside its folder"),
         (f"train: images/../../x\n{NAMES}", "is outside its folder"),
         (f"train: nothing\n{NAMES}", "there is no 'nothing'"), (NAMES, "names no folder of images"),
         ("train: images\n", "names must be a list"), ("train: images\nnames: 3\n", "names must be a list"),
         ("train: images\nnames: {0: a, 2: b}\n", "names must be a list, or a name for each number"),
         ("train: images\nnames: [a, a]\n", "names twice 'a'"), (f"train: images\nnc: 3\n{NAMES}", "nc is '3'"),
         ("train: &a images\nval: *a\n", "anchors"), ("names: !!python/object/apply:os.system [ls]\n", "tags"),
         ("[1, 2]", "does not say the names"), ("train: [", "cannot be read"),
         (f"train: images\nkpt_shape: 3\n{NAMES}", "kpt_shape must be two whole numbers")],
        ids=lambda value: value[:40],
    )  # fmt: skip
    def test_what_is_refused(self, tmp_path, text, reason):
        write(tmp_path, {"a": LINE})
        write_yaml(tmp_path, text)
        refused(tmp_path, reason)

    @pytest.mark.parametrize("line", ["/etc/a.png", "../a.png"])
    def test_a_list_that_leads_out_of_its_folder(self, tmp_path, line):
        write(tmp_path, {"a": LINE})
        (tmp_path / "train.txt").write_text(f"images/a.png\n{line}\n")
        write_yaml(tmp_path, f"train: train.txt\n{NAMES}")
        refused(tmp_path, "train.txt, line 2: .* is outside its folder")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("frame", ["upright", "stored"])
def test_orientations(folder, orientation, frame):
    box = (4, 2, 10, 5)
    upright = picture(SIZE, [box])
    stored = save(folder / "images" / "a.png", upright, orientation)
    labelled = upright if frame == "upright" else stored
    pixels = np.argwhere(np.asarray(labelled)[..., 0] == 255)
    (y1, x1), (y2, x2) = pixels.min(0), pixels.max(0) + 1
    width, height = labelled.size
    line = f"0 {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} {(y2 - y1) / height}"
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text(line)
    found = objects(folder) if frame == "upright" else objects(folder, orientation=frame)
    assert found.boxes == pytest.approx(np.array([box]))
    named = "1 image turned by EXIF, whose boxes are taken as those of the upright picture" in notes(folder)
    assert named == (orientation > 1)
    assert not any("EXIF" in note for note in open_all(folder, orientation=frame).notes)


class TestHostileData:
    @pytest.mark.parametrize(
        ("line", "reason"),
        [("0 0.5 0.5 0 0.5", "object with a box whose width or height is not above zero"),
         ("0 0.5 0.5 -0.1 0.5", "object with a box whose width or height is not above zero"),
         ("0 nan 0.5 0.1 0.5", "object with a box of NaN or infinite numbers"),
         ("0 inf 0.5 0.1 0.5", "object with a box of NaN or infinite numbers"),
         ("0 3 3 0.5 0.5", "object with a box outside the image"), ("0 -3 0.5 0.5 0.5", "object with a box outside"),
         ("2 0.5 0.5 0.5 0.5", "object of a class that is not among the 2"),
         ("-1 0.5 0.5 0.5 0.5", "object of a class that is not among the 2"),
         ("0.5 0.5 0.5 0.5 0.5", "object of a class that is not among the 2"),
         ("nan 0.5 0.5 0.5 0.5", "object of a class that is not among the 2"),
         ("cat 0.5 0.5 0.5 0.5", "line of other than numbers"),
         ("0 0.5 0.5 0.5", "line that is neither a class with a box"),
         ("0 0.5 0.5 0.5 0.5 0.9", "line that is neither a class with a box"),
         ("0 0.1 0.1 0.2 0.2 0.3", "line that is neither"), ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "line that is neither"),
         (LINE, "object written twice")],
    )  # fmt: skip
    def test_a_line_is_left_out_and_named(self, folder, line, reason):
        write(folder, {"a": f"{LINE}\n\n{line}\n0 0.25 0.25 0.5 0.5", "b": f"{LINE}\n0 0.1 0.1 0.1 0.1"})
        assert f"left out 1 {reason}" in notes(folder)
        assert f"{folder / 'labels' / 'a.txt'}, line 3" in notes(folder)
        assert objects(folder).labels.tolist() == [1, 0]
        assert objects(folder).boxes.tolist() == [[6, 2, 10, 6], [0, 0, 8, 4]]

    def test_it_is_refused_if_strict(self, folder, strict):
        write(folder, {"a": f"{LINE}\n0 0.5 0.5 0 0.5"})
        refused(folder, "1 object with a box whose .*refused with --strict")

    def test_a_broken_polygon(self, folder):
        write(folder, {"a": "0 0.1 0.1 nan 0.2 0.3 0.3\n1 0 0 0.5 0 0.5 0.5"})
        assert "left out 1 object whose segment is broken" in notes(folder)
        assert objects(folder).labels.tolist() == [1]

    def test_pixels_instead_of_shares(self, folder):
        write(folder, {"a": "0 8 4 4 4\n1 2 2 3 3"})
        refused(folder, "2 of 2 boxes have numbers above 1, .*a.txt, line 1")

    def test_no_labels_at_all(self, folder):
        write(folder, {"a": None, "b": None})
        refused(folder, "no image has a file of labels, for instance .*labels/a.txt")

    def test_a_file_that_is_no_text(self, folder):
        write(folder, {"a": LINE, "b": None})
        (folder / "labels" / "b.txt").write_bytes(b"\xff\xfe\x00")
        assert "left out 1 file of labels that cannot be read" in notes(folder)
        assert [len(one) for one in open_all(folder).splits["all"].labels] == [1, 0]

    def test_an_unreadable_image_is_left_to_those_who_read_it(self, folder):
        write(folder, {"a": LINE, "b": LINE})
        (folder / "images" / "b.png").write_text("no image")
        assert [len(one) for one in open_all(folder).splits["all"].labels] == [1, 0]

    def test_two_images_with_one_file_of_labels(self, folder):
        write(folder, {"a": LINE})
        save(folder / "images" / "a.bmp", Image.new("RGB", (2, 2)))
        refused(folder, "have one file of labels")


@pytest.mark.parametrize(
    ("image", "labels"),
    [("data/images/a.jpg", "data/labels/a.txt"), ("images/x/images/y/a.b.png", "images/x/labels/y/a.b.txt"),
     ("data/photos/a.jpg", "data/photos/a.txt"), ("data/my_images/a.jpg", "data/my_images/a.txt")],
)  # fmt: skip
def test_where_labels_are(image, labels):
    assert labels_of(image) == labels


@pytest.mark.slow
def test_a_million_boxes(folder):
    random = np.random.RandomState(0)
    middles = random.randint(16, 48, (1_000_000, 2)) / 64
    sides = random.randint(1, 16, (1_000_000, 2)) / 64 + np.arange(1_000_000)[:, None] / 2**26
    rows = [
        f"{place % 2} {x} {y} {w!r} {h!r}"
        for place, ((x, y), (w, h)) in enumerate(zip(middles.tolist(), sides.tolist(), strict=True))
    ]
    write(folder, {"a": "\n".join(rows[:500_000]), "b": "\n".join(rows[500_000:])})
    begin = time.process_time()
    labels = open_all(folder).splits["all"].labels
    assert time.process_time() - begin < 60
    assert np.array_equal(np.concatenate([one.labels for one in labels]), np.arange(1_000_000) % 2)
    corners = np.column_stack([middles - sides / 2, middles + sides / 2]) * [16, 8, 16, 8]
    assert np.concatenate([one.boxes for one in labels]) == pytest.approx(corners)
