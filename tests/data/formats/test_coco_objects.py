"""COCO's format of objects."""

import json
import os
import time

import numpy as np
import pytest
from PIL import Image

from glocal.data.formats import coco_objects
from glocal.data.samples import Opening
from glocal.data.segments import mask_of_polygons, runs_of_mask, text_of_runs
from object_formats import Reads
from pictures import box_seen, picture, save

CATEGORIES = [{"id": 90, "name": "sky"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
SIZE = (8, 12)
TRIANGLE = [1, 1, 9, 1, 1, 7]
L_SHAPE = np.zeros(SIZE, bool)
L_SHAPE[2:6, 3:5] = L_SHAPE[4:6, 3:10] = True

reads = Reads(coco_objects)
open_all, objects, notes, refused = reads.open_all, reads.objects, reads.notes, reads.refused


def as_runs(mask, as_text=True):
    runs = runs_of_mask(mask)
    return {"size": list(mask.shape), "counts": text_of_runs(runs) if as_text else runs}


def one(box=(2, 1, 4, 3), category_id=3, **more):
    return {"image_id": 0, "category_id": category_id, "bbox": list(box), **more}


def content_of(annotations, names=("a", "b"), categories=None, size=SIZE):
    height, width = size
    images = [{"id": i, "file_name": f"{name}.png", "width": width, "height": height} for i, name in enumerate(names)]
    numbered = [{"id": place, **annotation} for place, annotation in enumerate(annotations)]
    return {"images": images, "annotations": numbered, "categories": list(categories or CATEGORIES)}


def write(root, annotations, names=("a", "b"), part="train", file=None, text=None, **more):
    """Write the images and the JSON file of a part; returns the file."""
    file = file or root / "annotations" / f"instances_{part}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        save(root / part / f"{name}.png", Image.new("RGB", SIZE[::-1]))
    file.write_text(text or json.dumps(content_of(annotations, names, **more)))
    return file


class TestData:
    def test_what_an_image_has(self, tmp_path):
        annotations = [one(), one((0, 0, 12, 8), 90, iscrowd=1, area=50.5, segmentation=as_runs(L_SHAPE))]
        write(tmp_path, annotations)
        assert coco_objects.matches(str(tmp_path))
        source = open_all(tmp_path)
        assert source.task == "detection"
        assert source.class_names == ["person", "car", "sky"]
        assert source.about == {"ids": [1, 3, 90], "masks": False}
        found = source.splits["all"].labels[0]
        assert found.boxes.tolist() == [[2, 1, 6, 4], [0, 0, 12, 8]]
        assert found.labels.tolist() == [1, 2]
        assert found.crowd.tolist() == [False, True]
        assert found.areas.tolist() == [12, 50.5]
        assert found.size == SIZE
        assert not found.has_segments

    @pytest.mark.parametrize("ids", [(0, 1), (1, 2), (1, 3, 90)], ids=str)
    def test_names_do_not_shift(self, tmp_path, ids):
        categories = [{"id": number, "name": f"class {number}"} for number in reversed(ids)]
        write(tmp_path, [one(category_id=number) for number in ids], categories=categories)
        source = open_all(tmp_path)
        labels = source.splits["all"].labels[0].labels
        assert [source.class_names[label] for label in labels] == [f"class {number}" for number in ids]
        assert [source.about["ids"][label] for label in labels] == list(ids)

    def test_images_without_objects_stay(self, tmp_path):
        write(tmp_path, [one()], names="abc")
        samples = open_all(tmp_path).splits["all"]
        assert [len(one) for one in samples.labels] == [1, 0, 0]
        assert [os.path.basename(image) for image in samples.images] == ["a.png", "b.png", "c.png"]

    @pytest.mark.parametrize(
        ("segmentation", "mask"),
        [([TRIANGLE], mask_of_polygons([TRIANGLE], SIZE)),
         ([TRIANGLE, [9, 5, 12, 5, 12, 8, 9, 8]], mask_of_polygons([TRIANGLE, [9, 5, 12, 5, 12, 8, 9, 8]], SIZE)),
         (as_runs(L_SHAPE), L_SHAPE), (as_runs(L_SHAPE, as_text=False), L_SHAPE)],
        ids=["polygon", "two polygons", "text of runs", "runs"],
    )  # fmt: skip
    def test_segments(self, tmp_path, segmentation, mask):
        write(tmp_path, [one(segmentation=segmentation)])
        source = open_all(tmp_path)
        assert source.about["masks"]
        found = source.splits["all"].labels[0]
        assert np.array_equal(found.masks(SIZE), [mask])
        assert found.areas.tolist() == [mask.sum()]  # as nothing says it

    @pytest.mark.parametrize("segmentation", [[TRIANGLE], as_runs(L_SHAPE)], ids=["polygon", "runs"])
    def test_a_box_that_only_the_segment_tells(self, tmp_path, segmentation):
        annotation = one(segmentation=segmentation)
        del annotation["bbox"]
        write(tmp_path, [annotation])
        box = [1, 1, 9, 7] if isinstance(segmentation, list) else [3, 2, 10, 6]
        assert objects(tmp_path).boxes.tolist() == [box]

    def test_an_area_is_taken_as_it_is_written_and_else_computed(self, tmp_path):
        write(tmp_path, [one(area=7.25), one(area=0), one(area=None), one(area=-3, segmentation=[TRIANGLE])])
        masks = mask_of_polygons([TRIANGLE], SIZE).sum()
        assert objects(tmp_path).areas.tolist() == [7.25, 12, 12, masks]

    def test_a_box_is_clipped_to_its_image(self, tmp_path):
        write(tmp_path, [one((-2, -1, 20, 4))])
        found = objects(tmp_path)
        assert found.boxes.tolist() == [[0, 0, 12, 3]]
        assert found.areas.tolist() == [36]

    def test_texts_as_ids_and_flags_as_truths(self, tmp_path):
        content = content_of([one(iscrowd=True)])
        for place, image in enumerate(content["images"]):
            image["id"] = f"image {place}"
        content["annotations"][0] |= {"image_id": "image 1", "id": "x"}
        write(tmp_path, [], text=json.dumps(content))
        assert objects(tmp_path, 1).crowd.tolist() == [True]

    def test_images_and_annotations_in_any_order(self, tmp_path):
        annotations = [one((place, 0, 2, 2)) | {"image_id": place % 3} for place in (4, 0, 5, 1, 2, 3)]
        write(tmp_path, annotations, names="cab")
        samples = open_all(tmp_path).splits["all"]
        found = {
            os.path.basename(image): objects.boxes[:, 0].tolist()
            for image, objects in zip(samples.images, samples.labels, strict=True)
        }
        assert found == {"a.png": [4, 1], "b.png": [5, 2], "c.png": [0, 3]}

    def test_names_in_addresses_as_lvis_has_them(self, tmp_path):
        content = content_of([one()])
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/train/{image.pop('file_name')}"
        write(tmp_path, [], text=json.dumps(content), file=tmp_path / "lvis_v1_train.json")
        assert coco_objects.matches(str(tmp_path))
        assert len(objects(tmp_path)) == 1

    def test_sizes_that_the_file_does_not_say(self, tmp_path):
        content = content_of([one()])
        for image in content["images"]:
            del image["width"]
        write(tmp_path, [], text=json.dumps(content))
        assert objects(tmp_path).size == SIZE

    def test_a_single_category_is_enough(self, tmp_path):
        write(tmp_path, [one()], categories=[{"id": 3, "name": "car"}])
        assert open_all(tmp_path).class_names == ["car"]

    def test_one_file_name_in_two_folders(self, tmp_path):
        names = ["left/a", "right/a"]
        write(tmp_path, [one(), one() | {"image_id": 1, "category_id": 1}], names=names)
        samples = open_all(tmp_path).splits["all"]
        assert [image[-len("right/a.png") :] for image in samples.images] == ["/left/a.png", "right/a.png"]
        assert [objects.labels.tolist() for objects in samples.labels] == [[1], [0]]

    def test_more_than_255_objects(self, tmp_path):
        boxes = [
            one((x, y, 0.5, 0.5), segmentation=[[x, y, x + 1.2, y, x, y + 1.2]]) for x in range(12) for y in range(8)
        ]
        write(tmp_path, boxes * 4)
        found = objects(tmp_path)
        assert len(found) == 4 * 96
        assert found.masks(SIZE).sum((1, 2)).max() == 1

    def test_roboflows_folders(self, tmp_path):
        for part in ("train", "valid", "test"):
            write(tmp_path, [one()], part=part, file=tmp_path / part / "_annotations.coco.json")
        assert coco_objects.matches(str(tmp_path))
        source = coco_objects.open_training(str(tmp_path), Opening())
        assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 2, "val": 2}

    def test_a_file_by_its_name(self, tmp_path):
        write(tmp_path, [one()], file=tmp_path / "panoptic.json", part="photos")
        (tmp_path / "panoptic.json").rename(tmp_path / "objects.txt")
        assert not coco_objects.matches(str(tmp_path))
        (tmp_path / "objects.txt").rename(tmp_path / "objects.json")
        assert coco_objects.claims(str(tmp_path), {"annotations": "objects.json"})
        assert len(objects(tmp_path, annotations="objects.json", images="photos")) == 1

    @pytest.mark.parametrize("name", ["result.json", "annotations/annotations.json", "train.json", "train/coco.json"])
    def test_names_of_other_programs(self, tmp_path, name):
        write(tmp_path, [one()], file=tmp_path / name, part="train" if "train" in name else "images")
        assert coco_objects.matches(str(tmp_path))
        assert len(objects(tmp_path)) == 1

    def test_parts_of_other_names(self, tmp_path):
        write(tmp_path, [one()], file=tmp_path / "train.json")
        write(tmp_path, [one()], part="val", file=tmp_path / "val.json")
        assert set(open_all(tmp_path).splits) == {"train", "val"}

    def test_the_words_at_the_end_of_a_long_file(self, tmp_path, monkeypatch):
        content = content_of([one() for _ in range(100)])
        write(tmp_path, [], text=json.dumps(content), file=tmp_path / "result.json")
        assert (tmp_path / "result.json").stat().st_size > 1000
        monkeypatch.setattr(coco_objects, "SNIFFED", 300)
        assert coco_objects.matches(str(tmp_path))

    @pytest.mark.parametrize(
        ("name", "change"),
        [("result.json", lambda content: content.pop("categories")),
         ("result.json", lambda content: content.pop("images")),
         ("result.json", lambda content: content["annotations"][0].pop("bbox")),
         ("panoptic_x.json", lambda content: None), ("person_keypoints_x.json", lambda content: None),
         ("result.txt", lambda content: None)],
    )  # fmt: skip
    def test_other_files_do_not_match(self, tmp_path, name, change):
        content = content_of([one()])
        change(content)
        write(tmp_path, [], text=json.dumps(content), file=tmp_path / name)
        assert not coco_objects.matches(str(tmp_path))

    def test_a_file_without_annotations_of_one_part(self, tmp_path):
        write(tmp_path, [one()])
        write(tmp_path, [], part="val", names="c")
        source = open_all(tmp_path)
        assert [len(one) for one in source.splits["val"].labels] == [0]


class TestAsPycocotoolsReadsIt:
    """What COCO's own library finds in a file that has all kinds of annotations."""

    @pytest.fixture(scope="class")
    def both(self, tmp_path_factory):
        coco = pytest.importorskip("pycocotools.coco", reason="needs the extra [dev]")
        root, random, size = tmp_path_factory.mktemp("data"), np.random.RandomState(0), (60, 80)
        annotations = []
        for number in range(40):
            x, y = random.randint(0, 40, 2).tolist()
            corners = (random.rand(random.randint(3, 9), 2) * 20 + [x, y]).round(2)
            corners = corners[np.argsort(np.arctan2(*(corners - corners.mean(0)).T))]
            mask = random.rand(*size) < 0.02
            mask[y : y + 20, x : x + 20] = True
            (x1, y1), (x2, y2) = corners.min(0).tolist(), corners.max(0).tolist()
            annotation = one((x1, y1, x2 - x1, y2 - y1), (1, 3, 90)[number % 3], area=random.rand() * 400)
            annotation |= {"image_id": number % 4, "segmentation": [corners.ravel().tolist()]}
            if number % 5 == 0:
                rows, columns = np.nonzero(mask)
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
                annotation |= {"segmentation": as_runs(mask, number % 2), "iscrowd": 1, "bbox": list(map(int, box))}
            annotations.append(annotation)
        file = write(root, annotations, names="abcde", size=size)
        for image in (root / "train").iterdir():
            save(image, Image.new("RGB", size[::-1]))
        return coco.COCO(str(file)), open_all(root)

    @pytest.mark.parametrize("place", range(5))
    def test_an_image(self, both, place):
        theirs, source = both
        ours = source.splits["all"].labels[place]
        found = theirs.loadAnns(theirs.getAnnIds(imgIds=[place]))
        boxes = np.array([annotation["bbox"] for annotation in found]).reshape(-1, 4)
        assert ours.boxes == pytest.approx(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
        assert ours.areas.tolist() == [annotation["area"] for annotation in found]
        assert ours.crowd.tolist() == [bool(annotation.get("iscrowd")) for annotation in found]
        names = [theirs.loadCats(annotation["category_id"])[0]["name"] for annotation in found]
        assert [source.class_names[label] for label in ours.labels] == names
        for mask, annotation in zip(ours.masks((60, 80)), found, strict=True):
            other = theirs.annToMask(annotation).astype(bool)
            if annotation.get("iscrowd"):
                assert np.array_equal(mask, other)
            else:  # of polygons, pycocotools takes about half a pixel more
                assert (mask & other).sum() == pytest.approx(mask.sum(), abs=8)
                assert (mask ^ other).sum() <= 70

    def test_areas_of_run_lengths_that_the_file_does_not_say(self, tmp_path):
        masks = pytest.importorskip("pycocotools.mask")
        runs = as_runs(L_SHAPE)
        write(tmp_path, [one(segmentation=runs)])
        assert objects(tmp_path).areas.tolist() == [masks.area(runs)]


class TestHeldOut:
    def annotations(self):
        """20 images with cars, of which the first two have a sky, and none objects in the last five."""
        return [one() | {"image_id": place} for place in range(20)] + [
            one(category_id=90) | {"image_id": place} for place in range(2)
        ]

    def test_every_class_with_several_images_is_held_out(self, tmp_path):
        write(tmp_path, self.annotations(), names=[f"{place:02}" for place in range(25)])
        source = coco_objects.open_training(str(tmp_path), Opening(seed=3))
        for split, count in (("train", 20), ("val", 5)):
            samples = source.splits[split]
            assert len(samples) == count
            assert sum(2 in one.labels for one in samples.labels) == 1
        again = coco_objects.open_evaluation(str(tmp_path), Opening(), source.held_out)
        assert again.splits["val"].images == source.splits["val"].images

    def test_groups_stay_together(self, tmp_path):
        write(tmp_path, self.annotations(), names=[f"video{place // 5}_{place}" for place in range(25)])
        source = coco_objects.open_training(str(tmp_path), Opening(group=r"video\d"))
        groups = [{os.path.basename(image)[:6] for image in source.splits[split].images} for split in ("train", "val")]
        assert groups[1]
        assert not groups[0] & groups[1]


@pytest.mark.parametrize("frame", ["upright", "stored"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_and_pictures_that_boxes_are_of(tmp_path, orientation, frame):
    box = (2, 1, 7, 3)
    upright = picture(SIZE, [box])
    stored = save(tmp_path / "train" / "a.png", upright, orientation)
    labelled = upright if frame == "upright" else stored
    x1, y1, x2, y2 = box_seen(labelled, (255, 0, 0))
    corners = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    content = content_of([one((x1, y1, x2 - x1, y2 - y1), segmentation=corners)], "a", size=labelled.size[::-1])
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
    if orientation in (2, 3, 4):  # which keep width and height
        refused(tmp_path, "no image can be used with its boxes: 1 image turned by EXIF")
        samples = open_all(tmp_path, orientation=frame).splits["all"]
    else:
        samples = open_all(tmp_path).splits["all"]
    assert samples.labels[0].boxes.tolist() == [list(box)]
    shown = np.asarray(samples.load(0))[..., 0] == 255
    assert np.array_equal(samples.labels[0].masks(SIZE), [shown])


NAN, INF = float("nan"), float("inf")


class TestHostileData:
    @pytest.mark.parametrize(
        ("annotation", "reason"),
        [(one((1, 1, 0, 3)), "whose width or height is not above zero"),
         (one((0, 0, 0, 0)), "whose width or height is not above zero"),
         (one((5, 5, -2, -2)), "whose width or height is not above zero"),
         (one((NAN, 1, 2, 2)), "NaN or infinite"), (one((1, 1, INF, 2)), "NaN or infinite"),
         (one((-INF, 1, 2, 2)), "NaN or infinite"), (one((1, 1, 2)), "NaN or infinite"),
         (one(()), "without a box"),
         (one((30, 30, 4, 4)), "with a box outside the image"), (one((-9, 1, 4, 4)), "with a box outside the image"),
         (one(segmentation=[[1, 1, 5, 5]]), "whose segment is broken"),
         (one(segmentation=[[1, 1, 5, 5, 3, 3, 3]]), "whose segment is broken"),
         (one(segmentation=[[1, 1, 5, 5, NAN, 3]]), "whose segment is broken"),
         (one(segmentation=[[1, 1, 5, 5, 1e300, 3]]), "whose segment is broken"),
         (one(segmentation={"size": [12, 8], "counts": [96]}), "whose segment is broken"),
         (one(segmentation={"size": [8, 12], "counts": [95]}), "whose segment is broken"),
         (one(segmentation={"size": [8, 12], "counts": "~"}), "whose segment is broken"),
         (one(segmentation="abc"), "whose segment is broken"), (one(segmentation=3), "whose segment is broken"),
         (one(category_id=4), "of a category that is not listed"),
         (one(category_id=-1), "of a category that is not listed"),
         (one() | {"image_id": 9}, "of an image that is not listed")],
        ids=lambda value: str(value)[:60],
    )  # fmt: skip
    def test_an_object_is_left_out_and_named(self, tmp_path, annotation, reason):
        file = write(tmp_path, [one(), annotation | {"id": 77}, annotation | {"id": 78}, one(category_id=1)])
        found = notes(tmp_path)
        assert f"{file}: left out 2 objects" in found
        assert reason in found
        assert "id 77" in found
        assert objects(tmp_path).labels.tolist() == [1, 0]
        assert objects(tmp_path).boxes.tolist() == [[2, 1, 6, 4]] * 2

    def test_it_is_refused_if_strict(self, tmp_path, strict):
        write(tmp_path, [one(), one((1, 1, 0, 3))])
        refused(tmp_path, "instances_train.json: 1 object with a box whose .*refused with --strict")

    def test_other_polygons_of_a_segment_are_used(self, tmp_path):
        write(tmp_path, [one(segmentation=[TRIANGLE, [1, 1, 2, 2]])])
        assert "left out 1 polygon of less than three corners" in notes(tmp_path)
        assert objects(tmp_path).segmentation(0) == [TRIANGLE]

    def test_an_annotation_that_is_written_twice(self, tmp_path):
        write(tmp_path, [one(id=5), one(id=5), one()])
        assert "left out 1 object written twice" in notes(tmp_path)
        assert len(objects(tmp_path)) == 2

    def test_other_annotations_with_an_id_of_another_are_used(self, tmp_path):
        write(tmp_path, [one(id=5), one((1, 1, 2, 2), id=5)])
        assert "1 annotation with the id of another annotation; all are used" in notes(tmp_path)
        assert len(objects(tmp_path)) == 2

    def test_missing_images_are_left_out(self, tmp_path):
        write(tmp_path, [one(), one() | {"image_id": 1}], names="abc")
        (tmp_path / "train" / "a.png").unlink()
        source = open_all(tmp_path)
        assert any("left out 1 image without a file" in note and "a.png" in note for note in source.notes)
        assert [len(one) for one in source.splits["all"].labels] == [1, 0]

    def test_all_images_are_missing(self, tmp_path):
        write(tmp_path, [one()], names="abc")
        for name in "abc":
            (tmp_path / "train" / f"{name}.png").unlink()
        refused(tmp_path, "no image can be used with its boxes: 3 images without a file, the first: .*a.png")

    def test_missing_images_are_refused_if_strict(self, tmp_path, strict):
        write(tmp_path, [one()], names="abc")
        (tmp_path / "train" / "b.png").unlink()
        refused(tmp_path, "1 image without a file")

    def test_an_image_of_another_size(self, tmp_path):
        write(tmp_path, [one(), one() | {"image_id": 1}])
        save(tmp_path / "train" / "b.png", Image.new("RGB", (13, 8)))
        assert "left out 1 image of another size than the annotations say, the first: b.png of 13×8" in notes(tmp_path)
        assert len(open_all(tmp_path).splits["all"]) == 1

    def test_an_unreadable_image_is_left_to_those_who_read_it(self, tmp_path):
        write(tmp_path, [one(), one() | {"image_id": 1}])
        (tmp_path / "train" / "b.png").write_text("no image")
        samples = open_all(tmp_path).splits["all"]
        assert [len(one) for one in samples.labels] == [1, 1]

    def test_corners_instead_of_width_and_height(self, tmp_path):
        write(tmp_path, [one((6, 4, 11, 7)), one((7, 5, 12, 8)), one((1, 1, 3, 3))])
        refused(tmp_path, "2 of 3 boxes reach beyond .* they look like x1, y1, x2, y2")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [(lambda content: content["images"].append(content["images"][0]), "two images have one id"),
         (lambda content: content["images"].append(content["images"][0] | {"id": 8}), "two images have one file_name"),
         (lambda content: content["images"][0].update(file_name="../a.png"), "'../a.png' is no name of a file"),
         (lambda content: content["images"][0].update(file_name="/a.png"), "'/a.png' is no name of a file"),
         (lambda content: content["images"][0].update(width=-1), r"width"),
         (lambda content: content["images"][0].pop("file_name"), "the image with the id 0 has no file_name"),
         (lambda content: content["categories"].append({"id": 3, "name": "x"}), "several categories have the id '3'"),
         (lambda content: content["categories"].append({"id": 4, "name": "car"}), "categories have the name 'car'"),
         (lambda content: content["annotations"].clear(), "holds no objects"),
         (lambda content: content["annotations"][0].pop("category_id"), r"missing required field `category_id`"),
         (lambda content: content["annotations"][0].update(bbox="abc"), r"annotations\[0\].bbox")],
    )  # fmt: skip
    def test_what_is_refused(self, tmp_path, change, reason):
        content = content_of([one()])
        change(content)
        file = write(tmp_path, [], text=json.dumps(content))
        refused(tmp_path, rf"{file.name if 'objects' not in reason else ''}.*{reason}")

    @pytest.mark.parametrize("length", [0, 1, 40, -1])
    def test_a_file_that_is_cut_off(self, tmp_path, length):
        text = json.dumps(content_of([one()]))[:length]
        write(tmp_path, [], text=text or " ")
        refused(tmp_path, "is no file of COCO's format")

    @pytest.mark.parametrize(
        "text", ["[]", '{"images": ' + "[" * 9999, '{"images": [NaN]}'], ids=["list", "deep", "NaN"]
    )
    def test_no_file_of_coco(self, tmp_path, text):
        write(tmp_path, [], text=text)
        refused(tmp_path, "is no file of COCO's format")

    def test_texts_that_look_like_numbers_which_json_does_not_have(self, tmp_path):
        categories = [{"id": 3, "name": 'NaN "Infinity"'}]
        write(tmp_path, [one(), one((NAN, 0, 1, 1))], categories=categories)
        assert open_all(tmp_path).class_names == ['NaN "Infinity"']

    @pytest.mark.parametrize("orientation", ["sideways", 3])
    def test_an_unknown_orientation(self, tmp_path, orientation):
        write(tmp_path, [one()])
        refused(tmp_path, "orientation must be upright or stored", orientation=orientation)


@pytest.mark.slow
def test_a_million_boxes(tmp_path):
    random = np.random.RandomState(0)
    count = 1_000_000
    boxes = np.add(random.randint(0, 4, (count, 4)), (0, 0, 1, 1))
    images = random.randint(0, 2, count)
    text = ",".join(
        f'{{"id":{row},"image_id":{images[row]},"category_id":3,"bbox":{box},"iscrowd":0,"area":1}}'
        for row, box in enumerate(boxes.tolist())
    )
    content = content_of([])
    content["annotations"] = "HERE"
    write(tmp_path, [], text=json.dumps(content).replace('"HERE"', f"[{text}]"))
    begin = time.process_time()
    labels = open_all(tmp_path).splits["all"].labels
    assert time.process_time() - begin < 30
    corners = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    for place in (0, 1):
        assert np.array_equal(labels[place].boxes, corners[images == place])
