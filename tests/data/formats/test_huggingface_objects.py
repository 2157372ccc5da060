"""Data sets of the library `datasets` with objects."""

import io
import pickle

import pytest
from PIL import Image

from glocal.data.open import open_for_evaluation, open_for_training
from glocal.data.samples import Opening

datasets = pytest.importorskip("datasets", reason="needs the extra [data]")
SIZE = (6, 8)
BOX = [1.0, 2.0, 3.0, 4.0]  # x, y, width, height
TRIANGLE = [[1.0, 2.0, 4.0, 2.0, 1.0, 6.0]]
CLASS = datasets.ClassLabel(names=["cat", "dog"])
NUMBERS = datasets.List(datasets.Value("float32"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def image(orientation=1):
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", SIZE[::-1]).save(content, "PNG", exif=exif)
    return {"bytes": content.getvalue(), "path": None}


def one(category=0, bbox=BOX, **more):
    return {"bbox": bbox, "category": category, **more}


@pytest.fixture
def save(tmp_path):
    """Saves tables of rows of objects, by the names of their splits; returns what `glocal` calls it."""

    def save(rows=None, label=CLASS, as_columns=False, inner=None, orientation=1, more=None, **splits):
        fields = {"bbox": NUMBERS, "category": label, **(inner or {})}
        feature = {name: datasets.List(one) for name, one in fields.items()} if as_columns else datasets.List(fields)
        more = more or {}
        features = {"picture": datasets.Image(), "objects": feature} | {name: of[0] for name, of in more.items()}
        tables = {}
        for split, found in (splits or {"train": rows}).items():
            values = [{name: [row.get(name) for row in of_image] for name in fields} for of_image in found]
            columns = {
                "picture": [image(orientation)] * len(found),
                "objects": values if as_columns else found,
                **{name: of[1] for name, of in more.items()},
            }
            tables[split] = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        datasets.DatasetDict(tables).save_to_disk(str(tmp_path / "saved"))
        return f"hf:{tmp_path / 'saved'}"

    return save


def everything(data, **args):
    return open_for_evaluation(data, "all", how=Opening(args=args))[0]


def objects(data, place=0, **args):
    return everything(data, **args).splits["all"].labels[place]


@pytest.mark.parametrize("as_columns", [False, True], ids=["list of objects", "lists of their fields"])
def test_a_column_of_objects(save, as_columns):
    data = save([[one(1), one(0, iscrowd=True, area=5.0)], []], as_columns=as_columns,
                inner={"iscrowd": datasets.Value("bool"), "area": datasets.Value("float32")})  # fmt: skip
    source = everything(data)
    assert (source.task, source.class_names) == ("detection", ["cat", "dog"])
    assert source.about == {"ids": [0, 1], "masks": False}
    first, second = source.splits["all"].labels
    assert first.boxes.tolist() == [[1, 2, 4, 6]] * 2
    assert first.labels.tolist() == [1, 0]
    assert first.crowd.tolist() == [False, True]
    assert first.areas.tolist() == [12, 5]
    assert (first.size, len(second)) == (SIZE, 0)
    assert source.splits["all"].load(0).size == SIZE[::-1]


@pytest.mark.parametrize(
    ("label", "values", "names"),
    [(datasets.Value("string"), ["dog", "cat"], ["cat", "dog"]), (datasets.Value("int64"), [90, 3], ["3", "90"])],
    ids=["names", "numbers with gaps"],
)  # fmt: skip
def test_classes_that_the_column_does_not_list(save, label, values, names):
    data = save([[one(value) for value in values]], label=label)
    assert everything(data).class_names == names
    assert objects(data).labels.tolist() == [1, 0]


def test_segments(save):
    data = save([[one(segmentation=TRIANGLE)]], inner={"segmentation": datasets.List(NUMBERS)})
    assert everything(data).about["masks"]
    assert objects(data).masks(SIZE).sum() == objects(data).areas[0] > 0


def test_splits(save):
    source = open_for_training(save(train=[[one()]] * 3, validation=[[one()]], test=[[one()]]))
    assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 3, "val": 1}


def test_a_part_is_held_out_and_found_again(save):
    data = save([[one(0, [place / 4, 1, 2, 2])] for place in range(10)])
    source = open_for_training(data)
    assert (len(source.splits["train"]), len(source.splits["val"])) == (8, 2)
    again, split = open_for_evaluation(data, "auto", source.held_out)
    assert split == "val"
    assert [one.content() for one in again.splits["val"].labels] == [
        one.content() for one in source.splits["val"].labels
    ]


def test_corners(save):
    data = save([[one(bbox=[4, 3, 8, 6])]])
    with pytest.raises(ValueError, match=r"1 of 1 boxes reach beyond .* \(--data-args '\{boxes: corners\}' says so\)"):
        everything(data)
    assert objects(data, boxes="corners").boxes.tolist() == [[4, 3, 8, 6]]


@pytest.mark.parametrize(("size", "box"), [((8, 6), [1, 2, 4, 6]), ((6, 8), [0, 1, 4, 4])], ids=["upright", "stored"])
def test_sizes_beside_the_images_decide_of_which_picture_boxes_are(save, size, box):
    number = datasets.Value("int64")
    more = {"height": (number, [size[0]]), "width": (number, [size[1]])}
    assert objects(save([[one()]], orientation=6, more=more)).boxes.tolist() == [box]


def test_without_sizes_a_turned_image_is_left_out(save):
    data = save([[one()]], orientation=6)
    with pytest.raises(ValueError, match=r"no image can be used with its boxes: 1 image turned by EXIF.*row 0"):
        everything(data)
    assert objects(data, orientation="upright").boxes.tolist() == [[1, 2, 4, 6]]


def test_labels_come_before_objects(save):
    data = save([[one()]] * 4, more={"label": (CLASS, [0, 1, 0, 1])})
    source = open_for_training(data)
    assert source.task == "classification"
    assert any("'objects' holds boxes; --data-args objects=objects trains a detection" in note for note in source.notes)
    assert everything(data, objects="objects").task == "detection"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [(one(bbox=[1, 1, 0, 2]), "width or height is not above zero"), (one(bbox=[1, 2]), "NaN or infinite"),
     (one(bbox=[float("nan"), 1, 1, 1]), "NaN or infinite"), (one(bbox=None), "without a box"),
     (one(bbox=[90, 90, 1, 1]), "outside the image"), (one(None), "of a class that is not listed")],
    ids=str,
)  # fmt: skip
def test_an_object_is_left_out_and_named(save, wrong, reason):
    data = save([[one(1)], [one(0), wrong]])
    assert any(reason in note and "row 1, object 2" in note for note in everything(data).notes)
    assert [len(one) for one in everything(data).splits["all"].labels] == [1, 1]


