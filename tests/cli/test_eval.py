"""What `glocal eval` shows."""

import json

import pytest
import torch

from glocal.cli import main
from glocal.data.preprocessing import Preprocessing
from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint
from glocal.tasks.creation import create_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained model for the digits."""
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    torch.manual_seed(0)
    model = create_model("test_resnet", num_classes=10)
    preprocessing = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3).to_dict()
    save_checkpoint(path, model.state_dict(), CheckpointInfo("test_resnet", list("0123456789"), preprocessing))
    return str(path)


@pytest.fixture
def run(checkpoint):
    return lambda *args: main(["eval", "digits", "--checkpoint", checkpoint, "--device", "cpu", *args])


def test_summary_worst_classes_and_confusions(run, tmp_path, capsys):
    assert run("--json", str(tmp_path / "e.json")) == 0
    shown = capsys.readouterr().out
    result = json.loads((tmp_path / "e.json").read_text())
    for text in (f"{result['top1']:.2f} %", f"{result['loss']:.4f}", f"{result['ece']:.2f} %", "359 (val)", "images/s"):
        assert text in shown
    assert "worst classes" in shown
    assert "most frequent confusions" in shown


def test_a_row_per_size(run, tmp_path, capsys):
    assert run("--sizes", "24,32", "--json", str(tmp_path / "s.json")) == 0
    shown = capsys.readouterr().out
    for result in json.loads((tmp_path / "s.json").read_text()):
        (row,) = (line for line in shown.splitlines() if f"{result['img_size'][0]}×" in line)
        assert f"{result['top1']:.2f} %" in row


def test_a_row_per_corruption(run, tmp_path, capsys):
    assert run("--corruptions", "contrast", "--json", str(tmp_path / "c.json"), "--plots", str(tmp_path / "p")) == 0
    shown = capsys.readouterr().out
    (row,) = (line for line in shown.splitlines() if "│ contrast" in line)
    one = json.loads((tmp_path / "c.json").read_text())["corruptions"]["contrast"]
    assert [cell.strip() for cell in row.strip("│").split("│")][1:] == [
        f"{x:.1f}" for x in (*one["errors"], one["mean"])
    ]
    assert "CE" not in [cell.strip(" ┃") for line in shown.splitlines() for cell in line.split("┃")]
    assert f"Saved in {tmp_path / 'p'}" in shown


class TestCompare:
    def test_side_by_side(self, run, tmp_path, capsys):
        files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
        assert run("--json", files[0]) == run("--img-size", "40", "--json", files[1]) == 0
        capsys.readouterr()
        assert main(["eval", "--compare", *files]) == 0
        shown = capsys.readouterr().out
        losses = [json.loads((tmp_path / name).read_text())["loss"] for name in ("a.json", "b.json")]
        assert f"{losses[1]:.4f} ({losses[1] - losses[0]:+.4f})" in shown
        assert "32×32" in shown
        assert "* the best of the row" in shown

    def test_a_file_that_is_no_result_is_one_line(self, tmp_path, capsys):
        (tmp_path / "a.json").write_text("{}")
        assert main(["eval", "--compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 2
        assert (
            capsys.readouterr().err == f"error: --compare {tmp_path / 'a.json'}: not a result of glocal eval --json\n"
        )

    def test_needs_files(self, capsys):
        assert main(["eval", "--compare"]) == 2
        assert capsys.readouterr().err == "error: --compare needs a value\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "imagenet-a"], "--set imagenet-a needs the folder of that set, and there is no folder 'digits'"),
        (["--sizes", "x"], "--sizes must be sizes in pixels such as 224,256,320, got 'x'"),
        (["--corruptions", "fog", "--img-size", "28"], "at least 32 pixels, the model takes 28×28"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(run, capsys, args, message):
    assert run(*args) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
