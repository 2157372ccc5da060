"""Predictions as one CSV or JSON file: whole or not there, and without Parquet's packages."""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

import fresh
from glocal.cli import main
from glocal.deploy.config import PredictConfig
from glocal.deploy.predictor import Predictor
from glocal.deploy.rows import Written, write_table

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def photos(tmp_path):
    """Four images, of which the second cannot be read; their names would be formulas."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(["+1.png", "-2.png", "=3.png", 'é,"4\n.png']):
        pixels = np.random.RandomState(number).randint(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "-2.png").write_text("text")
    return folder


@pytest.fixture
def arguments(checkpoint, photos, monkeypatch):
    monkeypatch.chdir(photos)
    return ["=3.png", *["./-2.png", "./+1.png", './é,"4\n.png'], "--checkpoint", str(checkpoint), "--engine", "torch"]


@pytest.fixture
def expected(arguments, checkpoint):
    return Predictor(checkpoint, engine="torch")(arguments[:4], top_k=2)


def predict(arguments, file):
    return main(["predict", *arguments, "--top-k", "2", "--output", str(file)])


def test_csv(arguments, expected, tmp_path, capsys):
    assert predict(arguments, tmp_path / "out.csv") == 1
    shown = capsys.readouterr()
    assert shown.out == f"4 images in {tmp_path / 'out.csv'}\n"
    assert shown.err == "error: 1 image could not be read: the column error says why\n"
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["source", "error", "label", "probability", "label_2", "probability_2"]
    sources = ["'=3.png", "./-2.png", "./+1.png", './é,"4\n.png']  # the first would be a formula
    assert [row[0] for row in rows] == sources
    assert rows[1][1:] == ["not an image", "", "", "", ""]
    for row, prediction in zip(rows, expected, strict=True):
        if prediction.error is None:
            assert [row[1], row[2], row[4]] == ["", *prediction.labels]
            assert [float(row[3]), float(row[5])] == pytest.approx(prediction.probabilities, abs=1e-5)


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".JSON"])
def test_json(arguments, expected, tmp_path, ending):
    path = tmp_path / f"out{ending}"
    assert predict(arguments, path) == 1
    text = path.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()] if ending == ".jsonl" else json.loads(text)
    assert [row["source"] for row in rows] == ["=3.png", "./-2.png", "./+1.png", './é,"4\n.png']  # as they are
    unknown = {"label": None, "labels": None, "probabilities": None}
    assert rows[1] == {"source": "./-2.png", "error": "not an image"} | unknown
    for row, prediction in zip(rows, expected, strict=True):
        if prediction.error is None:
            assert (row["label"], row["labels"], row["error"]) == (prediction.labels[0], prediction.labels, None)
            assert row["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-5)


def test_no_images_are_an_empty_list(checkpoint, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"image": pyarrow.array([], pyarrow.binary())}), tmp_path / "x.parquet")
    config = PredictConfig([str(tmp_path / "x.parquet")], str(checkpoint), output=str(tmp_path / "x.json"))
    assert write_table(config) == Written(1, 0, 0)
    assert json.loads((tmp_path / "x.json").read_text()) == []


def test_a_file_that_exists(arguments, tmp_path, capsys):
    path = tmp_path / "out.csv"
    path.write_text("mine")
    assert predict(arguments, path) == 2
    assert capsys.readouterr().err == f"error: --output {path} exists: --overwrite replaces it\n"
    assert path.read_text() == "mine"
    assert predict([*arguments, "--overwrite"], path) == 1
    assert path.read_text(encoding="utf-8").startswith("source,")


def test_an_error_in_the_middle_leaves_what_was_there(arguments, tmp_path, monkeypatch):
    def stream(predictor, images, top_k, original=Predictor.stream):
        yield next(original(predictor, images, top_k))
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Predictor, "stream", stream)
    (tmp_path / "out.json").write_text("before")
    with pytest.raises(RuntimeError, match="out of luck"):
        predict([*arguments, "--overwrite"], tmp_path / "out.json")
    assert (tmp_path / "out.json").read_text() == "before"
    assert sorted(file.name for file in tmp_path.glob("*out*")) == ["out.json"]


def test_needs_no_package_of_an_extra(checkpoint, photos, tmp_path):
    code = "import sys; sys.modules |= dict.fromkeys(['pyarrow', 'ray', 'pandas', 'openvino', 'onnx']); "
    code += fresh.GLOCAL
    given = [str(photos), "--checkpoint", str(checkpoint), "--output", str(tmp_path / "out.jsonl")]
    done = fresh.run(code, "predict", *given)
    assert done.returncode == 1
    assert done.stderr == "error: 1 image could not be read: the column error says why\n"


def test_parquet_files_of_images_name_their_extra(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"Parquet files need pyarrow: pip install 'glocal\[parquet\]'"):
        write_table(PredictConfig([str(tmp_path / "x.parquet")], str(checkpoint), output=str(tmp_path / "x.csv")))
