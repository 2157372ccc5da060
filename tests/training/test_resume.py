"""A run that is stopped at any moment goes on as if it had not been: same weights, same figures, bit for bit."""

import errno
import io
import multiprocessing
import os
import random
import shutil
import signal
import time
from typing import ClassVar

import pytest
import torch
from rich.console import Console

from glocal.data.open import open_for_training
from glocal.tasks import checkpoint
from glocal.tasks.checkpoint import read_weights
from glocal.tasks.classification.objective import ClassificationObjective
from glocal.tasks.registry import all_formats
from glocal.training import callbacks
from glocal.training.config import TrainConfig
from glocal.training.lightning_module import TrainingModule
from glocal.training.stopping import TrainingInterrupted
from glocal.training.train import train
from run_output import rows

pytestmark = pytest.mark.usefixtures("one_thread")

# Three epochs of five optimizer steps, each of two batches; every random thing is on.
SETTINGS = dict(
    model="test_resnet",
    epochs=3,
    img_size=32,
    batch_size=12,
    accumulate=2,
    val_fraction=0.3,
    workers=0,
    device="cpu",
    mixup=0.2,
    cutmix=0.5,
    drop_path=0.1,
    ema=0.9,
    ema_warmup=True,
    hflip=0.5,
    color_jitter=0.3,
    auto_augment="rand-m5",
    random_erasing=0.3,
    clip_grad=1.0,
    save_every_minutes=0,
)
STEPS = 15


def run(data, output, **changes):
    config = TrainConfig(str(data), output=str(output), **{**SETTINGS, **changes})
    return train(config, Console(file=io.StringIO()))


def in_child(function, *args, **kwargs) -> int:
    """The exit code of a process that does it; negative for a signal."""
    child = multiprocessing.get_context("fork").Process(target=function, args=args, kwargs=kwargs)
    child.start()
    child.join()
    return child.exitcode


def run_and_die(data, output, batch, **changes):
    """A run that a kill -9 ends before the batch of this number, counted over the epochs."""
    original, seen = TrainingModule.training_step, []

    def step(self, *args):
        seen.append(1)
        if len(seen) > batch:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args)

    TrainingModule.training_step = step
    run(data, output, **changes)


def same(first, second, steps=STEPS):
    for name in ("model.safetensors", "model.raw.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    states = [torch.load(path / "last.ckpt", weights_only=True) for path in (first, second)]
    for key, tensor in states[0]["state_dict"].items():
        assert torch.equal(tensor, states[1]["state_dict"][key]), key
    assert states[0]["global_step"] == states[1]["global_step"] == steps
    assert figures(first) == figures(second)


def figures(output):
    of_a_clock = "train_images_per_second"
    return [{name: value for name, value in row.items() if name != of_a_clock} for row in rows(output)]


@pytest.fixture(scope="module")
def whole(digits_folder, tmp_path_factory):
    torch.set_num_threads(1)
    return run(digits_folder, tmp_path_factory.mktemp("whole") / "run").output


def slow(*cases):
    """Cases of which others in every run show the same."""
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    ("batch", "workers"),  # in epoch 1; in epoch 2; before the last step of epoch 1; in epoch 3
    [(3, 0), (14, 2), *slow((3, 2), (14, 0), (9, 2), (9, 0), (21, 0), (21, 2))],
)
def test_killed_run_reaches_the_same_weights(digits_folder, tmp_path, whole, batch, workers):
    assert in_child(run_and_die, digits_folder, tmp_path / "run", batch, workers=workers) == -signal.SIGKILL
    assert not (tmp_path / "run/summary.json").exists()
    run(digits_folder, tmp_path / "run", workers=workers)  # the same command
    same(whole, tmp_path / "run")


