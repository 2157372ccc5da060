"""A task whose model is a backbone and a head of its own: what the library may not take it for."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from glocal.cli import main
from glocal.data.preprocessing import Preprocessing
from glocal.data.samples import Samples
from glocal.deploy.calibration import calibration_images
from glocal.deploy.graph import has_embedding
from glocal.deploy.predictor import Predictor
from glocal.tasks import registry
from glocal.tasks.loading import load_for_finetuning, load_trained
from glocal.tasks.metrics import Metrics
from glocal.training.run_folder import write_samples
from tasks.outside import Angle, AngleMetrics, TurnedImages
from tasks.test_outside import training, write_images


class Headed(nn.Module):
    def __init__(self, backbone, outputs):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.num_features, outputs)

    def forward(self, images):
        return self.head(self.backbone(images))


class TurnedForHeaded(TurnedImages):
    def open_training(self, *args):
        return replace(super().open_training(*args), task="headed_angle")


class HeadedAngle(Angle):
    name = "headed_angle"
    formats = (TurnedForHeaded(),)

    def num_outputs(self, class_names):
        return 0

    def model(self, backbone, class_names, **args):
        return Headed(backbone, 2)


@pytest.fixture(scope="module", autouse=True)
def task():
    yield registry.register_task(HeadedAngle())
    registry._tasks.pop(HeadedAngle.name)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("headed") / "data"
    write_images(folder)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("headed") / "run"
    assert main([*training(data, output), "--epochs", "1", "--task", "headed_angle"]) == 0
    return output


def test_a_run_is_loaded_with_its_head(run):
    trained = load_trained(run)
    assert isinstance(trained.model, Headed)
    assert trained.task.name == "headed_angle"


def test_it_is_not_taken_for_a_classifier(run, data):
    assert not has_embedding(load_trained(run))
    (result,) = Predictor(run)([str(data / "000.png")])
    assert result.angle is not None


def test_embeddings_are_refused_in_a_line(run, data, capsys):
    assert main(["embed", str(data), "--checkpoint", str(run)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_it_goes_on_from_its_own_weights(run, task):
    model = load_for_finetuning("test_resnet", run, task, [])
    assert torch.equal(model.head.weight, load_trained(run).model.head.weight)


def test_weights_for_other_classes_are_refused(run, task):
    with pytest.raises(ValueError, match="was trained for other classes than those of the data"):
        load_for_finetuning("test_resnet", run, task, ["a", "b"])


def test_a_classifiers_weights_start_it_without_a_word_on_classes(task, tmp_path, caplog):
    classifier = timm.create_model("test_resnet", num_classes=7)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    model = load_for_finetuning("test_resnet", tmp_path / "classifier.pth", task, [])
    assert isinstance(model, Headed)
    weights = model.backbone.state_dict()
    assert all(
        torch.equal(weights[name], tensor) for name, tensor in classifier.state_dict().items() if name in weights
    )
    assert "classes" not in caplog.text


def test_a_model_that_cannot_recompute_its_blocks_says_so(data, tmp_path, capsys):
    options = ["--task", "headed_angle", "--grad-checkpointing"]
    assert main([*training(data, tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert "--grad-checkpointing: the model of the task headed_angle" in error
    assert "Traceback" not in error


class Areas(Metrics):
    """Sums over a data set, and a number of rows that is not the number of images."""

    def update(self, outputs, targets):
        self.add(len(outputs), area=outputs.sum(0))
        self.keep(images=0, boxes=targets)

    def compute(self):
        return {"area": self.added("area").sum().item()} if self.images else {}


def test_sums_and_rows_of_several_devices():
    torch.manual_seed(0)
    whole, parts = Areas(), [Areas() for _ in range(3)]
    for part, (images, boxes) in zip([parts[0], parts[0], parts[2]], [(2, 5), (3, 0), (1, 4)], strict=True):
        outputs, targets = torch.randint(9, (images, 4)), torch.rand(boxes, 4)
        whole.update(outputs, targets)
        part.update(outputs, targets)
    states = [part.state() for part in parts]
    for part in parts:
        part.merge(states)
        assert part.images == whole.images == 6
        assert part.compute() == whole.compute()
        assert torch.equal(part.kept("boxes"), whole.kept("boxes"))


def test_rows_count_images_by_default():
    metrics = AngleMetrics()
    metrics.update(torch.rand(3, 2), torch.rand(3, 2))
    assert metrics.images == 3


def test_samples_of_a_run_have_labels_in_their_names_only_where_there_are_some(tmp_path):
    images = [np.full((2, 2, 3), number, np.uint8) for number in range(20)]
    val = Samples(images, [np.zeros((2, 2))] * 20)
    files = write_samples(tmp_path, SimpleNamespace(splits={"val": val}, class_names=["a"], name="masks"))
    assert [file.name for file in files] == [f"masks-{number:04}.png" for number in range(8)]
    assert [np.asarray(Image.open(file)).max() for file in files] == list(range(8))


def test_calibration_takes_the_images_of_a_tasks_own_format(data, monkeypatch):
    """Not what else lies in the folder, such as masks."""
    (data / "masks").mkdir(exist_ok=True)
    for name in ("000.png", "001.png"):
        (data / "masks" / name).write_bytes((data / name).read_bytes())
    preprocessing = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3)
    assert len(calibration_images(str(data), 100, preprocessing)) == 48


def test_features_of_a_model_without_stages_are_refused_in_a_line(run, tmp_path, capsys):
    assert main(["export", "--checkpoint", str(run), "--output", str(tmp_path / "m.onnx"), "--features"]) == 2
    error = capsys.readouterr().err
    assert "--features: the model of the task headed_angle" in error
    assert "Traceback" not in error


@pytest.fixture
def classifier_run(tmp_path):
    torch.set_num_threads(1)
    output = tmp_path / "digits"
    assert main(training("digits", output, "--epochs", "1", "--quick")) == 0
    return output


def test_it_starts_from_a_run_of_a_classifier(classifier_run, task, caplog):
    model = load_for_finetuning("test_resnet", classifier_run, task, [])
    assert isinstance(model, Headed)
    ours, theirs = model.backbone.state_dict(), load_trained(classifier_run).model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert "classifier starts anew" not in caplog.text


def test_the_new_task_puts_its_head_on_a_classifiers_run(classifier_run):
    """Although both have a classifier, of any number of outputs."""

    class Wrapped(Angle):
        name = "wrapped"

        def model(self, backbone, class_names, **args):
            return nn.Sequential(backbone)

    model = load_for_finetuning("test_resnet", classifier_run, Wrapped(), [])
    assert isinstance(model, nn.Sequential)
    assert model[0].num_classes == 2


def test_an_unknown_task_in_a_file_is_named_with_the_file(run, monkeypatch):
    monkeypatch.setattr(registry, "_tasks", {k: v for k, v in registry._tasks.items() if k != "headed_angle"})
    with pytest.raises(ValueError, match=r"safetensors: unknown task 'headed_angle'.*register_task"):
        load_trained(run)
