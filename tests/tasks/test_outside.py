"""A task that is defined outside of the library goes through all of it: `outside.py` is the whole of it."""

import csv
import io
import json
import multiprocessing
import os
import re
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import glocal
from glocal.cli import main
from glocal.tasks import registry
from glocal.tasks.checkpoint import read_info, read_weights
from glocal.tasks.registry import find_task
from glocal.training.lightning_module import TrainingModule
from tasks.outside import ANGLE, Turn

pytestmark = pytest.mark.usefixtures("one_thread")

OUTSIDE = Path(__file__).parent / "outside.py"
TRAINING = ["--model", "test_resnet", "--img-size", "32", "--batch-size", "8", "--workers", "0", "--device", "cpu"]


def training(data, output, *options):
    return ["train", str(data), "--output", str(output), "--epochs", "3", *TRAINING, *options]


def write_images(folder, count=48, size=32):
    """Grey wedges, each turned by an angle of its own."""
    folder.mkdir()
    upright = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(upright).polygon([(size / 2, 2), (size * 0.7, size * 0.6), (size * 0.3, size * 0.6)], fill="black")
    angles = {f"{index:03}.png": (index * 137) % 360 for index in range(count)}
    for name, angle in angles.items():
        upright.rotate(angle, fillcolor="white", resample=Image.Resampling.BICUBIC).save(folder / name)
    (folder / "angles.csv").write_text("".join(f"{name},{angle}\n" for name, angle in angles.items()))


@pytest.fixture(scope="module", autouse=True)
def registered():
    """For this file only, as other tests look at what the library itself has."""
    yield glocal.register_task(ANGLE)
    registry._tasks.pop(ANGLE.name)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("turned") / "data"
    write_images(folder)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("turned") / "run"
    assert main(training(data, output, "--epochs", "12", "--lr", "0.004")) == 0
    return output


@pytest.fixture
def images(data, tmp_path):
    """Two images and a file that is none."""
    for name in ("000.png", "001.png"):
        (tmp_path / name).write_bytes((data / name).read_bytes())
    (tmp_path / "bad.png").write_bytes(b"x")
    return [str(tmp_path / name) for name in ("000.png", "001.png", "bad.png")]


def test_nothing_in_the_library_knows_of_it():
    source = Path(glocal.__file__).parent
    for path in [*source.rglob("*.py"), *source.rglob("*.html")]:
        assert not re.search(r"[\"']angle[\"']|smooth_beta|[\"']turned by[\"']", path.read_text()), path
    assert find_task("angle") is ANGLE
    assert len(OUTSIDE.read_text().splitlines()) < 150


class TestTraining:
    def test_it_learns(self, run):
        epochs = list(csv.DictReader(io.StringIO((run / "metrics.csv").read_text())))
        degrees = [float(epoch["val_degrees"]) for epoch in epochs]
        assert min(degrees) < 40 < 60 < degrees[0]
        info = read_info(run / "model.safetensors")
        assert (info.task, info.class_names) == ("angle", [])
        assert info.metrics["degrees"] == min(degrees)  # fewer degrees are better

    def test_what_the_terminal_shows(self, data, tmp_path, capsys):
        assert main(training(data, tmp_path / "run", "--smooth-beta", "0.5")) == 0
        shown = capsys.readouterr().out
        assert re.search(r"epoch 3/3 .* val loss 0\.\d{4}  mean error +\d+\.\d°", shown)
        assert re.search(r"mean error +[│|]? *\d+\.\d°", shown)
        assert "classes" not in shown
        assert "smooth_beta: 0.5" in (tmp_path / "run/config.yaml").read_text()

    def test_goes_on_after_a_kill_as_if_there_had_been_none(self, data, tmp_path):
        def run_and_die():
            original, seen = TrainingModule.training_step, []

            def step(self, *args):
                seen.append(1)
                if len(seen) > 7:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(self, *args)

            TrainingModule.training_step = step
            main(training(data, tmp_path / "killed", "--save-every-minutes", "0"))

        child = multiprocessing.get_context("fork").Process(target=run_and_die)
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert main(training(data, tmp_path / "killed", "--save-every-minutes", "0")) == 0
        assert main(training(data, tmp_path / "whole")) == 0
        whole, killed = (read_weights(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
        assert all(torch.equal(killed[name], tensor) for name, tensor in whole.items())

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            (["--mixup", "0.5"], "--mixup is for classification (one label for each image), not for angle"),
            (["--task", "classification"], "holds no images|no class folders"),
        ],
    )
    def test_options_and_data_of_other_tasks(self, data, tmp_path, capsys, options, error):
        assert main(training(data, tmp_path / "run", *options)) == 2
        assert re.search(error.replace("(", r"\(").replace(")", r"\)"), capsys.readouterr().err)

    def test_its_own_options_are_its_own(self, tmp_path, capsys):
        assert main(training("digits", tmp_path / "run", "--smooth-beta", "0.5", "--quick")) == 2
        assert "--smooth-beta is for angle" in capsys.readouterr().err


