"""A service in a process of its own, on 127.0.0.1, with few descriptors and little patience, and what it has told."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

HANG = 30  # seconds; nothing may take longer, also on a busy machine


@dataclass
class Served:
    process: subprocess.Popen
    port: int
    log: Path

    def ask(self, method: str, path: str, body=None, headers=None) -> tuple[int, dict]:
        """The code and the JSON of an answer, over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def mib(self) -> float:
        """Of memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def check(self) -> None:
        """It answers, its log is short, and no error of its own is in it."""
        assert self.process.poll() is None, self.log.read_text()[-5000:]
        assert self.ask("GET", "/health")[1]["status"] == "ok"
        text = self.log.read_text()
        assert "Traceback" not in text, text[-5000:]
        assert text.count("\n") < 100, text[-5000:]


@contextlib.contextmanager
def serving(checkpoint: Path, log: Path, *options: str, descriptors: int | None = None):
    """`glocal serve` with a small model. It ends with the test, and by itself after ten minutes."""
    command = ["--checkpoint", str(checkpoint), "--port", "0", "--engine", "torch", "--threads", "1", *options]

    def limit():
        signal.alarm(600)
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "glocal", "serve", *command], stdout=file, stderr=file, preexec_fn=limit
        )
    try:
        while not (found := re.search(r"listening on http://127.0.0.1:(\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield Served(process, int(found[1]), log)
    finally:
        process.kill()
        process.wait()
