"""Several devices compute what one does: two processes on the CPU, killed in the middle and continued."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console

import glocal  # noqa: F401  registers the models
from glocal.tasks.checkpoint import read_weights
from glocal.training.config import TrainConfig
from glocal.training.train import train
from run_output import rows

pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPT = Path(__file__).parent / "several_devices.py"
# No batch norm, which averages over the images of one device; no dropout, whose masks differ from device to device.
SETTINGS = dict(
    model="transnext_pico",
    drop_path=0.0,
    epochs=1,
    img_size=32,
    batch_size=12,
    accumulate=2,
    val_fraction=0.3,
    hflip=0.5,
    auto_augment="rand-m5",
    ema=0.9,
    clip_grad=1.0,
    device="cpu",
    workers=0,
    save_every_minutes=0,
)


def launch(settings, die=-1):
    command = [sys.executable, str(SCRIPT), json.dumps(settings), str(die)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def one(digits_folder, tmp_path_factory):
    torch.set_num_threads(1)
    config = TrainConfig(str(digits_folder), output=str(tmp_path_factory.mktemp("one") / "run"), **SETTINGS)
    return train(config, Console(file=io.StringIO())).output


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])  # a minute
def test_two_devices_equal_one_even_when_killed(digits_folder, tmp_path, one, strategy):
    output = tmp_path / "run"
    settings = dict(data=str(digits_folder), output=str(output), devices=2, strategy=strategy, **SETTINGS)
    assert launch(settings, die=7).returncode != 0
    assert torch.load(output / "last.ckpt", weights_only=True)["global_step"] == 3
    finished = launch(settings)
    assert finished.returncode == 0, finished.stderr
    assert "going on from" in finished.stdout
    assert finished.stdout.count("epoch 1/1") == 1  # one of the processes speaks

    for ours, theirs in zip(rows(output), rows(one), strict=True):
        for name in ("lr", "train_loss", "val_loss", "val_top1", "val_raw_loss"):
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-5), name
    for name in ("model.safetensors", "model.raw.safetensors"):
        ours, theirs = read_weights(output / name), read_weights(one / name)
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert torch.allclose(ours[key], theirs[key], atol=1e-5), key


@pytest.mark.parametrize("model", ["transxnet", "transnext", "hat_net", "transcnn", "conv2former", "van"])
def test_every_parameter_gets_a_gradient(model):
    """Or DDP would wait for those that never come, unless told to look for them in every step."""
    network = timm.create_model(f"{model}_pico", num_classes=3).train()
    network(torch.randn(2, 3, 64, 64)).sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
