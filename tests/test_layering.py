"""Imports run one way only, down, between the folders and inside each.

cli → bench → deploy, explain, training, evaluation → tasks → data, models → backbone → layers → ops → options →
terminal, safe_yaml, trust, files, device, figures → wording, errors
"""

import ast
import sys
from pathlib import Path

import pytest

import fresh

SOURCE = Path(__file__).parent.parent / "src" / "glocal"
LEVELS = [
    {"wording", "errors"},
    {"terminal", "safe_yaml", "trust", "files", "device", "figures"},
    {"options"},
    {"ops"},
    {"layers"},
    {"backbone"},
    {"models", "data"},
    {"tasks"},
    {"deploy", "explain", "training", "evaluation"},
    {"bench"},
    {"cli"},
    {"testing"},
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


def imported_files(path: Path) -> set[Path]:
    """The library's files that a file imports: of `from glocal.a import b`, a/b.py where there is such a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")[1:] if name.split(".")[0] == "glocal" else []
            while parts:
                place = SOURCE.joinpath(*parts)
                file = next((one for one in (place.with_suffix(".py"), place / "__init__.py") if one.is_file()), None)
                if file is not None:
                    found.add(file)
                    break
                parts.pop()
    return found - {path}


def test_no_circle_of_files():
    """Imports inside functions and for types count: you should not need to read the other file first."""
    left = {path: imported_files(path) for path in SOURCE.rglob("*.py")}
    left.pop(SOURCE / "__init__.py")
    while free := {path for path, needed in left.items() if not needed & left.keys()}:
        for path in free:
            del left[path]
    # What is left leads into circles; of these, the files that are in none go too.
    while ends := {path for path in left if not any(path in needed for needed in left.values())}:
        for path in ends:
            del left[path]
    shown = {
        str(path.relative_to(SOURCE)): [str(one.relative_to(SOURCE)) for one in needed & left.keys()]
        for path, needed in left.items()
    }
    assert not shown


@pytest.fixture(scope="module")
def imported() -> tuple[set[str], set[str]]:
    """The modules of a process that imports timm, and those that `import glocal` then adds."""
    code = "import sys, timm, timm.data; before = {*sys.modules}; import glocal; after = {*sys.modules} - before"
    code += "; print(*before); print(*after)"
    done = fresh.run(code)
    assert done.returncode == 0, done.stderr
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    return before, after


def test_import_costs_hardly_more_than_timm(imported):
    before, after = ({name.split(".")[0] for name in names} for names in imported)
    assert after - before - set(sys.stdlib_module_names) == {"glocal", "msgspec"}  # 0.04 s, of 4


def test_import_leaves_the_checks_for_contributors_alone(imported):
    assert "glocal.models" in imported[1]
    assert "glocal.testing" not in imported[1]
