"""The command line as its user sees it: one line for every mistake, the right exit code, quick help."""

import errno
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import fresh
from glocal import cli, errors
from glocal.cli import main
from glocal.data.image import UnreadableImageError
from glocal.evaluation.config import EvalConfig
from glocal.layers.token_mixers import AggregatedAttention
from glocal.training.config import TrainConfig
from glocal.training.stopping import TrainingInterrupted


def fails(capsys, args, code=2):
    """Run a command line that must fail; returns its one line on stderr."""
    assert main(args) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


class TestHelp:
    LINES = ([], ["--help"], ["--version"], *([name, "--help"] for name in cli.COMMANDS))

    @pytest.fixture(scope="class")
    def loaded(self):
        """What each of LINES prints, and which of the heavy modules it loads, in a process without any."""
        program = """
import contextlib, io, json, os, sys
sys.argv = ["glocal"]
from glocal.cli import main
for line in json.loads(os.environ["LINES"]):
    sys.stdout.flush()
    if os.fork():
        os.wait()
        continue
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
        main(line)
    print(json.dumps([shown.getvalue(), sorted({"torch", "timm", "lightning", "sklearn"} & {*sys.modules})]))
    break
"""
        environment = os.environ | {"LINES": json.dumps(self.LINES)}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return [json.loads(line) for line in done.stdout.splitlines()]

    @pytest.mark.parametrize("place", range(len(LINES)), ids=lambda place: " ".join(TestHelp.LINES[place]) or "nothing")
    def test_loads_nothing_heavy(self, loaded, place):
        shown, heavy = loaded[place]
        assert heavy == []
        assert shown

    def test_lists_the_commands(self, capsys):
        assert main(["--help"]) == 0
        shown = capsys.readouterr().out
        for name in ("train", "eval", "predict"):
            assert name in shown

    def test_no_command_shows_help_and_is_a_mistake(self, capsys):
        assert main([]) == 2
        assert "commands:" in capsys.readouterr().out

    @pytest.mark.parametrize("name", cli.COMMANDS)
    def test_every_option_is_explained(self, name, capsys):
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert "type:" not in text
        assert "null" not in text
        for option in (line for line in text.splitlines() if line.startswith("  --")):
            assert len(option.split()) > 1

    def test_version(self, capsys):
        assert main(["--version"]) == 0
        assert capsys.readouterr().out.startswith("glocal ")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_is_kept():
    program = """
import torch
from pathlib import Path
from glocal.cli import keep_freed_memory
def kept():
    before = resident()
    torch.ones(100 * 2**18)
    return resident() - before > 90
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
print(kept())
keep_freed_memory()
print(kept())
"""
    result = fresh.run(program)
    assert result.stdout == "False\nTrue\n", result.stderr


