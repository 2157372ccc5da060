"""`glocal eval` opens the data of a run as its training did: with the same arguments of the layout."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from glocal.cli import main
from glocal.data import open as data_open
from glocal.data.formats import class_folders
from glocal.evaluation.config import EvalConfig
from glocal.evaluation.evaluate import evaluate
from glocal.tasks import measurement
from glocal.tasks.checkpoint import CheckpointInfo, read_info, save_checkpoint
from glocal.tasks.description import parse_description
from glocal.training.config import TrainConfig
from glocal.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

PREPROCESSING = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3}


class Inside:
    """Class folders in a folder of the data that the argument `images` names."""

    ARGS = ("images", "more")

    def matches(self, data):
        return (Path(data) / "layout").is_file()

    def open_training(self, data, how):
        return class_folders.open_training(self.place(data, how), replace(how, args={}))

    def open_evaluation(self, data, how, held_out):
        return class_folders.open_evaluation(self.place(data, how), replace(how, args={}), held_out)

    def place(self, data, how):
        return str(Path(data) / how.args.get("images", "images"))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two sets in one folder: of ants and bees 10 each in "photos", 3 each in "images"."""
    formats = [Inside(), class_folders]
    monkeypatch.setattr(measurement, "all_formats", lambda task: formats)
    monkeypatch.setattr("glocal.training.train.all_formats", lambda task: formats)
    monkeypatch.chdir(tmp_path)
    draw = np.random.RandomState(0)
    for place, count in (("photos", 10), ("images", 3)):
        for name in ("ant", "bee"):
            (tmp_path / "data" / place / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.randint(0, 255, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / place / name / f"{number}.png")
    (tmp_path / "data" / "layout").touch()
    return "data"


def run(data, **options):
    return train(
        TrainConfig(data, model="test_resnet", img_size=32, epochs=1, workers=0, device="cpu", output="run", **options)
    )


def described(**about):
    """A checkpoint, for instance a stranger's, with this on its data."""
    info = CheckpointInfo("test_resnet", ["ant", "bee"], PREPROCESSING, data=about)
    torch.manual_seed(0)
    save_checkpoint("alone.safetensors", timm.create_model("test_resnet", num_classes=2).state_dict(), info)
    return "alone.safetensors"


def measured(checkpoint, data=None, **options):
    return evaluate(EvalConfig(data, checkpoint, workers=0, device="cpu", **options))


def test_the_training_and_a_measurement_without_data(data, capsys):
    trained = run(data, data_args={"images": "photos"})
    assert trained.images == {"train": 16, "val": 4}
    assert measured("run").images == 4
    capsys.readouterr()
    assert main(["eval", "--checkpoint", "run", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "reading data (data, as run/config.yaml says)",
        "reading images: photos (data args, as run/config.yaml says)",
    ]


def test_the_same_data_given_again(data, caplog):
    run(data, data_args={"images": "photos"})
    result = measured("run", data)
    assert (result.images, result.split) == (4, "val")
    assert "data is opened with --data-args {images: photos}, as the checkpoint says" in caplog.messages


def test_what_is_typed_takes_the_place_of_what_a_file_says(data, capsys):
    run(data, data_args={"images": "photos"})
    assert measured("run", data, data_args={"images": "images"}).images == 6
    assert measured("run", data_args={"more": "x"}).images == 6
    assert main(["eval", "--checkpoint", "run", "--device", "cpu", "--data-args", "{images: images}"]) == 0
    assert "data args, as" not in capsys.readouterr().out


def test_without_arguments_a_description_is_as_before(data):
    run(f"{data}/photos")
    from safetensors import safe_open

    with safe_open("run/model.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["glocal"])["data"]
    assert about.keys() == {"name", "held_out"}
    assert about["held_out"].keys() == {"val_fraction", "seed", "files"}


def test_data_of_another_layout(data, caplog):
    assert measured(described(args={"masks": "photos"}), data).images == 6
    assert "data has another layout than the data of the training: opened without 'masks'" in caplog.messages


@pytest.mark.parametrize(
    "value", ["/etc", "../photos", "photos/../..", "~/photos", "C:photos", "\\\\host\\x", "https://a/b", ["a", "/b"]]
)
def test_a_strangers_file_names_nothing_outside_the_data(value, data):
    with pytest.raises(ValueError, match=r"^the checkpoint says --data-args images: .*, which is outside its data"):
        measured(described(args={"images": value}), data)
    assert measured(described(args={"images": value}), data, data_args={"images": "images"}).images == 6


def test_a_strangers_run_names_no_command(data):
    Path(described()).rename("model.safetensors")
    Path("config.yaml").write_text("data: data\ndata_args: {images: ' p ipe:touch x'}\n")
    with pytest.raises(ValueError, match=r"config.yaml names a command as its data, .*to run it, type --data-args$"):
        measured(".")


@pytest.mark.parametrize(
    "args",
    [
        *[
            {"a": None},
            {"a": [[[1]]]},
            {"a": {"b": {"c": {}}}},
            {"a": {1: 2}},
            {"a": {"b\0": 1}},
            {"a": [float("nan")]},
        ],
        *[{"a b": 1}, {"a": "x" * 1001}, {"a": 2.0**60}, {"a": "\0"}, {"a": ["\udc80"]}, 3, ["a"]],
        *[{f"a{i}": 1 for i in range(101)}, {"a" * 101: 1}, {"": 1}, {"a": ["x"] * 10_001}],
    ],
    ids=lambda args: str(args)[:20],
)
def test_what_arguments_are_none(args):
    if isinstance(args, dict):
        with pytest.raises(ValueError, match=r"^--data-args must be names with texts, numbers, .*, got "):
            TrainConfig(data_args=args)
        with pytest.raises(ValueError, match=r"^--data-args must be names with texts, numbers, .*, got "):
            EvalConfig(data_args=args)
    text = {"model": "a", "class_names": [], "preprocessing": PREPROCESSING, "data": {"args": args}}
    if args != {"a": {1: 2}}:  # JSON has no such keys
        with pytest.raises(ValueError, match=r"args|JSON is malformed|Invalid"):
            parse_description(json.dumps(text))


def test_plain_values_are_kept():
    args = {"masks": "labels", "depth": 16, "scale": 0.5, "rgb": True, "classes": {"cat": [0, 9, 9], "dög": [1, 1, 1]}}
    about = CheckpointInfo("a", ["b"], PREPROCESSING, data={"name": "x", "args": args})
    assert parse_description(about.to_json()).data["args"] == args
    assert TrainConfig(data_args=args).data_args == args


def test_the_embedded_set_takes_none():
    assert data_open.FORMATS[-1].matches("digits")
    with pytest.raises(ValueError, match="digits takes no arguments, got 'masks'"):
        train(TrainConfig("digits", data_args={"masks": "x"}))


def test_groups_of_the_training(data, caplog, monkeypatch):
    """A measurement finds the images that were held out, and searches no expression for that."""
    trained = run(f"{data}/photos", group=r"/(\d)")
    assert trained.images == {"train": 16, "val": 4}
    assert "data/photos: 2 of 10 groups held out, 20.0% of the images" in caplog.messages
    monkeypatch.setattr(class_folders, "groups_of_files", None)
    result = measured("run", f"{data}/photos")
    assert (result.images, result.split) == (4, "val")
    assert result.top1 == pytest.approx(trained.metrics["top1"])
    assert result.loss == pytest.approx(trained.metrics["loss"], rel=1e-4)


def test_groups_and_arguments_together(data):
    assert run(data, data_args={"images": "photos"}, group=r"/(\d)").images == {"train": 16, "val": 4}
    assert measured("run").images == measured("run", data).images == 4


def test_a_strangers_expression_is_not_searched(data):
    """It would take for ever, on names that the stranger knows."""
    run(f"{data}/photos", group=r"/(\d)")
    held_out = read_info("run/model.safetensors").data["held_out"] | {"group": "(.*)*(.*)*(.*)*(.*)*(.*)*x"}
    assert measured(described(held_out=held_out), f"{data}/photos").images == 4


@pytest.mark.parametrize("held_out", [{"group": "a"}, {"group": "a" * 201, "val": ""}, {"val": 3}, {"groups": "a"}])
def test_what_a_description_may_not_say_of_groups(held_out):
    held_out = {"val_fraction": 0.2, "seed": 0, "files": "x"} | held_out
    text = {"model": "a", "class_names": [], "preprocessing": PREPROCESSING, "data": {"held_out": held_out}}
    with pytest.raises(ValueError, match="held_out"):
        parse_description(json.dumps(text))


def test_images_of_other_data(data):
    run(f"{data}/photos", group=r"/(\d)")
    held_out = read_info("run/model.safetensors").data["held_out"]
    for val in ("", "AAAA", "////", "gAAAAAAAAA==", "é"):
        with pytest.raises(ValueError, match="names images to measure on that data/photos does not have"):
            measured(described(held_out=held_out | {"val": val}), f"{data}/photos")


@pytest.mark.parametrize("group", ["a" * 201, "a\0", "\udc80"])
def test_a_group_that_a_description_cannot_hold(group):
    with pytest.raises(
        ValueError, match=r"^--group must be a column or a regular expression of at most 200 characters"
    ):
        TrainConfig(group=group)
