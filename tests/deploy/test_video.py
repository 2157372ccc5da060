"""Predictions and embeddings of videos: rows with the number and time of each frame, and pictures."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from films import break_off, brightness, film
from glocal.cli import main
from glocal.data.video import frames
from glocal.deploy.film import with_film
from glocal.deploy.pictures import TakenFrames
from glocal.deploy.predictor import Predictor

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def inputs(tmp_path):
    """A video of five frames, and an image before and after it."""
    for name, value in (("a.png", 0), ("c.png", 240)):
        Image.new("RGB", (64, 48), (value,) * 3).save(tmp_path / name)
    return [str(tmp_path / "a.png"), film(tmp_path / "b.mp4", 5), str(tmp_path / "c.png")]


@pytest.fixture
def broken(monkeypatch):
    """A fault in the fourth frame of a video."""
    break_off(monkeypatch, 3)


def predict(checkpoint, inputs, *options, command="predict"):
    return main([command, *inputs, "--checkpoint", str(checkpoint), "--engine", "torch", *map(str, options)])


def test_rows_have_the_number_and_the_time_of_a_frame(checkpoint, inputs, tmp_path):
    place = tmp_path / "out.json"
    assert predict(checkpoint, inputs, "--output", place, "--every", 2, "--batch-size", 2) == 0
    rows = json.loads(place.read_text())
    first, clip, last = inputs
    assert [(row["source"], row["frame"]) for row in rows] == [
        *[(first, None), (last, None)],
        *[(f"{clip}: frame {number}", number) for number in (0, 2, 4)],
    ]
    assert [row["seconds"] for row in rows[2:]] == pytest.approx([0, 0.08, 0.16])
    expected = Predictor(checkpoint, engine="torch")([frame.load() for frame in frames(clip, 2)])
    for row, prediction in zip(rows[2:], expected, strict=True):
        assert row["label"] == prediction.label
        assert row["probabilities"] == pytest.approx(prediction.probabilities[:3], abs=1e-5)


def test_rows_of_csv(checkpoint, inputs, tmp_path):
    place = tmp_path / "out.csv"
    assert predict(checkpoint, inputs, "--output", place, "--top-k", 1) == 0
    with open(place, newline="") as file:
        header, first, _, *of_video = csv.reader(file)
    assert header == ["source", "error", "frame", "seconds", "label", "probability"]
    assert first[2:4] == ["", ""]
    assert [row[2:4] for row in of_video] == [["0", "0"], ["1", "0.04"], ["2", "0.08"], ["3", "0.12"], ["4", "0.16"]]


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_parquet_files_have_the_same_columns(checkpoint, inputs, tmp_path, command, capsys):
    folder = tmp_path / "out"
    assert predict(checkpoint, inputs, "--output", folder, command=command) == 0
    table = parquet.read_table(folder)
    assert table.column_names[:3] == ["source", "frame", "seconds"]
    assert table["frame"].to_pylist() == [None, None, 0, 1, 2, 3, 4]
    assert "7 images in 2 files" in capsys.readouterr().out
    assert predict(checkpoint, inputs, "--output", folder, "--every", 2, command=command) == 2
    assert "another every" in capsys.readouterr().err


def test_pictures_of_frames(checkpoint, inputs, tmp_path):
    assert predict(checkpoint, inputs, "--pictures", tmp_path / "drawn", "--batch-size", 2) == 0
    found = sorted((tmp_path / "drawn").iterdir())
    assert [file.name for file in found] == ["00000-a.png", *[f"0000{i}-b.png" for i in range(1, 6)], "00006-c.png"]
    for number, file in enumerate(found[1:6]):
        picture = Image.open(file).convert("RGB")
        frame = np.asarray(picture)[: picture.width * 48 // 64]  # enlarged, with the text below
        assert brightness(frame) == number


def test_a_video_of_the_frames_with_their_results(checkpoint, inputs, tmp_path):
    place = tmp_path / "drawn.mp4"
    assert predict(checkpoint, inputs[1:2], "--pictures", place, "--every", 2, "--batch-size", 2) == 0
    found = list(frames(place))
    assert [frame.seconds for frame in found] == pytest.approx([0, 0.08, 0.16])
    for number, frame in enumerate(found):
        picture = frame.load()
        assert picture.width == 320  # enlarged, with the text below
        assert brightness(picture.crop((0, 0, 320, 240))) == 2 * number
    assert predict(checkpoint, inputs[1:2], "--pictures", place) == 2  # it exists
    assert predict(checkpoint, inputs[1:2], "--pictures", place, "--overwrite") == 0
    assert len(list(frames(place))) == 5


@pytest.mark.usefixtures("broken")
def test_a_video_of_the_frames_before_a_break(checkpoint, inputs, tmp_path, monkeypatch):
    place = tmp_path / "drawn.mp4"
    assert predict(checkpoint, inputs[1:2], "--pictures", place) == 1
    monkeypatch.undo()
    assert [frame.number for frame in frames(place)] == [0, 1, 2]


def test_a_video_is_complete_or_not_there(checkpoint, inputs, tmp_path):
    before = sorted(tmp_path.iterdir())
    taken = TakenFrames()
    results = Predictor(checkpoint, engine="torch", batch_size=1).stream(taken.passing(frames(inputs[1])))
    film_of_results = with_film(results, str(tmp_path / "drawn.mp4"), taken)
    next(film_of_results)
    film_of_results.close()
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("chosen", "place", "error"),
    [
        (slice(0, 1), "drawn.mp4", "a video is written of one video, and the inputs are others"),
        (slice(0, 2), "drawn.mp4", "a video is written of one video, and the inputs are others"),
        (slice(1, 2), "drawn.avi", "a video must end with .mp4"),
        (slice(1, 2), "none/drawn.mp4", "there is no such folder"),
        (slice(1, 2), "b.mp4", "--overwrite replaces it, but no input"),
    ],
)
def test_videos_that_are_not_written(checkpoint, inputs, tmp_path, chosen, place, error, capsys):
    options = ["--overwrite"] if place.endswith("b.mp4") else []
    assert predict(checkpoint, inputs[chosen], "--pictures", tmp_path / place, *options) == 2
    assert error in capsys.readouterr().err
    assert len(list(frames(inputs[1]))) == 5


@pytest.mark.usefixtures("broken")
def test_what_is_before_a_break_is_kept(checkpoint, inputs, tmp_path, capsys):
    options = ["--pictures", tmp_path / "drawn"]
    assert predict(checkpoint, inputs[1:], *options) == 1
    shown = capsys.readouterr()
    assert shown.err == f"error: {inputs[1]}: the frames from 3 on cannot be read (broken)\n"
    assert "0.08" in shown.out
    assert [file.name for file in sorted((tmp_path / "drawn").iterdir())] == [
        *[f"0000{i}-b.png" for i in range(3)],
        "00004-c.png",
    ]


@pytest.mark.usefixtures("broken")
def test_a_break_is_the_last_row(checkpoint, inputs, tmp_path):
    place = tmp_path / "out.jsonl"
    assert predict(checkpoint, inputs[1:2], "--output", place) == 1
    rows = [json.loads(line) for line in place.read_text().splitlines()]
    assert [row["frame"] for row in rows] == [0, 1, 2, None]
    assert (rows[3]["source"], rows[3]["error"]) == (inputs[1], "the frames from 3 on cannot be read (broken)")


def test_few_frames_are_in_memory(checkpoint, tmp_path):
    taken = TakenFrames()
    waiting = []
    results = Predictor(checkpoint, engine="torch", batch_size=2).stream(
        taken.passing(frames(film(tmp_path / "a.mp4", 30)))
    )
    for number, result in enumerate(results):
        waiting.append(len(taken._frames))
        assert brightness(taken.of(result)) == number % 12
        assert result.frame == number
    assert number == 29
    assert max(waiting) <= 4


def test_tiles_of_frames(masks_checkpoint, tmp_path):
    (found, *_) = Predictor(masks_checkpoint, engine="torch", tile=40, overlap=8).stream(
        frames(film(tmp_path / "a.mp4", 2))
    )
    assert (found.size, found.frame, found.seconds) == ([48, 64], 0, 0)


@pytest.mark.parametrize("options", [[], ["--output", "out.json"], ["--output", "out"]])
def test_every_is_for_videos(checkpoint, inputs, tmp_path, options, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert predict(checkpoint, inputs[:1], "--every", 2, *options) == 2
    assert "--every is for frames of videos, and no input is a video" in capsys.readouterr().err
