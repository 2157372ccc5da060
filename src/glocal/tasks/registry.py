"""The registered tasks, by name."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from glocal.errors import InvalidValueError
from glocal.options import joined, option
from glocal.tasks.task import NoOptions, Task

if TYPE_CHECKING:
    from glocal.data.open import Format

_tasks: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Make a task known to all commands; returns it.

    Raises ValueError if another task has the name, or defines one of the options differently.
    """
    if _tasks.get(task.name, task) is not task:
        raise InvalidValueError(f"a task named {task.name!r} already exists")
    for kind in ("Options", "EvalOptions"):
        joined(task.name, task.summary, NoOptions, *(getattr(one, kind) for one in (*registered_tasks(), task)))
    _tasks[task.name] = task
    return task


def registered_tasks() -> tuple[Task, ...]:
    """All tasks, in the order in which they were registered."""
    return tuple(_tasks.values())


def find_task(name: str) -> Task:
    """The task with this name; if there is none, ValueError lists all names."""
    if name not in _tasks:
        hint = "glocal.register_task makes a task of your own known"
        raise InvalidValueError(f"unknown task {name!r}; the tasks are {', '.join(_tasks)}; {hint}")
    return _tasks[name]


def refuse_foreign_options(config: Any, task: Task, kind: str = "Options") -> None:
    """Raise ValueError if an option that only other tasks have asks for something.

    An option asks if it is set and differs from its default. If the class of the options names some of them in the
    attribute REQUESTS, only those ask; the others say how, and have no effect alone, as in a recipe for all tasks.

    kind: Options or EvalOptions.
    """
    own = {field.name for field in fields(getattr(task, kind))}
    for other in registered_tasks():
        options = getattr(other, kind)
        requests = getattr(options, "REQUESTS", None)
        for field in fields(options):
            value = getattr(config, field.name, field.default)
            asks = value and value != field.default and (requests is None or field.name in requests)
            if field.name not in own and asks:
                raise InvalidValueError(
                    f"{option(field.name)} is for {other.name} ({other.summary}), not for {task.name}"
                )


def all_formats(first: Task | None = None) -> "list[Format]":
    """The formats of all tasks, without repetitions; formats from outside come before the library's.

    first: a task whose formats come before those of others, so that data which several tasks read is opened for it.
    Of other tasks, those that are asked only with --task are left out.
    """
    from glocal.data.open import FORMATS

    tasks = [*([] if first is None else [first]), *registered_tasks()]
    asked = () if first is None else first.formats
    found = [one for task in tasks for one in task.formats if one in asked or not getattr(one, "ONLY_ASKED", False)]
    return sorted(dict.fromkeys(found), key=lambda one: one in FORMATS)


def old_marks() -> dict[str, str]:
    """Key → task name: the keys by which version 0.1 marked the task in a checkpoint's part on the data."""
    return {task.old_mark: task.name for task in registered_tasks() if task.old_mark is not None}
