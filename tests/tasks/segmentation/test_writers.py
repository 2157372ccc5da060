"""--save: label maps come back exactly from PNG files, COCO's JSON and polygons; nothing is there in part."""

import json
import os
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from glocal.cli import main
from glocal.data.image import UnreadableImageError
from glocal.data.masks import distinct_colors
from glocal.data.segments import mask_of_polygons, mask_of_text
from glocal.deploy.predictor import Predictor
from glocal.tasks import find_task
from glocal.tasks.segmentation.result import Segmentation
from glocal.tasks.segmentation.results import result
from glocal.tasks.task import Trained

SEGMENTATION = find_task("segmentation")
WRITERS = SEGMENTATION.writers
BROKEN = Segmentation("broken.png", UnreadableImageError("broken.png", "no image"))


def trained(count=3, ids=()):
    names = [f"class {number}" for number in range(count)]
    return Trained(None, "model", SEGMENTATION, names, names, {}, None, {"ids": list(ids)})


def made(labels, source="photos/a.jpg", model=None):
    model = model or trained()
    labels = np.asarray(labels, np.uint8 if len(model.class_names) <= 256 else np.int32)
    confidence = np.linspace(0.5, 1, len(model.class_names), dtype=np.float32)
    return Segmentation(**{**vars(result(labels, confidence, model)), "source": source})


def random_maps(count=3, classes=3):
    random = np.random.RandomState(0)
    return [random.randint(0, classes, (7 + number, 5)) for number in range(count)]


def write(kind, results, place, model=None):
    """Through the writer, one by one: what it passes on."""
    if not WRITERS[kind].endings:
        place.mkdir(exist_ok=True)
    return list(WRITERS[kind].write(iter(results), place, model or trained()))


class TestPictures:
    @pytest.mark.parametrize(("classes", "mode"), [(3, "P"), (256, "P"), (300, "I;16")])
    def test_numbers_of_classes_come_back(self, classes, mode, tmp_path):
        model = trained(classes)
        maps = [np.arange(classes).reshape(-1, 1), *random_maps(classes=classes)]
        write("labels", [made(one, "x/é.tif", model) for one in maps], tmp_path / "out", model)
        for number, labels in enumerate(maps):
            image = Image.open(tmp_path / "out" / f"{number:05}-é.png")
            assert image.mode == mode
            assert np.array_equal(np.asarray(image), labels)
            if mode == "P":
                assert image.getpalette()[: 3 * classes] == np.ravel(distinct_colors(classes)).tolist()

    @pytest.mark.parametrize(("ids", "bits"), [([7, 0, 255], np.uint8), ([0, 21_005, 65_535], np.uint16)])
    def test_the_values_of_the_data_come_back(self, ids, bits, tmp_path):
        model, maps = trained(ids=ids), random_maps()
        write("ids", [made(one) for one in maps], tmp_path / "out", model)
        for number, labels in enumerate(maps):
            found = np.asarray(Image.open(tmp_path / "out" / f"{number:05}-a.png"))
            assert found.dtype == bits
            assert np.array_equal(found, np.array(ids)[labels])

    @pytest.mark.parametrize(("ids", "error"), [([], "does not know"), ([0, 1, 70_000], "values up to 70,000")])
    def test_values_that_are_not_known_or_too_large(self, ids, error, tmp_path):
        def nothing():
            raise AssertionError("an image was computed")
            yield

        with pytest.raises(ValueError, match=error):
            list(WRITERS["ids"].write(nothing(), tmp_path, trained(ids=ids)))

    def test_what_cannot_be_read_has_no_file(self, tmp_path):
        given = [made([[0]]), BROKEN, made([[1]])]
        assert write("labels", given, tmp_path / "out") == given
        assert sorted(os.listdir(tmp_path / "out")) == ["00000-a.png", "00002-a.png"]

    @pytest.mark.parametrize(
        ("source", "name"),
        [
            ("a\n\x1b[2J.png", "00000-a\\n\\x1b[2J.png"),
            ("caf\udce9.png", "00000-caf\\udce9.png"),
            ("..", "00000-...png"),
            ("", "00000-.png"),
            ("x.tar: a/../../b.png", "00000-b.png"),
            ("日" * 200 + ".png", f"00000-{'日' * 33}.png"),
        ],
    )
    def test_hostile_names(self, source, name, tmp_path):
        write("labels", [made([[0]], source)], tmp_path / "out")
        assert os.listdir(tmp_path / "out") == [name]
        assert os.listdir(tmp_path) == ["out"]


