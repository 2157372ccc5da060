"""Which format opens data that several tasks read."""

from types import SimpleNamespace

import pytest
from PIL import Image

from glocal.data.formats import coco_segments, detection, shapes
from glocal.data.open import format_of, open_for_training
from glocal.data.samples import Opening
from glocal.tasks import find_task, registry
from pictures import save


@pytest.fixture
def tasks(monkeypatch):
    """The registered tasks, the last of them detection and instances."""
    others = {name: task for name, task in registry._tasks.items() if name not in ("detection", "instances")}
    named = {"detection": detection.FORMATS, "instances": detection.INSTANCE_FORMATS}
    fakes = {name: SimpleNamespace(name=name, formats=formats) for name, formats in named.items()}
    monkeypatch.setattr(registry, "_tasks", {**others, **fakes})
    return registry._tasks


def write(root, *names):
    """Write empty files; of a name without an ending, an image in a folder of this name."""
    for name in names:
        file = root / name
        if file.suffix:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("")
        else:
            save(file / "a.png", Image.new("RGB", (4, 4)))
    return str(root)


FILES = {
    "coco_objects": ["annotations/instances_train2017.json", "train2017"],
    "coco_panoptic": ["annotations/panoptic_train2017.json", "annotations/instances_train2017.json", "train2017"],
    "_Stuff": ["annotations/stuff_train2017.json", "annotations/instances_train2017.json", "train2017"],
    "voc_objects": ["Annotations/a.xml", "JPEGImages", "ImageSets/Main/train.txt"],
    "mask_folders": ["Annotations/a.xml", "JPEGImages", "SegmentationClass", "ImageSets/Segmentation/train.txt"],
    "yolo": ["images/train", "labels/train/a.txt", "classes.txt"],
    "class_folders": ["cat", "dog"],
}


def name_of(one):
    return getattr(one, "__name__", type(one).__name__).rpartition(".")[2]


@pytest.mark.parametrize(("name", "files"), FILES.items(), ids=FILES)
def test_a_folder_is_recognised_without_a_task(tasks, tmp_path, name, files):
    assert name_of(format_of(write(tmp_path, *files), registry.all_formats())) == name


@pytest.mark.parametrize(
    ("task", "files", "name"),
    [("segmentation", "coco_objects", "coco_segments"), ("detection", "coco_panoptic", "coco_objects"),
     ("detection", "_Stuff", "coco_objects"), ("detection", "mask_folders", "voc_objects"),
     ("panoptic", "coco_panoptic", "OpenedFor")],
)  # fmt: skip
def test_a_task_decides_what_its_formats_open(tasks, tmp_path, task, files, name):
    data = write(tmp_path, *FILES[files])
    assert name_of(format_of(data, tasks[task].formats)) == name
    assert name_of(format_of(data, registry.all_formats(tasks[task]))) == name


def test_the_embedded_set_stays_one_of_label_maps(tasks):
    assert format_of("shapes", registry.all_formats()) is shapes
    assert name_of(format_of("shapes", tasks["detection"].formats)) == "shape_objects"


@pytest.mark.parametrize(
    ("args", "name"),
    [({"annotations": "a.json"}, "coco_objects"), ({"annotations": "stuff"}, "_Stuff"),
     ({"annotations": "a.json", "background": True}, "_Stuff"),
     ({"annotations": "a.json", "orientation": "upright"}, "coco_objects")],
    ids=str,
)  # fmt: skip
def test_arguments_tell_objects_from_segments(tasks, tmp_path, args, name):
    data = write(tmp_path, "a.json", "photos")
    assert name_of(format_of(data, registry.all_formats(), args)) == name


@pytest.mark.parametrize(
    ("name", "args"),
    [("coco_objects", {"images": "train2017"}), ("voc_objects", {"classes": ["a"]}), ("yolo", {"classes": ["a"]}),
     ("voc_objects", {"images": "JPEGImages", "orientation": "upright"}), ("mask_folders", {"classes": ["a", "b"]})],
    ids=str,
)  # fmt: skip
def test_arguments_that_several_formats_know_change_nothing(tasks, tmp_path, name, args):
    assert name_of(format_of(write(tmp_path, *FILES[name]), registry.all_formats(), args)) == name


@pytest.mark.parametrize("name", ["matches", "claims"])
def test_files_of_stuff_are_told_by_their_names(tmp_path, name):
    data = write(tmp_path, "annotations/instances_train.json")
    given = () if name == "matches" else ({"annotations": "instances_train.json"},)
    assert getattr(coco_segments, name)(data, *given)
    assert not getattr(coco_segments.STUFF_FILES, name)(data, *given)


def test_instances_are_objects_with_segments(tasks):
    small = Opening(args={"size": 32, "count": 4})
    source = open_for_training("shapes", small, tasks["instances"].formats)
    assert (source.task, source.about["masks"]) == ("instances", True)


def test_boxes_alone_are_no_instances(tasks, tmp_path):
    (tmp_path / "classes.txt").write_text("cat\n")
    for name in "ab":
        save(tmp_path / "images" / f"{name}.png", Image.new("RGB", (4, 4)))
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5")
    assert open_for_training(str(tmp_path), formats=registry.all_formats()).task == "detection"
    with pytest.raises(ValueError, match="has boxes, and no segment of each object: use --task detection"):
        open_for_training(str(tmp_path), formats=tasks["instances"].formats)


def test_data_of_other_tasks_keeps_its_task(tasks):
    for one in detection.INSTANCE_FORMATS[:2]:
        assert one.ONLY_ASKED
    assert open_for_training("digits", formats=[*find_task("classification").formats]).task == "classification"
