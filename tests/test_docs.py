"""Links between the pages of the documentation lead to a page and to a heading of it; the files they name exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACES = [
    ROOT,
    ROOT / "src",
    ROOT / "src/glocal",
    ROOT / "tests",
    ROOT / "benchmarks",
]  # where the pages' paths of files begin
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """The anchor that GitHub makes for a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def links(page: Path) -> list[str]:
    text = CODE.sub("code", page.read_text(encoding="utf-8"))
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


@pytest.mark.parametrize(
    ("page", "link"),
    [
        pytest.param(page, link, id=f"{page.relative_to(ROOT)}:{link}")
        for page in PAGES
        for link in dict.fromkeys(links(page))
    ],
)
def test_a_link_leads_to_a_page_and_a_heading(page, link):
    file, _, heading = link.partition("#")
    target = page.parent / file if file else page
    assert target.exists()
    assert not heading or heading in anchors(target)


def files_named(text: str) -> list[str]:
    """The paths of Python files in a text, without patterns and without the files of its examples."""
    examples = re.findall(r"^```python\n# (\S+)$", text, re.MULTILINE)
    named = re.findall(r"(?<![\w./-])\w[\w-]*(?:/[\w-]+)+\.py\b", text)
    return [name for name in dict.fromkeys(named) if name not in examples and "NAME" not in name]


@pytest.mark.parametrize(
    ("page", "name"),
    [
        pytest.param(page, name, id=f"{page.relative_to(ROOT)}:{name}")
        for page in PAGES
        for name in files_named(page.read_text(encoding="utf-8"))
        if page.name != "testing.md"  # its tables are written by tests/mutations/run.py
    ],
)
def test_a_file_that_a_page_names_exists(page, name):
    assert any((place / name).is_file() for place in PLACES)


def test_which_files_a_text_names():
    text = (
        "`cli/train.py`, https://example.org/a/b.py, ops/*/graph.py, `tests/a_b.py::test_c`, x/NAME/y.py, errors.py\n"
    )
    text += "```python\n# src/x/new.py\n```\n src/x/new.py tests/ops/test_new-op.py"
    assert files_named(text) == ["cli/train.py", "tests/a_b.py", "tests/ops/test_new-op.py"]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_the_index_lists_every_page(page):
    index = ROOT / "docs" / "README.md"
    assert page == index or str(page.relative_to(index.parent)) in links(index)


@pytest.mark.parametrize(
    ("heading", "expected"),
    [("1 × 1 convolutions (CPU)", "1--1-convolutions-cpu"), ("`kill -9`, crash", "kill--9-crash")],
)
def test_anchor_is_githubs(heading, expected):
    assert anchor(heading) == expected
