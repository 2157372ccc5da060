"""The output folder under a run: a second run, a full disk, a folder that goes away."""

import errno
import io
import multiprocessing
import os
import shutil
import signal
import time

import filelock
import pytest
import torch
from rich.console import Console
from tensorboard.compat.tensorflow_stub.io import gfile

from glocal.cli import main
from glocal.data.open import open_for_training
from glocal.device import is_rank_zero
from glocal.files import write_atomically
from glocal.training import run_folder, run_lock
from glocal.training import train as train_module
from glocal.training.config import TrainConfig
from glocal.training.lightning_module import TrainingModule
from glocal.training.run_lock import hold, refuse_if_held
from glocal.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = dict(
    model="test_resnet", img_size=32, batch_size=16, epochs=2, workers=0, hflip=0.0, device="cpu", save_every_minutes=0
)


def run(data, output, **changes):
    return train(TrainConfig(str(data), output=str(output), **SETTINGS | changes), Console(file=io.StringIO()))


def at_step(monkeypatch, number, action):
    """Do something in the middle of the runs that follow, after so many steps."""
    original, seen = TrainingModule.training_step, []

    def step(self, *args):
        seen.append(1)
        if len(seen) == number:
            action()
        return original(self, *args)

    monkeypatch.setattr(TrainingModule, "training_step", step)


class TestLock:
    def test_second_run_is_refused_and_touches_nothing(self, digits_folder, tmp_path, monkeypatch, capsys):
        output, seen = tmp_path / "run", []

        def second():
            before = {path: path.read_bytes() for path in output.iterdir()}
            for changes in ([], ["--overwrite"], ["--resume"], ["--lr", "0.1"]):
                code = main(["train", str(digits_folder), "--output", str(output), "--device", "cpu", *changes])
                seen.append((code, capsys.readouterr().err.splitlines()[-1]))
            assert {path: path.read_bytes() for path in output.iterdir()} == before

        at_step(monkeypatch, 4, second)
        assert run(digits_folder, output).metrics
        line = f"error: another run is writing to {output}: wait for its end, or give another --output"
        assert seen == [(2, line)] * 4
        assert not list(output.glob(".*"))

    @pytest.mark.parametrize("finished", [True, False])
    def test_run_that_came_and_went_while_this_one_made_its_model(self, digits_folder, tmp_path, monkeypatch, finished):
        output, make = tmp_path / "run", run_folder.make

        def late(folder):
            monkeypatch.undo()
            run(digits_folder, output)
            if not finished:
                (output / "summary.json").unlink()
            make(folder)

        monkeypatch.setattr(run_folder, "make", late)
        with pytest.raises(FileExistsError, match="holds a run" if finished else "has written to .* meanwhile"):
            run(digits_folder, output)
        assert (output / "model.safetensors").exists()

    @pytest.mark.parametrize("end", [signal.SIGKILL, None])
    def test_is_free_when_the_process_has_ended_whatever_it_has_forked(self, tmp_path, end):
        """Workers, which are forked, must not keep the lock of a run that was killed."""
        context = multiprocessing.get_context("fork")
        parent, child = context.Pipe()

        def take():
            with hold(tmp_path):
                worker = os.fork()
                if not worker:
                    time.sleep(60)
                    os._exit(0)
                child.send(worker)
                child.recv()
            os._exit(0)

        process = context.Process(target=take)
        process.start()
        worker = parent.recv()
        try:
            with pytest.raises(FileExistsError, match="another run is writing"):
                refuse_if_held(tmp_path)
            parent.send(None) if end is None else os.kill(process.pid, end)
            process.join()
            with hold(tmp_path):
                pass
        finally:
            os.kill(worker, signal.SIGKILL)

    def test_mistakes_leave_no_lock_and_no_folder(self, digits_folder, tmp_path):
        with pytest.raises(ValueError, match="nonsense"):
            run(digits_folder, tmp_path / "run", model="nonsense")
        assert not (tmp_path / "run").exists()

    def test_drive_without_locks(self, tmp_path, monkeypatch, caplog):
        def refuse(self, *args, **kwargs):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
        with hold(tmp_path) as check:
            assert "without file locks: start no second run there" in caplog.text
            check()
            shutil.rmtree(tmp_path)
            with pytest.raises(RuntimeError, match="was deleted"):
                check()

    def test_drive_that_cannot_be_written_to(self, tmp_path, monkeypatch):
        def refuse(self, *args, **kwargs):
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".lock"))

        monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
        with (
            pytest.raises(OSError, match=f"--output {tmp_path} cannot be written to: Permission denied"),
            hold(tmp_path),
        ):
            pass

    @pytest.mark.parametrize(
        ("environment", "rank_zero"),
        [
            ({}, True),
            ({"RANK": "0", "LOCAL_RANK": "0"}, True),
            ({"RANK": "8", "LOCAL_RANK": "0"}, False),
            ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, False),
            ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
            ({"SLURM_PROCID": "3"}, False),
            ({"SLURM_PROCID": "1", "RANK": "0"}, True),
        ],
    )
    def test_one_of_the_processes_of_a_run_takes_it(self, environment, rank_zero, monkeypatch):
        for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert is_rank_zero() == rank_zero


