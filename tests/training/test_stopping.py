"""Signals to any process of a run, at odd moments."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from glocal.cli import main
from glocal.data.loaders import _outlive_signals
from glocal.training import callbacks, stopping
from glocal.training.lightning_module import TrainingModule
from glocal.training.stopping import FurtherProcesses, StopSignals, TrainingInterrupted

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = ["--model=test_resnet", "--img-size=32", "--batch-size=16", "--epochs=2", "--device=cpu"]


def in_child(function, *args) -> int:
    """The exit code of a process that does it."""
    child = multiprocessing.get_context("fork").Process(target=lambda: os._exit(function(*args) or 0))
    child.start()
    child.join(120)
    assert child.exitcode is not None
    return child.exitcode


def before(owner, name, count, action):
    """Do something before the call of this number of a method."""
    original, seen = getattr(owner, name), []

    def method(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == count:
            action(self)
        return original(self, *args, **kwargs)

    setattr(owner, name, method)


class TestStopSignals:
    @pytest.fixture
    def stop(self):
        with StopSignals() as stop:
            yield stop

    @pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGUSR1", 138), ("SIGINT", 130)])
    def test_before_training_it_stops_at_once_and_ends_the_others_first(self, stop, number, code):
        ended = []
        stop.end_others = lambda: ended.append(True)
        with pytest.raises(TrainingInterrupted, match=f"stopped by {number}: nothing is saved yet$") as caught:
            os.kill(os.getpid(), getattr(signal, number))
        assert caught.value.exit_code == code
        assert ended

    def test_in_training_it_is_noted_and_a_second_stops(self, stop):
        stop.begin()
        stop.kept = "saved at step 3"
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        with pytest.raises(TrainingInterrupted, match="stopped by SIGINT: saved at step 3, the same command goes on"):
            os.kill(os.getpid(), signal.SIGINT)

    def test_what_a_worker_was_told_counts_once(self, stop):
        """A scheduler signals all processes of a job."""
        stop.begin()
        worker = in_child(lambda: (_outlive_signals(0, stop.signal_of_worker), os.kill(os.getpid(), signal.SIGTERM))[1])
        assert (worker, stop.number) == (0, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM

    def test_worker_that_has_just_been_forked_ends_no_others(self, stop):
        stop.end_others = lambda: os._exit(3)
        assert in_child(lambda: os.kill(os.getpid(), signal.SIGTERM)) == 0
        assert stop.number == signal.SIGTERM

    def test_handlers_come_back(self):
        handlers = [signal.getsignal(number) for number in stopping.SIGNALS]
        with StopSignals():
            assert [signal.getsignal(number) for number in stopping.SIGNALS] != handlers
        assert [signal.getsignal(number) for number in stopping.SIGNALS] == handlers


class TestFurtherProcesses:
    @pytest.mark.parametrize(("command", "number"), [("kill -TERM $$", 15), ("exit 143", 15), ("kill -KILL $$", 9)])
    def test_signal_of_one_is_found(self, command, number):
        processes = FurtherProcesses(StopSignals())
        processes.children = [subprocess.Popen(["sh", "-c", text]) for text in ("exec sleep 60", command)]
        processes.look()
        processes.kill()
        processes.end()
        assert processes.signal == number
        assert [child.poll() is None for child in processes.children] == [False, False]

    @pytest.mark.parametrize(
        ("command", "code", "line"),
        [
            ("kill -TERM $$", 143, "stopped by SIGTERM: nothing is saved yet"),
            ("kill -KILL $$", 137, "stopped by SIGKILL: nothing is saved yet"),
            ("exit 3", 1, "a process of the run has failed; nothing is saved yet"),
        ],
    )
    def test_main_process_that_waits_for_ever_is_ended(self, command, code, line, monkeypatch, capfd):
        monkeypatch.setattr(stopping, "SECONDS_TO_END", 0.2)

        def wait():
            children = [subprocess.Popen(["sh", "-c", text]) for text in ("exec sleep 60", command)]
            print(children[0].pid, flush=True)
            FurtherProcesses(StopSignals())(children)
            signal.pthread_sigmask(signal.SIG_BLOCK, stopping.SIGNALS)  # as in a collective, no handler would run
            time.sleep(60)

        assert in_child(wait) == code
        out, error = capfd.readouterr()
        assert error == f"error: {line}\n"
        state = Path(f"/proc/{int(out)}/status")
        assert not state.exists() or "zombie" in state.read_text()  # the other was ended too

    def test_those_that_ended_well_end_nothing(self, monkeypatch):
        monkeypatch.setattr(stopping, "SECONDS_TO_END", 0)

        def wait():
            FurtherProcesses(StopSignals())([subprocess.Popen(["true"])])
            time.sleep(1.5)
            return 7

        assert in_child(wait) == 7

    def test_one_whose_main_process_was_killed_ends(self, monkeypatch):
        """Even while it waits for the main process to meet it."""
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()

        def lead():
            monkeypatch.setenv(stopping.MAIN, str(os.getpid()))
            follower = os.fork()
            if not follower:
                stopping.end_with_main_process()
                time.sleep(60)
            there.send(follower)
            time.sleep(60)

        leader = context.Process(target=lead)
        leader.start()
        follower = here.recv()
        os.kill(leader.pid, signal.SIGKILL)
        leader.join()
        deadline = time.monotonic() + 20
        status = Path(f"/proc/{follower}/stat")
        while status.exists() and status.read_text().split()[2] != "Z" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not status.exists() or status.read_text().split()[2] == "Z"


class TestOneProcess:
    """Through the command line, for the exit codes."""

    def train(self, data, output, *options):
        return main(["train", str(data), "--output", str(output), *OPTIONS, *options])

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    @pytest.mark.parametrize("moment", ["on_fit_start", "configure_optimizers"])
    def test_before_the_first_step(self, digits_folder, tmp_path, number, code, moment, capfd):
        def run():
            before(TrainingModule, moment, 1, lambda module: os.kill(os.getpid(), number))
            return self.train(digits_folder, tmp_path / "run", "--workers=0")

        assert in_child(run) == code
        (error,) = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("note: ")]
        assert error == f"error: stopped by {signal.Signals(number).name}: nothing is saved yet"

    def test_after_the_last_epoch_it_ends_well(self, digits_folder, tmp_path):
        def run():
            before(TrainingModule, "all_unreadable", 3, lambda module: os.kill(os.getpid(), signal.SIGTERM))
            return self.train(digits_folder, tmp_path / "run", "--workers=0", "--save-every-minutes=1000")

        assert in_child(run) == 0
        assert (tmp_path / "run/summary.json").exists()

    @pytest.mark.parametrize(
        ("number", "code", "line"),
        [
            (signal.SIGTERM, 143, "stopped by SIGTERM: saved at step"),
            (signal.SIGKILL, 1, "a process that reads images has died (DataLoader worker (pid"),
        ],
    )
    def test_worker_alone_gets_it(self, digits_folder, tmp_path, number, code, line, capfd):
        def to_worker(module):
            (worker,) = module.trainer.train_dataloader._iterator._workers
            os.kill(worker.pid, number)
            if number == signal.SIGTERM:
                time.sleep(0.5)

        def run():
            before(TrainingModule, "training_step", 2, to_worker)
            return self.train(digits_folder, tmp_path / "run", "--workers=1", "--epochs=50", "--save-every-minutes=0")

        assert in_child(run) == code
        (error,) = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("note: ")]
        assert error.startswith(f"error: {line}")
        if number == signal.SIGTERM:
            assert torch.load(tmp_path / "run/last.ckpt", weights_only=True)["global_step"] <= 3

    def test_a_worker_that_dies_while_the_state_is_saved_is_one_line(
        self, digits_folder, tmp_path, monkeypatch, capsys
    ):
        def interrupted(state, file):
            try:
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
            except RuntimeError:
                raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904 (as torch's writer of zip files)

        monkeypatch.setattr(torch, "save", interrupted)
        assert self.train(digits_folder, tmp_path / "run", "--workers=0", "--save-every-minutes=0") == 1
        (error,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
        assert error.startswith("error: a process that reads images has died (DataLoader worker (pid 7)")


@pytest.mark.slow  # half a minute each
class TestTwoProcesses:
    """The first starts the second. SIGTERM to one of them: the run ends with 143, one line, and no process left."""

    @pytest.mark.parametrize("rank", [0, 1])
    @pytest.mark.parametrize("moment", ["import", "meeting", "on_fit_start", "step", "validation", "save"])
    def test_one_gets_it(self, digits_folder, tmp_path, moment, rank):
        if (moment, rank) in (("import", 0), ("meeting", 0)):
            pytest.skip("there is no second process yet, or it waits as the one of TestFurtherProcesses does")
        command = [sys.executable, __file__, moment, str(rank), "train", str(digits_folder)]
        command += [f"--output={tmp_path / 'run'}", *OPTIONS, "--epochs=40", "--devices=2", "--workers=0"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        errors = [line for line in run.stderr.splitlines() if not line.startswith("note: ")]
        assert run.returncode == 143, errors
        assert {line.partition(":")[0] for line in errors} == {"error"}, errors
        assert all("stopped by SIGTERM" in line for line in errors)
        saved = moment in ("step", "validation", "save")
        assert (tmp_path / "run/last.ckpt").exists() == saved
        assert ("saved at step" in errors[0]) == saved
        processes = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        assert not [one for one in processes if str(tmp_path).encode() in one]


def _send_at(moment: str, rank: int) -> None:
    def send(*args):
        if int(os.environ.get("LOCAL_RANK", 0)) == rank:
            os.kill(os.getpid(), signal.SIGTERM)

    callbacks.STEPS_BETWEEN_TALKS = 2
    moments = {
        "meeting": (Trainer, "fit", 1),
        "on_fit_start": (TrainingModule, "on_fit_start", 1),
        "step": (TrainingModule, "training_step", 6),
        "validation": (TrainingModule, "on_validation_epoch_start", 2),  # the first epoch is saved
        "save": (TrainingModule, "on_save_checkpoint", 1),
    }
    if moment == "import":
        send()
    elif moment == "save" and rank == 0:
        before(callbacks.AtomicCheckpointIO, "save_checkpoint", 1, send)
    else:
        before(*moments[moment], send)


if __name__ == "__main__":
    _send_at(sys.argv[1], int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
