"""The task detection: what the commands make of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.cli import main
from glocal.data.batch import Batch
from glocal.data.image import read_image
from glocal.data.objects import Objects
from glocal.data.open import open_for_training
from glocal.data.samples import DataSource, Samples
from glocal.data.shards import ShardedSamples
from glocal.deploy.predictor import Predictor
from glocal.tasks import find_task
from glocal.tasks.detection.sampling import objects_of_classes, weights_of_images
from glocal.tasks.detection.task import DetectionTask
from glocal.tasks.loading import load_trained
from glocal.testing import check_task
from glocal.training.config import train_config
from tasks.detection.conftest import IDS, NAMES, SMALL, draw

DETECTION = find_task("detection")
SLOW = pytest.mark.slow


def objects_of(size, count, crowd=False):
    boxes = np.tile([1.0, 1, 8, 8], (count, 1))
    return Objects(boxes, np.zeros(count, np.int64), np.full(count, crowd), np.full(count, 49.0), (), size)


class Light(DetectionTask):
    """The task with a small head."""

    def model_args(self, options, source):
        return super().model_args(options, source) | {"head_args": {"width": 16, "depth": 1}}


def test_all_commands_can_take_it(data):
    check_task(Light(), data, img_size=48)


class TestModels:
    @pytest.mark.parametrize(
        "head",
        [
            "retinanet",
            pytest.param("faster_rcnn", marks=pytest.mark.slow),
            pytest.param("dino", marks=pytest.mark.slow),
        ],
    )
    def test_a_batch_without_objects_has_a_loss_and_finite_gradients(self, head):
        options = train_config(DETECTION)(head=head)
        torch.manual_seed(0)
        args = {"head_args": {"width": 32, "depth": 1}} if head == "retinanet" else {}
        model = DETECTION.model(DETECTION.backbone("van_pico", NAMES), NAMES, head=head, **args).train()
        nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        targets = [nothing | {"size": torch.tensor(size)} for size in ((64, 96), (50, 64))]
        parts = DETECTION.objective(options, None, None)(model, Batch(torch.randn(2, 3, 64, 96), targets, [], []))
        parts["loss"].backward()
        assert all(value.isfinite() for value in parts.values())
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        total = sum(value for name, value in parts.items() if "loss" in name and name != "loss")
        assert parts["loss"].item() == pytest.approx(total.item(), rel=1e-5)

    @pytest.mark.parametrize(
        ("args", "error"),
        [
            ({}, "task_args"),
            ({"head": "mask_rcnn", "score_threshold": 0.3}, "the heads are retinanet, faster_rcnn, dino"),
            ({"head": "retinanet", "score_threshold": 2}, "task_args"),
            (
                {"head": "retinanet", "score_threshold": 0.3, "head_args": {"file": "x"}},
                "does not take the argument 'file'",
            ),
            ({"head": "retinanet", "score_threshold": 0.3, "head_args": {"width": 10**9}}, "width"),
            ({"head": "retinanet", "score_threshold": 0.3, "checkpoint": "x"}, "task_args"),
            ({"head": ["retinanet"], "score_threshold": 0.3}, "task_args"),
        ],
        ids=str,
    )
    def test_a_file_may_not_give_other_arguments(self, args, error):
        with pytest.raises((ValueError, TypeError), match=error):
            DETECTION.check_model_args(args)


class TestClassWeights:
    def objective(self, how):
        images = [objects_of((40, 40), 3), objects_of((40, 40), 4, crowd=True), objects_of((40, 40), 1)]
        images[2].labels[:] = 1
        source = DataSource("x", NAMES, {"train": Samples(list("abc"), images)}, task="detection")
        return DETECTION.objective(train_config(DETECTION)(class_weights=how), source, None)

    @pytest.mark.parametrize(
        ("how", "weights"), [("none", None), ("balanced", [0.5, 1.5]), ("sqrt", [0.73205, 1.26795])]
    )
    def test_they_follow_the_objects_and_reach_the_head(self, how, weights):
        objective, given = self.objective(how), []

        def model(images, sizes, targets, class_weights):
            given.append(class_weights)
            return {"loss_cls": torch.ones(5)}

        batch = Batch(torch.zeros(1, 3, 8, 8), [{"size": torch.tensor((8, 8))}], [], [])
        assert objective(model, batch)["loss"] == 5
        assert (given[0] if weights is None else given[0].tolist()) == (weights and pytest.approx(weights, rel=1e-4))

    def test_shards_are_refused(self):
        with pytest.raises(ValueError, match="--class-weights looks at all objects"):
            objects_of_classes(object.__new__(ShardedSamples), 3)


class TestSampling:
    def test_rare_classes_are_drawn_more_often(self, data):
        samples = open_for_training(str(data), formats=DETECTION.formats).splits["train"]
        weights = weights_of_images(samples)
        empty = torch.tensor([not len(objects) for objects in samples.labels])
        assert weights.shape == (len(samples),)
        assert (weights[empty] == 1).all()
        assert (weights[~empty] > 1).all()

    @pytest.mark.parametrize(
        ("options", "left", "said"),
        [
            ({}, [0, 1, 2, 3, 4], None),
            ({"skip_empty": True}, [0, 1, 3, 4], "without objects (--skip-empty): 1"),  # a crowd is an object
            ({"skip_small": 32}, [0, 1, 2, 4], "with a side below 32 pixels (--skip-small): 1"),
            ({"skip_empty": True, "skip_small": 33}, [1], "(--skip-empty): 1, with a side below 33 pixels"),
        ],
        ids=str,
    )
    def test_images_are_left_out(self, options, left, said, caplog):
        images = [objects_of((32, 90), 2), objects_of((40, 40), 1, crowd=True), objects_of((40, 90), 0)]
        images += [objects_of((90, 31), 1), objects_of((32, 32), 3)]
        samples = Samples(list("abcde"), images)
        found = DETECTION.training_samples(train_config(DETECTION)(**options), samples)
        assert found.images == ["abcde"[place] for place in left]
        assert found.labels == [images[place] for place in left]
        assert (said in caplog.text) if said else not caplog.text

    def test_an_image_of_unknown_size_is_not_small(self):
        samples = Samples(["a"], [replace(objects_of((9, 9), 1), size=None)])
        assert len(DETECTION.training_samples(train_config(DETECTION)(skip_small=32), samples)) == 1

    def test_a_training_without_any_image_is_refused(self):
        samples = Samples(["a", "b"], [objects_of((40, 40), 0)] * 2)
        with pytest.raises(ValueError, match=r"no training image is left; without objects \(--skip-empty\): 2"):
            DETECTION.training_samples(train_config(DETECTION)(skip_empty=True), samples)

    def test_shards_are_refused(self):
        shards = object.__new__(ShardedSamples)
        with pytest.raises(ValueError, match="which shards do not give: --no-skip-empty --skip-small 0 trains on all"):
            DETECTION.training_samples(train_config(DETECTION)(skip_empty=True), shards)
        assert DETECTION.training_samples(train_config(DETECTION)(), shards) is shards

    def test_a_training_has_none_of_the_images_that_are_left_out(self, data, tmp_path, capsys):
        place = tmp_path / "batch.png"
        splits = open_for_training(str(data), formats=DETECTION.formats).splits
        left = sum(len(objects) > 0 for objects in splits["train"].labels)
        assert left < len(splits["train"])
        command = ["train", str(data), "--show-batch", str(place), "--output", str(tmp_path / "run"), *SMALL]
        assert main([*command, "--skip-empty"]) == 0
        assert f"{left} train + {len(splits['val'])} val images" in capsys.readouterr().out

    def test_a_batch_has_images_of_one_aspect(self, data):
        samples = open_for_training(str(data), formats=DETECTION.formats).splits["train"]
        wide = torch.tensor([objects.size[1] > objects.size[0] for objects in samples.labels])
        assert 0 < wide.sum() < len(wide)
        assert DETECTION.sample_groups(None, samples).bool().tolist() == wide.tolist()


class TestRuns:
    def test_what_the_file_of_a_run_says(self, run):
        trained = load_trained(run)
        assert trained.task is DETECTION
        assert trained.class_names == NAMES
        args = {"head": "retinanet", "score_threshold": 0.3, "head_args": {"width": 32, "depth": 1}, "ids": IDS}
        assert trained.task_args == args
        whole = {"shorter": 48, "longer": 80, "multiple": 32, "align": "pad", "antialias": False}
        assert trained.preprocessing["whole"] == whole

    def test_images_of_several_sizes_are_the_same_in_one_batch_and_alone(self, run, data):
        paths = [str(path) for path in sorted((data / "images").iterdir())[:5]]
        alone, together = (Predictor(run, engine="torch", batch_size=size)(paths) for size in (1, 4))
        for one, other in zip(alone, together, strict=True):
            assert one.classes == other.classes
            assert np.allclose(one.boxes, other.boxes, atol=1e-3)
            assert np.allclose(one.scores, other.scores, atol=1e-5)
            assert one.size == list(read_image(one.source).size[::-1])
        assert any(one.boxes for one in alone)

    def test_eval_measures_the_held_out_part(self, run, tmp_path, capsys):
        place = tmp_path / "eval.json"
        options = ["--json", str(place), "--pictures", str(tmp_path / "worst"), "--plots", str(tmp_path / "plots")]
        assert main(["eval", "--checkpoint", str(run), "--workers", "0", *options]) == 0
        found = json.loads(place.read_text())
        assert found["task"] == "detection"
        assert 0 <= found["box_ap"] <= found["box_ap50"] <= 100
        assert "voc_ap50" not in found
        assert [entry["name"] for entry in found["per_class"]] == NAMES
        assert len(list((tmp_path / "worst").iterdir())) == found["images"]
        assert {file.stem for file in (tmp_path / "plots").iterdir()} == {"ap", "confusion"}
        assert "box AP50" in capsys.readouterr().out

    def test_predictions_are_written_as_rows_and_files(self, run, data, tmp_path):
        rows = tmp_path / "out.json"
        saved = [f"coco={tmp_path / 'coco.json'}", f"yolo={tmp_path / 'yolo'}", f"csv={tmp_path / 'all.csv'}"]
        more = [word for one in saved for word in ("--save", one)] + ["--pictures", str(tmp_path / "drawn")]
        assert main(["predict", str(data / "images"), "--checkpoint", str(run), "--output", str(rows), *more]) == 0
        found = json.loads(rows.read_text())
        assert len(found) == 24
        coco = json.loads((tmp_path / "coco.json").read_text())
        assert len(coco["annotations"]) == sum(len(row["boxes"]) for row in found)
        assert {one["id"] for one in coco["categories"]} == set(IDS)
        assert len(list((tmp_path / "drawn").iterdir())) == 24
        for row in found:
            height, width = row["size"]
            boxes = np.array(row["boxes"]).reshape(-1, 4)
            assert (boxes >= 0).all()
            assert (boxes <= [width, height, width, height]).all()

    def test_large_images_are_cut_into_tiles(self, run, tmp_path):
        Image.new("RGB", (130, 70), "red").save(tmp_path / "large.png")
        (found,) = Predictor(run, engine="torch", tile=64, overlap=16)([str(tmp_path / "large.png")])
        assert found.size == [70, 130]

    def test_the_first_batch_is_shown(self, data, tmp_path):
        place = tmp_path / "batch.png"
        assert main(["train", str(data), "--show-batch", str(place), "--output", str(tmp_path / "run"), *SMALL]) == 0
        assert Image.open(place).width > 200
        assert not (tmp_path / "run").exists()

    def test_a_training_goes_on_from_another_with_other_classes(self, run, tmp_path, caplog):
        other = draw(tmp_path / "other", 12, names=["square", "ball"])
        options = ["--checkpoint", str(run), "--epochs", "1", *SMALL[2:]]
        assert main(["train", str(other), "--output", str(tmp_path / "run"), *options]) == 0
        assert load_trained(tmp_path / "run").class_names == ["square", "ball"]


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "error"),
        [
            (
                ["--head", "upernet"],
                "--head: the heads of detection are retinanet, faster_rcnn, dino, d_fine, got 'upernet'",
            ),
            (
                ["--head", "d_fine", "--class-weights", "sqrt"],
                "--class-weights: the losses of d_fine are transformers'",
            ),
            (["--head-args", "{windows: 3}"], "does not take the argument 'windows'"),
            (["--whole", "512,256"], "--whole must be"),
            (["--scale-jitter", "2"], "--scale-jitter must be two factors"),
            (["--train-scales", "0.5,x"], "--train-scales must be factors"),
            (["--crop-pct", "0.9"], "--crop-pct and --crop-mode are for single labels"),
            (["--mask-loss", "dice"], "--mask-loss is for segmentation"),
            (["--model", "vit_tiny_patch16_224"], "no maps at the strides"),
        ],
    )
    def test_train_refuses_in_a_line(self, data, options, error, capsys, tmp_path):
        command = ["train", str(data), "--output", str(tmp_path / "run"), *SMALL[:-4]]
        assert main([*command, *options]) == 2
        captured = capsys.readouterr().err
        assert error in captured
        assert "Traceback" not in captured
