"""`glocal embed` and `glocal predict --output`: Parquet files from one command."""

import sys

import pytest
from PIL import Image
from pyarrow import parquet

import glocal.data.image
from glocal.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (9, 9), (40 * number, 0, 0)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def arguments(photos, checkpoint, tmp_path):
    return [str(photos), "--checkpoint", str(checkpoint), "--engine", "torch", "--output", str(tmp_path / "out")]


@pytest.mark.parametrize("command", ["embed", "predict"])
def test_writes_files_and_says_so(arguments, tmp_path, capsys, command):
    assert main([command, *arguments, "--shard-size", "2"]) == 0
    assert capsys.readouterr().out == f"3 images in 2 files in {tmp_path / 'out'}\n"
    columns = parquet.read_table(tmp_path / "out/part-00001.parquet").column_names
    assert (
        columns
        == {
            "embed": ["source", "embedding", "error"],
            "predict": ["source", "label", "labels", "probabilities", "error"],
        }[command]
    )
    assert main([command, *arguments, "--shard-size", "2"]) == 0
    assert capsys.readouterr().err == "note: resumed: 2 of 2 shards are there already\n"


@pytest.mark.parametrize("again", [False, True])
def test_unreadable_images_are_counted(arguments, photos, capsys, again):
    (photos / "1.png").write_text("text")
    for _ in range(1 + again):
        capsys.readouterr()
        assert main(["embed", *arguments]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: 1 image could not be read: the column error says why"


@pytest.mark.parametrize("command", ["embed", "predict", "predict to the screen"])
def test_strict_refuses_what_is_else_read_with_a_note(arguments, photos, capsys, command):
    Image.new("RGB", (40, 40), "red").save(photos / "cut.jpg")
    (photos / "cut.jpg").write_bytes((photos / "cut.jpg").read_bytes()[:-2])
    glocal.data.image._noted.clear()
    given = arguments if command != "predict to the screen" else arguments[:-2]
    assert main([command.split()[0], *given]) == 0
    assert f"note: {photos / 'cut.jpg'}: lacks its last bytes" in capsys.readouterr().err
    overwrite = ["--overwrite"] if "--output" in given else []
    assert main([command.split()[0], *given, "--strict", *overwrite]) == 1
    assert "lacks its last bytes" not in capsys.readouterr().err
    glocal.data.image.set_strict(False)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["embed", "x", "--model", "van_b0"], "give --output, the folder for the embeddings"),
        (["embed", "x", "--output", "out"], "give --checkpoint, or --model"),
        (
            ["embed", "x", "--output", "out", "--model", "van_b0", "--shard-size", "0"],
            "--shard-size must be at least 1",
        ),
        (["predict", "x", "--model", "van_b0", "--ray"], "--ray needs --output"),
        (["predict", "x", "--model", "van_b0", "--image-column", "photo"], "--image-column needs --output"),
        (["predict", "x", "--model", "van_b0", "--overwrite"], "--overwrite needs --output"),
        (["embed", "x", "--model", "van_b0", "--output", "out", "--workers", "2"], "--workers needs --ray"),
        (["embed", "x", "--model", "van_b0", "--output", "out", "--ray-address", "a:1"], "--ray-address needs --ray"),
        (
            ["embed", "x", "--model", "van_b0", "--output", "out", "--ray", "--device", "cuda:1"],
            "--device cuda:1: with --ray every worker has a device of its own",
        ),
        (
            ["embed", "x", "--model", "van_b0", "--output", "a.csv"],
            "--output a.csv: embeddings are written into a folder",
        ),
        (
            ["embed", "x", "--model", "van_b0", "--output", "a.npz"],
            "--output a.npz: embeddings are written into a folder",
        ),
        (["predict", "x", "--model", "van_b0", "--output", "a.xlsx"], "predictions are written to .csv, .json, .jsonl"),
        (
            ["predict", "x", "--model", "van_b0", "--output", "a.csv", "--ray"],
            "--ray is for an --output folder, not for the file a.csv",
        ),
        (["predict", "x", "--model", "van_b0", "--output", "a.json", "--shard-size", "9"], "--shard-size is for an"),
        (["predict", ".", "--model", "van_b0", "--output", "no/a.csv"], "--output no/a.csv: there is no such folder"),
        (["embed", "nowhere", "--model", "van_b0", "--output", "out"], "nowhere: no such file"),
        (["embed", ".", "--model", "van_b0", "--output", "out"], ".: the folder holds no images"),
    ],
)
def test_mistakes_are_one_line(args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.slow  # it loads Ray
def test_there_is_no_such_cluster(arguments, capsys):
    assert main(["embed", *arguments, "--ray", "--ray-address", "127.0.0.1:1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: there is no Ray cluster at 127.0.0.1:1: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("package", "options", "message", "extra"),
    [("pyarrow", [], "Parquet files need pyarrow", "parquet"), ("ray", ["--ray"], "--ray needs Ray", "cluster")],
)
def test_extra_that_is_not_installed(arguments, capsys, monkeypatch, package, options, message, extra):
    for name in ("glocal.deploy.bulk", "glocal.deploy.cluster"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["embed", *arguments, *options]) == 2
    assert capsys.readouterr().err == f"error: {message}: pip install 'glocal[{extra}]'\n"
