"""The task panoptic: what the commands make of it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from glocal.cli import main
from glocal.data.batch import Batch, Example
from glocal.data.geometry import Geometry
from glocal.data.masks import IGNORE
from glocal.data.open import open_for_training
from glocal.data.preprocessing import Preprocessing, Whole
from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.segment_maps import SegmentIds
from glocal.data.segments import mask_of_text
from glocal.models.heads.queries import panoptic
from glocal.tasks import find_task
from glocal.tasks.loading import load_trained
from glocal.tasks.panoptic.inference import predict
from glocal.tasks.panoptic.measurement import match
from glocal.tasks.panoptic.results import result
from glocal.tasks.panoptic.transform import MeasuringTransform, TrainingTransform, masks_of_segments
from glocal.tasks.registry import all_formats
from glocal.tasks.segmentation.transform import SegmentationAugmentation
from glocal.tasks.segmentation.transform import TrainingTransform as ClassesTransform
from glocal.tasks.task import Trained
from glocal.testing import check_task
from glocal.testing.tasks import PROPERTIES
from glocal.training.config import train_config

PANOPTIC = find_task("panoptic")
NAMES = ["square", "disc", "ground"]
THINGS = [True, True, False]
ARGS = {"head": "mask2former", "things": THINGS, "segment_threshold": 0.5, "overlap_threshold": 0.5}
QUICK = {"names", "measures", "options", "fields", "data", "transform", "pickling", "collate", "metadata", "targets"}


def test_all_commands_can_take_it(data):
    check_task(PANOPTIC, data, img_size=32, skip=[name for name in PROPERTIES if name not in QUICK])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["folder", "shapes"])
def test_all_commands_can_take_it_with_its_model(data, name):
    check_task(PANOPTIC, data if name == "folder" else name, img_size=32, skip=QUICK)


class TestData:
    @pytest.mark.parametrize("name", ["folder", "shapes"])
    def test_the_same_data_is_for_segmentation_unless_the_task_is_asked_for(self, data, name):
        name, how = (str(data), Opening()) if name == "folder" else (name, Opening(args={"count": 4}))
        assert open_for_training(name, how, all_formats()).task == "segmentation"
        source = open_for_training(name, how, PANOPTIC.formats)
        assert source.task == "panoptic"
        assert len(source.about["things"]) == len(source.class_names)

    def test_what_is_measured_is_opened_for_the_models_task(self, data):
        assert open_for_training(str(data), formats=all_formats(PANOPTIC)).task == "panoptic"
        assert open_for_training(str(data), formats=all_formats(find_task("segmentation"))).task == "segmentation"

    def test_masks_of_classes_are_refused(self, tmp_path, capsys):
        (tmp_path / "images").mkdir()
        (tmp_path / "masks").mkdir()
        assert main(["train", str(tmp_path), "--task", "panoptic"]) == 2
        assert "of no format that this task reads" in capsys.readouterr().err


@pytest.fixture(scope="module")
def source(data):
    return open_for_training(str(data), formats=PANOPTIC.formats)


def transforms(**changes):
    plain = {"resize_range": (1, 1), "scale": None, "max_class_share": 1, "hflip": 0, "photometric": False}
    preprocessing = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3, whole=Whole(32, 128))
    change = SegmentationAugmentation(**plain | changes)
    return TrainingTransform(preprocessing, change), ClassesTransform(preprocessing, change)


class TestTargets:
    @pytest.mark.parametrize("seed", range(8))
    def test_random_changes_are_those_of_segmentation(self, source, seed):
        ours, of_classes = transforms(resize_range=(0.5, 2), hflip=0.5, photometric=True, max_class_share=0.6)
        samples = source.splits["train"]
        image, annotation = samples.load(seed % 4), samples.labels[seed % 4]
        torch.manual_seed(seed)
        example = ours(image, annotation)
        torch.manual_seed(seed)
        expected = of_classes(image, annotation)
        assert torch.equal(example.image, expected.image)
        ids, classes = example.target["ids"], example.target["classes"]
        labels = torch.where(ids == IGNORE, IGNORE, classes[ids])
        inside = ids != IGNORE
        assert torch.equal(labels[inside], expected.target[inside])
        assert (expected.target[~inside] != 2).all()  # the ground is no crowd

    @pytest.mark.parametrize("seed", range(4))
    def test_a_crop_is_chosen_by_its_classes(self, seed):
        ids = np.arange(64, dtype=np.int32)[None].repeat(64, 0) // 4  # 16 stripes, of which the last 4 are discs
        segments = SegmentIds(ids, np.array([0] * 12 + [1] * 4, np.int32), np.zeros(16, bool))
        annotation = SimpleNamespace(load=lambda size: segments.classes[ids], load_segments=lambda size: segments)
        image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), np.uint8))
        found = []
        for transform in transforms(resize_range=(2, 2), max_class_share=0.75):
            torch.manual_seed(seed)
            found.append(transform(image, annotation))
        assert torch.equal(found[0].image, found[1].image)
        assert torch.equal(found[0].target["classes"][found[0].target["ids"]], found[1].target)

    @pytest.mark.parametrize("seed", range(4))
    def test_a_target_has_the_segments_that_the_crop_shows(self, source, seed):
        torch.manual_seed(seed)
        samples = source.splits["train"]
        example = transforms(resize_range=(4, 4))[0](samples.load(seed), samples.labels[seed])
        ids, classes = example.target["ids"], example.target["classes"]
        assert len(classes) < len(samples.labels[seed].segments)
        assert sorted(set(ids.unique().tolist()) - {IGNORE}) == list(range(len(classes)))
        found = masks_of_segments(example.target)
        for place, mask in enumerate(found.masks):
            assert mask.tolist() == [[number == place for number in row] for row in ids.tolist()]

    def test_crowds_and_pixels_of_no_segment_are_no_target_of_a_training(self, source):
        samples = source.splits["train"]
        crowds = 0
        for index in range(len(samples)):
            image, annotation = samples.load(index), samples.labels[index]
            ids, classes, crowd = annotation.load_segments(image.size[::-1])
            whole = Preprocessing((3, image.height, image.width), (0.5,) * 3, (0.5,) * 3)
            plain = SegmentationAugmentation((1, 1), None, 1, 0, False)
            target = TrainingTransform(whole, plain)(image, annotation).target
            left = np.isin(ids, [*np.flatnonzero(crowd), IGNORE])
            assert np.array_equal(target["ids"].numpy() == IGNORE, left)
            assert target["classes"].tolist() == classes[~crowd].tolist()
            crowds += crowd.sum()
        assert crowds > 0

    def test_measuring_keeps_all_segments_at_the_images_size(self, source):
        samples = source.splits["val"]
        preprocessing = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3, whole=Whole(32, 128, 32))
        example = MeasuringTransform(preprocessing)(samples.load(0), samples.labels[0])
        expected = samples.labels[0].load_segments(samples.load(0).size[::-1])
        for name, one in zip(("ids", "classes", "crowd"), expected, strict=True):
            assert np.array_equal(example.target[name].numpy(), one)
        assert [side % 32 for side in example.image.shape[1:]] == [0, 0]

    def test_a_crop_without_segments_trains(self):
        options = train_config(PANOPTIC)()
        torch.manual_seed(0)
        model = PANOPTIC.model(PANOPTIC.backbone("van_pico", NAMES), NAMES, **ARGS).train()
        objective = PANOPTIC.objective(options, DataSource("made", NAMES, {}), None)
        ids = torch.full((2, 32, 32), IGNORE)
        ids[1, :20] = 0
        targets = [{"ids": ids[0], "classes": torch.tensor([], dtype=torch.int64)}]
        targets += [{"ids": ids[1], "classes": torch.tensor([2])}]
        parts = objective(model, Batch(torch.randn(2, 3, 32, 32), targets, [], []))
        parts["loss"].backward()
        assert parts["loss"].isfinite()
        assert len(parts) == 31
        assert all(parameter.grad is not None for parameter in model.parameters())


def queries_of(images):
    """A made-up model: two queries that see red and blue, and one that sees all."""
    seen = F.avg_pool2d(images, 4, ceil_mode=True)
    class_logits = 9 * F.one_hot(torch.tensor([0, 1, 2]), 4).float().expand(len(images), -1, -1)
    class_logits = class_logits - torch.tensor([0.0, 0.0, 7.0])[:, None] * (class_logits > 0)
    return class_logits, torch.stack([9 * seen[:, 0], 9 * seen[:, 2], torch.ones_like(seen[:, 0])], 1)


def batch_of(*sizes, padded=None):
    examples = []
    for size in sizes:
        image = torch.randn(3, 1, 1, generator=torch.Generator().manual_seed(sum(size))).expand(3, *size).clone()
        image[0, : size[0] // 2], image[2, size[0] // 2 :] = 2, 1
        image[0, size[0] // 2 :], image[2, : size[0] // 2] = -1, -1
        geometry = Geometry((size[0] * 2 + 1, size[1] * 3), size, (0, 0, *size), padded)
        if padded is not None:
            image = F.pad(image, (0, padded[1] - size[1], 0, padded[0] - size[0]))
        examples.append(Example(image, None, geometry))
    return Batch.of(examples)


class TestPrediction:
    def test_segments_at_the_images_size(self):
        (ids,), (classes,), (scores,) = predict(queries_of, batch_of((32, 20)), ARGS)
        assert ids.shape == (65, 60)
        assert classes.tolist() == [0, 1]
        assert (ids[:28] == 0).all()
        assert (ids[36:] == 1).all()
        assert (scores > 0.9).all()

    def test_padding_is_cut_off(self):
        padded, (height, width) = (32, 32), (30, 20)
        batch = batch_of((height, width), padded=padded)
        (ids,), (classes,), _ = predict(queries_of, batch, ARGS)
        class_logits, mask_logits = queries_of(batch.images)
        at_input = F.interpolate(mask_logits, padded, mode="bilinear")[..., :height, :width]
        at_image = F.interpolate(at_input, (61, 60), mode="bilinear")
        (expected,) = panoptic((class_logits, at_image), (61, 60), [0, 1], 0.5, 0.5)
        assert torch.equal(ids, expected.ids.int())
        assert torch.equal(classes, expected.classes)

    def test_images_of_several_sizes_are_the_same_in_one_batch_and_alone(self):
        sizes = [(32, 20), (16, 40), (32, 20)]
        together = predict(queries_of, batch_of(*sizes), ARGS)
        for place, size in enumerate(sizes):
            for one, alone in zip(together, predict(queries_of, batch_of(size), ARGS), strict=True):
                assert torch.equal(one[place], alone[0])

    @pytest.mark.parametrize(("name", "value"), [("segment_threshold", 0.9999), ("overlap_threshold", 1)])
    def test_thresholds(self, name, value):
        (ids,), (classes,), _ = predict(queries_of, batch_of((32, 20)), ARGS | {name: value})
        assert len(classes) < 2
        assert (ids == IGNORE).any()

    def test_nan_is_an_error(self):
        with pytest.raises(RuntimeError, match="non-finite"):
            predict(lambda images: [one * float("nan") for one in queries_of(images)], batch_of((20, 30)), ARGS)


def measured(metrics, shift=0):
    """Metrics after two images, of which `shift` rows are predicted wrong."""
    ids = torch.zeros(2, 10, 10, dtype=torch.int32)
    ids[:, 5:] = 1
    targets = [{"ids": one.long(), "classes": torch.tensor([2, 0]), "crowd": torch.zeros(2, dtype=bool)} for one in ids]
    metrics.update([ids.roll(shift, 1), torch.tensor([[2, 0]] * 2), torch.ones(2, 2)], targets)
    return metrics


class TestMeasures:
    def test_of_a_perfect_prediction(self):
        values = measured(PANOPTIC.metrics(NAMES)).compute()
        assert values == {"pq": 100, "sq": 100, "rq": 100}  # in a training things are not known

    def test_a_score_for_each_image(self):
        metrics = measured(PANOPTIC.metrics(NAMES))
        measured(metrics, shift=1)
        iou = 4 / 6  # of 5 rows, shifted by one
        assert metrics.scores().tolist() == pytest.approx([100, 100, 100 * iou, 100 * iou])
        assert metrics.compute()["pq"] == pytest.approx(100 * (1 + iou) / 2)
        assert metrics.images == 4

    def test_classes_are_matched_by_name(self):
        trained = Trained(None, "m", PANOPTIC, NAMES, NAMES, {}, None, ARGS)
        data = DataSource("d", ["ground", "square"], {"val": Samples([], [])}, task="panoptic")
        _, targets = match(data, trained).apply(None, [{"classes": torch.tensor([0, 1, 1])}])
        assert targets[0]["classes"].tolist() == [2, 0, 0]
        with pytest.raises(ValueError, match="classes that m was not trained on: 'sky'"):
            match(replace(data, class_names=["sky"]), trained)


class TestResults:
    def trained(self):
        return Trained(None, "m", PANOPTIC, NAMES, NAMES, {}, None, ARGS)

    def test_segments_the_largest_first(self):
        ids = np.array([[1, 0, 0], [IGNORE, 2, 2], [2, 2, 2]], np.int32)
        found = result(ids, np.array([0, 1, 2]), np.array([0.9, 0.8, 0.7]), self.trained())
        assert found.classes == ["ground", "square", "disc"]
        assert found.scores == [0.7, 0.9, 0.8]
        assert found.shares == pytest.approx([5 / 9, 2 / 9, 1 / 9])
        assert found.ids.tolist() == [[2, 1, 1], [IGNORE, 0, 0], [0, 0, 0]]
        for place, text in enumerate(found.rles):
            assert np.array_equal(mask_of_text(text, (3, 3)), found.ids == place)
        assert [line.text for line in found.lines()] == found.classes
        assert found.lines()[0].value == "55.6 %"

    def test_nothing_found(self):
        empty = np.array([])
        found = result(np.full((30, 40), IGNORE, np.int32), empty.astype(int), empty, self.trained())
        assert found.classes == found.rles == []
        assert [line.text for line in found.lines()] == ["no segment"]
        assert found.draw(Image.new("RGB", (40, 30))).size == (40, 30)
        assert found.overlay().getextrema()[3] == (0, 0)

    def test_300_segments_have_300_colors(self):
        ids = np.arange(300, dtype=np.int32).reshape(15, 20)
        found = result(ids, np.zeros(300, int), np.ones(300), self.trained())
        assert len({tuple(color) for color in found.colors}) == 300

    def test_a_picture_has_the_colors_and_lines_between_segments(self):
        ids = np.zeros((200, 100), np.int32)
        ids[150:] = 1
        image = Image.new("RGB", (100, 200), (100, 100, 100))
        drawn = np.asarray(result(ids, np.array([2, 0]), np.ones(2), self.trained()).draw(image))
        assert (drawn[149] == 255).all()
        first, second = drawn[100, 50].astype(int), drawn[180, 50].astype(int)
        assert first[0] > first[1] + 20  # dark red
        assert second[1] > second[0] + 20  # green

    def test_an_overlay_shows_the_segments_alone(self):
        ids = np.array([[IGNORE, 0], [0, 1]], np.int32)
        found = result(ids, np.array([2, 0]), np.ones(2), self.trained())
        assert np.asarray(found.overlay()).tolist() == [
            [[0, 0, 0, 0], [128, 0, 0, 255]],
            [[128, 0, 0, 255], [0, 128, 0, 255]],
        ]


def test_segments_as_a_data_set_of_coco(tmp_path):
    trained = Trained(None, "m", PANOPTIC, NAMES, NAMES, {}, None, ARGS | {"ids": [3, 5, 9]})
    ids = np.array([[0, 1, 1], [IGNORE, 2, 2], [2, 2, 2]], np.int32)
    found = result(ids, np.array([0, 0, 2]), np.array([0.9, 0.8, 0.7]), trained)
    path = tmp_path / "found.json"
    writer = PANOPTIC.writers["coco"]
    assert list(writer.write(iter([replace(found, source="a.png")]), path, trained)) == [replace(found, source="a.png")]
    content = json.loads(path.read_text())
    assert content["images"] == [{"id": 1, "file_name": "a.png", "width": 3, "height": 3}]
    assert [one["category_id"] for one in content["annotations"]] == [9, 3, 3]
    assert [one["score"] for one in content["annotations"]] == [0.7, 0.8, 0.9]
    assert [one["bbox"] for one in content["annotations"]] == [[0, 1, 3, 2], [1, 0, 2, 1], [0, 0, 1, 1]]
    masks = [mask_of_text(one["segmentation"]["counts"], (3, 3)) for one in content["annotations"]]
    assert [mask.tolist() for mask in masks] == [(ids == place).tolist() for place in (2, 1, 0)]


class TestCommands:
    def test_a_run_knows_its_things_and_thresholds(self, run):
        trained = load_trained(run)
        assert trained.task is PANOPTIC
        assert trained.class_names == NAMES
        assert trained.task_args == {
            "head": "mask2former",
            "things": THINGS,
            "segment_threshold": 0.8,
            "overlap_threshold": 0.8,
            "colors": trained.task_args["colors"],
            "ids": [3, 5, 9],
        }
        assert trained.preprocessing["whole"]["multiple"] == 32

    def test_eval_measures_the_validation_part(self, run, tmp_path, capsys):
        place = tmp_path / "eval.json"
        options = ["--segment-threshold", "0", "--overlap-threshold", "0"]
        assert main(["eval", "--checkpoint", str(run), "--json", str(place), "--workers", "0", *options]) == 0
        found = json.loads(place.read_text())
        assert found["task"] == "panoptic"
        assert found["images"] == 2
        assert {"pq", "sq", "rq", "pq_things", "pq_stuff", "segment_threshold", "overlap_threshold"} <= found.keys()
        kinds = {entry["name"]: entry["thing"] for entry in found["per_class"]}
        assert kinds == dict(zip(NAMES, THINGS, strict=True))
        assert "stuff" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            (["--segment-threshold", "1.5"], "--segment-threshold must be at least 0 and at most 1"),
            (["--flip"], "--flip is for segmentation"),
        ],
    )
    def test_eval_refuses_in_a_line(self, run, options, error, capsys):
        assert main(["eval", "--checkpoint", str(run), *options]) == 2
        assert error in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            (["--head", "upernet"], "--head is for segmentation"),
            (["--window", "64,32"], "--window is for segmentation"),
            (["--crop-pct", "0.9"], "--crop-pct and --crop-mode are for single labels: panoptic takes whole images"),
            (["--overlap-threshold", "-1"], "--overlap-threshold must be at least 0"),
        ],
    )
    def test_train_refuses_in_a_line(self, data, options, error, capsys, tmp_path):
        command = ["train", str(data), "--task", "panoptic", "--output", str(tmp_path / "run"), "--model", "van_pico"]
        assert main([*command, "--img-size", "32", *options]) == 2
        assert error in capsys.readouterr().err

    def test_predictions_and_pictures(self, run, data, tmp_path):
        images = sorted(map(str, (data / "val2017").iterdir()))
        place, drawn = tmp_path / "out.json", tmp_path / "drawn"
        options = ["--output", str(place), "--pictures", str(drawn)]
        assert main(["predict", *images, "--checkpoint", str(run), *options]) == 0
        rows = json.loads(place.read_text())
        assert [row["size"] for row in rows] == [list(Image.open(image).size[::-1]) for image in images]
        assert all(len(row["classes"]) == len(row["rles"]) == len(row["scores"]) for row in rows)
        for picture, image in zip(sorted(drawn.iterdir()), images, strict=True):
            width, height = Image.open(image).size
            factor = -(-200 // min(width, height))  # small images are enlarged, with the lines below
            assert Image.open(picture).width == factor * width
            assert Image.open(picture).height > factor * height

    @pytest.mark.parametrize(
        "args",
        [
            {},
            {**ARGS, "head": "upernet"},
            {**ARGS, "things": [1]},
            {**ARGS, "overlap_threshold": 2},
            {**ARGS, "colors": [[0, 0, 256]]},
            {**ARGS, "checkpoint": "x"},
        ],
        ids=str,
    )
    def test_a_file_may_not_give_other_arguments(self, args):
        with pytest.raises(ValueError, match="task_args"):
            PANOPTIC.check_model_args(args)
