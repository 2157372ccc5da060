"""Predictions and embeddings of many images: what the predictor says, in files that are whole or not there."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from glocal.deploy import bulk, parts
from glocal.deploy.bulk import Written, write_results
from glocal.deploy.config import EmbedConfig, PredictConfig
from glocal.deploy.predictor import Predictor

pytestmark = pytest.mark.usefixtures("one_thread")


def encoded(seed):
    pixels = np.random.RandomState(seed).randint(0, 256, (20, 30, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


CONTENTS = [encoded(seed) for seed in range(7)]
CONTENTS[2] = b"text"  # cannot be read


@pytest.fixture
def photos(tmp_path):
    """Seven images, of which the third cannot be read."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, content in enumerate(CONTENTS):
        (folder / f"{number}.png").write_bytes(content)
    return folder


@pytest.fixture
def config(checkpoint, photos, tmp_path):
    """Makes a config: of an embedding of the photos in shards of three, unless told otherwise."""

    def config(kind=EmbedConfig, **options):
        common = {"checkpoint": str(checkpoint), "engine": "torch", "batch_size": 2, "shard_size": 3}
        return kind(**({"images": [str(photos)], "output": str(tmp_path / "out")} | common | options))

    return config


def rows(folder):
    return [row for part in sorted(folder.glob("part-*.parquet")) for row in parquet.read_table(part).to_pylist()]


def state(folder):
    """What changes when a file is written again."""
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.iterdir()}