class TestMeasuring:
    def test_show_batch(self, data, tmp_path):
        file = tmp_path / "batch.png"
        assert main([*training(data, tmp_path / "run"), "--show-batch", str(file)]) == 0
        assert Image.open(file).width > 600
        assert not (tmp_path / "run").exists()

    def test_eval_has_no_pictures_without_scores(self, data, run, tmp_path, capsys):
        assert main(["eval", str(data), "--checkpoint", str(run), "--pictures", str(tmp_path / "pictures")]) == 2
        assert "error: --pictures: this measurement of angle has no score for each image" in capsys.readouterr().err

    def test_eval(self, data, run, tmp_path, capsys):
        file = tmp_path / "eval.json"
        assert main(["eval", str(data), "--checkpoint", str(run), "--workers", "0", "--json", str(file)]) == 0
        assert re.search(r"mean error +[│|]? *\d+\.\d°", capsys.readouterr().out)
        measured = json.loads(file.read_text())
        assert measured["split"] == "val"  # what the training held out
        assert measured["degrees"] == pytest.approx(read_info(run / "model.safetensors").metrics["degrees"], rel=1e-4)

    def test_by_size_with_a_plot(self, data, run, tmp_path):
        options = ["--sizes", "32,48", "--plots", str(tmp_path), "--workers", "0"]
        assert main(["eval", str(data), "--checkpoint", str(run), *options]) == 0
        assert (tmp_path / "sizes.png").stat().st_size > 1000

    def test_compared(self, data, run, tmp_path, capsys):
        files = [str(tmp_path / f"{name}.json") for name in "ab"]
        for file, split in zip(files, ("val", "all"), strict=True):
            assert main(["eval", str(data), "--checkpoint", str(run), "--split", split, "--json", file]) == 0
        assert main(["eval", "--compare", *files]) == 0
        assert re.search(r"mean error +[│|]? *\d+\.\d°", capsys.readouterr().out)


