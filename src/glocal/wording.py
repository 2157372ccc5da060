"""Shows text from outside (names of files and classes, messages of libraries) without control characters."""

import logging
import re
import warnings

# Control characters of terminals (C0, DEL, C1), line breaks (also U+2028 and U+2029), characters that reverse the order
# of the text after them (U+202A-202E, U+2066-2069), and surrogates, which cannot be written to any output.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
SHOWN = 60  # letters of a value in a message


def printable(text: object) -> str:
    r"""The text on one line; control characters and their like are written as \x1b, \n, \u202e."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def one_line(text: object, limit: int | None = None, first_only: bool = False) -> str:
    """A text, or the message of an error, as one `printable` line.

    If an error has no message, the line is its type. A KeyError's message is only the key; the line says "it lacks" it.
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


def utf8(text: str) -> str:
    r"""The text, for files in UTF-8: bytes of file names that are no text become \udcff."""
    return text.encode("utf-8", "backslashreplace").decode()


def shown(value: object) -> str:
    """A value for a message: as Python writes it; if that is long, only its beginning."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write numbers of more than 4,300 digits
        return "a number of thousands of digits"
    return printable(text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} letters)")


class Formatter(logging.Formatter):
    """Makes each message of a log a `printable` line; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message)
        return super().formatMessage(record)


def tame_libraries() -> None:
    """Make the warnings and logs of libraries `printable`: they name files and tensors, too."""
    if logging.lastResort is not None and not isinstance(logging.lastResort.formatter, Formatter):
        logging.lastResort.setFormatter(Formatter())
    warnings.formatwarning = _format_warning


def _format_warning(message, category, filename, lineno, line=None) -> str:
    return f"{printable(filename)}:{lineno}: {category.__name__}: {one_line(message)}\n"


def quoted(names: list[str], limit: int = 5) -> str:
    """The first names, quoted, and the number of further names."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")
