"""The terminal: no text from outside controls it, and no table breaks a name or an address."""

import rich.console
import rich.table
from rich.cells import cell_len
from rich.console import ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from glocal.wording import printable

UNLIMITED = 1 << 20  # columns


class Console(rich.console.Console):
    """A console without markup and emoji, whose texts are `printable`.

    If the output goes to a file or a pipe, the width is unlimited, so that no line is broken.
    """

    def __init__(self, **options):
        super().__init__(markup=False, emoji=False, **options)
        if not self.is_terminal:
            self.width = UNLIMITED

    def print(self, *objects, crop: bool = False, **options) -> None:
        objects = [one if hasattr(one, "__rich_console__") else printable(one) for one in objects]
        super().print(*objects, crop=crop, **options)


class Table(rich.table.Table):
    """A table with a heading and `printable` cells; if it is too wide, it is printed as a line per row.

    prose: the last column holds sentences, which may be broken between words.
    """

    def __init__(self, *headers: str, heading: str = "", prose: bool = False, **options):
        super().__init__(**options)
        self.heading, self.prose = heading, prose
        for number, header in enumerate(headers, 1):
            self.add_column(printable(header), no_wrap=not (prose and number == len(headers)))

    def add_row(self, *cells: str, **options) -> None:
        super().add_row(*map(printable, cells), **options)

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> RenderResult:
        if self.heading:  # rich pads a table's title with spaces
            yield line(self.heading, style="table.title")
        if self._least_width(console, options) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        rows = [list(column.cells) for column in self.columns]
        headers = [str(column.header) for column in self.columns] if self.show_header else []
        for row in [headers, *zip(*rows, strict=True)]:
            if any(row):
                yield line("  ".join(" ".join(str(cell).split()) for cell in row))

    def _least_width(self, console: rich.console.Console, options: ConsoleOptions) -> int:
        """The least width of the table, in columns, at which only prose is broken."""
        natural = Measurement.get(console, options.update(width=UNLIMITED), self).maximum
        if not self.prose:
            return natural
        sentences = [str(cell) for cell in self.columns[-1].cells]
        words = [word for sentence in sentences for word in sentence.split()]
        return natural - max(map(cell_len, sentences)) + max(map(cell_len, words))


def line(text: str, style: str = "") -> Text:
    """A text on one line of any length."""
    return Text(printable(text), style=style, no_wrap=True, overflow="ignore")


def facts(title: str, rows: dict[str, str]) -> Table:
    """A table of names and values, with a title."""
    table = Table(heading=title, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    for name, value in rows.items():
        table.add_row(name, value)
    return table
