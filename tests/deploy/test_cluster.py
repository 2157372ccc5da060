"""The shards on a Ray of two workers: the same files as without, whoever dies."""

import io
import os
import signal
import tarfile
import time

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from deploy.test_cluster_apart import config, photos, start  # noqa: F401  photos is a fixture
from glocal.deploy import bulk, cluster, parts
from glocal.deploy.config import EmbedConfig, PredictConfig
from glocal.tasks.checkpoint import read_info, save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a worker takes a core")


@two_cores
@pytest.mark.usefixtures("photos")
@pytest.mark.slow
def test_files_are_those_of_one_process(checkpoint, tmp_path):
    here, out = tmp_path / "here", tmp_path / "out"
    bulk.write_results(config(checkpoint, output="here"))
    out.mkdir()
    for name in ("part-00002.parquet", "_plan.json"):
        (out / name).write_bytes((here / name).read_bytes())
    with start(checkpoint) as run:
        shown, errors = run.communicate(240)
    assert (run.returncode, shown) == (1, "12 images in 4 files in out\n")
    assert errors.splitlines() == [
        "note: resumed: 1 of 4 shards are there already",
        "error: 1 image could not be read: the column error says why",
    ]
    names = sorted(file.name for file in here.iterdir())
    assert sorted(file.name for file in out.iterdir()) == names
    for name in (name for name in names if name.endswith(".parquet")):
        table, expected = parquet.read_table(out / name), parquet.read_table(here / name)
        assert table.schema.equals(expected.schema, check_metadata=True)
        for row, other in zip(table.to_pylist(), expected.to_pylist(), strict=True):
            assert (row["source"], row["error"]) == (other["source"], other["error"])
            if other["error"] is None:
                np.testing.assert_allclose(row["embedding"], other["embedding"], atol=1e-5)


@two_cores
@pytest.mark.usefixtures("photos")
@pytest.mark.slow
def test_predictions_of_tar_and_parquet_files(checkpoint, tmp_path):
    """`glocal predict --ray` on both together: rows in the order of the inputs, as one process writes them."""
    files = [(name, (tmp_path / "photos" / name).read_bytes()) for name in sorted(os.listdir("photos"))]
    for number in range(2):
        with tarfile.open(f"crawl-{number}.tar", "w") as archive:
            for name, content in files[number * 3 : number * 3 + 3]:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    parquet.write_table(pyarrow.table({"image": [content for _, content in files[6:]]}), "rest.parquet")
    inputs = ["crawl-0.tar", "crawl-1.tar", "rest.parquet"]
    common = {"checkpoint": str(checkpoint), "engine": "torch", "batch_size": 2, "device": "cpu"}
    bulk.write_results(PredictConfig(inputs, **common, output="here", top_k=2))
    with start(checkpoint, "predict", *inputs, "--top-k", "2") as run:
        shown, errors = run.communicate(240)
    assert (run.returncode, shown) == (1, "12 images in 3 files in out\n"), errors
    for name in (f"part-{number:05}.parquet" for number in range(3)):
        table, expected = parquet.read_table(tmp_path / "out" / name), parquet.read_table(tmp_path / "here" / name)
        assert table.drop(["probabilities"]).equals(expected.drop(["probabilities"]))
        for row, other in zip(table.to_pylist(), expected.to_pylist(), strict=True):
            assert row["probabilities"] == (other["probabilities"] and pytest.approx(other["probabilities"], abs=1e-5))


@two_cores
@pytest.mark.usefixtures("photos")
@pytest.mark.slow
def test_worker_that_dies_is_replaced_and_its_shard_begun_again(checkpoint, tmp_path):
    with start(checkpoint) as run:
        deadline = time.monotonic() + 120
        while not (begun := list((tmp_path / "out").glob(".part-*.tmp"))) and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(int(begun[0].name.split("-")[-1].removesuffix(".tmp")), signal.SIGKILL)
        shown, _ = run.communicate(240)
    assert run.returncode == 1
    assert shown.endswith("12 images in 4 files in out\n")  # after Ray's own note of the death
    assert {file.name for file in (tmp_path / "out").iterdir()} == {*map(parts.part_name, range(4)), "_plan.json"}
    assert sum(parquet.read_metadata(part).num_rows for part in (tmp_path / "out").glob("*.parquet")) == 12


@two_cores
@pytest.mark.usefixtures("photos")
@pytest.mark.slow
def test_what_goes_wrong_in_a_worker_is_one_line(checkpoint, tmp_path):
    broken = tmp_path / "broken.safetensors"
    save_checkpoint(broken, {}, read_info(checkpoint / "model.safetensors"))
    with start(broken) as run:
        shown, errors = run.communicate(240)
    assert (run.returncode, shown, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("error: part-0000")
    assert "broken.safetensors does not fit test_resnet" in errors
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["_plan.json"]


@pytest.mark.usefixtures("photos")
def test_work_that_kills_its_workers_is_given_up(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    worker = cluster.Worker(config(checkpoint, output="out"), 1, str(tmp_path))
    for process in range(cluster.TRIES):
        (tmp_path / "out" / parts.temporary_name(7, f"host-{process}")).touch()
    row = {"files": [os.fsencode("photos/00.png")], "with_videos": False}
    assert worker(row | {"number": 7}) == {"number": 7, "error": "its worker died 3 times"}
    assert worker(row | {"number": 6}) == {"number": 6, "error": ""}


@pytest.mark.parametrize(
    ("options", "resources", "expected"),
    [
        ({}, {"CPU": 64.0}, (2, 32, {"num_cpus": 0.5})),
        ({"workers": 3}, {"CPU": 64.0}, (3, 21, {"num_cpus": 0.5})),
        ({"workers": 50}, {"CPU": 64.0}, (10, 6, {"num_cpus": 0.5})),
        ({}, {"CPU": 64.0, "GPU": 8.0}, (8, 8, {"num_gpus": 1})),
        ({"device": "cuda", "workers": 4}, {"CPU": 64.0, "GPU": 8.0}, (4, 16, {"num_gpus": 1})),
        ({"device": "cpu"}, {"CPU": 64.0, "GPU": 8.0}, (2, 32, {"num_cpus": 0.5})),
        ({"device": "cuda"}, {"CPU": 4.0}, "the cluster has 0 GPUs, too few for 1 worker"),
        ({"workers": 5}, {"CPU": 4.0}, "the cluster has 4 CPUs, too few for 5 workers"),
        ({"workers": 2}, {"CPU": 4.0, "GPU": 1.0}, "the cluster has 1 GPU, too few for 2 workers"),
    ],
    ids=str,
)
def test_workers_and_their_share_of_two_machines(options, resources, expected):
    config = EmbedConfig(["x"], model="van_b0", output="out", ray=True, **options)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            cluster.share(config, 10, resources, machines=2)
    else:
        assert cluster.share(config, 10, resources, machines=2) == expected