class TestLostFolder:
    @pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
    @pytest.mark.parametrize("step", [2, 6])  # before anything is saved, but for the options; after an epoch
    def test_is_said_in_one_line(self, digits_folder, tmp_path, monkeypatch, capsys, how, step):
        output = tmp_path / "run"

        def lose():
            output.rename(tmp_path / "moved")
            if how == "deleted":
                shutil.rmtree(tmp_path / "moved")
            if how == "replaced":  # by a second run, say
                output.mkdir()
                (output / "last.ckpt").write_text("the other's")
                (output / run_lock.LOCK).touch()

        at_step(monkeypatch, step, lose)
        assert main(["train", str(digits_folder), "--output", str(output), *OPTIONS]) == 1
        (error,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note:")]
        assert error.startswith(f"error: {output} was deleted, moved or emptied while the run was writing to it")
        if how == "replaced":
            assert (output / "last.ckpt").read_text() == "the other's"
            assert sorted(path.name for path in output.iterdir()) == [run_lock.LOCK, "last.ckpt"]
        else:
            assert not output.exists()
        if how == "moved" and step == 6:
            monkeypatch.undo()
            assert run(digits_folder, tmp_path / "moved", resume=True).epochs == 2

    def test_after_the_last_epoch(self, digits_folder, tmp_path, monkeypatch):
        monkeypatch.setattr(run_folder, "write_samples", lambda folder, source: shutil.rmtree(folder))
        with pytest.raises(RuntimeError, match="was deleted"):
            run(digits_folder, tmp_path / "run", epochs=1)


@pytest.fixture
def full():
    """Lets a file be written to a disk that is full, by a link to a device that always is."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")

    def link(path):
        path.parent.mkdir(exist_ok=True)
        path.symlink_to("/dev/full")

    return link


NO_SPACE = "[Errno 28] No space left on device"
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]


class TestFullDisk:
    @pytest.mark.parametrize("numbers", [10, 250_000])
    def test_torchs_writer_hides_no_reason(self, tmp_path, full, numbers):
        state = {name: torch.zeros(numbers) for name in "ab"}
        (tmp_path / "last.ckpt").write_text("old")
        full(tmp_path / ".last.ckpt.tmp")
        with pytest.raises(OSError, match=r"No space left on device: .*/last\.ckpt") as caught:
            write_atomically(tmp_path / "last.ckpt", lambda file: torch.save(state, file))
        assert caught.value.errno == errno.ENOSPC
        assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
        assert (tmp_path / "last.ckpt").read_text() == "old"

    @pytest.mark.parametrize("file", ["config.yaml", "model.safetensors", "last.ckpt", "metrics.csv", "summary.json"])
    def test_names_the_file(self, digits_folder, tmp_path, full, capsys, file):
        output = tmp_path / "run"
        full(output / f".{file}.tmp")
        assert main(["train", str(digits_folder), "--output", str(output), *OPTIONS, "--epochs=1"]) == 1
        assert capsys.readouterr().err == f"error: {NO_SPACE}: '{output / file}'\n"
        assert not list(output.glob(".*"))

    def test_figures_for_tensorboard(self, digits_folder, tmp_path, monkeypatch, capsys):
        def write(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(gfile.LocalFileSystem, "_write", write)
        output = tmp_path / "run"
        assert main(["train", str(digits_folder), "--output", str(output), *OPTIONS, "--loggers=tensorboard"]) == 1
        assert capsys.readouterr().err == f"error: {NO_SPACE}: '{output}'\n"

    def test_log_says_it_once_and_stops_nothing(self, tmp_path, full, caplog, capsys):
        full(tmp_path / "train.log")
        with train_module._log_file(tmp_path / "train.log"):
            for number in range(3):
                train_module.log.warning("skipped the image number %d", number)
        assert caplog.messages.count(f"{tmp_path / 'train.log'} is not continued: No space left on device") == 1
        assert not [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]

    def test_samples(self, tmp_path, full):
        source = open_for_training("digits")
        first = source.splits["val"].labels.index(0)
        full(tmp_path / f"samples/.digits-{first:04d}_label-0.png.tmp")
        with pytest.raises(OSError, match=r"No space left on device: .*_label-0\.png"):
            run_folder.write_samples(tmp_path, source)
        assert list((tmp_path / "samples").iterdir()) == []
