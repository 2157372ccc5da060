"""Imports run one way only, down.

cli → bench → deploy, explain, training → tasks, data → models → backbone → layers → ops → options →
terminal, safe_yaml, trust → wording
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "glocal"
LEVELS = [
    {"wording"},
    {"terminal", "safe_yaml", "trust"},
    {"options"},
    {"ops"},
    {"layers"},
    {"backbone"},
    {"models"},
    {"tasks", "data"},
    {"deploy", "explain", "training"},
    {"bench"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def part(module: str) -> str:
    """'glocal.models.van' → 'models'; '' for the package itself."""
    return [*module.split("."), ""][1]


def imports(path: Path) -> list[str]:
    """Every module of the library that a file imports, wherever in the file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" if node.module == "glocal" else node.module for alias in node.names]
    return [name for name in found if name.split(".")[0] == "glocal"]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_downward(path):
    own = part(".".join(["glocal", *path.relative_to(SOURCE).with_suffix("").parts]))
    if own in ("__init__", "__main__"):
        return  # the package itself shows the public names
    for module in imports(path):
        target = part(module)
        if target == "__version__":
            continue
        assert target in LEVEL, f"{module} is no part of the library's layers"
        assert target == own or LEVEL[target] < LEVEL[own], f"{own} may not import {module}"


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {name.split(".")[0] for name in output.split()}


def test_import_costs_hardly_more_than_timm():
    extra = modules_after("import glocal") - modules_after("import timm, timm.data") - set(sys.stdlib_module_names)
    assert extra == {"glocal", "msgspec"}  # 0.04 s, of 4
