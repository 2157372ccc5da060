"""Which files each command writes, and whether it calls anybody: the table in docs/security.md."""

import numpy as np
import pytest
from PIL import Image

import fresh
from glocal.cli import main
from hostile.watch import watching

pytestmark = pytest.mark.usefixtures("one_thread")

# Command line → what it writes, below the folder of the test; {run} is a checkpoint, {images} a folder in classes.
COMMANDS = {
    "list": ("list van*", []),
    "info": ("info van_b0", []),
    "doctor": ("doctor", []),
    "bench": ("bench test_resnet --device cpu --sizes 32 --rounds 1 --batch-sizes 1", []),
    "predict": ("predict {images} --checkpoint {run} --engine torch", []),
    "predict-output": ("predict {images} --checkpoint {run} --engine torch --output out/found.csv", ["out"]),
    "eval": ("eval {images} --checkpoint {run} --workers 0", []),
    "eval-files": ("eval {images} --checkpoint {run} --workers 0 --json out/result.json --plots out/plots", ["out"]),
    "eval-pictures": ("eval {images} --checkpoint {run} --workers 0 --pictures out/worst", ["out"]),
    "predict-compiled": ("predict {images} --checkpoint {run} --engine openvino", ["cache"]),
    "export-openvino": ("export --checkpoint {run} --to openvino --dynamic none --output out/model.xml", ["out"]),
    "embed": ("embed {images} --checkpoint {run} --engine torch --output out/vectors", ["out"]),
    "export": ("export --checkpoint {run} --to torch --dynamic none --output out/model.pt2", ["out"]),
    "train": ("train {images} --model test_resnet --epochs 1 --img-size 32 --workers 0 --output out/run", ["out"]),
    "train-show-batch": (
        "train {images} --model test_resnet --img-size 32 --workers 0 --output out/run --show-batch out/batch.png",
        ["out"],
    ),
    "train-further": ("train {images} --checkpoint {run} --epochs 1 --workers 0 --output out/run", ["out"]),
}
# Of libraries for themselves: fonts, compiled files, and the name of the processor, which Python asks the system for.
OWN = ("matplotlib", "torchinductor", "__pycache__", "fontlist", "'uname'")


@pytest.fixture
def place(tmp_path, monkeypatch, checkpoint):
    draw = np.random.RandomState(0)
    for label in ("ant", "bee", "cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(4):
            pixels = draw.randint(0, 255, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number}.png")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "cache"))
    return {"images": tmp_path / "images", "run": checkpoint, "folder": tmp_path}


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_but_what_the_page_says(name, place, capsys):
    line, written = COMMANDS[name]
    folder = place["folder"]
    before = {file: file.read_bytes() for file in (*place["images"].rglob("*.png"), *place["run"].iterdir())}
    with watching(*(folder / one for one in written)) as outside:
        code = main(line.format(**place).split())
    assert code == 0, capsys.readouterr().err
    assert [note for note in outside if not any(part in note for part in OWN)] == []
    assert {file: file.read_bytes() for file in before} == before
    assert {file.name for file in folder.iterdir()} == {"images", "out", *written}
    assert all(any((folder / one).iterdir()) for one in written)
    assert "out" in written or not any((folder / "out").iterdir())


def test_openvino_and_nncf_report_to_nobody():
    """They would, and write a number for the user into the home folder, but for what `glocal.deploy` does first."""
    code = (
        "import glocal.deploy, nncf\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "from nncf.telemetry.wrapper import telemetry\n"
        "print(telemetry_utils.tm.__name__, type(telemetry).__name__)"
    )
    pytest.importorskip("nncf", reason="nncf is not installed: pip install 'glocal[int8]'")
    done = fresh.run(code)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "MagicMock"], done.stderr
