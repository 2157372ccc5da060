"""Shards whose samples have objects."""

import io
import json
import pickle
import tarfile

import pytest
from PIL import Image

from glocal.data.image import UnreadableImageError
from glocal.data.open import open_for_evaluation, open_for_training
from glocal.data.samples import Opening
from glocal.data.shards import read_shard

pytest.importorskip("webdataset", reason="needs the extra [data]")
SIZE = (6, 8)
BOX = [1, 2, 3, 4]  # x, y, width, height
TRIANGLE = [[1, 2, 4, 2, 1, 6]]


def png(orientation=1):
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", SIZE[::-1]).save(content, "PNG", exif=exif)
    return content.getvalue()


def one(category="cat", bbox=BOX, **more):
    return {"bbox": bbox, "category": category, **more}


@pytest.fixture
def write(tmp_path):
    """Writes two shards of samples with these records beside their images; returns their folder."""

    def write(*records, ending="json", image=None, **files):
        for shard, of_shard in enumerate((records, records)):
            members = []
            for number, record in enumerate(of_shard):
                text = record if isinstance(record, bytes) else json.dumps(record).encode()
                members += [(f"{number:04}.png", image or png()), (f"{number:04}.{ending}", text)]
            with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
                for name, content in members:
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text)
        return str(tmp_path)

    return write


def decoded(data, **args):
    """The objects of the samples of the first shard."""
    samples = open_for_evaluation(data, "all", how=Opening(args=args))[0].splits["all"]
    shard, count = samples.shards[0], samples.counts[0]
    return [samples.decode(sample)[1] for _, sample in read_shard(shard, set(range(count)), count)]


@pytest.mark.parametrize(
    "record",
    [{"objects": [one("dog"), one(iscrowd=1)]}, {"annotations": [one("dog"), one(iscrowd=1)]},
     {"objects": {"bbox": [BOX, BOX], "category": ["dog", "cat"], "iscrowd": [0, 1]}}, [one("dog"), one(iscrowd=1)],
     {"boxes": [BOX, BOX], "labels": ["dog", "cat"], "iscrowd": [False, True], "height": 6, "width": 8}],
    ids=["objects", "annotations", "columns", "list", "flat"],
)  # fmt: skip
def test_objects_beside_images(write, record):
    data = write(record, {"objects": []} if not isinstance(record, list) else [])
    source = open_for_training(data)
    assert (source.task, source.class_names) == ("detection", ["cat", "dog"])
    assert source.about == {"ids": [0, 1], "masks": False}
    assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 2, "val": 2}
    first, second = decoded(data)
    assert first.boxes.tolist() == [[1, 2, 4, 6]] * 2
    assert first.labels.tolist() == [1, 0]
    assert first.crowd.tolist() == [False, True]
    assert (first.size, len(second)) == (SIZE, 0)


def test_segments(write):
    data = write([one(segmentation=TRIANGLE)])
    assert open_for_training(data).about["masks"]
    (found,) = decoded(data)
    assert found.masks(SIZE).sum() == found.areas[0] > 0


def test_corners_and_another_ending(write):
    data = write([one(bbox=[1, 2, 4, 6])], ending="objects.json")
    (found,) = decoded(data, objects="objects.json", boxes="corners")
    assert found.boxes.tolist() == [[1, 2, 4, 6]]


def test_a_list_of_classes(write):
    data = write([one(1)], classes_txt="dog\ncat\n")
    assert open_for_training(data).class_names == ["dog", "cat"]
    assert decoded(data)[0].labels.tolist() == [1]


def test_a_single_class_is_enough(write):
    assert open_for_training(write([one()])).class_names == ["cat"]


def test_labels_come_before_objects(write):
    source = open_for_training(write({"label": "a", "objects": [one()]}, {"label": "b", "objects": []}))
    assert source.task == "classification"
    source = open_for_training(write({"label": "a", "objects": [one()]}), Opening(args={"objects": "json"}))
    assert source.task == "detection"


@pytest.mark.parametrize(("given", "box"), [("upright", [1, 2, 4, 6]), ("stored", [0, 1, 4, 4])])
def test_an_orientation_that_the_user_explains(write, given, box):
    data = write([one()], image=png(6))
    with pytest.raises(UnreadableImageError, match="turned by EXIF"):
        decoded(data)
    (found,) = decoded(data, orientation=given)
    assert found.size == SIZE[::-1]
    assert found.boxes.tolist() == [box]


@pytest.mark.parametrize(
    ("record", "reason"),
    [([one(bbox=[1, 1, 0, 2])], "1 object with a box whose width or height"), ([one(bbox=[1, 2])], "NaN or infinite"),
     ([one(bbox=None)], "without a box"), ([one(bbox=[90, 90, 2, 2])], "outside the image"),
     ([one(segmentation=[[1, 2]])], "segment is broken"), ([one(None)], "of a class that is not among the 1"),
     ({"objects": [one()], "width": 3, "height": 3}, "of another size"), ({"objects": 3}, "expected a list of objects"),
     ({"objects": {"bbox": [BOX], "category": []}}, "different numbers of objects")],
    ids=str,
)  # fmt: skip
def test_a_broken_sample_is_named(write, record, reason):
    data = write(
        [one()], record, sizes_json=json.dumps({f"train-{shard}.tar": 2 for shard in (0, 1)}), classes_txt="cat\n"
    )
    with pytest.raises(UnreadableImageError, match=rf"train-0.tar: 0001: .*{reason}"):
        decoded(data)


def test_an_object_without_a_segment_where_others_have_one(write):
    data = write(*[[one(segmentation=TRIANGLE)]] * 32, [one()])
    assert open_for_training(data).about["masks"]
    with pytest.raises(UnreadableImageError, match="0032: an object without a segment"):
        decoded(data)


@pytest.mark.parametrize(
    ("args", "reason"),
    [({"objects": "cls"}, "no objects .cls among png, json"), ({"objects": 3}, "objects must be the ending"),
     ({"objects": "json", "masks": "seg.png"}, "objects and masks exclude"), ({"boxes": "x"}, "boxes must be corners"),
     ({"orientation": "x"}, "orientation must be upright")],
    ids=str,
)  # fmt: skip
def test_what_is_refused(write, args, reason):
    with pytest.raises(ValueError, match=reason):
        open_for_training(write([one()]), Opening(args=args))


def test_they_go_to_other_processes(write):
    samples = open_for_training(write([one()])).splits["train"]
    assert pickle.loads(pickle.dumps(samples)).content() == samples.content()
