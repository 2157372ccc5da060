"""Results of detection: boxes back in images, pictures, tiles and files."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.data.batch import Batch, Example
from glocal.data.geometry import Geometry
from glocal.data.image import UnreadableImageError
from glocal.data.segments import mask_of_text, runs_of_mask, text_of_runs
from glocal.data.tiles import tiles_of
from glocal.tasks.detection.inference import predict
from glocal.tasks.detection.outputs import Detections, filled_up
from glocal.tasks.detection.result import Detection
from glocal.tasks.detection.seams import kept_of_tiles
from glocal.tasks.detection.task import DETECTION
from glocal.tasks.instances.result import Instances
from glocal.tasks.instances.results import moved
from glocal.tasks.instances.task import INSTANCES
from glocal.tasks.task import Trained

NAMES = ["cat", "=dog"]
ARGS = {"head": "retinanet", "score_threshold": 0.5, "ids": [3, 90]}
TRAINED = Trained(None, "van_pico", DETECTION, NAMES, NAMES, {}, None, ARGS)


def found(*counts):
    """What a head gives for images, with so many objects each."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "boxes": torch.rand(count, 4, generator=generator),
            "scores": torch.rand(count, generator=generator).sort(descending=True)[0],
            "labels": torch.randint(0, 2, (count,), generator=generator),
        }
        for count in counts
    ]


class TestOutputs:
    def test_rows_fill_up(self):
        one, two, three = found(2, 0, 3)
        boxes, scores, labels = filled_up([one, two, three])
        assert (boxes.shape, scores.shape, labels.shape) == ((3, 3, 4), (3, 3), (3, 3))
        assert labels[0].tolist() == [*one["labels"].tolist(), -1]
        assert labels[1].tolist() == [-1] * 3
        assert scores[1].tolist() == [0] * 3
        assert torch.equal(boxes[2], three["boxes"])

    def test_nothing_at_all(self):
        boxes, scores, labels = filled_up(found(0, 0))
        assert (boxes.shape, scores.shape, labels.shape) == ((2, 0, 4), (2, 0), (2, 0))

    def test_masks_fill_up_too(self):
        masks = [one | {"masks": torch.rand(len(one["labels"]), 28, 28)} for one in found(1, 2)]
        assert filled_up(masks)[3].shape == (2, 2, 28, 28)


