"""Python programs in processes of their own that need not import torch, which takes seconds.

They are forks of one process that has imported torch and timm and nothing of ours, with a hash seed of its own. As
after `python -c`, what a program imports, sets and prints is its own.
"""

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

GLOCAL = "from glocal.cli import main; raise SystemExit(main())"
LIMIT = 600  # seconds, after which a program ends, whatever becomes of the tests

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["torch", "timm", "timm.data"])


@dataclass
class Program:
    """A program that runs or has ended, with the methods of `subprocess.Popen`."""

    process: multiprocessing.Process
    out: Path
    err: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def says(self, pattern: str) -> str:
        """The group of a pattern in its errors, as soon as it is there."""
        while not (found := re.search(pattern, self.err.read_text())):
            assert self.poll() is None, self.err.read_text()
            time.sleep(0.05)
        return found[1]

    def communicate(self, timeout: float = LIMIT) -> tuple[str, str]:
        """What it has printed, once it has ended."""
        self.process.join(timeout)
        if self.poll() is None:
            raise TimeoutError(f"it still runs after {timeout} seconds")
        return self.out.read_text(), self.err.read_text()


@contextlib.contextmanager
def started(
    program: str,
    *arguments: object,
    folder: Path | None = None,
    errors: Path | None = None,
    descriptors: int | None = None,
    **changed: str,
) -> Iterator[Program]:
    """A program in a folder, else the current one, with the tests' environment; it does not outlive the context.

    errors: the file for what it says of errors. descriptors: how many it may have open. changed: variables.
    """
    with tempfile.TemporaryDirectory() as kept:
        out, err = Path(kept) / "out", errors or Path(kept) / "err"
        out.touch()
        err.touch()
        setting = str(folder or Path.cwd()), {**os.environ, **changed}, str(out), str(err), descriptors
        process = _processes.Process(target=_run, args=(program, [*map(str, arguments)], *setting))
        _start_server()
        process.start()
        running = Program(process, out, err)
        try:
            yield running
        finally:
            running.kill()
            process.join()


def run(program: str, *arguments: object, **options) -> subprocess.CompletedProcess:
    """What a program returns and prints, once it has ended."""
    with started(program, *arguments, **options) as running:
        out, err = running.communicate()
        return subprocess.CompletedProcess(arguments, running.returncode, out, err)


def _start_server() -> None:
    """Begin the process that is forked: with a Triton that compiles, which a program can still change for its own."""
    interpret = os.environ.pop("TRITON_INTERPRET", None)
    try:
        forkserver.ensure_running()
    finally:
        if interpret is not None:
            os.environ["TRITON_INTERPRET"] = interpret


def _run(program, arguments, folder, environment, out, err, descriptors) -> None:
    """In the fork."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.alarm(LIMIT)
    for number, file in ((1, out), (2, err)):
        opened = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    if descriptors is not None:
        import resource  # Windows has none

        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    sys.argv = ["-c", *arguments]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
