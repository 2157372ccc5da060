"""The commands on real digits, from training to prediction."""

import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from contextlib import redirect_stdout
from io import StringIO

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import fresh
from glocal.cli import main
from glocal.tasks.checkpoint import read_info, read_weights, save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = ["--model", "test_resnet", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two epochs on the digits; the run's folder and what was shown."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with redirect_stdout(StringIO()) as shown:
        assert main(["train", "digits", *MODEL, "--epochs", "2", "--output", str(folder)]) == 0
    torch.set_num_threads(threads)
    return folder, shown.getvalue()


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder of 40 of the digits, of two classes."""
    folder, digits = tmp_path_factory.mktemp("few"), load_digits()
    for label, name in enumerate(("zero", "one")):
        (folder / name).mkdir()
        for number, image in enumerate(digits.images[digits.target == label][:20]):
            Image.fromarray((image * 15).astype("uint8")).save(folder / name / f"{number}.png")
    return folder


def test_training_shows_its_epochs_and_result(trained):
    folder, shown = trained
    assert re.search(r"epoch 2/2 .*val loss \d\.\d+ .*top-1 +\d\d\.\d\d % .*images/s", shown)
    for text in ("top-1 / top-5", "parameters", "373,658", "1,438 train + 359 val", "time", f"Saved in {folder}"):
        assert text in shown
    assert max(map(len, shown.splitlines())) <= 200


def test_training_writes_sample_images_with_their_labels(trained):
    samples = sorted((trained[0] / "samples").iterdir())
    assert [path.stem[-1] for path in sorted(samples, key=lambda path: path.stem[-1])] == list("0123456789")


def test_eval_measures_what_training_reported(trained, tmp_path, capsys):
    folder, shown = trained
    assert main(["eval", "digits", "--checkpoint", str(folder), "--json", str(tmp_path / "e.json")]) == 0
    result = json.loads((tmp_path / "e.json").read_text())
    assert {"top1", "top5", "loss", "images_per_second", "images", "model"} <= result.keys()
    assert f"{result['top1']:.2f} %" in shown
    assert result["images"] == 359
    assert f"{result['top1']:.2f} %" in capsys.readouterr().out


class TestResume:
    @pytest.fixture
    def unfinished(self, trained, tmp_path):
        shutil.copytree(trained[0], tmp_path / "run")
        (tmp_path / "run/summary.json").unlink()
        return tmp_path / "run"

    @pytest.mark.parametrize("again", [[], ["digits", *MODEL, "--epochs", "2"]], ids=["alone", "with its options"])
    def test_goes_on_with_the_options_of_the_run(self, unfinished, again, capsys):
        assert main(["train", *again, "--output", str(unfinished), "--resume"]) == 0
        assert f"going on from {unfinished / 'last.ckpt'}" in capsys.readouterr().out
        assert (unfinished / "summary.json").exists()

    @pytest.mark.parametrize("epochs", ["10", "4"])  # 10 is the default, and yet not what the run had
    def test_other_options_are_refused(self, unfinished, epochs, capsys):
        assert main(["train", "--output", str(unfinished), "--resume", "--epochs", epochs]) == 2
        assert f"holds an unfinished run with other options (--epochs 2, not {epochs})" in capsys.readouterr().err
        assert not (unfinished / "summary.json").exists()

    def test_nothing_there(self, tmp_path, capsys):
        assert main(["train", "--output", str(tmp_path / "run"), "--resume"]) == 2
        assert capsys.readouterr().err == f"error: --resume: {tmp_path / 'run'} holds no run\n"

    def test_finished_run(self, trained, capsys):
        assert main(["train", "--output", str(trained[0]), "--resume", "--epochs", "9"]) == 2
        assert "holds a run already" in capsys.readouterr().err


class TestPredict:
    def test_table_of_every_image(self, trained, capsys):
        assert main(["predict", str(trained[0] / "samples"), "--checkpoint", str(trained[0]), "--top-k", "2"]) == 0
        shown = capsys.readouterr().out
        assert shown.count("_label-") == 10
        assert shown.count(" %") == 20

    def test_bad_images_are_named_and_the_others_predicted(self, trained, tmp_path, capsys):
        Image.new("RGB", (5, 5)).save(tmp_path / "good [a].png")
        (tmp_path / "empty.png").touch()
        (tmp_path / "text.png").write_text("text")
        images = [str(tmp_path / name) for name in ("good [a].png", "empty.png", "text.png", "missing.png")]
        assert main(["predict", *images, "--checkpoint", str(trained[0])]) == 1
        captured = capsys.readouterr()
        assert "good [a].png" in captured.out.replace("\n", "")
        assert captured.err.splitlines() == [
            f"error: {images[1]}: the file is empty",
            f"error: {images[2]}: not an image",
            f"error: {images[3]}: no such file",
        ]

    def test_nothing_but_bad_images(self, trained, tmp_path, capsys):
        assert main(["predict", str(tmp_path / "*.png"), "--checkpoint", str(trained[0])]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err == f"error: {tmp_path}/*.png: no file matches\n"

    def test_folder_without_images(self, trained, tmp_path, capsys):
        assert main(["predict", str(tmp_path), "--checkpoint", str(trained[0])]) == 1
        assert capsys.readouterr().err == f"error: {tmp_path}: the folder holds no images\n"

    def test_weights_that_are_not_finite_fail_in_one_line(self, trained, tmp_path, capsys):
        weights = read_weights(trained[0] / "model.safetensors")
        broken = {name: torch.full_like(t, math.nan) if t.is_floating_point() else t for name, t in weights.items()}
        save_checkpoint(tmp_path / "nan.safetensors", broken, read_info(trained[0] / "model.safetensors"))
        arguments = ["predict", str(trained[0] / "samples"), "--checkpoint", str(tmp_path / "nan.safetensors")]
        for engine in ("torch", "onnxruntime"):
            assert main([*arguments, "--engine", engine]) == 1
            captured = capsys.readouterr()
            assert captured.out == ""
            line = captured.err.splitlines()[-1]
            assert line.startswith(
                f"error: {tmp_path / 'nan.safetensors'} has weights that are not finite (nan or inf)"
            )


def test_same_seed_gives_the_same_file_in_another_process(few, tmp_path):
    arguments = ["train", str(few), *MODEL, "--epochs", "2", "--img-size", "32", "--workers", "0", "--output"]
    assert main([*arguments, str(tmp_path / "here")]) == 0
    done = fresh.run(fresh.GLOCAL, *arguments, tmp_path / "there", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    here, there = (tmp_path / name / "model.safetensors" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()


def test_second_run_in_the_folder_is_refused(trained, capsys):
    assert main(["train", "digits", *MODEL, "--output", str(trained[0])]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_non_finite_loss_is_one_line(tmp_path, capsys):
    assert main(["train", "digits", *MODEL, "--optimizer", "sgd", "--lr", "1000", "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: the loss is (nan|inf) at step \d \(epoch 1\): try a lower --lr; .*\n", error)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_is_one_line_and_keeps_the_last_epoch(few, tmp_path):
    output = tmp_path / "run"
    arguments = ["train", str(few), *MODEL, "--epochs", "1000", "--img-size", "32", "--output", str(output)]

    def command():
        with open(tmp_path / "errors", "w") as sys.stderr:
            code = main(arguments)
        os._exit(code)

    process = multiprocessing.get_context("fork").Process(target=command)  # a fresh one would first import for seconds
    process.start()
    deadline = time.monotonic() + 120
    while not (output / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    error = (tmp_path / "errors").read_text()
    assert re.fullmatch(r"error: stopped by SIGINT: saved at step \d+ \(epoch \d+\) in .*, .* goes on\n", error)
    assert main(["eval", str(few), "--checkpoint", str(output), "--device", "cpu", "--workers", "0"]) == 0
