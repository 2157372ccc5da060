"""The recipes of CONTRIBUTING.md work: an op is added to a copy of the library step by step, the mixer is a mixer."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OP = "pool_difference"


def section(title: str) -> str:
    """The text below a heading of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the library with the recipe's op."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (root / "tests/ops").mkdir(parents=True)
    for name in ("pyproject.toml", "tests/conftest.py", "tests/agreement.py", "tests/extras.py"):
        shutil.copy(ROOT / name, root / name)
    for name in ("test_dispatch.py", "test_one_place_chooses.py"):
        shutil.copy(ROOT / "tests/ops" / name, root / "tests/ops" / name)
    recipe = section("Add an op")
    files = re.findall(r"```python\n# (\S+)\n(.*?)```", recipe, re.DOTALL)
    assert [Path(name).name for name, _ in files] == ["reference.py", "cpu.py", "__init__.py", f"test_{OP}.py"]
    for name, content in files:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    (line,) = re.findall(rf"`(from glocal.ops.{OP} import {OP})`", recipe)
    public = root / "src/glocal/ops/__init__.py"
    text = public.read_text(encoding="utf-8")
    public.write_text(text.replace("\n__all__ = [\n", f'\n{line}\n\n__all__ = [\n    "{OP}",\n'), encoding="utf-8")
    return root


def run(copy: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "COLUMNS": "200", "TRITON_INTERPRET": "0"}
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    return result.stdout


def test_its_own_tests_pass_and_those_that_every_op_has(copy):
    out = run(copy, "pytest", "-q", "-p", "no:cacheprovider", "tests/ops", "-k", OP)
    assert re.search(r"\d+ passed", out)
    assert "failed" not in out


def test_the_doctor_lists_it(copy):
    (row,) = [line for line in run(copy, "glocal", "doctor").splitlines() if OP in line]
    name, device, backend, reason = (cell.strip() for cell in row.strip("│ ").split("│"))
    assert (name, device, backend) in ((OP, "cpu", "cpu"), (OP, "cuda", "reference"))
    assert reason == "there is no kernel: it is torch's pooling"


def test_the_mixer_has_every_property(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", section("Add a mixer"), re.DOTALL)  # the class, and the check of it
    (tmp_path / "pool_mixer.py").write_text("\n".join(["from torch import Tensor, nn", *blocks]), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)  # from a file: TorchScript reads the source
    assert importlib.import_module("pool_mixer").check_mixer


def test_it_is_formatted_as_the_rest(copy):
    run(copy, "ruff", "check", f"src/glocal/ops/{OP}", f"tests/ops/test_{OP}.py")
    run(copy, "ruff", "format", "--check", f"src/glocal/ops/{OP}", f"tests/ops/test_{OP}.py")