class TestUsageErrors:
    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["tran"], "unknown command 'tran'; did you mean train?"),
            (["--verson"], "unknown option '--verson'; did you mean --version?"),
            (["--hlp"], "unknown option '--hlp'; did you mean --help?"),
            (["train", "--epoch", "3"], "has no option --epoch; did you mean --epochs"),
            (["train", "--bach-size=3"], "has no option --bach-size; did you mean --batch-size"),
            (["train", "--mod", "x"], "has no option --mod; did you mean --model"),
            (["train", "--zzzz"], "glocal train --help lists them"),
            (["train", "--epochs", "ten"], "--epochs must be a whole number, got 'ten'"),
            (["train", "--lr", "fast"], "--lr must be a number, got 'fast'"),
            (["train", "--img-size", "1.5"], "--img-size must be a whole number, got '1.5'"),
            (["train", "--epochs"], "--epochs needs a value"),
            (["train", "--epochs="], "--epochs needs a value"),
            (["train", "--epochs", ""], "--epochs needs a value"),
            (["train", "--output="], "--output needs a value"),
            (["train", "--zzzz="], "glocal train has no option --zzzz"),
            (["predict", "x.png", "--model="], "--model needs a value"),
            (["predict", "x.png", "--checkpoint", ""], "--checkpoint needs a value"),
            (["predict", "", "--model", "van_b0"], "glocal predict: an argument is empty"),
            (["list", "--json="], "--json needs a value"),
            (["list", "--config="], "--config needs a value"),
            (["train", "--lr", "nan"], "--lr must be a finite number, got 'nan'"),
            (["train", "--lr=-inf"], "--lr must be a finite number, got '-inf'"),
            (["train", "--lr", "1e999"], "--lr must be more than 0, got inf"),
            (["train", "--lr", "1e300"], "--lr must be at most 1000, got 1e+300"),
            (["train", "--lr", "9" * 400], "--lr must be a number, got '999"),
            (["train", "--accumulate", "1e30"], "--accumulate must be a whole number, got '1e+30'"),
            (["train", "--devices", "1000000"], "--devices must be at most 1024, got 1000000"),
            (["train", "--img-size", "1" * 31, "--quick"], "--img-size must be at most 8192, got 1111111"),
            (["train", "--img-size", "1" * 5000], "--img-size must be a whole number, got '111"),
            (["eval", "--sizes", "1" * 5000], "--sizes must be sizes in pixels such as 224,256,320, got '111"),
            (["eval", "--sizes", "9000"], "--sizes must be at most 8192, got 9000"),
            (["bench", "van_b0", "--sizes", "1" * 5000], "--sizes must be numbers such as 224,512x384, got '111"),
            (["bench", "van_b0", "--batch-sizes", "1e30"], "--batch-sizes must be numbers such as 1,8, got '1e30'"),
            (["bench", "van_b0", "--fuse=nan"], "--fuse takes no value, got 'nan'"),
            (["train", "--model-args", "&a [*a]"], "--model-args must be a mapping such as {name: value}, got"),
            (["train", "--data-args", "{a b: c}"], "--data-args must be names with texts, numbers, true, false, or"),
            (["train", "--seed", "-1"], "--seed must be at least 0 and at most 4294967295, got -1"),
            (["train", "--epochs", "0"], "--epochs must be at least 1, got 0"),
            (["train", "--val_fraction", "1.5"], "--val-fraction must be more than 0 and less than 1, got 1.5"),
            (["train", "a", "b"], "takes no further argument 'b'"),
            (["train", "--config", "none.yaml"], "--config: File does not exist"),
            (["predict"], "glocal predict needs IMAGE"),
            (["predict", "x.png"], "give --checkpoint, or --model"),
            (["predict", "x.png", "--model", "van_b0", "--top-k", "0"], "--top-k must be at least 1"),
            (["eval", "--split", "test"], "--split must be auto, train, val or all, got 'test'"),
        ],
    )
    def test_one_line_says_what_and_what_else(self, capsys, args, message):
        assert message in fails(capsys, args)

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["train", "nowhere"], "there is no folder 'nowhere'"),
            (["train", "digts"], "did you mean 'digits'?"),
            (["train", "--model", "transxnet_pic"], "unknown model 'transxnet_pic': did you mean transxnet_pico"),
            (["train", "--checkpoint", "nowhere"], "there is no checkpoint 'nowhere'"),
            (["train", "--model", "van_pico", "--pretrained"], "no weights of van_pico"),
            (["train", "--model", "van_pico", "--device", "tpu9"], "there is no device 'tpu9' here"),
            (["eval", "--checkpoint", "nowhere"], "there is no checkpoint 'nowhere'"),
            (["eval"], "give --checkpoint, or --model"),
            (["predict", "x.png", "--checkpoint", "nowhere"], "there is no checkpoint 'nowhere'"),
            (["predict", "x.png", "--model", "resnt50"], "error: unknown model 'resnt50': did you mean resnet50"),
            (["predict", "x.png", "--model", "van_b0.no"], "error: unknown weights 'van_b0.no': van_b0 has"),
            (["predict", "x.png", "--model", "conv2former_t"], "and give it with --checkpoint FILE"),
        ],
    )
    def test_names_that_stand_for_nothing(self, capsys, args, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert message in fails(capsys, args)
        assert not any(tmp_path.iterdir())

    def test_misspelt_option_in_a_config(self, capsys, tmp_path):
        (tmp_path / "c.yaml").write_text("epoch: 3\n")
        error = fails(capsys, ["train", "--config", str(tmp_path / "c.yaml")])
        assert "unknown option 'epoch'; did you mean --epochs" in error

    def test_option_of_another_command_in_a_config(self, capsys, tmp_path):
        (tmp_path / "c.yaml").write_text("img_size: 32\n")
        error = fails(capsys, ["predict", "x.png", "--config", str(tmp_path / "c.yaml")])
        assert error.endswith("unknown option 'img_size'; glocal predict --help lists them")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"\xff\xfe\x00\x80", "not a text file in UTF-8"),
            (b"epochs: [1", "broken YAML: "),
            (b"model: a: b", "broken YAML: mapping values are not allowed"),
            (b"model: \0", "broken YAML: "),
            (b"- 1\n", "expected `option: value` on each line"),
            (b"1: 2\n", "expected `option: value` on each line"),
            (b"", "expected `option: value` on each line"),
            (b"a: &a [x]\nb: [*a, *a]", "broken YAML: anchors and aliases (& and *) are not allowed (line 1)"),
            (b"&a {model_args: *a}", "broken YAML: anchors and aliases"),
            (b"balanced: !!bool x", "broken YAML: tags such as tag:yaml.org,2002:bool are not allowed (line 1)"),
            (b"lr: " + b"1" * 400, "--lr must be a number, got '111"),
            (b"epochs: null", "--epochs must be a whole number, got None"),
            (b"lr: true", "--lr must be a number, got True"),
            (b"config: c.yaml", "unknown option 'config'"),
        ],
    )
    @pytest.mark.parametrize("equals", [False, True])
    def test_config_that_is_no_yaml_mapping(self, capsys, tmp_path, content, message, equals):
        file = tmp_path / "c.yaml"
        file.write_bytes(content)
        error = fails(capsys, ["train", *([f"--config={file}"] if equals else ["--config", str(file)])])
        assert error.startswith(f"error: --config {file}: {message}")

    def test_empty_value_in_a_config(self, capsys, tmp_path):
        (tmp_path / "c.yaml").write_text("checkpoint: ''\n")
        error = fails(capsys, ["predict", "x.png", "--config", str(tmp_path / "c.yaml")])
        assert error == "error: --checkpoint needs a value"


