"""Several devices compute what one does: two processes on the CPU, killed in the middle and continued."""

import io
import shutil

import pytest
import timm
import torch
from rich.console import Console

import glocal  # noqa: F401  registers the models
from glocal.evaluation.config import EvalConfig
from glocal.evaluation.evaluate import evaluate
from glocal.tasks import find_task
from glocal.tasks.checkpoint import read_weights
from glocal.tasks.classification.objective import ClassificationObjective
from glocal.training import loop
from glocal.training import train as train_module
from glocal.training.config import TrainConfig
from glocal.training.lightning_module import TrainingModule
from glocal.training.train import train
from run_output import rows
from training.several_devices import launch

pytestmark = pytest.mark.usefixtures("one_thread")

# No batch norm, which averages over the images of one device; no dropout, whose masks differ from device to device.
SETTINGS = dict(
    model="transnext_pico",
    drop_path=0.0,
    epochs=1,
    img_size=32,
    batch_size=12,
    accumulate=2,
    hflip=0.5,
    auto_augment="rand-m5",
    ema=0.9,
    clip_grad=1.0,
    device="cpu",
    workers=0,
    save_every_minutes=0,
)


@pytest.fixture(scope="module")
def damaged(digits_folder, tmp_path_factory):
    """84 images to train on, all of which are seen, and ten of them are broken: each of two devices gets some."""
    root = tmp_path_factory.mktemp("devices") / "damaged"
    shutil.copytree(digits_folder, root / "train")
    shutil.copytree(digits_folder, root / "val")
    for number in range(10):
        (root / f"train/zero/{number:02}.png").write_bytes(b"broken")
    for number in range(6):
        (root / f"train/two/{number:02}.png").unlink()
    return root


@pytest.fixture(scope="module")
def one(damaged, tmp_path_factory):
    torch.set_num_threads(1)
    config = TrainConfig(str(damaged), output=str(tmp_path_factory.mktemp("one") / "run"), **SETTINGS)
    return train(config, Console(file=io.StringIO())).output


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])  # a minute
def test_two_devices_equal_one_even_when_killed(damaged, tmp_path, one, strategy):
    """Also where images cannot be read: each is named once, whichever device met it, and counted as of one device.

    torchrun begins, and Lightning's own second process goes on.
    """
    output = tmp_path / "run"
    settings = dict(data=str(damaged), output=str(output), devices=2, strategy=strategy, **SETTINGS)
    assert launch(settings, die=7, torchrun=True).returncode != 0
    assert torch.load(output / "last.ckpt", weights_only=True)["global_step"] == 3
    finished = launch(settings)
    assert finished.returncode == 0, finished.stderr
    assert "going on from" in finished.stdout
    assert finished.stdout.count("epoch 1/1") == 1  # one of the processes speaks

    for ours, theirs in zip(rows(output), rows(one), strict=True):
        assert ours["unread"] == theirs["unread"]
        for name in ("lr", "train_loss", "val_loss", "val_top1", "val_raw_loss"):
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-5), name
        assert float(ours["train_double"]) == pytest.approx(2 * float(theirs["train_loss"]), rel=1e-5)
    for name in ("model.safetensors", "model.raw.safetensors"):
        ours, theirs = read_weights(output / name), read_weights(one / name)
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert torch.allclose(ours[key], theirs[key], atol=1e-5), key
    log = (output / "train.log").read_text()
    assert all(f"skipped {damaged}/train/zero/{number:02}.png" in log for number in range(10))


@pytest.mark.slow  # 40 seconds
def test_two_devices_on_shards_even_when_killed(digits_shards, tmp_path):
    settings = dict(data=str(digits_shards), devices=2, val_fraction=0.3, **SETTINGS)
    for name, die in (("whole", -1), ("killed", 7), ("killed", -1)):
        finished = launch(settings | dict(output=str(tmp_path / name)), die)
        assert (finished.returncode == 0) == (die < 0), finished.stderr
    assert "going on from" in finished.stdout
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    state = torch.load(tmp_path / "whole/last.ckpt", weights_only=True)
    assert state["global_step"] == 60 // 12  # one shard of three is held out
    result = evaluate(EvalConfig(str(digits_shards), str(tmp_path / "whole"), workers=0, device="cpu"))
    assert result.images == 30  # each of them once, though two processes shared them
    assert float(rows(tmp_path / "whole")[0]["val_loss"]) == pytest.approx(result.loss, rel=1e-5)


@pytest.mark.slow  # 12 seconds
def test_the_limit_of_unreadable_files_is_for_all_devices(damaged, tmp_path):
    settings = SETTINGS | dict(data=str(damaged), output=str(tmp_path / "run"), devices=2)
    stopped = launch(settings | dict(batch_size=6, accumulate=1, max_bad="9%"))  # 7 of 84; no device meets more
    assert stopped.returncode != 0
    assert "of 84 images cannot be read, more than --max-bad 9% allows" in stopped.stderr


def test_batch_norm_over_all_devices_with_fsdp(monkeypatch):
    """Lightning knows it for DDP only."""
    model = timm.create_model("van_pico", num_classes=3)
    module = TrainingModule(
        model,
        find_task("classification"),
        ClassificationObjective(TrainConfig(), 3),
        TrainConfig(strategy="fsdp"),
        lr=0.1,
        class_names=list("abc"),
        images=8,
        steps_per_epoch=1,
        input_size=(3, 8, 8),
    )
    monkeypatch.setattr(TrainingModule, "device_mesh", {"data_parallel": None})
    monkeypatch.setattr(torch.distributed.fsdp, "fully_shard", lambda part, mesh: None)
    module.sync_batch_norm = True
    module.configure_model()
    norms = [part for part in module.model.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(norms) > 10
    assert all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)


@pytest.mark.parametrize(("choice", "devices", "kind", "synced"), [
    ("auto", 2, "cuda", True), ("auto", 1, "cuda", False), ("auto", 2, "cpu", False), ("never", 2, "cuda", False),
    ("always", 1, "cuda", True),
])  # fmt: skip
def test_where_batch_norm_is_over_all_devices(choice, devices, kind, synced):
    config = TrainConfig(sync_bn=choice, devices=devices)
    assert loop._syncs_batch_norm(config, torch.device(kind)) == synced


@pytest.mark.parametrize(
    ("environment", "devices", "nodes"),
    [
        ({}, 1, 1),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}, 4, 1),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, 2, 2),
    ],
)
def test_torchrun_says_how_many_devices(environment, devices, nodes, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if environment:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    config = train_module._as_launched(TrainConfig())
    assert (config.devices, config.num_nodes) == (devices, nodes)


def test_torchrun_and_an_option_that_disagree(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="--devices 3: torchrun has started 4"):
        train_module._as_launched(TrainConfig(devices=3))


@pytest.mark.parametrize("model", ["transxnet", "transnext", "hat_net", "transcnn", "conv2former", "van"])
def test_every_parameter_gets_a_gradient(model):
    """Or DDP would wait for those that never come, unless told to look for them in every step."""
    network = timm.create_model(f"{model}_pico", num_classes=3).train()
    network(torch.randn(2, 3, 64, 64)).sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
