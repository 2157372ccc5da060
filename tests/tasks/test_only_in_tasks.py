"""The keys of measures and the word for several labels stand in the folders of tasks alone; no label means "none"."""

import ast
from pathlib import Path

import pytest

import glocal

SOURCE = Path(glocal.__file__).parent
# The tables of the accuracies that authors published, and the commands that show them.
PUBLISHED = ("models/", "bench/", "cli/list.py", "cli/info.py")
OTHERS = [
    path.relative_to(SOURCE) for path in sorted(SOURCE.rglob("*.py")) if path.relative_to(SOURCE).parts[0] != "tasks"
]


def strings_and_names(tree):
    """Every text, and every name, attribute and argument of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        for kind in ("id", "attr", "arg", "name"):
            if isinstance(getattr(node, kind, None), str):
                yield getattr(node, kind)


@pytest.mark.parametrize("path", OTHERS, ids=str)
def test_no_file_outside_names_a_measure_or_a_task(path):
    found = set(strings_and_names(ast.parse((SOURCE / path).read_text())))
    forbidden = {"top5", "mAP", "multilabel"} | ({"top1"} if not str(path).startswith(PUBLISHED) else set())
    if path.parts[:2] != ("data", "formats"):  # a format says which task its annotations are for
        assert not found & (forbidden | {"multi_label", "several_labels"})
    else:
        assert not found & (forbidden - {"multilabel"})


@pytest.mark.parametrize("path", [p.relative_to(SOURCE) for p in sorted(SOURCE.rglob("*.py"))], ids=str)
def test_no_label_is_compared_with_0_or_minus_1(path):
    for node in ast.walk(ast.parse((SOURCE / path).read_text())):
        if not isinstance(node, ast.Compare):
            continue
        sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
        about_labels = any("label" in side or "target" in side for side in sides)
        assert not (about_labels and {"0", "-1"} & set(sides)), f"line {node.lineno}: {ast.unparse(node)}"