class TestResults:
    def test_a_row_of_the_table_and_a_picture(self, run, images, tmp_path, capsys):
        options = ["--checkpoint", str(run), "--pictures", str(tmp_path / "pictures")]
        assert main(["predict", *images, *options]) == 1  # of the file that is no image
        assert re.search(r"000\.png .* turned by .* -?\d+\.\d°", capsys.readouterr().out)
        pictures = sorted((tmp_path / "pictures").iterdir())
        assert [path.name for path in pictures] == ["00000-000.png", "00001-001.png"]
        for path, source in zip(pictures, images, strict=False):
            with Image.open(path) as picture, Image.open(source) as image:
                assert image.size == (32, 32)  # enlarged to 200 pixels at least, with the lines below
                assert picture.width == 224 < picture.height
                red = np.all(np.asarray(picture) == (255, 0, 0), axis=-1)
                assert 5 * 7 < red.sum() < 200 * 7**2
                assert not red[224:].any()

    def test_a_picture_of_an_image_with_a_long_name(self, run, images, tmp_path):
        long = tmp_path / f"{'é' * 120}.png"
        long.write_bytes(Path(images[0]).read_bytes())
        options = ["--checkpoint", str(run), "--pictures", str(tmp_path / "pictures")]
        assert main(["predict", str(long), images[1], *options]) == 0
        names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
        assert names == [f"00000-{'é' * 50}.png", "00001-001.png"]

    def test_csv(self, run, images, tmp_path):
        file = tmp_path / "out.csv"
        assert main(["predict", *images, "--checkpoint", str(run), "--output", str(file)]) == 1
        rows = list(csv.DictReader(io.StringIO(file.read_text())))
        assert list(rows[0]) == ["source", "error", "angle"]
        assert [bool(row["error"]) for row in rows] == [False, False, True]
        assert -180 <= float(rows[0]["angle"]) <= 180
        assert rows[2]["angle"] == ""

    def test_parquet(self, run, images, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra [parquet]")
        assert main(["predict", *images, "--checkpoint", str(run), "--output", str(tmp_path / "out")]) == 1
        rows = parquet.read_table(tmp_path / "out").to_pylist()
        assert [list(row) for row in rows] == [["source", "angle", "error"]] * 3
        assert [row["angle"] is None for row in rows] == [False, False, True]

    def test_one_answer_has_no_first_k(self, run, images, capsys):
        assert main(["predict", images[0], "--checkpoint", str(run), "--top-k", "2"]) == 2
        assert "--top-k is for tasks that rank answers, and angle gives one" in capsys.readouterr().err

    @pytest.mark.parametrize(("runtime", "ending"), [("onnx", ".onnx"), ("openvino", ".xml")])
    def test_export(self, run, images, tmp_path, runtime, ending):
        pytest.importorskip("onnxruntime" if runtime == "onnx" else "openvino", reason="needs the extra [export]")
        from glocal.deploy import runtimes
        from glocal.deploy.predictor import Predictor

        file = tmp_path / f"model{ending}"
        assert main(["export", "--checkpoint", str(run), "--to", runtime, "--output", str(file)]) == 0
        predictor = Predictor(run, device="cpu", engine="torch")
        tensor = predictor._prepare(images[0]).image[None].numpy()
        (direction,) = runtimes.load(file)(tensor)
        expected = predictor([images[0]])[0]
        assert isinstance(expected, Turn)
        assert np.degrees(np.arctan2(direction[0, 1], direction[0, 0])) == pytest.approx(expected.angle, abs=0.01)
        if runtime == "onnx":
            import onnx

            model = onnx.load(file)
            about = {entry.key: entry.value for entry in model.metadata_props}
            assert json.loads(about["glocal"])["task"] == "angle"
            assert [output.name for output in model.graph.output] == ["direction"]

    def test_bench(self, run, tmp_path, capsys):
        options = ["--baseline", "test_resnet", "--sizes", "32", "--rounds", "2", "--device", "cpu"]
        assert main(["bench", str(run), *options]) == 0
        assert str(run)[:20] in capsys.readouterr().out.replace("\n", "")


class TestOwnHead:
    """A task whose outputs are not those of a classifier has no vector before one."""

    @pytest.fixture
    def headed(self, monkeypatch):
        monkeypatch.setattr(type(ANGLE), "outputs", lambda self, model: torch.nn.Sequential(model))

    def test_results_are_the_same(self, run, images, headed, monkeypatch):
        from glocal.deploy.predictor import Predictor

        shown = Predictor(run, device="cpu", engine="torch")(images[:2])
        monkeypatch.undo()
        assert [one.angle for one in shown] == [one.angle for one in Predictor(run, device="cpu")(images[:2])]

    def test_embeddings_are_refused(self, run, images, headed, tmp_path, capsys):
        pytest.importorskip("pyarrow", reason="needs the extra [parquet]")
        assert main(["embed", images[0], "--checkpoint", str(run), "--output", str(tmp_path / "out")]) == 2
        assert "was trained for angle: it has no vector before a classifier" in capsys.readouterr().err

    def test_the_service_refuses_them_too(self, run, images, headed):
        testclient = pytest.importorskip("fastapi.testclient", reason="needs the extra [serve]")
        from glocal.deploy.config import ServeConfig
        from glocal.deploy.server import create_app

        app = create_app(ServeConfig(checkpoint=str(run), engine="torch"))
        with testclient.TestClient(app, base_url="http://localhost") as client:
            files = {"images": ("a.png", Path(images[0]).read_bytes())}
            assert client.post("/embed", files=files).status_code == 404
            assert "angle" in client.post("/predict", files=files).json()["results"][0]


class TestService:
    @pytest.fixture(scope="class")
    def client(self, run):
        testclient = pytest.importorskip("fastapi.testclient", reason="needs the extra [serve]")
        from glocal.deploy.config import ServeConfig
        from glocal.deploy.server import create_app

        app = create_app(ServeConfig(checkpoint=str(run), engine="torch"))
        with testclient.TestClient(app, base_url="http://localhost") as client:
            yield client

    def ask(self, client, path, images):
        with open(images[0], "rb") as file:
            return client.post(path, files={"images": ("a.png", file.read())})

    def test_predict(self, client, run, images):
        from glocal.deploy.predictor import Predictor

        (result,) = self.ask(client, "/predict", images).json()["results"]
        assert list(result) == ["name", "angle"]
        assert result["angle"] == pytest.approx(Predictor(run, device="cpu")([images[0]])[0].angle, abs=0.01)
        assert self.ask(client, "/predict?top_k=2", images).status_code == 422

    def test_what_the_page_shows(self, client, images):
        assert 'fetch("show' in client.get("/").text
        (result,) = self.ask(client, "/show", images).json()["results"]
        assert re.fullmatch(r"-?\d+\.\d°", result["lines"][0]["value"])
        assert result["picture"].startswith("data:image/jpeg;base64,")

    def test_its_description(self, client):
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        assert schemas["Turn"]["properties"]["angle"] == {"type": "number", "title": "Angle"}


@pytest.fixture
def unregistered(registered, monkeypatch):
    monkeypatch.delitem(registry._tasks, ANGLE.name)


def test_a_file_of_a_task_that_is_not_registered(run, images, unregistered, capsys):
    assert main(["predict", images[0], "--checkpoint", str(run)]) == 2
    error = capsys.readouterr().err
    assert "unknown task 'angle'; the tasks are classification, multilabel" in error
    assert len(error.splitlines()) == 1


def test_as_a_program(run, images, unregistered, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", [str(OUTSIDE), "predict", images[0], "--checkpoint", str(run)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(OUTSIDE), run_name="__main__")
    shown = capfd.readouterr()
    assert (ended.value.code, shown.err) == (0, "")
    assert "turned by" in shown.out
