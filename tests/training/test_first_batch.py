"""--show-batch: the picture of the images that a training sees first."""

import io
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from glocal.cli import main
from glocal.data.bands import Bands
from glocal.data.open import open_for_training
from glocal.data.samples import Opening
from glocal.tasks.drawing import GAP
from glocal.training.config import TrainConfig
from glocal.training.first_batch import as_image, draw, first_images
from glocal.training.lightning_module import TrainingModule
from glocal.training.prepare import prepare
from glocal.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = dict(model="test_resnet", img_size=32, batch_size=16, device="cpu", epochs=1, seed=3)
COMMAND = ["--model", "test_resnet", "--img-size", "32", "--device", "cpu", "--workers", "0"]


@pytest.fixture
def data(request, digits_folder, digits_shards):
    return {"folder": digits_folder, "shards": digits_shards / "digits-{0..2}.tar"}[request.param]


def prepared(data, **changes):
    config = TrainConfig(str(data), **{**SETTINGS, "workers": 0, **changes})
    return prepare(config, config.model, open_for_training(config.data, Opening(seed=config.seed)))


def shown(run):
    """The images of the grid's cells, found by their pixels: [(row, column) in pixels, …] of each."""
    picture = np.asarray(draw(run)).astype(int)
    places = []
    for image, _, _ in first_images(run):
        pixels = image * torch.tensor(run.preprocessing.std).view(-1, 1, 1)
        pixels = (pixels + torch.tensor(run.preprocessing.mean).view(-1, 1, 1)).permute(1, 2, 0) * 255
        places.append(find(picture, pixels.clamp(0, 255).numpy()))
    return places


def find(picture, pixels, factor=7):
    """Where an image lies in a picture, enlarged by `factor`."""
    height, width = (side * factor for side in pixels.shape[:2])
    samples = pixels.repeat(factor, 0).repeat(factor, 1)
    found = []
    for left in range(GAP, picture.shape[1] - width + 1, width + GAP):
        middle = abs(picture[:, left : left + width] - samples[height // 2]).max((1, 2)) <= 0.6
        for top in np.flatnonzero(middle) - height // 2:
            if (
                0 <= top <= picture.shape[0] - height
                and abs(picture[top : top + height, left : left + width] - samples).max() <= 0.6
            ):
                found.append((int(top), left))
    return found


@pytest.mark.parametrize("data", ["folder", "shards"], indirect=True)
@pytest.mark.parametrize("options", [{"accumulate": 4}, {"workers": 2, "batch_size": 32}], ids=str)
def test_it_shows_the_first_images_of_the_training(data, options, tmp_path, monkeypatch):
    seen = []
    original = TrainingModule.training_step

    def step(self, batch, *args):
        seen.append(replace(batch, images=batch.images.clone()))  # mixup changes them in place
        return original(self, batch, *args)

    monkeypatch.setattr(TrainingModule, "training_step", step)
    config = TrainConfig(str(data), output=str(tmp_path / "run"), **{**SETTINGS, "workers": 0, **options})
    found = list(first_images(prepared(data, **options)))
    train(config, Console(file=io.StringIO()))
    images = torch.cat([batch.images for batch in seen])[:16]
    assert len(found) == 16
    assert torch.equal(torch.stack([image for image, _, _ in found]), images)
    assert [int(target) for _, target, _ in found] == torch.cat([batch.targets for batch in seen])[:16].tolist()
    assert [name for _, _, name in found] == [name for batch in seen for name in batch.names][:16]


def test_its_pixels_are_those_that_the_model_gets(digits_folder):
    run = prepared(digits_folder, auto_augment="rand-m9", color_jitter=0.4)
    places = shown(run)
    assert all(places)
    assert len({place for found in places for place in found}) >= 16
    assert [found[0][1] for found in places[:4]] == [GAP + column * (224 + GAP) for column in range(4)]


def test_fewer_images_than_cells(digits_folder):
    assert len(list(first_images(prepared(digits_folder, batch_size=5)))) == 5
    assert all(shown(prepared(digits_folder, batch_size=5)))


def test_a_picture_of_one_channel_is_grey():
    run = SimpleNamespace(mean=(0.5,), std=(0.25,), bands=None)
    found = np.asarray(as_image(torch.tensor([[[-2.0, 0.0, 2.0, 9.0]]]), run))
    assert found.tolist() == [[[level] * 3 for level in (0, 128, 255, 255)]]


def test_of_many_channels_the_first_three_are_shown():
    preprocessing = SimpleNamespace(mean=(0.0,) * 5, std=(1.0,) * 5, bands=None)
    image = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8]).view(5, 1, 1)
    assert np.asarray(as_image(image, preprocessing)).tolist() == [[[0, 51, 102]]]


def test_the_bands_of_a_raster_fill_all_levels():
    preprocessing = SimpleNamespace(mean=(0.02,) * 4, std=(0.001,) * 4, bands=Bands((1, 2, 3, 4), "uint16"))
    image = torch.linspace(-2, 2, 101).repeat(4, 3, 1)
    found = np.asarray(as_image(image, preprocessing))
    assert found.shape == (3, 101, 3)
    assert found[0, :, 0].tolist() == sorted(found[0, :, 0])
    assert (found.min(), found.max()) == (0, 255)


def test_the_classes_are_below_the_images(digits_folder, monkeypatch):
    from glocal.tasks import drawing

    texts = []
    original = drawing.with_caption
    monkeypatch.setattr(
        drawing, "with_caption", lambda image, entries: texts.append(entries) or original(image, entries)
    )
    run = prepared(digits_folder)
    draw(run)
    targets = [target for _, target, _ in first_images(run)]
    assert [entry.text for entries in texts for entry in entries] == [run.source.class_names[i] for i in targets]