class TestParsing:
    @pytest.fixture
    def parsed(self, monkeypatch):
        """Parse a command line without running it."""
        seen = []
        for name in ("train", "eval", "predict"):
            module = cli.import_module(f"glocal.cli.{name}")
            monkeypatch.setattr(module, "run", lambda config: seen.append(config) or 0)

        def parse(*args):
            assert main(args) == 0
            return seen.pop()

        return parse

    def test_defaults(self, parsed):
        assert parsed("train") == TrainConfig()
        assert parsed("eval") == EvalConfig()

    def test_options(self, parsed):
        config = parsed("train", "photos", "--model", "van_b0", "--epochs", "3", "--lr=1e-3", "--overwrite")
        assert config == TrainConfig("photos", model="van_b0", epochs=3, lr=1e-3, overwrite=True)

    def test_underscores_are_as_good_as_hyphens(self, parsed):
        assert parsed("train", "--batch_size", "3") == parsed("train", "--batch-size", "3")

    @pytest.mark.parametrize("place", [0, 1])
    def test_command_line_beats_the_config_wherever_it_stands(self, parsed, tmp_path, place):
        (tmp_path / "c.yaml").write_text("epochs: 3\nbatch_size: 7\ndata: birds\n")
        args = [["cats", "--epochs", "5"], ["--config", str(tmp_path / "c.yaml")]]
        config = parsed("train", *args[place], *args[1 - place])
        assert config == TrainConfig("cats", epochs=5, batch_size=7)

    def test_config_gives_the_data(self, parsed, tmp_path):
        (tmp_path / "c.yaml").write_text("data: birds\n")
        assert parsed("train", "--config", str(tmp_path / "c.yaml")).data == "birds"

    def test_printed_config_is_a_config(self, parsed, tmp_path, capsys):
        with pytest.raises(SystemExit):
            main(["train", "birds", "--seed", "4", "--print-config"])
        (tmp_path / "c.yaml").write_text(capsys.readouterr().out)
        assert parsed("train", "--config", str(tmp_path / "c.yaml")) == TrainConfig("birds", seed=4)

    def test_many_images(self, parsed):
        assert parsed("predict", "a.png", "b.png", "--model", "van_b0", "--top-k", "2").images == ["a.png", "b.png"]


