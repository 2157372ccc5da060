"""--pictures: the images that a model predicts worst, as PNG files."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from glocal.cli import main
from glocal.data.preprocessing import Preprocessing
from glocal.evaluation.pictures import MOST
from glocal.tasks import find_task
from glocal.tasks.checkpoint import CheckpointInfo, save_checkpoint
from glocal.tasks.drawing import GAP
from glocal.tasks.loading import load_trained

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ["ant", "bee", "cat", "dog"]


def write_images(folder, names, classes=CLASSES):
    """Images of random pixels, coarse enough that they differ for a model, in the folders of classes in turn."""
    draw = np.random.RandomState(0)
    for number, name in enumerate(names):
        place = folder / classes[number % len(classes)] / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.randint(0, 256, (4, 5, 3), np.uint8)).resize((50, 40)).save(place)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """24 images, and among them some that cannot be read."""
    folder = write_images(tmp_path_factory.mktemp("pictures") / "data", [f"{number:02}" for number in range(24)])
    for number, label in enumerate(CLASSES):
        (folder / label / f"{5 * number:02}b.png").write_bytes(b"no image")
    return folder


def scored(data, checkpoint):
    """(probability of the label in percent, path) of each image, the worst first, by a plain loop."""
    trained = load_trained(checkpoint)
    path = Preprocessing(**trained.preprocessing).transform()
    found = []
    for place in sorted(data.glob("*/??.png")):
        with torch.inference_mode():
            probabilities = trained.model(path(Image.open(place).convert("RGB"))[None]).double().softmax(-1)[0]
        found.append((100 * probabilities[CLASSES.index(place.parent.name)].item(), str(place)))
    return sorted(found)


def measure(data, checkpoint, folder, *options, code=0):
    arguments = ["eval", str(data), "--checkpoint", str(checkpoint), "--pictures", str(folder), "--device", "cpu"]
    assert main([*arguments, "--workers", "0", "--json", str(folder.with_suffix(".json")), *options]) == code
    return json.loads(folder.with_suffix(".json").read_text()) if code == 0 else None


class TestLabels:
    def test_the_worst_comes_first(self, data, checkpoint, tmp_path):
        found = measure(data, checkpoint, tmp_path / "worst", "--batch-size", "5")
        expected = scored(data, checkpoint)[:MOST]
        assert [entry["image"] for entry in found["worst"]] == [path for _, path in expected]
        assert [entry["score"] for entry in found["worst"]] == pytest.approx([score for score, _ in expected], rel=1e-4)
        names = [f"{number:02}-{Path(path).stem}.png" for number, (_, path) in enumerate(expected)]
        assert sorted(path.name for path in (tmp_path / "worst").iterdir()) == names

    def test_the_image_is_shown_with_its_label_and_the_prediction(self, data, checkpoint, tmp_path, monkeypatch):
        from glocal.evaluation import pictures
        from glocal.tasks import drawing

        texts = []
        original = drawing.with_caption

        def note(image, entries, *args, **kwargs):
            texts.append([entry.text for entry in entries])
            return original(image, entries, *args, **kwargs)

        monkeypatch.setattr(drawing, "with_caption", note)
        monkeypatch.setattr(pictures, "with_caption", note)
        measure(data, checkpoint, tmp_path / "worst")
        score, path = scored(data, checkpoint)[0]
        truth, prediction, title = texts[:3]
        assert truth == [f"truth: {Path(path).parent.name}"]
        assert prediction[0].startswith("prediction: ")
        assert len(prediction) == 3
        assert title == [f"probability of the true label {score:.2f} %", path]
        picture = np.asarray(Image.open(tmp_path / "worst" / f"00-{Path(path).stem}.png"))
        pixels = np.asarray(Image.open(path)).repeat(7, 0).repeat(7, 1)
        places = [
            top
            for top in range(len(picture) - len(pixels))
            if np.array_equal(picture[top : top + len(pixels), GAP : GAP + pixels.shape[1]], pixels)
        ]
        assert len(places) == 1

    def test_images_in_memory_are_numbered(self, tmp_path):
        model = timm.create_model("test_resnet", num_classes=10)
        preprocessing = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3}
        info = CheckpointInfo("test_resnet", [str(digit) for digit in range(10)], preprocessing)
        (tmp_path / "run").mkdir()
        save_checkpoint(tmp_path / "run" / "model.safetensors", model.state_dict(), info)
        found = measure("digits", tmp_path / "run", tmp_path / "worst")
        numbers = [int(entry["image"].removeprefix("image ")) for entry in found["worst"]]
        assert len(set(numbers)) == MOST
        assert (tmp_path / "worst" / f"00-image {numbers[0]}.png").is_file()

    def test_fewer_images_than_pictures(self, checkpoint, tmp_path):
        data = write_images(tmp_path / "data", "abcde")
        assert len(measure(data, checkpoint, tmp_path / "worst")["worst"]) == 5

    def test_without_the_option_there_is_no_list(self, data, checkpoint, tmp_path):
        place = tmp_path / "e.json"
        assert main(["eval", str(data), "--checkpoint", str(checkpoint), "--workers", "0", "--json", str(place)]) == 0
        assert "worst" not in json.loads(place.read_text())

    def test_hostile_names(self, checkpoint, tmp_path, capfd):
        names = ["\x1b[2J\u202e", "a\nb", "\udcff", "猫" * 60, "x" * 200, "-", "%s"]
        data = write_images(tmp_path / "data", names)
        found = measure(data, checkpoint, tmp_path / "worst")
        assert not set("\x1b\r\u202e\udcff") & set("".join(capfd.readouterr()))
        assert not set("\x1b\n\u202e\udcff") & set("".join(entry["image"] for entry in found["worst"]))
        written = sorted(path.name for path in (tmp_path / "worst").iterdir())
        assert [name[:3] for name in written] == [f"{number:02}-" for number in range(len(names))]
        assert not set("\x1b\n\u202e\udcff") & set("".join(written))

    def test_an_image_that_is_gone_when_it_is_drawn(self, checkpoint, tmp_path, monkeypatch, caplog):
        from glocal.evaluation import evaluate

        data = write_images(tmp_path / "data", "abcde")
        original = evaluate._results

        def remove(*args):
            (data / "ant" / "a.png").unlink()
            return original(*args)

        monkeypatch.setattr(evaluate, "_results", remove)
        assert len(measure(data, checkpoint, tmp_path / "worst")["worst"]) == 5
        assert len(list((tmp_path / "worst").iterdir())) == 4
        assert "no picture of" in caplog.text
        assert "no such file" in caplog.text

    def test_several_labels(self, tmp_path):
        many = Path(__file__).parents[1] / "made_by_0_1/multilabel"
        found = measure(many / "data/labels.csv", next(many.glob("**/model.safetensors")).parent, tmp_path / "worst")
        scores = [entry["score"] for entry in found["worst"]]
        assert scores == sorted(scores, reverse=True)
        assert min(scores) >= 0
        assert len(list((tmp_path / "worst").iterdir())) == len(scores)


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "error"),
        [
            (["--sizes", "32,48"], "--sizes and --pictures exclude each other"),
            (["--corruptions", "fog"], "--pictures is for one pass over the images"),
        ],
        ids=str,
    )
    def test_several_passes(self, options, error, data, checkpoint, tmp_path, capsys):
        measure(data, checkpoint, tmp_path / "worst", *options, code=2)
        assert error in capsys.readouterr().err

    def test_shards(self, data, checkpoint, tmp_path, capsys):
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for number, place in enumerate(sorted(data.glob("*/??.png"))):
                label = tmp_path / f"{number}.cls"
                label.write_text(place.parent.name)
                tar.add(label, label.name)
                tar.add(place, f"{number}.png")
        measure(tmp_path / "x.tar", checkpoint, tmp_path / "worst", code=2)
        assert "--pictures reads the worst images again, which shards do not allow" in capsys.readouterr().err

    def test_a_file_in_place_of_the_folder(self, data, checkpoint, tmp_path, capsys):
        (tmp_path / "worst").write_bytes(b"mine")
        measure(data, checkpoint, tmp_path / "worst", code=2)
        assert "is a file: give a folder" in capsys.readouterr().err
        assert (tmp_path / "worst").read_bytes() == b"mine"


class TestScores:
    """The scores of single images, in the order of the updates, against other formulas."""

    def test_of_a_label_it_is_its_probability(self):
        torch.manual_seed(0)
        logits, labels = 20 * torch.randn(9, 4), torch.randint(4, (9,))
        metrics = find_task("classification").metrics(CLASSES)
        for part in (slice(0, 4), slice(4, 4), slice(4, 9)):
            metrics.update(logits[part], labels[part])
        expected = [100 * row.double().softmax(-1)[label].item() for row, label in zip(logits, labels, strict=True)]
        assert metrics.scores().tolist() == pytest.approx(expected, rel=1e-4)

    def test_of_several_labels_it_is_the_negative_loss(self):
        torch.manual_seed(0)
        logits, targets = torch.randn(9, 4), torch.rand(9, 4).round()
        metrics = find_task("multilabel").metrics(CLASSES)
        for part in (slice(0, 4), slice(4, 9)):
            metrics.update(logits[part], targets[part])
        right = (logits.sigmoid() - (1 - targets)).abs()
        assert metrics.scores().tolist() == pytest.approx(right.log().mean(1).tolist(), rel=1e-4)
        assert -metrics.scores().mean().item() == pytest.approx(metrics.compute()["loss"], rel=1e-5)

    @pytest.mark.parametrize("name", ["classification", "multilabel", "segmentation"])
    def test_without_images(self, name):
        assert find_task(name).metrics(CLASSES).scores().shape == (0,)
