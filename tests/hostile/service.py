"""A service in a process of its own, on 127.0.0.1, with few descriptors and little patience, and what it has told."""

import contextlib
import http.client
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import fresh

HANG = 30  # seconds; nothing may take longer, also on a busy machine


@dataclass
class Served:
    process: fresh.Program
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
    """`glocal serve` with a small model. It ends with the test."""
    command = ["serve", "--checkpoint", checkpoint, "--port", 0, "--engine", "torch", "--threads", 1, *options]
    with fresh.started(fresh.GLOCAL, *command, errors=log, descriptors=descriptors) as process:
        yield Served(process, int(process.says(r"listening on http://127.0.0.1:(\d+)")), log)
