"""What a file of options may not ask for by itself, and what the user then does to allow it."""

import os
from pathlib import Path

import pytest
import yaml

from glocal import cli
from glocal.cli import main
from glocal.data.formats.shards import expand_shards
from glocal.data.open import open_for_evaluation
from glocal.training.config import TrainConfig
from glocal.training.run_folder import resolve_run
from glocal.training.train import train
from hostile.watch import watching

pytestmark = pytest.mark.usefixtures("one_thread")

COMMAND = "pipe:touch owned; cat x.tar"
REMOTE = {"pretrained_cfg_overlay": {"url": "data:text/plain;base64,eA=="}, "pretrained": True, "cache_dir": "."}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, which no test may find changed but for `run`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.fixture
def write(folder):
    def write(name, **options):
        (folder / name).write_text(yaml.safe_dump(options))
        return name

    return write


@pytest.fixture
def seen(monkeypatch):
    """The configs of commands, which do nothing else."""
    configs = []
    for name in cli.COMMANDS:
        monkeypatch.setattr(cli.import_module(f"glocal.cli.{name}"), "run", lambda config: configs.append(config) or 0)
    return configs


@pytest.fixture
def refused(capsys, folder):
    """The one line with which a command line is refused, before it does anything."""

    def run(*args):
        capsys.readouterr()
        with watching(folder / "run") as outside:
            assert main(args) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert outside == []
        return lines[0]

    return run


COMMANDS_WITH_DATA = [
    ("train", {"data": COMMAND}, "DATA"),
    ("eval", {"data": COMMAND, "model": "test_resnet"}, "DATA"),
    ("train", {"data_args": {"masks": COMMAND}}, "--data-args"),
    ("eval", {"data_args": {"masks": ["a", COMMAND]}, "model": "test_resnet"}, "--data-args"),
    ("predict", {"images": ["a.png", COMMAND], "model": "test_resnet"}, "IMAGES"),
    ("embed", {"images": [COMMAND], "model": "test_resnet", "output": "run"}, "IMAGES"),
    ("export", {"calibration": COMMAND, "precision": "int8", "model": "van_pico"}, "CALIBRATION"),
]


@pytest.mark.parametrize(("command", "options", "name"), COMMANDS_WITH_DATA, ids=lambda value: str(value)[:8])
def test_a_file_names_no_command(command, options, name, write, refused):
    error = refused(command, "--config", write("c.yaml", **options))
    assert error == (
        f"error: c.yaml names a command as its data, {COMMAND!r}: to run it, type {name} again or give --trust"
    )


@pytest.mark.parametrize(("command", "options", "name"), COMMANDS_WITH_DATA, ids=lambda value: str(value)[:8])
def test_trust(command, options, name, write, seen):
    assert main([command, "--trust", "--config", write("c.yaml", **options)]) == 0
    assert COMMAND in str(vars(seen.pop()))


def test_typed_again(write, seen):
    assert main(["train", "pipe:cat y.tar", "--config", write("c.yaml", data=COMMAND)]) == 0
    assert seen.pop().data == "pipe:cat y.tar"


@pytest.mark.parametrize(
    "data", [" pipe:x", "PIPE:x", "pi\tpe:x", "a.tar::pipe:x", "{pipe:x,a.tar}", "{pi}pe:x", "x{::pipe:y,}.tar"]
)
def test_other_spellings(data, write, refused):
    assert "names a command as its data" in refused("train", "--config", write("c.yaml", data=data))


@pytest.mark.parametrize(
    "data", ["p{i..i}pe:touch x", "{pi,pi}{pe,pe}:touch x", "{p,q}ipe:touch x.tar", "a.tar::pipe:x"]
)
def test_braces_make_no_command(data, folder):
    with pytest.raises(ValueError, match="has a command in it: write it as pipe:COMMAND"):
        expand_shards(data)


@pytest.mark.parametrize(
    "data", ["x-{0..99999999}.tar", "{0..9}" * 20 + ".tar", "{a,b}" * 40 + ".tar", "{0..%s}" % ("9" * 5000)]
)
def test_braces_that_stand_for_too_many(data, folder):
    with pytest.raises(ValueError, match="stands for more than 200,000 shards"):
        expand_shards(data)


