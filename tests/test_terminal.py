"""What reaches the terminal, and that no table breaks a path or an address."""

import io

import pytest

from glocal.terminal import Console, Table, facts

PATH = "/photos/of the summer/" + "x" * 150 + ".jpg"
ESCAPES = "\x1b]0;title\x07a\r\nb\u202e"
SAFE = r"\x1b]0;title\x07a\r\nb\u202e"


@pytest.fixture
def screen():
    return Console(file=io.StringIO())


@pytest.fixture
def narrow():
    return Console(file=io.StringIO(), force_terminal=True, color_system=None, width=60)


@pytest.fixture
def shown():
    return lambda console: console.file.getvalue().splitlines()


@pytest.mark.parametrize(
    "thing",
    [ESCAPES, facts("title", {"image": ESCAPES}), facts(ESCAPES, {"image": "a"}), Table(ESCAPES)],
    ids=["text", "cell", "heading", "column"],
)
def test_escape_codes_are_text(screen, shown, thing):
    screen.print(thing)
    text = "\n".join(shown(screen))
    assert SAFE in text
    assert not set("\x1b\x07\r\u202e") & set(text)


def test_brackets_are_no_markup(screen, shown):
    screen.print("[bold]a[/x]")
    assert shown(screen) == ["[bold]a[/x]"]


def test_a_pipe_has_no_width(screen, shown):
    screen.print(facts("t", {"image": PATH}))
    assert len([line for line in shown(screen) if PATH in line]) == 1


def test_too_wide_for_the_terminal(narrow, shown):
    table = Table("image", "class", heading="classes")
    table.add_row(PATH, "cat")
    table.add_row("", "dog")
    narrow.print(table)
    assert shown(narrow) == ["classes", "image  class", f"{PATH}  cat", "  dog"]


def test_a_table_that_fits_has_its_lines(narrow, shown):
    narrow.print(facts("t", {"image": "a.jpg"}))
    assert "│ image │ a.jpg │" in shown(narrow)


def test_prose_is_broken_between_words(narrow, shown):
    table = Table("op", "why", prose=True)
    table.add_row("conv", " ".join(["reason"] * 20))
    narrow.print(table)
    lines = shown(narrow)
    assert max(map(len, lines)) <= 60
    assert sum(line.count("reason") for line in lines) == 20