class TestFiles:
    def test_embeddings_are_the_predictors(self, config, checkpoint, photos, tmp_path):
        assert write_results(config()) == Written(files=3, images=7, unreadable=1)
        assert [parquet.read_metadata(p).num_rows for p in sorted((tmp_path / "out").glob("*.parquet"))] == [3, 3, 1]
        expected = Predictor(checkpoint, engine="torch").embed(sorted(map(str, photos.iterdir())))
        for row, embedding in zip(rows(tmp_path / "out"), expected, strict=True):
            assert row["source"] == embedding.source
            if embedding.error is None:
                assert row["error"] is None
                np.testing.assert_allclose(row["embedding"], embedding.vector, atol=1e-5)
            else:
                assert (row["error"], row["embedding"]) == ("not an image", None)

    def test_predictions_are_the_predictors(self, config, checkpoint, photos, tmp_path):
        assert write_results(config(PredictConfig, top_k=2)) == Written(files=3, images=7, unreadable=1)
        expected = Predictor(checkpoint, engine="torch")(sorted(map(str, photos.iterdir())), top_k=2)
        for row, prediction in zip(rows(tmp_path / "out"), expected, strict=True):
            assert row["source"] == prediction.source
            if prediction.error is None:
                assert (row["label"], row["labels"], row["error"]) == (prediction.labels[0], prediction.labels, None)
                assert row["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-5)
            else:
                unknown = {"source": row["source"], "label": None, "labels": None, "probabilities": None}
                assert row == unknown | {"error": "not an image"}

    @pytest.mark.parametrize("kind", ["tar", "bytes", "struct"])
    def test_stored_images_give_the_rows_of_the_folder(self, config, tmp_path, kind):
        stored = tmp_path / ("x.tar" if kind == "tar" else "x.parquet")
        if kind == "tar":
            pytest.importorskip("webdataset", reason="needs the extra [data]")
            with tarfile.open(stored, "w") as tar:
                for number, content in enumerate(CONTENTS):
                    member = tarfile.TarInfo(f"{number}.png")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        else:
            values = CONTENTS if kind == "bytes" else [{"bytes": content, "path": None} for content in CONTENTS]
            parquet.write_table(pyarrow.table({"label": range(7), "photo": values}), stored)
        write_results(config())
        stored_config = config(images=[str(stored)], output=str(tmp_path / "stored"), image_column="photo")
        assert write_results(stored_config) == Written(files=1, images=7, unreadable=1)
        places = [f"{number}.png" if kind == "tar" else f"row {number}" for number in range(7)]
        for place, row, expected in zip(places, rows(tmp_path / "stored"), rows(tmp_path / "out"), strict=True):
            assert row["source"] == f"{stored}: {place}"
            assert row["error"] == expected["error"]
            if row["error"] is None:
                np.testing.assert_allclose(row["embedding"], expected["embedding"], atol=1e-5)

    @pytest.mark.parametrize("readable", [True, False])
    def test_columns_do_not_depend_on_the_images(self, config, photos, tmp_path, readable):
        if not readable:
            for file in photos.iterdir():
                file.write_bytes(b"")
        write_results(config())
        schemas = [parquet.read_schema(part) for part in sorted((tmp_path / "out").glob("*.parquet"))]
        fields = [("source", pyarrow.string()), ("embedding", pyarrow.list_(pyarrow.float32(), 96))]
        assert all(schema.equals(pyarrow.schema([*fields, ("error", pyarrow.string())])) for schema in schemas)
        about = json.loads(schemas[0].metadata[b"glocal"])
        assert about["model"] == "test_resnet"
        assert "version" in about

    def test_folder_opens_as_a_data_set(self, config, tmp_path):
        from pyarrow import dataset

        write_results(config())
        assert dataset.dataset(tmp_path / "out").to_table().num_rows == 7
        pandas = pytest.importorskip("pandas")
        table = pandas.read_parquet(tmp_path / "out")
        assert [source[-5:] for source in table["source"]] == [f"{number}.png" for number in range(7)]

    def test_no_rows(self, config, tmp_path):
        parquet.write_table(pyarrow.table({"image": pyarrow.array([], pyarrow.binary())}), tmp_path / "x.parquet")
        assert write_results(config(images=[str(tmp_path / "x.parquet")])) == Written(1, 0, 0)

    def test_more_rows_than_are_kept_in_memory(self, config, tmp_path, monkeypatch):
        monkeypatch.setattr(parts, "ROWS", 2)
        write_results(config())
        assert parquet.read_metadata(tmp_path / "out/part-00000.parquet").num_row_groups == 2
        assert [row["source"][-5:] for row in rows(tmp_path / "out")] == [f"{number}.png" for number in range(7)]

    @pytest.mark.skipif(sys.platform != "linux", reason="file names are text elsewhere")
    def test_name_that_is_no_text(self, config, photos, tmp_path):
        with open(os.fsencode(photos) + b"/\xe9.png", "wb") as file:
            file.write(CONTENTS[0])
        write_results(config())
        assert rows(tmp_path / "out")[-1]["source"] == f"{photos}/\\udce9.png"


class TestResume:
    def test_what_is_there_is_not_computed_again(self, config, tmp_path, caplog):
        write_results(config())
        expected, before = rows(tmp_path / "out"), state(tmp_path / "out")
        (tmp_path / "out/part-00001.parquet").unlink()
        (tmp_path / "out/.part-00001.parquet.host-1.tmp").write_text("of a dead process")
        assert write_results(config(batch_size=3)) == Written(3, 7, 1)
        after = state(tmp_path / "out")
        assert after.keys() == before.keys()
        kept = ("part-00000.parquet", "part-00002.parquet")
        assert [after[name] for name in kept] == [before[name] for name in kept]
        assert [row["source"] for row in rows(tmp_path / "out")] == [row["source"] for row in expected]
        assert "resumed: 2 of 3 shards are there already" in caplog.text

    def test_with_everything_there_no_model_is_loaded(self, config, monkeypatch):
        write_results(config())
        monkeypatch.delattr(bulk, "load_predictor")
        assert write_results(config()) == Written(3, 7, 1)

    @pytest.mark.parametrize(
        ("options", "what"),
        [
            ({"shard_size": 4}, "images and shard size"),
            ({"image_column": "photo"}, "image column"),
            ({"images": ["photos/0.png"]}, "images"),
            ({"checkpoint": "other"}, "checkpoint"),
            ({"kind": PredictConfig}, "command and top k"),
        ],
        ids=lambda value: str(value),
    )
    def test_results_of_another_run(self, config, checkpoint, tmp_path, monkeypatch, options, what):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "other").mkdir()
        (tmp_path / "other/model.safetensors").write_bytes(changed((checkpoint / "model.safetensors").read_bytes()))
        write_results(config())
        before = state(tmp_path / "out")
        with pytest.raises(ValueError, match=f"out holds the results of a run with another {what}; --overwrite begins"):
            write_results(config(**options))
        assert state(tmp_path / "out") == before

    def test_overwrite_begins_anew_and_leaves_other_files(self, config, tmp_path):
        write_results(config())
        (tmp_path / "out/part-of-mine.parquet").write_text("mine")
        before = state(tmp_path / "out")
        assert write_results(config(PredictConfig, shard_size=7, overwrite=True)) == Written(1, 7, 1)
        after = state(tmp_path / "out")
        assert after.keys() == {"part-00000.parquet", "part-of-mine.parquet", "_plan.json"}
        assert [name for name in after if after[name] == before[name]] == ["part-of-mine.parquet"]

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_files_of_somebody_else(self, config, tmp_path, overwrite):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/part-00000.parquet").write_text("mine")
        with pytest.raises(ValueError, match=r"holds 'part-00000.parquet' without _plan.json: choose another folder"):
            write_results(config(overwrite=overwrite))
        assert (tmp_path / "out/part-00000.parquet").read_text() == "mine"

    def test_mistake_with_overwrite_removes_nothing(self, config, tmp_path):
        write_results(config())
        before = state(tmp_path / "out")
        with pytest.raises(ValueError, match="there is no device"):
            write_results(config(overwrite=True, device="cuda:99"))
        assert state(tmp_path / "out") == before

    def test_folder_of_an_earlier_version_goes_on(self, config, tmp_path, caplog):
        write_results(config())
        out = tmp_path / "out"
        plan = json.loads((out / "_plan.json").read_text())
        assert list(plan) == ["command", "images", "model", "checkpoint", "shard size", "image column", "top k"]
        (out / "_plan.json").rename(out / "plan.json")
        (out / "part-00001.parquet").unlink()
        assert write_results(config()) == Written(3, 7, 1)
        assert "resumed: 2 of 3 shards are there already" in caplog.text
        assert not (out / "plan.json").exists()
        assert (out / "_plan.json").exists()

    @pytest.mark.parametrize("name", ["_plan.json", "plan.json"])
    @pytest.mark.parametrize(
        "content",
        [b"", b"[]", b"{}", b"[" * 100_000, b"\xff", b'{"command": "rm"}', b'{"command": 1e999}', "shard size", "huge"],
        ids=lambda value: str(value)[:12],
    )
    def test_plan_of_a_stranger(self, config, tmp_path, name, content):
        write_results(config())
        out = tmp_path / "out"
        plan = json.loads((out / "_plan.json").read_text())
        (out / "_plan.json").unlink()
        if content == "shard size":
            content = json.dumps(plan | {"shard size": [3]}).encode()
        elif content == "huge":
            content = json.dumps(plan | {"model": "x" * 100_000}).encode()
        (out / name).write_bytes(content)
        before = state(out)
        with pytest.raises(ValueError, match=f"out/{name} does not say what run this is: choose another folder"):
            write_results(config())
        assert state(out) == before

    def test_plan_without_results_is_replaced(self, config, tmp_path):
        write_results(config())
        for part in (tmp_path / "out").glob("part-*"):
            part.unlink()
        assert write_results(config(shard_size=7)) == Written(1, 7, 1)

    def test_output_that_is_a_file(self, config, photos):
        with pytest.raises(NotADirectoryError, match="this is a file, not a folder"):
            write_results(config(output=str(photos / "0.png")))

    def test_error_in_the_middle_leaves_whole_files(self, config, tmp_path, monkeypatch):
        seen = []

        def embed(predictor, images, original=Predictor.embed):
            for embedding in original(predictor, images):
                seen.append(embedding)
                if len(seen) == 5:
                    raise RuntimeError("out of luck")
                yield embedding

        monkeypatch.setattr(Predictor, "embed", embed)
        with pytest.raises(RuntimeError, match="out of luck"):
            write_results(config())
        assert sorted(state(tmp_path / "out")) == ["_plan.json", "part-00000.parquet"]

    @pytest.mark.slow
    @pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
    def test_killed_run_leaves_whole_files_and_goes_on(self, config, checkpoint, tmp_path):
        many = tmp_path / "many"
        many.mkdir()
        for number in range(300):
            (many / f"{number:03}.png").write_bytes(CONTENTS[number % 7])
        out, whole = tmp_path / "out", tmp_path / "whole"
        options = ["--checkpoint", str(checkpoint), "--engine", "torch", "--batch-size", "1", "--shard-size", "10"]
        code = "from glocal.cli import main; raise SystemExit(main())"
        command = [sys.executable, "-c", code, "embed", str(many), *options, "--output", str(out)]
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + 60
        while not list(out.glob("part-00002.*")) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = sorted(out.glob("part-*"))
        assert 3 <= len(left) < 30
        assert all(parquet.read_table(part).num_rows == 10 for part in left)
        before = state(out)
        same = {"images": [str(many)], "shard_size": 10, "batch_size": 1}
        assert write_results(config(**same)) == write_results(config(**same, output=str(whole)))
        assert all(state(out)[part.name] == before[part.name] for part in left)
        assert {part.name for part in out.iterdir()} == {part.name for part in whole.iterdir()}
        for row, expected in zip(rows(out), rows(whole), strict=True):
            assert (row["source"], row["error"]) == (expected["source"], expected["error"])
            if row["error"] is None:
                np.testing.assert_allclose(row["embedding"], expected["embedding"], atol=1e-5)