class Fixed(torch.nn.Module):
    """Finds a box of the whole of each image, as its size says, and notes what it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images, sizes):
        self.seen.append((tuple(images.shape), sizes.tolist()))
        boxes = [
            torch.tensor([[0.0, 0, width, height], [1, 2, width - 1, height - 2]]) for height, width in sizes.tolist()
        ]
        return [{"boxes": one, "scores": torch.tensor([0.9, 0.4]), "labels": torch.tensor([1, 0])} for one in boxes]


def batch():
    """Two images of one size and one of another, resized by factors of their own, and padded."""
    places = [((60, 100), (30, 50), (32, 64)), ((45, 41), (64, 58), (64, 64)), ((30, 50), (30, 50), (32, 64))]
    examples = [
        Example(torch.ones(3, *padded), None, Geometry(size, shown, (0, 0, *size), padded))
        for size, shown, padded in places
    ]
    return Batch.of(examples)


class TestPrediction:
    def test_boxes_are_in_pixels_of_the_image(self):
        model = Fixed()
        boxes, scores, labels = predict(Detections(model), batch(), {})
        assert [one[0].tolist() for one in boxes] == [[0, 0, 100, 60], [0, 0, 41, 45], [0, 0, 50, 30]]
        assert boxes[1][1].tolist() == pytest.approx([41 / 58, 2 * 45 / 64, 57 * 41 / 58, 62 * 45 / 64])
        assert all(one.tolist() == pytest.approx([0.9, 0.4]) for one in scores)
        assert all(one.tolist() == [1, 0] for one in labels)

    def test_images_of_one_size_are_computed_together_without_what_the_batch_adds(self):
        model = Fixed()
        predict(Detections(model), batch(), {})
        assert model.seen == [((2, 3, 32, 64), [[30, 50], [30, 50]]), ((1, 3, 64, 64), [[64, 58]])]

    def test_boxes_are_clipped_to_the_image(self):
        class Wide(Fixed):
            def forward(self, images, sizes):
                return [one | {"boxes": one["boxes"] + 5} for one in super().forward(images, sizes)]

        boxes, *_ = predict(Detections(Wide()), batch(), {})
        assert boxes[0].max(0).values.tolist() == [12, 14, 100, 60]

    def test_nan_is_an_error(self):
        class Damaged(Fixed):
            def forward(self, images, sizes):
                return [one | {"scores": one["scores"] * torch.nan} for one in super().forward(images, sizes)]

        with pytest.raises(RuntimeError, match="non-finite"):
            predict(Detections(Damaged()), batch(), {})


def result(scores=(0.9, 0.6, 0.2), size=(100, 200), source="a/b.png", kind=Detection, **more):
    boxes = [[10.0, 20.0, 60.0, 80.0], [100.0, 5.0, 190.0, 50.0], [5.0, 60.0, 20.0, 95.0]]
    numbers = [0, 1, 1]
    return kind(
        source,
        size=list(size),
        classes=[NAMES[number] for number in numbers],
        scores=list(scores),
        boxes=boxes,
        numbers=numbers,
        colors=[[250, 0, 0], [0, 250, 0], [0, 250, 0]],
        shown=sum(score >= 0.5 for score in scores),
        **more,
    )


class TestPictures:
    def test_sure_objects_are_drawn_in_the_colours_of_their_classes(self):
        drawn = np.asarray(result().draw(Image.new("RGB", (200, 100))))
        assert drawn[50, 10].tolist() == drawn[50, 59].tolist() == [250, 0, 0]
        assert drawn[49, 150].tolist() == [0, 250, 0]
        assert not drawn[90, 5].any()  # the third is not sure

    def test_boxes_follow_the_size_of_the_picture(self):
        drawn = np.asarray(result().on(Image.new("RGB", (400, 200))))
        assert drawn[100, 20].tolist() == drawn[100, 119].tolist() == [250, 0, 0]

    def test_an_overlay_is_transparent_beside_the_boxes(self):
        overlay = np.asarray(result().overlay())
        assert overlay[50, 10].tolist() == [250, 0, 0, 255]
        assert overlay[50, 40, 3] == 0

    def test_lines_have_the_sure_objects(self):
        lines = result().lines()
        assert [(line.text, line.value, line.color) for line in lines] == [
            ("cat", "90.0 %", "#fa0000"),
            ("=dog", "60.0 %", "#00fa00"),
        ]
        assert [(line.text, line.value) for line in result((0.1,) * 3).lines()] == [("no object", "–")]

    def test_names_stay_in_the_picture(self):
        drawn = np.asarray(result().draw(Image.new("RGB", (200, 100))))
        assert (drawn == (0, 250, 0)).all(2)[5:20, 100:190].sum() > 200  # the name is below the upper edge

    def test_masks_tint_their_pixels(self):
        mask = np.zeros((100, 200), bool)
        mask[30:40, 30:40] = True
        rles = [text_of_runs(runs_of_mask(one)) for one in (mask, ~mask & False, mask)]
        drawn = np.asarray(result(kind=Instances, rles=rles).draw(Image.new("RGB", (200, 100))))
        assert drawn[35, 35].tolist() == [112, 0, 0]
        overlay = np.asarray(result(kind=Instances, rles=rles).overlay())
        assert overlay[35, 35].tolist() == [250, 0, 0, 115]
        assert not drawn[45, 45].any()

    @pytest.mark.parametrize("masks", [False, True])
    def test_a_target_shows_its_classes_and_crowds(self, masks):
        target = {
            "boxes": torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]]),
            "labels": torch.tensor([0, 1]),
            "crowd": torch.tensor([False, True]),
            "size": torch.tensor([20, 40]),
        }
        if masks:
            target["masks"] = torch.zeros(2, 20, 40, dtype=torch.bool)
            target["masks"][0, 4:6, 4:6] = True
        drawn = np.asarray(DETECTION.draw_target(Image.new("RGB", (400, 200)), target, NAMES, ARGS))
        color = drawn[50, 0]
        assert color.any()
        assert drawn[50, 200].tolist() == [110, 110, 110]
        assert drawn[50, 50].any() == masks


class TestTiles:
    def parts(self, objects, size=(100, 100), side=60, overlap=20):
        """A result for each tile of an image: of each object the part that the tile shows."""
        image = Image.new("RGB", size[::-1])
        for tile in tiles_of(image, side, overlap):
            top, left, bottom, right = tile.box
            boxes, scores, numbers = [], [], []
            for x1, y1, x2, y2, number, score in objects:
                box = [max(x1, left) - left, max(y1, top) - top, min(x2, right) - left, min(y2, bottom) - top]
                if box[2] > box[0] and box[3] > box[1]:
                    area = (box[2] - box[0]) * (box[3] - box[1]) / ((x2 - x1) * (y2 - y1))
                    boxes.append([float(side) for side in box])
                    scores.append(score * area)
                    numbers.append(number)
            order = sorted(range(len(scores)), key=lambda place: -scores[place])
            values = ([column[place] for place in order] for column in (boxes, scores, numbers))
            boxes, scores, numbers = values
            yield tile, Detection("", None, [bottom - top, right - left], [], scores, boxes, numbers)

    @pytest.mark.parametrize("size", [(100, 100), (101, 61), (60, 141)], ids=str)
    def test_tiles_give_the_objects_of_the_whole_image(self, size):
        objects = [(2, 3, 20, 21, 0, 0.9), (35, 35, 55, 55, 1, 0.8), (35, 34, 54, 55, 0, 0.7), (1, 44, 12, 58, 1, 0.6)]
        found = DETECTION.join(self.parts(objects, size), size, TRAINED)
        assert sorted(map(tuple, found.boxes)) == sorted(one[:4] for one in objects)
        assert found.size == list(size)
        assert found.scores == sorted(found.scores, reverse=True)
        assert {(NAMES.index(name), tuple(box)) for name, box in zip(found.classes, found.boxes, strict=True)} == {
            (one[4], tuple(map(float, one[:4]))) for one in objects
        }

    def test_objects_of_one_tile_stay(self):
        objects = [(2, 3, 20, 21, 0, 0.9), (4, 4, 18, 19, 0, 0.8)]  # the model itself has suppressed what it wants
        assert len(DETECTION.join(self.parts(objects), (100, 100), TRAINED).boxes) == 2

    @pytest.mark.parametrize(
        ("labels", "tiles", "kept"),
        [([0, 0], [0, 1], [1]), ([0, 1], [0, 1], [1, 0]), ([0, 0], [1, 1], [1, 0])],
        ids=str,
    )
    def test_only_the_own_class_in_another_tile_hides_a_box(self, labels, tiles, kept):
        boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 9, 10]])
        found = kept_of_tiles(boxes, torch.tensor([0.6, 0.7]), torch.tensor(labels), torch.tensor(tiles))
        assert found.tolist() == kept

    def test_nothing_in_any_tile(self):
        found = DETECTION.join(self.parts([]), (100, 100), TRAINED)
        assert found.boxes == []
        assert found.lines()[0].text == "no object"

    @pytest.mark.parametrize("place", [(0, 0), (3, 5), (7, 9)], ids=str)
    @pytest.mark.parametrize("kind", ["some", "all", "none"])
    def test_a_mask_moves_into_the_whole_image(self, place, kind):
        random = np.random.RandomState(0)
        mask = {"some": random.rand(5, 7) > 0.5, "all": np.ones((5, 7), bool), "none": np.zeros((5, 7), bool)}[kind]
        top, left = place
        whole = np.zeros((12, 16), bool)
        whole[top : top + 5, left : left + 7] = mask
        text = moved(text_of_runs(runs_of_mask(mask)), (top, left, top + 5, left + 7), (5, 7), (12, 16))
        assert text == text_of_runs(runs_of_mask(whole))
        assert np.array_equal(mask_of_text(text, (12, 16)), whole)


class TestFiles:
    RESULTS = (result(), replace(result(), source="c/b.png", boxes=[], scores=[], classes=[], numbers=[]))

    def written(self, task, kind, place, results=RESULTS, trained=TRAINED):
        unreadable = task.result_class("gone.png", UnreadableImageError("gone.png", "no image"))
        given = [results[0], unreadable, *results[1:]]
        assert list(task.writers[kind].write(iter(given), place, trained)) == given
        return place

    def test_coco(self, tmp_path):
        content = json.loads(self.written(DETECTION, "coco", tmp_path / "all.json").read_text())
        assert content["categories"] == [{"id": 3, "name": "cat"}, {"id": 90, "name": "=dog"}]
        assert [(one["id"], one["file_name"]) for one in content["images"]] == [(1, "a/b.png"), (3, "c/b.png")]
        first = content["annotations"][0]
        assert first == {
            "id": 1,
            "image_id": 1,
            "category_id": 3,
            "bbox": [10, 20, 50, 60],
            "area": 3000,
            "iscrowd": 0,
            "score": 0.9,
        }
        assert [one["category_id"] for one in content["annotations"]] == [3, 90, 90]

    def test_ids_count_from_1_where_they_are_not_known(self, tmp_path):
        trained = replace(TRAINED, task_args={"score_threshold": 0.5})
        content = json.loads(self.written(DETECTION, "coco", tmp_path / "all.json", trained=trained).read_text())
        assert [one["id"] for one in content["categories"]] == [1, 2]

    def test_coco_with_masks(self, tmp_path):
        mask = np.zeros((100, 200), bool)
        mask[30:40, 30:45] = True
        one = result(kind=Instances, rles=[text_of_runs(runs_of_mask(mask))] * 3)
        content = json.loads(self.written(INSTANCES, "coco", tmp_path / "all.json", (one,)).read_text())
        assert content["annotations"][0]["area"] == 150
        assert np.array_equal(mask_of_text(content["annotations"][0]["segmentation"]["counts"], (100, 200)), mask)

    def test_yolo(self, tmp_path):
        self.written(DETECTION, "yolo", tmp_path)
        texts = {file.name: file.read_text() for file in tmp_path.iterdir()}
        assert texts.keys() == {"data.yaml", "00000-b.txt", "00002-b.txt"}
        assert texts["data.yaml"] == 'names:\n  0: "cat"\n  1: "=dog"\n'
        assert texts["00000-b.txt"].splitlines()[0] == "0 0.175000 0.500000 0.250000 0.600000 0.900000"
        assert texts["00002-b.txt"] == ""

    def test_csv(self, tmp_path):
        rows = list(csv.reader(self.written(DETECTION, "csv", tmp_path / "all.csv").open()))
        assert rows[0] == ["source", "class", "score", "x1", "y1", "x2", "y2"]
        assert rows[1] == ["a/b.png", "cat", "0.9", "10", "20", "60", "80"]
        assert rows[2][1] == "'=dog"  # no formula of a spreadsheet
        assert len(rows) == 4
