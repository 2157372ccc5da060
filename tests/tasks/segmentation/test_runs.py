"""Trainings of segmentation: continued after a kill, and on several devices."""

import pytest
import torch

from glocal.evaluation.config import EvalConfig
from glocal.evaluation.evaluate import evaluate
from glocal.tasks.checkpoint import read_weights
from run_output import rows
from training.several_devices import launch

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]  # half a minute each

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


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("head", ["semantic_fpn", "upernet", "mask2former"])
def test_a_killed_run_goes_on_bit_for_bit(data, tmp_path, head):
    whole, killed = ({"data": str(data), "head": head, "output": str(tmp_path / name)} for name in ("whole", "killed"))
    finished = launch({**whole, **SETTINGS})
    assert finished.returncode == 0, finished.stderr
    assert launch({**killed, **SETTINGS}, die=7).returncode != 0
    again = launch({**killed, **SETTINGS})
    assert again.returncode == 0, again.stderr
    assert "going on from" in again.stdout
    ours, theirs = (
        read_weights(tmp_path / "killed/model.safetensors"),
        read_weights(tmp_path / "whole/model.safetensors"),
    )
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_devices_measure_what_one_measures(data, tmp_path, strategy):
    """The validation part has an odd number of images, of several sizes."""
    output = tmp_path / "run"
    settings = {"data": str(data), "output": str(output), "devices": 2, "strategy": strategy, **SETTINGS, "epochs": 1}
    finished = launch(settings)
    assert finished.returncode == 0, finished.stderr
    (row,) = rows(output)
    measured = evaluate(EvalConfig(str(data), checkpoint=str(output), device="cpu", workers=0))
    assert measured.images == 5
    for name in ("miou", "macc", "aacc"):
        assert float(row[f"val_{name}"]) == pytest.approx(measured.values[name], abs=1e-3)
