"""What of Ray's tests CI can afford, in processes of their own: Ray starts threads, and other tests fork."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

if find_spec("ray") is None:
    pytest.skip("Ray comes with the extra [cluster]", allow_module_level=True)
from pyarrow import parquet

import fresh
from glocal.deploy import bulk, parts
from glocal.deploy.config import EmbedConfig

pytestmark = pytest.mark.usefixtures("one_thread")
CLUSTER = Path(__file__).with_name("test_cluster.py")
IN_CI = ("test_work_that_kills_its_workers_is_given_up", "test_workers_and_their_share_of_two_machines")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Twelve images below the current folder, of which the fifth cannot be read."""
    monkeypatch.chdir(tmp_path)  # so that the workers have to find relative paths
    (tmp_path / "photos").mkdir()
    for number in range(12):
        pixels = np.random.RandomState(number).randint(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{number:02}.png")
    (tmp_path / "photos/04.png").write_text("text")


def config(checkpoint, **options):
    common = {"checkpoint": str(checkpoint), "engine": "torch", "batch_size": 2, "shard_size": 3, "device": "cpu"}
    return EmbedConfig(["photos"], **common, **options)


def start(checkpoint, *command, workers=2):
    """A command on a Ray of so many workers; in a process of its own, as Ray never leaves one quite."""
    options = ["--checkpoint", str(checkpoint), "--engine", "torch", "--batch-size", "2", "--shard-size", "3"]
    options += ["--device", "cpu", "--output", "out", "--ray", "--workers", str(workers)]
    return fresh.started(fresh.GLOCAL, *(command or ("embed", "photos")), *options)


@pytest.mark.usefixtures("photos")
def test_one_worker_writes_the_same_rows(checkpoint, tmp_path):
    bulk.write_results(config(checkpoint, output="here"))
    with start(checkpoint, workers=1) as run:
        shown, errors = run.communicate(240)
    assert (run.returncode, shown) == (1, "12 images in 4 files in out\n"), errors
    rows, expected = (
        [
            row
            for part in map(parts.part_name, range(4))
            for row in parquet.read_table(tmp_path / name / part).to_pylist()
        ]
        for name in ("out", "here")
    )
    assert [row["source"] for row in rows] == [f"photos/{number:02}.png" for number in range(12)]
    for row, other in zip(rows, expected, strict=True):
        assert row["error"] == other["error"]
        if other["error"] is None:
            np.testing.assert_allclose(row["embedding"], other["embedding"], atol=1e-5)


def test_tests_that_need_no_worker():
    program = "import sys, pytest; raise SystemExit(pytest.main(sys.argv[1:]))"
    command = ["-q", "-m", "", "-p", "no:cacheprovider", "-p", "no:xdist"]
    result = fresh.run(program, *command, *(f"{CLUSTER}::{name}" for name in IN_CI), folder=CLUSTER.parents[2])
    assert result.returncode == 0, result.stdout[-3000:]
    assert " 10 passed" in f" {result.stdout.splitlines()[-1]}"
