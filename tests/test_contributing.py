"""The recipes of CONTRIBUTING.md work: an op and a data format are added to a copy of the library step by step."""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fresh
from glocal.tasks.task import Task

ROOT = Path(__file__).parents[1]
OP = "pool_difference"


def section(title: str) -> str:
    """The text below a heading of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def copy_of_the_library(root: Path) -> Path:
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (root / "tests").mkdir(parents=True)
    for name in ("pyproject.toml", "tests/conftest.py", "tests/agreement.py", "tests/extras.py"):
        shutil.copy(ROOT / name, root / name)
    return root


def write_examples(recipe: str, root: Path) -> list[str]:
    """Write the files of a recipe, which begin with their own path; returns their names."""
    files = re.findall(r"```python\n# (\S+)\n(.*?)```", recipe, re.DOTALL)
    for name, content in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    return [Path(name).name for name, _ in files]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the library with the op and the data format of the recipes."""
    root = copy_of_the_library(tmp_path_factory.mktemp("copy"))
    (root / "tests/ops").mkdir()
    for name in ("test_dispatch.py", "test_one_place_chooses.py"):
        shutil.copy(ROOT / "tests/ops" / name, root / "tests/ops" / name)
    recipe = section("Add an op")
    assert write_examples(recipe, root) == ["reference.py", "cpu.py", "__init__.py", f"test_{OP}.py"]
    (line,) = re.findall(rf"`(from glocal.ops.{OP} import {OP})`", recipe)
    public = root / "src/glocal/ops/__init__.py"
    text = public.read_text(encoding="utf-8")
    public.write_text(text.replace("\n__all__ = [\n", f'\n{line}\n\n__all__ = [\n    "{OP}",\n'), encoding="utf-8")
    recipe = section("Add a data format")
    assert write_examples(recipe, root) == ["json_lines.py", "test_json_lines.py"]
    (name, before) = re.search(r"as `(\w+)`, in `FORMATS`.*?before .*?\(here `(\w+)`", recipe, re.DOTALL).groups()
    formats = root / "src/glocal/data/open.py"
    text = formats.read_text(encoding="utf-8")
    listed, imported = re.search(r"^FORMATS.*$", text, re.MULTILINE)[0], f"import {before},"
    assert before in listed
    assert text.count(imported) == 1
    text = text.replace(listed, listed.replace(before, f"{name}, {before}"))
    formats.write_text(text.replace(imported, f"import {before}, {name},"), encoding="utf-8")
    return root


TESTS_AND_DOCTOR = f"""
import sys
sys.path.insert(0, "src")
import pytest
from glocal.cli import main
code = pytest.main(["-v", "-p", "no:cacheprovider", "-p", "no:xdist", "tests", "-k", "{OP} or json_lines"])
print("the doctor:", flush=True)
raise SystemExit(code or main(["doctor"]))
"""


@pytest.fixture(scope="module")
def shown(copy) -> tuple[list[str], str]:
    """In the copy: the tests that pass, and what the doctor says."""
    done = fresh.run(TESTS_AND_DOCTOR, folder=copy, COLUMNS="200", TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    tests, doctor = done.stdout.split("the doctor:\n")
    return re.findall(r"^(\S+::.*) PASSED", tests, re.MULTILINE), doctor


def test_the_tests_of_an_op_pass_and_those_that_every_op_has(shown):
    files = {name.split("::")[0] for name in shown[0]}
    assert files >= {f"tests/ops/{name}.py" for name in (f"test_{OP}", "test_dispatch", "test_one_place_chooses")}


def test_the_tests_of_a_format_pass(shown):
    assert len([name for name in shown[0] if name.startswith("tests/data/formats/test_json_lines.py")]) == 3


def test_the_doctor_lists_the_op(shown):
    (row,) = [line for line in shown[1].splitlines() if OP in line]
    name, device, backend, reason = (cell.strip() for cell in row.strip("│ ").split("│"))
    assert (name, device, backend) in ((OP, "cpu", "cpu"), (OP, "cuda", "reference"))
    assert reason == "there is no kernel: it is torch's pooling"


def test_the_mixer_has_every_property(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", section("Add a mixer"), re.DOTALL)  # the class, and the check of it
    (tmp_path / "pool_mixer.py").write_text("\n".join(["from torch import Tensor, nn", *blocks]), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)  # from a file: TorchScript reads the source
    assert importlib.import_module("pool_mixer").check_mixer


def test_they_are_formatted_as_the_rest(copy):
    files = [f"src/glocal/ops/{OP}", f"tests/ops/test_{OP}.py"]
    files += ["src/glocal/data/formats/json_lines.py", "tests/data/formats/test_json_lines.py"]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *files], cwd=copy, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("recipe", "name", "file"),
    [
        pytest.param(recipe, name, file, id=f"{name}-{file}")
        for recipe in ("Add a task", "Add a data format", "Add a runtime")
        for name, file in re.findall(r"`(\w+)`\s+in\s+`([\w/]+\.py)`", section(recipe))
    ],
)
def test_a_name_that_a_recipe_changes_is_in_its_file(recipe, name, file):
    assert re.search(rf"^(def |class )?{name}\b", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_example_of_a_task_shows_what_the_recipe_asks_for():
    recipe, example = section("Add a task"), (ROOT / "tests/tasks/outside.py").read_text(encoding="utf-8")
    methods = re.search(r"five methods: (.*?)\.", recipe, re.DOTALL)[1]
    needed = re.findall(r"`(\w+)`", methods)
    assert set(needed) == Task.__abstractmethods__
    assert all(f"    def {name}(" in example for name in needed)