class TestCommand:
    def test_it_writes_the_picture_and_nothing_else(self, digits_folder, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert main(["train", str(digits_folder), *COMMAND, "--show-batch", "batch.png"]) == 0
        assert [path.name for path in tmp_path.iterdir()] == ["batch.png"]
        assert Image.open("batch.png").format == "PNG"
        assert "Saved in batch.png; nothing was trained" in capsys.readouterr().out

    def test_a_run_in_the_output_folder_stays_as_it_is(self, digits_folder, tmp_path):
        options = ["train", str(digits_folder), *COMMAND, "--output", str(tmp_path / "run"), "--epochs", "1"]
        assert main(options) == 0
        before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "run").iterdir()}
        more = ["--show-batch", str(tmp_path / "b.PNG"), "--overwrite"]
        for extra in ([], ["--lr", "1"]):
            assert main([*options, *more, *extra]) == 0
        assert (
            main(["train", "--output", str(tmp_path / "run"), "--resume", "--show-batch", str(tmp_path / "c.png")]) == 0
        )
        after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "run").iterdir()}
        assert after == before
        assert (tmp_path / "c.png").read_bytes() == (tmp_path / "b.PNG").read_bytes()

    def test_it_replaces_an_earlier_picture(self, digits_folder, tmp_path):
        place = tmp_path / "batch.png"
        place.write_bytes(b"old")
        assert main(["train", str(digits_folder), *COMMAND, "--quick", "--show-batch", str(place)]) == 0
        assert Image.open(place).width > 600

    @pytest.mark.parametrize(
        ("name", "error"),
        [
            ("batch.jpg", "must be the name of a .png file, got 'batch.jpg'"),
            ("lacking/batch.png", "there is no such folder"),
            ("folder.png", "this is a folder, not a file"),
        ],
    )
    def test_a_wrong_name_is_a_line(self, name, error, digits_folder, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "folder.png").mkdir()
        assert main(["train", str(digits_folder), *COMMAND, "--show-batch", name]) == 2
        captured = capsys.readouterr().err
        assert error in captured
        assert len(captured.splitlines()) == 1

    def test_a_resumed_run_must_be_there(self, tmp_path, capsys):
        options = ["--resume", "--output", str(tmp_path / "run"), "--show-batch", str(tmp_path / "b.png")]
        assert main(["train", *options]) == 2
        assert "holds no run" in capsys.readouterr().err

    def test_an_unfinished_run_may_be_looked_at(self, digits_folder, tmp_path):
        from glocal.training.run_folder import resolve_run, start_output

        config = TrainConfig(str(digits_folder), **SETTINGS)
        start_output(tmp_path, config)
        (tmp_path / "last.ckpt").write_bytes(b"")
        looked = TrainConfig(str(digits_folder), **SETTINGS, show_batch="b.png")
        assert resolve_run(tmp_path, looked)[1] == tmp_path / "last.ckpt"

    def test_unreadable_images_are_named_and_replaced(self, digits_folder, tmp_path, caplog, monkeypatch):
        folder = tmp_path / "data"
        for number, path in enumerate(sorted(digits_folder.glob("*/*.png"))):
            place = folder / path.parent.name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes() if number % 2 else b"no image")
        with caplog.at_level(logging.WARNING, "glocal"):
            found = list(first_images(prepared(folder)))
        assert len(found) == 16
        assert all(Image.open(name) for _, _, name in found)
        assert any(record.getMessage().startswith("skipped ") for record in caplog.records)

    def test_no_readable_image_is_a_line(self, tmp_path, capsys):
        for label in "ab":
            (tmp_path / "data" / label).mkdir(parents=True)
            for number in range(8):
                (tmp_path / "data" / label / f"{number}.png").write_bytes(b"no image")
        assert main(["train", str(tmp_path / "data"), *COMMAND, "--show-batch", str(tmp_path / "b.png")]) == 2
        assert "error: none of the images of the first batch can be read" in capsys.readouterr().err
        assert not (tmp_path / "b.png").exists()

    def test_hostile_names(self, tmp_path, capfd):
        for label in ("\x1b[2J\u202ecat\n", "猫" * 80):
            (tmp_path / "data" / label).mkdir(parents=True)
            for number in range(6):
                Image.new("RGB", (9, 9)).save(tmp_path / "data" / label / f"\udcff{number}\r.png")
        assert main(["train", str(tmp_path / "data"), *COMMAND, "--show-batch", str(tmp_path / "b.png")]) == 0
        assert not set("\x1b\r\u202e\udcff") & set("".join(capfd.readouterr()))
        assert Image.open(tmp_path / "b.png").width > 600

    def test_a_file_of_options_may_not_replace_a_picture(self, digits_folder, tmp_path, capsys):
        (tmp_path / "mine.png").write_bytes(b"mine")
        (tmp_path / "c.yaml").write_text(f"show_batch: {tmp_path / 'mine.png'}\n")
        assert main(["train", str(digits_folder), *COMMAND, "--config", str(tmp_path / "c.yaml")]) == 2
        assert "names --show-batch" in capsys.readouterr().err
        assert (tmp_path / "mine.png").read_bytes() == b"mine"


def test_names_belong_to_the_images(digits_folder):
    run = prepared(digits_folder)
    names = [Path(name).parent.name for _, _, name in first_images(run)]
    assert names == [run.source.class_names[target] for _, target, _ in first_images(run)]
