"""Text from outside is shown as text: nothing in it moves the cursor, starts a line or turns letters round."""

import logging
import warnings

import pytest

from glocal.wording import Formatter, one_line, printable, shown, tame_libraries

ACTING = {
    "escape": ("\x1b[2J", r"\x1b[2J"),
    "bell": ("\x07", r"\x07"),
    "carriage return": ("a\rb", r"a\rb"),
    "line feed": ("a\nb", r"a\nb"),
    "C1 control sequence": ("\x9b31m", r"\x9b31m"),
    "delete": ("\x7f", r"\x7f"),
    "right to left override": ("a\u202egnp.exe", r"a\u202egnp.exe"),
    "isolate": ("\u2066a\u2069", r"\u2066a\u2069"),
    "line separator": ("a\u2028b\u2029", r"a\u2028b\u2029"),
    "lone surrogate": ("caf\udce9", r"caf\udce9"),
}


@pytest.mark.parametrize(("text", "safe"), ACTING.values(), ids=ACTING)
def test_what_acts_is_escaped(text, safe):
    assert printable(text) == safe


@pytest.mark.parametrize("text", ["日本語", "é", "e\u0301", "שלום", "🐕\u200d🦺", "C:\\new", "a  b"])
def test_letters_stay_as_they_are(text):
    assert printable(text) == text


def test_a_message_becomes_one_line():
    assert one_line("size mismatch:\n\tweight\x1b[0m\n") == r"size mismatch: weight\x1b[0m"


@pytest.mark.parametrize(
    ("error", "options", "line"),
    [
        (ValueError("a\n  b"), {}, "a b"),
        (ValueError("\n"), {}, "ValueError"),
        (KeyError("weight"), {}, "it lacks 'weight'"),
        (ValueError("\n a  b\nc"), {"first_only": True}, "a b"),
        (MemoryError(), {"first_only": True}, "MemoryError"),
        (ValueError("x" * 300), {"limit": 300}, "x" * 300),
        (ValueError("x" * 301), {"limit": 300}, "x" * 299 + "…"),
    ],
    ids=["lines", "no message", "key", "first line", "first line of none", "as long as allowed", "too long"],
)
def test_what_an_error_says(error, options, line):
    assert one_line(error, **options) == line


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\x1b", r"'a\x1b'"),
        ("x" * 500, f"'{'x' * 59}… (502 letters)"),
        (10**400, f"1{'0' * 59}… (401 letters)"),
        (10**5000, "a number of thousands of digits"),
    ],
    ids=["short", "long text", "long number", "longest number"],
)
def test_values_in_messages_are_short(value, text):
    assert shown(value) == text


def test_lines_of_a_log():
    record = logging.LogRecord("glocal", logging.WARNING, "f.py", 1, "skipped %s", ("a\nb\x1b[1m.png",), None)
    assert Formatter("%(levelname)s %(message)s").format(record) == r"WARNING skipped a b\x1b[1m.png"


def test_logs_and_warnings_of_libraries(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    tame_libraries()
    record = logging.LogRecord("timm", logging.WARNING, "f.py", 1, "tensor %s", ("a\x1b[2J",), None)
    logging.lastResort.emit(record)
    assert capsys.readouterr().err == "tensor a\\x1b[2J\n"
    assert warnings.formatwarning("a\x1b\nb", UserWarning, "f.py", 3) == "f.py:3: UserWarning: a\\x1b b\n"
