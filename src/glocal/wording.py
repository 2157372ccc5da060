"""How text from outside (names of files and classes, messages of libraries) is shown: as text, and nothing else."""

import logging
import re
import warnings

# What a terminal acts on (C0, DEL, C1), what starts a line (U+2028, U+2029 too), what turns the order of the letters
# after it round (U+202A-202E, U+2066-2069), and halves of a letter, which no output takes.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
SHOWN = 60  # letters of a value in a message


def printable(text: object) -> str:
    r"""The text on one line, with \x1b, \n, \u202e and their like in the place of what is more than a letter."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def one_line(text: object, limit: int | None = None, first_only: bool = False) -> str:
    """A text, or what an error says, as one line, and `printable`.

    An error without a message is called by its type; a KeyError, whose message is only the key, says what it lacks.
    limit: letters; a longer line is cut and ends with "…". first_only: leave out the lines after the first.
    """
    message = str(text)
    if isinstance(text, KeyError):
        message = f"it lacks {message}"
    if isinstance(text, BaseException) and not message.strip():
        message = type(text).__name__
    if first_only:
        message = message.strip().partition("\n")[0]
    line = printable(" ".join(message.split()))
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"


def shown(value: object) -> str:
    """A value in a message: as Python writes it, and its beginning where that is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return printable(text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} letters)")


class Formatter(logging.Formatter):
    """A log's lines, each `printable`; a traceback keeps its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message)
        return super().formatMessage(record)


def tame_libraries() -> None:
    """Let the warnings and the logs of libraries, which name files and tensors too, come out `printable`."""
    if logging.lastResort is not None and not isinstance(logging.lastResort.formatter, Formatter):
        logging.lastResort.setFormatter(Formatter())
    warnings.formatwarning = _format_warning


def _format_warning(message, category, filename, lineno, line=None) -> str:
    return f"{printable(filename)}:{lineno}: {category.__name__}: {one_line(message)}\n"


def quoted(names: list[str], limit: int = 5) -> str:
    """The first names, quoted, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