class TestCoco:
    @pytest.mark.parametrize(("ids", "expected"), [([], [1, 2, 3]), ([0, 7, 300], [0, 7, 300])])
    def test_label_maps_come_back(self, ids, expected, tmp_path):
        model, maps = trained(ids=ids), [*random_maps(), np.full((4, 9), 2)]
        write("coco", [BROKEN, *(made(one, f"{n}/a.jpg") for n, one in enumerate(maps))], tmp_path / "x.json", model)
        found = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
        assert found["categories"] == [{"id": id, "name": f"class {n}"} for n, id in enumerate(expected)]
        sizes = [{"width": one.shape[1], "height": one.shape[0]} for one in maps]
        names = [{"id": n + 2, "file_name": f"{n}/a.jpg"} for n in range(len(maps))]
        assert found["images"] == [name | size for name, size in zip(names, sizes, strict=True)]
        assert [one["id"] for one in found["annotations"]] == list(range(1, len(found["annotations"]) + 1))
        for number, labels in enumerate(maps, 2):
            values = np.full(labels.shape, -1)
            for one in (one for one in found["annotations"] if one["image_id"] == number):
                assert one["segmentation"]["size"] == list(labels.shape)
                mask = mask_of_text(one["segmentation"]["counts"], labels.shape)
                rows, columns = np.nonzero(mask)
                left, top, width, height = one["bbox"]
                assert (left, top) == (columns.min(), rows.min())
                assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())
                assert (one["area"], one["iscrowd"]) == (mask.sum(), 0)
                assert 0.5 <= one["score"] <= 1
                values[mask] = one["category_id"]
            assert np.array_equal(values, np.array(expected)[labels])

    def test_names_are_texts(self, tmp_path):
        source = 'a"\n\x1b\udcff{}.png'
        write("coco", [made([[0]], source)], tmp_path / "x.json")
        found = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
        assert found["images"][0]["file_name"] == source.replace("\udcff", "\\udcff")

    def test_many_images_go_through_a_file(self, tmp_path, monkeypatch):
        from glocal.tasks.segmentation import writers

        monkeypatch.setattr(writers, "AT_ONCE", 100)
        write("coco", [made([[0]], f"{number}.png") for number in range(50)], tmp_path / "x.json")
        found = json.loads((tmp_path / "x.json").read_text())
        assert [image["file_name"] for image in found["images"]] == [f"{number}.png" for number in range(50)]
        assert os.listdir(tmp_path) == ["x.json"]

    def test_no_images(self, tmp_path):
        write("coco", [BROKEN], tmp_path / "x.json")
        found = json.loads((tmp_path / "x.json").read_text())
        assert (found["images"], found["annotations"]) == ([], [])


def test_label_maps_come_back_from_polygons(tmp_path):
    maps = [*random_maps(), np.zeros((1, 1), int), np.pad(np.ones((3, 3), int), 2)]
    results = [made(one, f"{number}.png") for number, one in enumerate(maps)]
    write("polygons", [BROKEN, *results], tmp_path / "x.geojson")
    found = json.loads((tmp_path / "x.geojson").read_text())
    assert found["type"] == "FeatureCollection"
    for labels, expected in zip(maps, results, strict=True):
        features = [one for one in found["features"] if one["properties"]["source"] == expected.source]
        about = [one["properties"] for one in features]
        assert [one["class"] for one in about] == expected.classes
        assert [one["share"] for one in about] == expected.shares
        assert [one["confidence"] for one in about] == expected.confidences
        values = np.full(labels.shape, -1)
        for feature in features:
            assert (feature["type"], feature["geometry"]["type"]) == ("Feature", "MultiPolygon")
            number = int(feature["properties"]["class"].split()[1])
            for outer, *holes in feature["geometry"]["coordinates"]:
                flat = [np.ravel(ring[:-1]) for ring in (outer, *holes)]
                inside = mask_of_polygons(flat[:1], labels.shape) & ~mask_of_polygons(flat[1:], labels.shape)
                values[inside] = number
        assert np.array_equal(values, labels)


@pytest.mark.parametrize("kind", ["labels", "ids", "coco", "polygons"])
def test_results_are_taken_one_by_one(kind, tmp_path):
    taken = 0

    def many():
        nonlocal taken
        for taken in range(1, 1000):
            yield made([[0, 1]], f"{taken}.png")

    place = tmp_path / f"out{''.join(WRITERS[kind].endings[:1])}"
    place.suffix or place.mkdir()
    passed = WRITERS[kind].write(many(), place, trained(ids=[1, 2, 3]))
    for number, _ in enumerate(islice(passed, 20), 1):
        assert taken == number


@pytest.mark.parametrize("kind", ["coco", "polygons"])
def test_a_file_appears_when_it_is_complete(kind, tmp_path):
    def failing():
        yield made([[0, 1]])
        raise RuntimeError("out of luck")

    place = tmp_path / "x.json"
    place.write_text("before")
    with pytest.raises(RuntimeError, match="out of luck"):
        list(WRITERS[kind].write(failing(), place, trained()))
    passed = WRITERS[kind].write(iter([made([[0, 1]])] * 2), place, trained())
    next(passed)
    passed.close()
    assert place.read_text() == "before"
    assert os.listdir(tmp_path) == ["x.json"]


