"""Where commands show their results, and how they show progress: nothing in the first seconds, then a bar."""

import time
from collections.abc import Iterable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from glocal.terminal import Console

PATIENCE = 2.0  # seconds of work before a progress bar appears


def console() -> Console:
    """The terminal of a command."""
    return Console()


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