class TestEpochsOfSteps:
    """63 images give five steps a pass; an epoch has seven. The rate is at any step that of the schedule."""

    OPTIONS: ClassVar = dict(
        epoch_steps=7, epochs=2, schedule="poly", warmup_steps=9, warmup_ratio=0.1,
        parameter_rules=["layer1.* lr=0.1 decay=0"], decay_1d=True,
    )  # fmt: skip

    @pytest.fixture(scope="class")
    def whole(self, digits_folder, tmp_path_factory):
        torch.set_num_threads(1)
        return run(digits_folder, tmp_path_factory.mktemp("steps") / "run", **self.OPTIONS).output

    # In epoch 1; in epoch 2, whose first images end the second pass.
    @pytest.mark.parametrize("batch", [*slow((9,)), 19])
    def test_killed_run(self, digits_folder, tmp_path, whole, batch):
        assert in_child(run_and_die, digits_folder, tmp_path / "run", batch, **self.OPTIONS) == -signal.SIGKILL
        run(digits_folder, tmp_path / "run", **self.OPTIONS)
        same(whole, tmp_path / "run", steps=14)


@pytest.mark.parametrize("batch", [*slow((3,)), 14])
def test_killed_run_whose_loss_has_parts(digits_folder, tmp_path, monkeypatch, batch):
    original = ClassificationObjective.__call__

    def with_parts(self, model, batch):
        loss = original(self, model, batch)["loss"]
        return {"loss": loss, "double": 2 * loss, "images": torch.tensor(len(batch))}

    monkeypatch.setattr(ClassificationObjective, "__call__", with_parts)
    run(digits_folder, tmp_path / "whole", epochs=2)
    assert in_child(run_and_die, digits_folder, tmp_path / "run", batch, epochs=2) == -signal.SIGKILL
    run(digits_folder, tmp_path / "run", epochs=2)
    same(tmp_path / "whole", tmp_path / "run", steps=10)
    for row in rows(tmp_path / "run"):
        assert float(row["train_double"]) == pytest.approx(2 * float(row["train_loss"]))
        assert float(row["train_images"]) == 6


@pytest.mark.parametrize(("batch", "workers"), [(14, 2), *slow((3, 0), (3, 2), (14, 0))])
def test_killed_run_on_shards(digits_shards, tmp_path, batch, workers):
    options = dict(workers=workers, epochs=2)
    run(digits_shards, tmp_path / "whole", **options)
    assert in_child(run_and_die, digits_shards, tmp_path / "run", batch, **options) == -signal.SIGKILL
    run(digits_shards, tmp_path / "run", **options)
    same(tmp_path / "whole", tmp_path / "run", steps=10)


class TestShardsThatEndWithinAStep:
    """60 images: three steps of two batches of 8, and a batch and a half that belong to no step."""

    OPTIONS: ClassVar = dict(batch_size=16, epochs=2)

    @pytest.fixture(scope="class")
    def whole(self, digits_shards, tmp_path_factory):
        torch.set_num_threads(1)
        return run(digits_shards, tmp_path_factory.mktemp("within") / "run", **self.OPTIONS).output

    # In epoch 1; in epoch 2, from the state that the end of epoch 1 left.
    @pytest.mark.parametrize("batch", [*slow((2,)), 7])
    def test_killed_run(self, digits_shards, tmp_path, whole, batch):
        assert in_child(run_and_die, digits_shards, tmp_path / "run", batch, **self.OPTIONS) == -signal.SIGKILL
        run(digits_shards, tmp_path / "run", **self.OPTIONS)
        same(whole, tmp_path / "run", steps=6)


@pytest.mark.slow
def test_twenty_random_kills(digits_folder, tmp_path, whole):
    dice = random.Random(0)
    for kill in range(20):
        output, kills = tmp_path / str(kill), 0
        while in_child(run_and_die, digits_folder, output, dice.randrange(31), workers=dice.choice([0, 1, 2])):
            kills += 1
            assert kills < 50
        same(whole, output)


@pytest.mark.slow
def test_twenty_kills_at_random_moments(digits_folder, tmp_path, whole):
    """From outside, so in the middle of a save, a validation, or the start."""
    dice = random.Random(1)
    kills = 0
    for attempt in range(200):
        output = tmp_path / str(attempt)
        while not (output / "summary.json").exists():
            child = multiprocessing.get_context("fork").Process(target=run, args=(digits_folder, output))
            child.start()
            child.join(timeout=dice.uniform(0.2, 3))
            if child.is_alive():
                os.kill(child.pid, signal.SIGKILL)
                kills += 1
            child.join()
        same(whole, output)
        if kills >= 20:
            return


