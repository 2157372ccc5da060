"""The task segmentation: what the commands make of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import glocal
from glocal.cli import main
from glocal.data.batch import Batch
from glocal.data.geometry import Geometry
from glocal.data.image import read_image
from glocal.data.masks import IGNORE
from glocal.data.prepare import Prepare
from glocal.data.preprocessing import Preprocessing, Whole
from glocal.data.segments import mask_of_text
from glocal.deploy.predictor import Predictor
from glocal.models.heads.mask2former import QueryPredictions
from glocal.tasks import find_task
from glocal.tasks.loading import load_trained
from glocal.tasks.segmentation import inference
from glocal.tasks.segmentation.inference import predict
from glocal.tasks.segmentation.labels import pixels_of_classes
from glocal.tasks.segmentation.task import SegmentationTask
from glocal.testing import check_task
from glocal.training.config import train_config

SEGMENTATION = find_task("segmentation")


class Light(SegmentationTask):
    """The task with a small head."""

    def model_args(self, options, source):
        return super().model_args(options, source) | {"head": "semantic_fpn"}


@pytest.mark.parametrize("task", [Light(), pytest.param(SEGMENTATION, marks=pytest.mark.slow)])
def test_all_commands_can_take_it(data, task):
    check_task(task, data, img_size=48)


class TestModels:
    @pytest.mark.parametrize("head", ["semantic_fpn", "upernet", "mask2former"])
    def test_a_training_step_gives_every_parameter_a_gradient(self, head):
        options = train_config(SEGMENTATION)(head=head)
        names = ["a", "b", "c"]
        torch.manual_seed(0)
        model = SEGMENTATION.model(SEGMENTATION.backbone("van_pico", names), names, head=head).train()
        labels = torch.randint(-1, 3, (2, 8, 12)).repeat_interleave(8, 1).repeat_interleave(8, 2)
        source = glocal.data.samples.DataSource("made", names, {})
        objective = SEGMENTATION.objective(options, source, None)
        parts = objective(model, Batch(torch.randn(2, 3, 64, 96), labels, [], []))
        parts["loss"].backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        total = sum(value for name, value in parts.items() if name != "loss")
        assert len(parts) == {"semantic_fpn": 1, "upernet": 3, "mask2former": 31}[head]
        if head != "semantic_fpn":
            assert parts["loss"].item() == pytest.approx(total.item(), rel=1e-5)

    def test_an_outside_backbone(self, data):
        names = ["a", "b"]
        model = SEGMENTATION.model(SEGMENTATION.backbone("resnet18", names), names, head="upernet").eval()
        assert model(torch.randn(1, 3, 70, 45)).shape == (1, 2, 18, 12)

    @pytest.mark.parametrize(
        "args",
        [
            {},
            {"head": "other"},
            {"head": "upernet", "window": [10]},
            {"head": "upernet", "window": [10, 20]},
            {"head": "upernet", "colors": [[0, 0, 256]]},
            {"head": "upernet", "checkpoint": "x"},
            {"head": ["upernet"]},
        ],
        ids=str,
    )
    def test_a_file_may_not_give_other_arguments(self, args):
        with pytest.raises(ValueError, match=r"task_args|stride"):
            SEGMENTATION.check_model_args(args)


class TestImages:
    """How images of any size come to the model."""

    @pytest.mark.parametrize(
        ("size", "sizes"),
        [
            ((683, 512), [(683, 512)]),
            ((512, 4096), [(256, 2048)]),
            ((100, 40), [(1280, 512)]),
            ((333, 500), [(512, 769)]),
        ],
        ids=str,
    )
    def test_the_aspect_is_kept(self, size, sizes):
        assert Whole(512, 2048).sizes(size) == sizes

    def test_sizes_become_multiples(self):
        assert Whole(64, 256, 32, "resize").sizes((70, 100)) == [(64, 91), (64, 96)]
        assert Whole(64, 256, 32).padded((64, 91)) == (64, 96)

    @pytest.mark.parametrize("align", ["pad", "resize"])
    def test_padding_is_zero_and_behind_the_image(self, align):
        whole = Whole(48, 200, 32, align)
        prepare = Prepare(Preprocessing((3, 48, 48), (0.5,) * 3, (0.5,) * 3, "bilinear", whole=whole))
        example = prepare(Image.new("RGB", (70, 50), "white"))
        assert example.image.shape == (3, 64, 96)
        shown = example.geometry.input_size
        assert shown == {"pad": (48, 67), "resize": (64, 96)}[align]
        assert example.geometry.box == (0, 0, 50, 70)
        assert (example.image[:, : shown[0], : shown[1]] == 1).all()
        assert not example.image[:, shown[0] :].any()
        assert not example.image[:, :, shown[1] :].any()

    def test_it_is_in_the_file_of_a_run(self, run):
        whole = load_trained(run).preprocessing["whole"]
        assert whole == {"shorter": 48, "longer": 192, "multiple": 1, "align": "pad", "antialias": False}

    def test_images_of_several_sizes_are_the_same_in_one_batch_and_alone(self, run, data):
        paths = [str(path) for path in sorted((data / "images").iterdir())[:5]]
        alone, together = (
            Predictor(run, engine="torch", batch_size=1)(paths),
            Predictor(run, batch_size=5, engine="torch")(paths),
        )
        for one, other in zip(alone, together, strict=True):
            assert np.array_equal(one.labels, other.labels)
            assert one.labels.shape == read_image(one.source).size[::-1]


def logits_of(images):
    """A made-up model at stride 4: brightness of red, green and blue as the logits of three classes."""
    return torch.nn.functional.avg_pool2d(images, 4, ceil_mode=True) * 3


def batch_of(*sizes, padded=None):
    images = [torch.rand(3, *size, generator=torch.Generator().manual_seed(sum(size))) for size in sizes]
    geometry = [Geometry((size[0] * 2 + 1, size[1] * 3), size, (0, 0, *size), padded) for size in sizes]
    from glocal.data.batch import Example

    return Batch.of([Example(image, None, one) for image, one in zip(images, geometry, strict=True)])


class TestPrediction:
    def test_it_is_the_argmax_at_the_images_size(self):
        batch = batch_of((20, 30))
        (labels,), (confidence,) = predict(logits_of, batch, {"head": "semantic_fpn"})
        at_input = torch.nn.functional.interpolate(logits_of(batch.images), (20, 30), mode="bilinear")
        scores = torch.nn.functional.interpolate(at_input, (41, 90), mode="bilinear")[0]
        assert torch.equal(labels.long(), scores.argmax(0))
        for c in range(3):
            assert confidence[c].item() == pytest.approx(scores.softmax(0)[c][labels == c].mean().item(), rel=1e-4)

    @pytest.mark.parametrize("head", ["semantic_fpn", "mask2former"])
    def test_a_few_classes_at_a_time_give_the_same(self, head, monkeypatch):
        def queries(images):
            torch.manual_seed(0)
            return QueryPredictions(torch.randn(len(images), 6, 4), torch.randn(len(images), 6, 5, 8))

        compute = logits_of if head == "semantic_fpn" else queries
        whole = predict(compute, batch_of((20, 30)), {"head": head})
        monkeypatch.setattr(inference, "AT_ONCE", 1)
        parts = predict(compute, batch_of((20, 30)), {"head": head})
        assert torch.equal(whole[0][0], parts[0][0])
        assert torch.allclose(whole[1][0], parts[1][0], atol=1e-6)

    def test_a_window_as_large_as_the_image_changes_nothing(self):
        whole = predict(logits_of, batch_of((20, 30)), {"head": "semantic_fpn"})
        windows = predict(logits_of, batch_of((20, 30)), {"head": "semantic_fpn", "window": [32, 20]})
        assert torch.equal(whole[0][0], windows[0][0])

    def test_a_mirror_image_of_a_symmetric_model_changes_nothing(self):
        batch = batch_of((20, 32))
        whole = predict(logits_of, batch, {"head": "semantic_fpn"})
        flipped = predict(logits_of, batch, {"head": "semantic_fpn", "flip": True})
        assert (whole[0][0] == flipped[0][0]).float().mean() > 0.999  # rounding at ties

    def test_nan_is_an_error(self):
        with pytest.raises(RuntimeError, match="non-finite"):
            predict(lambda images: logits_of(images) * float("nan"), batch_of((20, 30)), {"head": "semantic_fpn"})


class TestCommands:
    def test_eval_measures_the_held_out_part(self, run, tmp_path, capsys):
        place = tmp_path / "eval.json"
        assert main(["eval", "--checkpoint", str(run), "--json", str(place), "--boundary", "--workers", "0"]) == 0
        found = json.loads(place.read_text())
        assert found["task"] == "segmentation"
        assert found["images"] == 5
        assert 0 < found["miou"] <= found["aacc"] <= 100
        assert 0 <= found["boundary_iou"] <= 100
        assert {entry["name"] for entry in found["per_class"]} <= {"ground", "square", "disc"}
        assert "worst" in capsys.readouterr().out or found["per_class"]

    @pytest.mark.parametrize(
        "options", [["--window", "32,20"], ["--scales", "0.5,1.5", "--flip"], ["--sizes", "32,48"]]
    )
    def test_eval_sees_images_in_other_ways(self, run, options, tmp_path):
        place = tmp_path / "eval.json"
        assert main(["eval", "--checkpoint", str(run), "--json", str(place), "--workers", "0", *options]) == 0
        found = json.loads(place.read_text())
        assert len(found) == 2 if "--sizes" in options else found["miou"] > 0

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            (["--window", "512,600"], "--window must be"),
            (["--scales", "1,a"], "--scales must be"),
            (["--corruptions", "fog"], "--corruptions is for classification"),
        ],
    )
    def test_eval_refuses_in_a_line(self, run, options, error, capsys):
        assert main(["eval", "--checkpoint", str(run), *options]) == 2
        assert error in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            (["--mask-loss", "ce+x"], "'x' is no loss"),
            (["--head", "mask2former", "--mask-loss", "dice"], "mask2former has a loss of its own"),
            (["--head", "mask2former", "--window", "64,32"], "--window is for heads that give logits"),
            (["--whole", "512,256"], "--whole must be"),
            (["--window", "64,32", "--strategy", "fsdp"], "--window with --strategy fsdp"),
            (["--resize-range", "2"], "--resize-range must be"),
            (["--crop-pct", "0.9"], "--crop-pct and --crop-mode are for single labels"),
            (["--mixup", "0.2"], "--mixup is for classification"),
            (["--model", "vit_tiny_patch16_224"], "no maps at the strides"),
        ],
    )
    def test_train_refuses_in_a_line(self, data, options, error, capsys, tmp_path):
        command = ["train", str(data), "--output", str(tmp_path / "run"), "--model", "van_pico", "--img-size", "64"]
        assert main([*command, *options]) == 2
        captured = capsys.readouterr().err
        assert error in captured
        assert "Traceback" not in captured

    def test_predictions_are_written_with_their_masks(self, run, data, tmp_path):
        place = tmp_path / "out.json"
        assert main(["predict", str(data / "images"), "--checkpoint", str(run), "--output", str(place)]) == 0
        rows = json.loads(place.read_text())
        assert len(rows) == 24
        for row in rows:
            masks = [mask_of_text(text, row["size"]) for text in row["rles"]]
            assert np.array_equal(sum(mask.astype(int) for mask in masks), np.ones(row["size"], int))
            assert [mask.mean() for mask in masks] == pytest.approx(row["shares"])

    def test_pictures_show_the_classes(self, run, data, tmp_path):
        images = [str(data / "images" / "000.png")]
        assert main(["predict", *images, "--checkpoint", str(run), "--pictures", str(tmp_path / "drawn")]) == 0
        (picture,) = (tmp_path / "drawn").iterdir()
        width, height = Image.open(images[0]).size
        factor = -(-200 // min(width, height))  # small images are enlarged, with the legend below them
        assert Image.open(picture).width == factor * width
        assert Image.open(picture).height > factor * height

    def test_a_picture_of_a_large_enough_image_has_its_size(self, run, tmp_path):
        Image.new("RGB", (300, 210), "red").save(tmp_path / "large.png")
        options = ["--checkpoint", str(run), "--pictures", str(tmp_path / "drawn")]
        assert main(["predict", str(tmp_path / "large.png"), *options]) == 0
        (picture,) = (tmp_path / "drawn").iterdir()
        assert Image.open(picture).size == (300, 210)

    def test_a_training_goes_on_from_another_with_other_classes(self, run, tmp_path, caplog):
        from tasks.segmentation.conftest import draw

        other = draw(tmp_path / "other", 12)
        (other / "classes.txt").write_text("ground\nsquare\ndisc\nmore\n")
        options = ["--checkpoint", str(run), "--epochs", "1", "--img-size", "32", "--batch-size", "4", "--workers", "0"]
        assert main(["train", str(other), "--output", str(tmp_path / "run"), *options]) == 0
        shapes = "head.classifier.weight (3, 128, 1, 1) for (4, 128, 1, 1)"
        assert f"{shapes}); layers of the head that start anew: 1 of" in caplog.text
        assert load_trained(tmp_path / "run").class_names == ["ground", "square", "disc", "more"]

    def test_a_training_goes_on_from_the_same_classes(self, run, data, tmp_path):
        from glocal.tasks.loading import load_for_finetuning

        trained = load_trained(run)
        model = load_for_finetuning("van_pico", run, SEGMENTATION, trained.class_names, trained.task_args)
        for name, tensor in trained.model.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name])


class TestLabels:
    def test_pixels_are_counted(self, data):
        source = glocal.data.open.open_for_training(str(data), formats=SEGMENTATION.formats)
        samples = source.splits["train"]
        counts = pixels_of_classes(samples, 4)
        assert counts.shape == (len(samples), 4)
        for row, image, labels in zip(counts, samples.images, samples.labels, strict=True):
            size = read_image(image).size[::-1]
            expected = labels.load(size)
            assert row.tolist() == [int((expected == c).sum()) for c in range(4)]

    def test_measuring_keeps_the_maps_size(self, data):
        source = glocal.data.open.open_for_training(str(data), formats=SEGMENTATION.formats)
        preprocessing = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3, "bilinear", whole=Whole(32, 128))
        transform = SEGMENTATION.transform(preprocessing, source.class_names)
        image = source.splits["val"].load(0)
        example = transform(image, source.splits["val"].labels[0])
        assert example.target.shape == image.size[::-1]
        assert IGNORE not in example.target
        assert min(example.image.shape[1:]) == 32
        assert replace(preprocessing, whole=None).fixed_size == (3, 32, 32)
