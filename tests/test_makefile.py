"""What `make` installs before what, with a Python that writes down what it is told to do."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/sh
case "$*" in
"-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$0" .venv/bin/glocal ;;
"-m pip show"*) exit ${SHOW:-1} ;;
*+cpu*) echo "$*" >> told; echo "no such build" >&2; exit ${CPU:-1} ;;
"-m pytest"*) echo "$*" >> told; echo "dont_write=$PYTHONDONTWRITEBYTECODE" > environment ;;
*) echo "$*" >> told ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """Runs make in a folder with the project's files; the lines that its Python was told."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(python.stat().st_mode | stat.S_IEXEC)

    def run(*arguments, **environment):
        (tmp_path / "told").unlink(missing_ok=True)
        command = ["make", *arguments, f"PYTHON={python}"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | environment
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        run.out, run.err = done.stdout, done.stderr
        return (tmp_path / "told").read_text().splitlines() if (tmp_path / "told").exists() else []

    return run


DEMO = "-m pip install --no-compile --editable .[train] --constraint constraints.txt"
EVERYTHING = "-m pip install --no-compile --editable .[dev] --constraint constraints.txt"


def without_gpu():
    return os.uname().sysname == "Linux" and not list(Path("/dev").glob("nvidia[0-9]*"))


def versions(told):
    return [word for word in told.split() if "==" in word]


@pytest.mark.parametrize("demo", ["demo", "demo-segment", "demo-detect"])
def test_demo_installs_no_more_than_training_needs(make, demo):
    told = [line for line in make(demo) if "+cpu" not in line]
    assert told[0] == DEMO
    assert [line.split()[0] for line in told[1:]] == ["train", "predict"]
    assert [line.split()[0] for line in make(demo)] == ["train", "predict"]  # the second time nothing is installed


@pytest.mark.skipif(not without_gpu(), reason="for Linux without a GPU")
class TestCpuBuild:
    def test_is_taken_where_there_is_one(self, make):
        told = make("demo", CPU="0")
        pinned = (ROOT / "constraints.txt").read_text().splitlines()
        assert [version.removesuffix("+cpu") in pinned for version in versions(told[0])] == [True, True]
        assert [version.partition("==")[0] for version in versions(told[0])] == ["torch", "torchvision"]
        assert told[1] == DEMO
        assert "6 GB" not in make.out

    def test_else_the_size_is_said_before(self, make):
        make("demo")
        assert make.out.index("2.6 GB to download, 6 GB") < make.out.index(".[train]")
        assert "no such build" not in make.err

    def test_from_another_index(self, make):
        assert make("demo", "TORCH_INDEX=file:///wheels")[0].endswith("--extra-index-url file:///wheels")

    def test_leaves_a_torch_that_is_there(self, make):
        assert make("demo", SHOW="0")[0] == DEMO


def test_demo_after_the_tests_installs_nothing(make):
    assert make("test")[0] == EVERYTHING
    assert [line.split()[0] for line in make("demo")] == ["train", "predict"]


def test_tests_after_the_demo_install_everything(make):
    make("demo")
    told = make("test")
    assert told[0] == EVERYTHING
    assert told[1].startswith("-m pytest")


def test_the_tests_keep_what_python_compiles(make, tmp_path):
    make("test", PYTHONDONTWRITEBYTECODE="1")
    assert (tmp_path / "environment").read_text() == "dont_write=\n"


def test_other_versions_are_installed_again(make, tmp_path):
    make("test")
    later = (tmp_path / ".venv/installed").stat().st_mtime + 5
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert DEMO in make("demo")
    assert EVERYTHING in make("test")