def test_it_is_refused_if_strict(save, strict):
    with pytest.raises(ValueError, match="refused with --strict"):
        everything(save([[one(bbox=[1, 1, 0, 2])]]))


@pytest.mark.parametrize(
    ("args", "reason"),
    [({"objects": "picture"}, "no column of objects 'picture': it has 'objects'"), ({"boxes": "x"}, "boxes must be"),
     ({"orientation": 1}, "orientation must be"), ({"classes": ["a", "b"]}, "'classes' is for masks")],
    ids=str,
)  # fmt: skip
def test_what_is_refused(save, args, reason):
    with pytest.raises(ValueError, match=reason):
        everything(save([[one()]]), **args)


@pytest.mark.parametrize("content", [None, b"", b"no image"], ids=["none", "empty", "broken"])
def test_an_image_that_cannot_be_read_is_left_to_those_who_read_it(tmp_path, content):
    features = {"picture": datasets.Image(), "objects": datasets.List({"bbox": NUMBERS, "category": CLASS})}
    second = None if content is None else {"bytes": content, "path": None}
    values = {"picture": [image(), second], "objects": [[one()], [one()]]}
    datasets.Dataset.from_dict(values, features=datasets.Features(features)).save_to_disk(str(tmp_path / "saved"))
    samples = everything(f"hf:{tmp_path / 'saved'}").splits["all"]
    assert [len(objects) for objects in samples.labels] == [1, 1]
    assert [objects.size for objects in samples.labels] == [SIZE, None]


def test_images_in_files_beside_the_table(tmp_path):
    (tmp_path / "a.png").write_bytes(image(6)["bytes"])
    features = {"picture": datasets.Image(), "objects": datasets.List({"bbox": NUMBERS, "category": CLASS})}
    values = {"picture": [{"bytes": None, "path": str(tmp_path / "a.png")}], "objects": [[one()]]}
    datasets.Dataset.from_dict(values, features=datasets.Features(features)).save_to_disk(str(tmp_path / "saved"))
    assert objects(f"hf:{tmp_path / 'saved'}", orientation="stored").size == SIZE[::-1]


def test_they_go_to_other_processes(save):
    samples = everything(save([[one()]])).splits["all"]
    again = pickle.loads(pickle.dumps(samples))
    assert again.labels[0].content() == samples.labels[0].content()
    assert again.load(0).size == SIZE[::-1]
