"""Stopping a run from outside: by a signal to any of its processes, or by the end of a process."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from glocal.errors import WorkError

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
SECONDS_TO_NOTICE = 30  # for the main process; mostly it notices at once, because its collective fails
SECONDS_TO_END = 5
MAIN = "GLOCAL_MAIN_PROCESS"  # variable for the processes of further devices: the process that started them


class TrainingInterrupted(WorkError):
    """A signal has stopped the run, which can be resumed. exit_code: 128 + the signal's number, as in shells."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal = signal_number
        self.exit_code = 128 + signal_number

    def __reduce__(self):
        return type(self), (str(self), self.signal)


class StopSignals:
    """Notes SIGINT, SIGTERM and SIGUSR1 while it is entered; Lightning must not set its own handlers meanwhile.

    Before `begin`, the run has nothing to save, and a signal raises TrainingInterrupted. Afterwards `number` is the
    signal that came to this process or to a process that reads images (`signal_of_worker`, in shared memory); a second
    signal raises. `kept` says in a few words what is saved of the run. `end_others` ends the processes that this
    process has started.
    """

    def __init__(self, kept: str = "nothing is saved yet"):
        self.kept = kept
        self.signal_of_worker = multiprocessing.RawValue("i", 0)
        self.error: TrainingInterrupted | None = None
        self.end_others: Callable[[], None] = lambda: None
        self._number: int | None = None
        self._process = os.getpid()
        self.begun = False
        self._handlers: dict = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def begin(self) -> None:
        self.begun = True

    @property
    def number(self) -> int | None:
        return self._number or self.signal_of_worker.value or None

    def stop(self, number: int | None) -> None:
        """Raise TrainingInterrupted; number: None if the signal came to another process, which counts as SIGTERM."""
        self.error = interrupted(number or signal.SIGTERM, self.kept)
        raise self.error

    def _note(self, number: int, frame) -> None:
        if os.getpid() != self._process:  # a process that reads images, just forked
            self.signal_of_worker.value = number
            return
        first = self._number is None
        self._number = self._number or number
        if not first or not self.begun:
            self.end_others()
            self.stop(number)


def interrupted(number: int, kept: str) -> TrainingInterrupted:
    """The error of a run that a signal has stopped. kept: what is saved of the run, in a few words."""
    on = ", the same command goes on" if kept.startswith("saved") else ""
    return TrainingInterrupted(f"stopped by {signal.Signals(number).name}: {kept}{on}", number)


class FurtherProcesses:
    """The processes that Lightning starts for the devices after the first, as the main process sees them.

    Call it with these processes to watch them. If a process ends by a signal or an error and the main process does not
    notice (a collective may wait for half an hour), all processes are ended, with a line and the exit code of that
    signal. Lightning's own observer kills the main process five seconds after such an end, even while it saves.
    """

    def __init__(self, stop: StopSignals):
        self.stop = stop
        self.children: list[subprocess.Popen] = []
        self.over = threading.Event()
        self.signal: int | None = None

    def __call__(self, children: list[subprocess.Popen]) -> None:
        self.children = children
        threading.Thread(target=self._watch, daemon=True).start()

    def look(self) -> None:
        """Note the signal that has ended a process; waits a moment, because an error may arrive before that end."""
        deadline = time.monotonic() + SECONDS_TO_END
        while self.children and self.signal is None:
            codes = [child.poll() for child in self.children]
            self.signal = next((number for number in map(_signal_of, codes) if number is not None), None)
            if None not in codes or time.monotonic() > deadline:
                break
            time.sleep(0.1)

    def kill(self) -> None:
        self.over.set()
        for child in self.children:
            child.kill()

    def end(self) -> None:
        """Wait for the processes, which stop with the main process, and kill those that do not end."""
        self.over.set()
        deadline = time.monotonic() + SECONDS_TO_END
        for child in self.children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _watch(self) -> None:
        codes: list[int | None] = [None]
        while None in codes and not any(codes):
            if self.over.wait(0.5):
                return
            codes = [child.poll() for child in self.children]
        if not any(codes) or self.over.wait(SECONDS_TO_NOTICE if self.stop.begun else SECONDS_TO_END):
            return
        for child in self.children:
            child.kill()
        number = next((number for number in map(_signal_of, codes) if number is not None), None)
        if number is None:
            error, code = f"a process of the run has failed; {self.stop.kept}", 1
        else:
            error = interrupted(number, self.stop.kept)
            code = error.exit_code
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(code)


def end_with_main_process() -> None:
    """In a process for a further device: end when the main process ends, even by kill -9 before they have connected."""
    main = int(os.environ.get(MAIN, 0))
    if main in (0, os.getpid()):
        return

    def watch() -> None:
        while os.getppid() == main:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _signal_of(code: int | None) -> int | None:
    number = -code if code is not None and code < 0 else (code or 0) - 128
    return number if number in (*SIGNALS, getattr(signal, "SIGKILL", None)) else None