def run_and_signal(data, output, number, batch, **changes):
    original, seen = TrainingModule.training_step, []

    def step(self, *args):
        seen.append(1)
        if len(seen) == batch:
            os.kill(os.getpid(), number)
        return original(self, *args)

    TrainingModule.training_step = step
    try:
        run(data, output, save_every_minutes=1000, **changes)
    except TrainingInterrupted as error:
        os._exit(error.exit_code)
    except KeyboardInterrupt:
        os._exit(130)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), *slow((signal.SIGUSR1, 138))],
    ids=lambda value: int(value),
)
def test_signal_saves_before_it_stops(digits_folder, tmp_path, whole, number, code):
    output = tmp_path / "run"
    assert in_child(run_and_signal, digits_folder, output, number, 5) == code
    state = torch.load(output / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3  # the step that was going on is finished
    result = run(digits_folder, output, resume=True)
    assert result.epochs == 3
    same(whole, output)


@pytest.mark.parametrize(("before", "after"), [(0, 2), *slow((2, 0), (1, 2))])
def test_number_of_workers_may_change(digits_folder, tmp_path, whole, before, after):
    in_child(run_and_die, digits_folder, tmp_path / "run", 13, workers=before)
    run(digits_folder, tmp_path / "run", workers=after)
    same(whole, tmp_path / "run")


def test_second_signal_stops_at_once(digits_folder, tmp_path):
    def twice(data, output):
        original = TrainingModule.training_step

        def step(self, *args):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            return original(self, *args)

        TrainingModule.training_step = step
        try:
            run(data, output)
        except TrainingInterrupted as error:
            os._exit(7 if "nothing is saved yet" in str(error) else 8)

    assert in_child(twice, digits_folder, tmp_path / "run") == 7


def test_full_disk_keeps_the_last_state(digits_folder, tmp_path, whole, monkeypatch):
    original, saves = torch.save, []

    def full(state, file, *args, **kwargs):
        saves.append(1)
        if len(saves) == 4:
            file.write(b"half of a checkpoint")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(state, file, *args, **kwargs)

    monkeypatch.setattr(callbacks.torch, "save", full)
    output = tmp_path / "run"
    with pytest.raises(OSError, match=r"No space left on device.*last\.ckpt"):
        run(digits_folder, output)
    assert torch.load(output / "last.ckpt", weights_only=True)["global_step"] == 3
    assert not list(output.glob(".*"))
    monkeypatch.undo()
    run(digits_folder, output)
    same(whole, output)


@pytest.mark.parametrize(
    ("minutes", "saved"),
    [
        (2, [2, 4, 5, 7, 9, 10, 12, 14, 15]),  # the last step but one of an epoch saves after a tenth of the time
        (12, [4, 5, 9, 10, 14, 15]),
        *slow((1000, [5, 10, 15])),  # the ends of the epochs
    ],
)
def test_saves_by_the_clock(digits_folder, tmp_path, monkeypatch, minutes, saved):
    """Of five steps an epoch, each of a minute on the clock."""
    clock, steps = time.monotonic, []
    step, save = TrainingModule.optimizer_step, callbacks.AtomicCheckpointIO.save_checkpoint
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 60 * len(steps))
    seen = []

    def count(self, *args, **kwargs):
        step(self, *args, **kwargs)
        steps.append(1)

    def note(self, checkpoint, *args, **kwargs):
        save(self, checkpoint, *args, **kwargs)
        seen.append(checkpoint["global_step"])

    monkeypatch.setattr(TrainingModule, "optimizer_step", count)
    monkeypatch.setattr(callbacks.AtomicCheckpointIO, "save_checkpoint", note)
    run(digits_folder, tmp_path / "run", save_every_minutes=minutes)
    assert seen == saved