class TestExitCodes:
    @pytest.fixture
    def command(self, monkeypatch):
        """Let `glocal train` do nothing but raise."""

        def raising(error):
            def run(config):
                raise error

            module = SimpleNamespace(CONFIG=TrainConfig, POSITIONAL={"data": "?"}, __doc__="Train.", run=run)
            monkeypatch.setattr(cli, "import_module", lambda name: module)

        return raising

    @pytest.mark.parametrize(
        "kind", [UnboundLocalError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, ImportError, OSError]
    )
    def test_bugs_keep_their_traceback(self, command, kind):
        command(kind("of another family than the library's"))
        with pytest.raises(kind):
            main(["train"])

    def test_a_wrong_call_inside_the_library_is_a_bug(self, monkeypatch):
        module = SimpleNamespace(
            CONFIG=TrainConfig,
            POSITIONAL={"data": "?"},
            __doc__="Train.",
            run=lambda config: AggregatedAttention(10, pretrain_size=7, reduction=1, head_dim=3),
        )
        monkeypatch.setattr(cli, "import_module", lambda name: module)
        with pytest.raises(ValueError, match="not a multiple of head_dim"):
            main(["train"])

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (errors.InvalidValueError("--x is wrong"), 2),
            (errors.InvalidTypeError("--x is wrong"), 2),
            (errors.MissingExtraError("--x is wrong"), 2),
            (errors.PathError("--x is wrong"), 2),
            (errors.MissingPathError("--x is wrong"), 2),
            (UnreadableImageError("x.png", "--x is wrong"), 2),
            (errors.WorkError("--x is wrong"), 1),
            (TrainingInterrupted("--x is wrong", 15), 143),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_errors_of_the_library_are_one_line(self, capsys, command, error, code):
        command(error)
        assert fails(capsys, ["train"], code).endswith("--x is wrong")

    def test_a_value_that_a_layer_refuses_is_a_mistake_of_the_user(self, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        args = ["train", "digits", "--model", "transxnet_pico", "--model-args", "{num_heads: [3, 5, 7, 9]}"]
        assert fails(capsys, args) == "error: 24 channels cannot be split into 5 heads"

    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            (KeyboardInterrupt("stopped in epoch 2"), 130, "stopped in epoch 2"),
            (KeyboardInterrupt(), 130, "stopped"),
            (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "No space left on device: 'x'"),
            (PermissionError(errno.EACCES, "Permission denied", "x"), 1, "Permission denied: 'x'"),
            (MemoryError(), 1, "out of memory: try a smaller --batch-size or --img-size, and in training --accumulate"),
            (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), 1, "(CUDA out of memory. Tried 2 GiB)"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "try a smaller --batch-size"),
        ],
    )
    def test_what_the_system_or_the_user_stops(self, capsys, command, error, code, message):
        command(error)
        assert message in fails(capsys, ["train"], code)
