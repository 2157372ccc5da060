"""Trainings of detection: continued after a kill, and on several devices."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glocal.evaluation.config import EvalConfig
from glocal.evaluation.evaluate import evaluate
from glocal.tasks.checkpoint import read_weights
from run_output import rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]  # half a minute each

SCRIPT = Path(__file__).parents[2] / "training" / "several_devices.py"
SETTINGS = dict(
    model="van_pico",
    epochs=2,
    img_size=32,
    batch_size=4,
    ema=0.9,
    device="cpu",
    workers=0,
    save_every_minutes=0,
)
HEADS = {
    "detection": {"retinanet": {"width": 32, "depth": 1}, "faster_rcnn": {}, "dino": {}},
    "instances": {"mask_rcnn": {}},
}


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def launch(settings, die=-1):
    command = [sys.executable, str(SCRIPT), json.dumps(settings), str(die)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(("task", "head"), [(task, head) for task, heads in HEADS.items() for head in heads])
def test_a_killed_run_goes_on_bit_for_bit(data, tmp_path, task, head):
    common = {"data": str(data), "task": task, "head": head, "head_args": HEADS[task][head], **SETTINGS}
    whole, killed = (common | {"output": str(tmp_path / name)} for name in ("whole", "killed"))
    finished = launch(whole)
    assert finished.returncode == 0, finished.stderr
    assert launch(killed, die=7).returncode != 0
    again = launch(killed)
    assert again.returncode == 0, again.stderr
    assert "going on from" in again.stdout
    ours, theirs = (read_weights(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("head", ["retinanet", "faster_rcnn"])
def test_two_devices_measure_what_one_measures(data, tmp_path, strategy, head):
    """The validation part has an odd number of images, of several sizes."""
    output = tmp_path / "run"
    settings = {"data": str(data), "output": str(output), "devices": 2, "strategy": strategy, "head": head}
    settings |= {"head_args": HEADS["detection"][head], **SETTINGS, "epochs": 1, "epoch_steps": 20, "lr": 0.002}
    finished = launch(settings)
    assert finished.returncode == 0, finished.stderr
    (row,) = rows(output)
    measured = evaluate(EvalConfig(str(data), checkpoint=str(output), device="cpu", workers=0))
    assert measured.images == 5
    for name in ("box_ap", "box_ap50", "box_ar"):
        assert float(row[f"val_{name}"]) == pytest.approx(measured.values[name], abs=1e-3)
