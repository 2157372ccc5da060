"""What of Ray's tests CI can afford, in a process of their own: Ray starts threads, and other tests fork."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray comes with the extra [cluster]")
CLUSTER = Path(__file__).with_name("test_cluster.py")
IN_CI = (
    "test_one_worker_writes_the_same_rows",
    "test_work_that_kills_its_workers_is_given_up",
    "test_workers_and_their_share_of_two_machines",
)


def test_cluster_in_a_process_of_its_own():
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider", "-p", "no:xdist"]
    result = subprocess.run(
        [*command, *(f"{CLUSTER}::{name}" for name in IN_CI)],
        cwd=CLUSTER.parents[2], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:]
    assert " 11 passed" in f" {result.stdout.splitlines()[-1]}"