def test_a_file_with_the_name_of_a_command_is_a_file(folder):
    (folder / "run").rmdir()
    (folder / "pipe:touch owned #.tar").write_bytes(b"")
    for data in (".", "pipe:touch owned #.tar"):
        with pytest.raises(ValueError, match="it is empty"):
            open_for_evaluation(data)
    assert not (folder / "owned").exists()


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (
            "train",
            {"model": "hf-hub:a/b"},
            "c.yaml names a model from elsewhere, 'hf-hub:a/b': give it yourself, or --trust",
        ),
        ("train", {"teacher": "local-dir:x"}, "c.yaml names a model from elsewhere, 'local-dir:x'"),
        ("bench", {"models": ["van_pico", "hf-hub:a/b"]}, "c.yaml names a model from elsewhere, 'hf-hub:a/b'"),
        ("bench", {"models": ["van_pico,cache_dir=x"]}, "c.yaml names the model van_pico"),
        ("train", {"overwrite": True}, "c.yaml says overwrite: give it yourself, or --trust"),
        (
            "list",
            {"json": "c.yaml"},
            "c.yaml names --json 'c.yaml', which already exists: give it yourself, or --trust",
        ),
        (
            "train",
            {"model": "van_pico", "model_args": REMOTE},
            "c.yaml has model_args that a file may not give (--trust allows",
        ),
        ("train", {"model_args": {"checkpoint_path": "/etc/passwd"}}, "c.yaml has model_args that a file may not give"),
        ("train", {"model_args": {"depths": [10**6] * 4}}, "c.yaml has model_args that a file may not give"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_else_a_file_does_not_get(command, options, message, write, refused):
    assert refused(command, "--config", write("c.yaml", **options)).startswith(f"error: {message}")


def test_what_a_file_may_say(write, seen, capsys):
    options = {"data": "https://host/train-{0..9}.tar", "checkpoint": "/elsewhere/model.safetensors", "output": "run"}
    args = {"model": "van_pico", "model_args": {"drop_rate": 0.1}}
    assert main(["train", "--config", write("c.yaml", **options, **args)]) == 0
    assert vars(seen.pop()).items() >= (options | args).items()
    assert capsys.readouterr().out.splitlines()[:2] == [
        "reading https://host/train-{0..9}.tar (data, as c.yaml says)",
        "reading /elsewhere/model.safetensors (checkpoint, as c.yaml says)",
    ]


class TestResume:
    @pytest.fixture
    def run(self, folder):
        """A stopped run, of somebody else."""

        def make(**options):
            (folder / "run" / "config.yaml").write_text(yaml.safe_dump({"model": "test_resnet"} | options))
            (folder / "run" / "last.ckpt").write_bytes(b"")
            return ["train", "--output", "run", "--resume"]

        return make

    def test_data(self, run, refused):
        error = refused(*run(data=COMMAND))
        assert error.startswith("error: run/config.yaml names a command as its data, 'pipe:touch owned;")
        assert error.endswith("to run it, type DATA again or give --trust")

    def test_data_typed_or_trusted(self, run, seen):
        args = run(data=COMMAND)
        assert main(["train", COMMAND, *args[1:]]) == main([*args, "--trust"]) == 0
        assert [config.data for config in seen] == [COMMAND] * 2

    def test_arguments_of_the_model(self, run, refused):
        error = refused(*run(model_args=REMOTE))
        assert error.startswith("error: run/config.yaml has model_args that a file may not give")

    def test_from_python(self, run, folder):
        run(data=COMMAND)
        with pytest.raises(ValueError, match="names a command as its data"):
            resolve_run(Path("run"), TrainConfig(output="run", resume=True))
        run(model="hf-hub:a/b")
        with pytest.raises(ValueError, match="names a model from elsewhere, 'hf-hub:a/b'"):
            resolve_run(Path("run"), TrainConfig(output="run", resume=True))
        run(model_args=REMOTE)
        with pytest.raises(ValueError, match="has model_args that a file may not give"):
            train(TrainConfig(output="run", resume=True))
        assert sorted(os.listdir(folder)) == ["run"]

    @pytest.mark.parametrize(
        "content", ["a: &a [*a]", "epochs: null", "balanced: !!bool x", "lr: " + "1" * 400, "x: y"]
    )
    def test_a_config_that_is_none(self, run, content, folder, refused):
        args = run()
        (folder / "run" / "config.yaml").write_text(content)
        assert refused(*args).startswith("error: run/config.yaml: ")


class TestOwnData:
    """`glocal eval --checkpoint RUN` without DATA."""

    @pytest.fixture
    def trained(self, checkpoint, folder):
        os.symlink(checkpoint / "model.safetensors", folder / "run" / "model.safetensors")
        return lambda **options: (folder / "run" / "config.yaml").write_text(yaml.safe_dump(options))

    def test_is_what_the_run_says(self, trained, folder, capsys):
        from PIL import Image

        for name in ("ant", "bee"):
            (folder / "run" / name).mkdir()
            Image.new("RGB", (32, 32)).save(folder / "run" / name / "a.png")
        trained(data="run")
        assert main(["eval", "--checkpoint", "run", "--device", "cpu"]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert shown[:2] == ["reading run (data, as run/config.yaml says)", "test_resnet on run"]

    def test_is_no_command(self, trained, refused):
        trained(data=COMMAND)
        error = refused("eval", "--checkpoint", "run")
        assert error == f"error: run/config.yaml names a command as its data, {COMMAND!r}: to run it, type DATA"

    def test_of_a_file_alone(self, trained, refused):
        error = refused("eval", "--checkpoint", "run")
        assert error == (
            "error: give DATA, the images to measure on: run/model.safetensors does not say where they are"
        )

    def test_of_published_weights(self, refused):
        assert refused("eval", "--model", "van_b0") == "error: give DATA, the images to measure on"
