"""Ops choose how they are computed; references import nothing of ours, and layers never ask what runs them."""

import ast
from pathlib import Path

import pytest

import glocal

SOURCE = Path(glocal.__file__).parent
REFERENCES = sorted((SOURCE / "ops").glob("*/reference.py"))
CALLERS = sorted([*(SOURCE / "layers").rglob("*.py"), *(SOURCE / "models").rglob("*.py"), SOURCE / "backbone.py"])
QUESTIONS = {
    "dispatch",
    "exporting",
    "is_compiling",
    "is_cpu",
    "is_cuda",
    "is_dynamo_compiling",
    "is_exporting",
    "is_tracing",
    "peek_interpreter_stack",
    "sizes_are_open",
    "tracing",
}


def imported(path: Path) -> list[str]:
    """Every module that a file imports, wherever in the file."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return found + [node.module for node in nodes if isinstance(node, ast.ImportFrom)]


def asked(path: Path) -> set[str]:
    """The questions about a device, a compiler or an exporter that a file asks."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
            if node.attr == "type" and isinstance(node.value, ast.Attribute) and node.value.attr == "device":
                names.add("device.type")
        elif isinstance(node, ast.alias):
            names.add(node.name)
    return {name for name in names if name in QUESTIONS | {"device.type"} or name.startswith("can_use_")}


def short(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def test_there_are_files_to_look_at():
    assert len(REFERENCES) > 10
    assert len(CALLERS) > 25


@pytest.mark.parametrize("path", REFERENCES, ids=short)
def test_a_reference_imports_nothing_of_ours(path):
    assert not [module for module in imported(path) if module.split(".")[0] == "glocal"]


@pytest.mark.parametrize("path", REFERENCES, ids=short)
def test_a_reference_asks_nothing(path):
    assert not asked(path)


@pytest.mark.parametrize("path", CALLERS, ids=short)
def test_layers_and_models_never_ask_what_runs_them(path):
    assert not asked(path)


@pytest.mark.parametrize("path", CALLERS, ids=short)
def test_layers_and_models_call_public_ops_only(path):
    assert {module for module in imported(path) if module.startswith("glocal.ops")} <= {"glocal.ops"}


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nif torch.compiler.is_exporting(): pass",
        "from glocal.ops.dispatch import can_use_cpu",
        "x.is_cuda",
        "x.device.type == 'cpu'",
    ],
)
def test_a_question_is_seen(source, tmp_path):
    (tmp_path / "layer.py").write_text(source)
    assert asked(tmp_path / "layer.py")