class TestWhatIsContinued:
    def test_state_and_no_other_option_are_needed(self, digits_folder, tmp_path, whole):
        output = tmp_path / "run"
        in_child(run_and_die, digits_folder, output, 13)
        train(TrainConfig(output=str(output), resume=True), Console(file=io.StringIO()))
        same(whole, output)

    def test_other_options_are_refused_by_name(self, digits_folder, tmp_path):
        output = tmp_path / "run"
        in_child(run_and_die, digits_folder, output, 13)
        state = (output / "last.ckpt").read_bytes()
        with pytest.raises(FileExistsError, match=r"--mixup 0.2, not 0.3.*--resume"):
            run(digits_folder, output, mixup=0.3)
        with pytest.raises(FileExistsError, match=r"--mixup 0.2, not 0.3"):
            run(digits_folder, output, mixup=0.3, resume=True)
        assert (output / "last.ckpt").read_bytes() == state

    def test_overwriting_starts_anew(self, digits_folder, tmp_path):
        output = tmp_path / "run"
        in_child(run_and_die, digits_folder, output, 13)
        result = run(digits_folder, output, overwrite=True, epochs=1)
        assert len(figures(result.output)) == 1

    def test_run_that_saved_nothing_starts_anew(self, digits_folder, tmp_path, whole):
        output = tmp_path / "run"
        in_child(run_and_die, digits_folder, output, 0)
        assert not (output / "last.ckpt").exists()
        run(digits_folder, output, mixup=0.3, epochs=1)

    def test_finished_run_is_not_touched(self, digits_folder, whole):
        with pytest.raises(FileExistsError, match="holds a run already"):
            run(digits_folder, whole, resume=True)

    def test_other_data_is_refused(self, digits_folder, tmp_path):
        output = tmp_path / "run"
        in_child(run_and_die, digits_folder, output, 13)
        shutil.copytree(digits_folder, tmp_path / "data")
        (tmp_path / "data/two/00.png").unlink()
        shutil.move(digits_folder, tmp_path / "aside")
        try:
            shutil.copytree(tmp_path / "data", digits_folder)
            with pytest.raises(ValueError, match="the data has changed"):
                run(digits_folder, output)
        finally:
            shutil.rmtree(digits_folder)
            shutil.move(tmp_path / "aside", digits_folder)


class Harm:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_state_that_would_run_code_is_refused(digits_folder, tmp_path):
    output = tmp_path / "run"
    in_child(run_and_die, digits_folder, output, 3)
    state = torch.load(output / "last.ckpt", weights_only=True)
    torch.save({**state, "note": Harm(str(tmp_path / "harmed"))}, output / "last.ckpt")
    with pytest.raises(Exception, match="mkdir"):  # of torch, which names it
        run(digits_folder, output)
    assert not (tmp_path / "harmed").exists()


def test_checkpoint_holds_averaged_and_raw_weights(whole):
    averaged, raw = (read_weights(whole / name) for name in ("model.safetensors", "model.raw.safetensors"))
    assert averaged.keys() == raw.keys()
    assert any(not torch.equal(averaged[name], raw[name]) for name in raw)
    assert checkpoint.read_info(whole / "model.raw.safetensors").metrics["epoch"]


def test_a_run_keeps_the_task_for_which_its_data_was_opened(tmp_path):
    """Files of COCO's objects were opened for segmentation, and are for detection by now."""
    pytest.importorskip("hotcoco", reason="measuring detection needs the extra [train]")
    from tasks.detection.conftest import draw

    data, output = draw(tmp_path / "data", 12), tmp_path / "run"
    plain = {name: getattr(TrainConfig(), name) for name in SETTINGS}
    settings = plain | dict(model="van_pico", epochs=2, img_size=32, batch_size=4, workers=0, device="cpu")
    assert in_child(run_and_die, data, output, 3, **settings, task="segmentation") == -signal.SIGKILL
    assert checkpoint.read_info(output / "model.safetensors").task == "segmentation"
    options = (output / "config.yaml").read_text()
    (output / "config.yaml").write_text(options.replace("task: segmentation", "task: null"))
    assert run(data, output, **settings).task == "segmentation"
    assert [row["epoch"] for row in rows(output)] == ["1", "2"]
    assert open_for_training(str(data), formats=all_formats()).task == "detection"
