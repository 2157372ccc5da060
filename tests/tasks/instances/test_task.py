"""The task instances: masks of objects, from their annotation to files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.cli import main
from glocal.data.batch import Batch, Example
from glocal.data.geometry import Geometry
from glocal.data.segments import mask_of_text
from glocal.deploy.predictor import Predictor
from glocal.models.detectors.paste import paste
from glocal.tasks import find_task
from glocal.tasks.detection.masks import from_bytes, masks_of_texts
from glocal.tasks.instances import inference
from glocal.tasks.instances.task import InstancesTask
from glocal.tasks.loading import load_trained
from glocal.testing import check_task
from glocal.testing.tasks import PROPERTIES
from glocal.training.config import train_config
from tasks.detection.conftest import IDS, NAMES
from tasks.instances.conftest import SMALL

INSTANCES = find_task("instances")
HEAD_ARGS = {"width": 16, "hidden": 32}


class Light(InstancesTask):
    """The task with a small head."""

    def model_args(self, options, source):
        return super().model_args(options, source) | {"head_args": HEAD_ARGS}


def test_all_commands_can_take_it(data):
    check_task(Light(), data, img_size=48, skip=["export"])


def test_masks_and_boxes_have_the_same_measures():
    masks, boxes = INSTANCES.measures[:7], find_task("detection").measures[:7]
    ends = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar"]
    assert [one.key for one in masks] == [f"mask_{end}" for end in ends]
    assert [one.key for one in boxes] == [f"box_{end}" for end in ends]
    assert [one.title for one in masks[::3]] == ["mask AP", "mask AP, small", "mask AR"]
    assert INSTANCES.headline.shown(12.345) == "12.35 %"


@pytest.mark.slow
def test_its_outputs_are_exported(data):
    check_task(Light(), data, img_size=48, skip=[name for name in PROPERTIES if name != "export"])


@pytest.mark.parametrize("head", ["mask_rcnn", "cascade_mask_rcnn"])
def test_a_batch_without_objects_has_a_loss_and_finite_gradients(head):
    torch.manual_seed(0)
    backbone = INSTANCES.backbone("van_pico", NAMES)
    model = INSTANCES.model(backbone, NAMES, head=head, head_args=HEAD_ARGS).train()
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    targets = [
        nothing | {"size": torch.tensor(size), "masks": torch.zeros(0, *size, dtype=torch.bool)}
        for size in ((64, 96), (50, 64))
    ]
    objective = INSTANCES.objective(train_config(INSTANCES)(), None, None)
    parts = objective(model, Batch(torch.randn(2, 3, 64, 96), targets, [], []))
    parts["loss"].backward()
    assert all(value.isfinite() for value in parts.values())
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters() if one.requires_grad)


class TestRuns:
    def test_what_the_file_of_a_run_says(self, run):
        trained = load_trained(run)
        assert trained.task is INSTANCES
        args = {"head": "mask_rcnn", "score_threshold": 0.3, "head_args": HEAD_ARGS, "ids": IDS}
        assert trained.task_args == args

    def test_eval_measures_boxes_and_masks(self, run, tmp_path):
        place = tmp_path / "eval.json"
        options = ["--json", str(place), "--pictures", str(tmp_path / "worst"), "--workers", "0"]
        assert main(["eval", "--checkpoint", str(run), *options]) == 0
        found = json.loads(place.read_text())
        assert found["task"] == "instances"
        assert {"mask_ap", "mask_ap50", "box_ap", "box_ap50"} <= found.keys()
        assert list(found).index("mask_ap") < list(found).index("box_ap")
        assert len(list((tmp_path / "worst").iterdir())) == found["images"]

    def test_predictions_are_written_with_their_masks(self, run, data, tmp_path):
        rows, coco = tmp_path / "out.json", tmp_path / "coco.json"
        options = ["--output", str(rows), "--save", f"coco={coco}", "--pictures", str(tmp_path / "drawn")]
        assert main(["predict", str(data / "images"), "--checkpoint", str(run), *options]) == 0
        found = json.loads(rows.read_text())
        assert sum(len(row["rles"]) for row in found)
        for row in found:
            assert len(row["rles"]) == len(row["boxes"])
            for text, (left, top, right, bottom) in zip(row["rles"], row["boxes"], strict=True):
                mask = mask_of_text(text, row["size"])
                ys, xs = np.nonzero(mask)
                assert not len(xs) or (left - 1 <= xs.min() and xs.max() <= right + 1)
                assert not len(ys) or (top - 1 <= ys.min() and ys.max() <= bottom + 1)
        assert all("segmentation" in one for one in json.loads(coco.read_text())["annotations"])

    def test_images_of_several_sizes_are_the_same_in_one_batch_and_alone(self, run, data):
        paths = [str(path) for path in sorted((data / "images").iterdir())[:5]]
        alone, together = (Predictor(run, engine="torch", batch_size=size)(paths) for size in (1, 4))
        for one, other in zip(alone, together, strict=True):
            assert one.classes == other.classes
            assert np.allclose(one.boxes, other.boxes, atol=1e-3)
            masks = [np.array([mask_of_text(text, each.size) for text in each.rles]) for each in (one, other)]
            assert np.mean(masks[0] != masks[1]) < 1e-3 if len(one.rles) else not other.rles

    def test_large_images_are_cut_into_tiles(self, run, tmp_path):
        Image.new("RGB", (130, 70), "red").save(tmp_path / "large.png")
        (found,) = Predictor(run, engine="torch", tile=64, overlap=16)([str(tmp_path / "large.png")])
        assert all(mask_of_text(text, (70, 130)).shape == (70, 130) for text in found.rles)

    def test_pasting_of_other_images_trains(self, data, tmp_path):
        options = ["--copy-paste", "1", "--scale-jitter", "0.5,1.5", "--epochs", "1", *SMALL]
        assert main(["train", str(data), "--output", str(tmp_path / "run"), *options]) == 0


class TestMasks:
    def outputs(self, count=3):
        generator = torch.Generator().manual_seed(0)
        boxes = torch.tensor([[2.0, 3, 20, 25], [10, 0, 30, 12], [0, 0, 4, 4]])[:count]
        logits = torch.randn(count, 28, 28, generator=generator)
        return [
            boxes[None],
            torch.tensor([[0.9, 0.8, 0.7]])[:, :count],
            torch.tensor([[0, 1, 0]])[:, :count],
            logits[None],
        ]

    def batch(self):
        return Batch.of([Example(torch.zeros(3, 32, 32), None, Geometry((60, 90), (30, 32), (0, 0, 60, 90), (32, 32)))])

    @pytest.mark.parametrize("at_once", [1, 2**25])
    def test_they_are_pasted_at_the_size_of_the_image(self, at_once, monkeypatch):
        monkeypatch.setattr(inference, "AT_ONCE", at_once)
        boxes, logits = self.outputs()[0][0], self.outputs()[3][0]
        *_, rles, lengths = inference.predict(lambda images, sizes: self.outputs(), self.batch(), {})
        found = masks_of_texts(from_bytes(rles[0], lengths[0]), (60, 90))
        expected = paste(logits, boxes * torch.tensor([90 / 32, 2, 90 / 32, 2]), (60, 90))
        assert np.array_equal(found, expected.numpy())

    def test_nothing_found(self):
        columns = inference.predict(lambda images, sizes: self.outputs(0), self.batch(), {})
        assert [len(column[0]) for column in columns] == [0] * 5


def test_data_without_masks_is_refused(data, tmp_path, capsys):
    content = json.loads((data / "instances.json").read_text())
    for one in content["annotations"]:
        del one["segmentation"]
    (tmp_path / "images").symlink_to(data / "images")
    (tmp_path / "instances.json").write_text(json.dumps(content))
    assert main(["train", str(tmp_path), "--output", str(tmp_path / "run"), *SMALL]) == 2
    assert "has boxes, and no segment of each object" in capsys.readouterr().err