def changed(weights):
    """The same file with another last byte: of the last tensor."""
    return weights[:-1] + bytes([weights[-1] ^ 1])


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat_over_100_000_small_images(checkpoint, tmp_path):
    contents = []
    for seed in range(100):
        content = io.BytesIO()
        pixels = np.random.RandomState(seed).randint(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(content, "PNG")
        contents.append(content.getvalue())
    (tmp_path / "images").mkdir()
    for number in range(10):
        parquet.write_table(pyarrow.table({"image": contents * 100}), tmp_path / f"images/{number}.parquet")
    out = tmp_path / "out"
    code = "from glocal.cli import main; raise SystemExit(main())"
    options = ["--checkpoint", str(checkpoint), "--engine", "torch", "--output", str(out)]
    process = subprocess.Popen([sys.executable, "-c", code, "embed", str(tmp_path / "images"), *options])
    resident = []  # megabytes, when each file was finished
    while process.poll() is None:
        if len(list(out.glob("part-*"))) > len(resident):
            with open(f"/proc/{process.pid}/statm") as file:
                resident.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6)
            print(f"{len(resident)} files: {resident[-1]:.0f} MB")
        time.sleep(0.05)
    assert process.returncode == 0
    assert len(rows(out)) == 100_000
    assert len(resident) >= 9
    assert max(resident[2:]) - resident[1] < 100
