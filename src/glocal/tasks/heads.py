"""Which of a task's heads a training puts on its backbone. Imports no torch."""

from collections.abc import Sequence

from glocal.errors import InvalidValueError
from glocal.wording import shown


def chosen_head(task: str, heads: Sequence[str], asked: str | None) -> str:
    """The head that --head asks for; by default the first of the task's. ValueError, which names all, for another."""
    if asked is None:
        return heads[0]
    if asked not in heads:
        raise InvalidValueError(f"--head: the heads of {task} are {', '.join(heads)}, got {shown(asked)}")
    return asked
