"""What the command tells those who are new: defaults, recipes, extras, and what to do without weights."""

import re

import pytest

from glocal import cli
from glocal.cli import main
from glocal.cli.doctor import extras
from glocal.training.config import recipe_names


def shown_help(command, capsys):
    """Option → its help, on one line each."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out.partition("options:\n")[2]
    parts = re.split(r"\n  (?=-)", "\n" + text)[1:]
    found = (re.match(r"(.*?)(?:  +|\n\s+)(.*)", part, flags=re.DOTALL) for part in parts)
    return {re.search(r"--[\w-]+", match[1])[0]: " ".join(match[2].split()) for match in found}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_says_its_default(command, capsys):
    options = shown_help(command, capsys)
    assert "--config" in options
    without = {name for name, text in options.items() if "default" not in text}
    assert without <= {"--help", "--recipe", "--config", "--print-config", "--trust"}


def test_defaults_as_people_say_them(capsys):
    options = shown_help("train", capsys)
    assert options["--epochs"].endswith("(default: 10)")
    assert options["--balanced"].endswith("(default: no)")
    assert options["--ema"].endswith("(default: none)")
    assert options["--model-args"].endswith("(default: none)")
    assert options["--mixup"].endswith("(default: 0)")
    assert shown_help("bench", capsys)["--channels-last"].endswith("(default: yes)")


def test_recipes_are_listed(capsys):
    text = shown_help("train", capsys)["--recipe"]
    assert {"finetune", "van_b0_in1k"} <= set(recipe_names())
    for name in recipe_names():
        assert name in text


@pytest.mark.parametrize("name", ["finetun", "qqq", "--epochs"])
def test_an_unknown_recipe_is_answered_with_all(name, capsys):
    assert main(["train", f"--recipe={name}"]) == 2
    error = capsys.readouterr().err
    for known in recipe_names():
        assert known in error


@pytest.mark.parametrize("model", ["van_pico", "test_resnet"])
def test_fine_tuning_a_model_without_weights(model, capsys):
    assert main(["train", "digits", "--recipe", "finetune", "--model", model]) == 2
    assert capsys.readouterr().err.endswith("; --no-pretrained starts from random weights\n")


def test_a_mistake_in_fine_tuning_is_not_one_of_weights(capsys):
    assert main(["train", "digits", "--recipe", "finetune", "--model", "nosuchmodel"]) == 2
    assert "--no-pretrained" not in capsys.readouterr().err


def test_doctor_shows_extras_and_engines(capsys, monkeypatch):
    missing = {"export": ["onnxscript"], "train": []}
    monkeypatch.setattr("glocal.cli.doctor.extras", lambda: missing)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"export +│ onnxscript: pip install 'glocal\[export\]' ", shown)
    assert re.search(r"train +│ nothing ", shown)
    for engine in ("openvino", "onnxruntime"):
        assert re.search(rf"engine {engine} +│ ([\d.]+|not installed) ", shown)


def test_extras_are_those_of_the_package(monkeypatch):
    from importlib import metadata

    version = metadata.version

    def without(package):
        if package in ("lightning", "nncf"):
            raise metadata.PackageNotFoundError
        return version(package)

    monkeypatch.setattr(metadata, "version", without)
    found = extras()
    assert found["train"] == ["lightning"]
    assert "nncf" in found["int8"]
    assert "nncf" not in found["export"]
    assert {"lightning", "nncf"} <= set(found["all"])