class TestCommand:
    @pytest.fixture
    def given(self, run, data, monkeypatch):
        monkeypatch.chdir(data)
        return ["predict", "images/000.png", "images/001.png", "--checkpoint", str(run), "--engine", "torch"]

    def test_all_kinds_at_once_and_pictures_and_a_table(self, given, run, tmp_path, capsys):
        places = {"labels": "labels", "ids": "ids", "coco": "coco.json", "polygons": "x.geojson"}
        save = [text for kind, place in places.items() for text in ("--save", f"{kind}={tmp_path / place}")]
        options = ["--pictures", str(tmp_path / "drawn"), "--output", str(tmp_path / "out.csv")]
        assert main([*given, *options, *save]) == 0
        said = capsys.readouterr().out
        assert all(f"Saved {kind} in {tmp_path / place}" in said for kind, place in places.items())
        assert f"2 images in {tmp_path / 'out.csv'}\nPictures in {tmp_path / 'drawn'}" in said
        names = ["00000-000.png", "00001-001.png"]
        expected = [one.labels for one in Predictor(run, engine="torch")(given[1:3])]
        for folder in ("labels", "ids", "drawn"):
            assert sorted(os.listdir(tmp_path / folder)) == names
        for name, labels in zip(names, expected, strict=True):
            for folder in ("labels", "ids"):
                assert np.array_equal(np.asarray(Image.open(tmp_path / folder / name)), labels)
        assert len(json.loads((tmp_path / "coco.json").read_text())["images"]) == 2
        assert json.loads((tmp_path / "x.geojson").read_text())["features"]
        assert len((tmp_path / "out.csv").read_text().splitlines()) == 3

    def test_an_option_before_the_images(self, given, tmp_path, capsys):
        assert main(["predict", "--save", f"labels={tmp_path / 'new' / 'out'}", *given[1:]]) == 0
        assert len(os.listdir(tmp_path / "new" / "out")) == 2
        assert capsys.readouterr().out.endswith(f"Saved labels in {tmp_path / 'new' / 'out'}\n")

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            (["labels"], "--save must be KIND=PLACE, such as labels=masks, got 'labels'"),
            (["=x"], "--save must be KIND=PLACE"),
            (["labels="], "--save must be KIND=PLACE"),
            (["overlay=x"], "--save overlay: the kinds of files of segmentation are labels, ids, coco, polygons"),
            (["labels=a", "--save", "labels=b"], "--save: each kind can be given once"),
            (["labels=a", "--save", "ids=./a"], "--save ids=./a: another option writes there, too"),
            (["coco=x.txt"], "--save coco=x.txt: the file must end with .json"),
            (["polygons=x"], "--save polygons=x: the file must end with .geojson or .json"),
            (["coco=no/x.json"], "--save no/x.json: there is no such folder"),
            (["coco=there.json"], "--save coco=there.json: the file exists, --overwrite replaces it"),
            (["labels=full"], "--save labels=full: the folder is not empty, --overwrite writes into it"),
            (["labels=there.json", "--overwrite"], "--save there.json is a file: give a folder"),
            (["coco=full.json", "--overwrite"], "--save full.json: this is a folder, not a file"),
            (["coco=x.json", "--output", "x.json"], "--save coco=x.json: another option writes there, too"),
            (["labels=x", "--output", "parquet"], "--save goes with results in the terminal or in one file"),
        ],
        ids=str,
    )
    def test_what_is_refused_before_the_first_image(self, given, options, error, tmp_path, monkeypatch, capsys):
        images = [os.path.abspath(name) for name in given[1:3]]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(Predictor, "_rows", None)
        for folder in ("full", "full.json"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "mine").write_text("mine")
        (tmp_path / "there.json").write_text("mine")
        assert main(["predict", *images, *given[3:], "--save", *options]) == 2
        shown = capsys.readouterr().err
        assert shown.startswith(f"error: {error}")
        assert shown.count("\n") == 1
        left = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
        assert left == ["full.json/mine", "full/mine", "there.json"]

    def test_what_exists_is_replaced_with_overwrite(self, given, tmp_path):
        place = tmp_path / "x.json"
        place.write_text("mine")
        assert main([*given, "--save", f"coco={place}", "--overwrite"]) == 0
        assert len(json.loads(place.read_text())["images"]) == 2

    def test_a_task_without_kinds(self, checkpoint, given, tmp_path, capsys):
        assert main([*given[:3], "--checkpoint", str(checkpoint), "--save", f"labels={tmp_path / 'x'}"]) == 2
        assert "the kinds of files of classification are none" in capsys.readouterr().err
