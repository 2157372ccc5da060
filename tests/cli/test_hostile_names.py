"""Names of files, classes and tensors that a terminal would act on come out of every command as text."""

import pytest
import timm
import torch
from PIL import Image

from glocal.cli import main
from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

EVIL = "\x1b]0;owned\x07\x1b[2Jcat\u202e"
SAFE = r"\x1b]0;owned\x07\x1b[2Jcat\u202e"


@pytest.fixture(scope="module")
def evil_run(tmp_path_factory):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2)
    preprocessing = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3}
    folder = tmp_path_factory.mktemp("run")
    info = CheckpointInfo("test_resnet", [EVIL, EVIL + "2"], preprocessing)
    save_checkpoint(folder / "model.safetensors", model.state_dict(), info)
    return str(folder)


@pytest.fixture
def shown(capfd):
    """What a command line writes to the terminal, which must hold nothing that acts."""

    def run(*args, code):
        assert main(args) == code
        text = "".join(capfd.readouterr())
        assert not set("\x1b\x07\r\x9b\u202e\u2028") & set(text)
        return text

    return run


def test_classes_and_files_of_predict(evil_run, tmp_path, shown):
    Image.new("RGB", (32, 32)).save(tmp_path / f"{EVIL}.png")
    (tmp_path / f"{EVIL}\nerror: x.png").write_bytes(b"no image")
    text = shown("predict", str(tmp_path), "--checkpoint", evil_run, "--engine", "torch", code=1)
    assert f"{SAFE}.png" in text
    assert f"{SAFE}2" in text
    assert len(text.splitlines()) == 7  # one line for the broken file, and a table of two classes


def test_classes_of_a_folder_in_eval(evil_run, tmp_path, shown):
    for name in (EVIL, EVIL + "2"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "a.png")
    assert SAFE in shown("eval", str(tmp_path), "--checkpoint", evil_run, code=0)


def test_train_names_its_data(tmp_path, shown, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / EVIL
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (32, 32), 60 * number).save(folder / name / f"{number}.png")
        (folder / name / f"{EVIL}.png").write_bytes(b"no image")
    args = ["--model", "test_resnet", "--epochs", "1", "--batch-size", "4", "--workers", "0", "--img-size", "32"]
    text = shown("train", EVIL, *args, "--output", "run", code=0)
    assert SAFE in text
    log = (tmp_path / "run" / "train.log").read_text()
    assert SAFE in log
    assert not set("\x1b\x07\u202e") & set(log)


@pytest.mark.parametrize(
    "args",
    [
        ["train", EVIL],
        ["train", "--model", EVIL],
        ["train", "--epochs", EVIL],
        ["train", f"--{EVIL}"],
        ["train", "--recipe", EVIL],
        ["train", "--config", EVIL],
        ["predict", "x.png", "--checkpoint", EVIL],
        ["list", EVIL],
        ["info", EVIL],
        ["bench", EVIL],
        ["eval", "--compare", EVIL, EVIL],
        ["export", "--checkpoint", EVIL],
        [EVIL],
    ],
    ids=lambda args: " ".join(args).replace(EVIL, "EVIL"),
)
def test_values_of_options(args, shown):
    assert r"\x1b[2Jcat" in shown(*args, code=2)
