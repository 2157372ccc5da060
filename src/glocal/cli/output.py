"""How commands show results: tables of names and values, and a progress bar for longer work."""

import time
from collections.abc import Iterable, Iterator

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

PATIENCE = 2.0  # seconds of work before a progress bar appears


def console() -> Console:
    """The terminal; wide where the output goes to a file or a pipe, so that no line is broken there."""
    width = None if Console().is_terminal else 200
    return Console(width=width, markup=False, emoji=False)


def facts(title: str, rows: dict[str, str]) -> Group:
    """A table of names and values, under its title."""
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    return Group(Text(title, style="table.title"), table)  # a table pads its own title with spaces


def track(items: Iterable, total: int | None, unit: str = "images") -> Iterator:
    """Pass items on; on a terminal, with a progress bar from the second second. total: None where it is not known."""
    screen = Console(stderr=True)
    columns = TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    progress = Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)
    task = progress.add_task(unit, total=total)
    start = time.monotonic()
    try:
        for item in items:
            yield item
            progress.advance(task)
            if not progress.live.is_started and time.monotonic() - start > PATIENCE:
                progress.start()
    finally:
        progress.stop()
