"""The tasks that are known, by their names."""

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

    Raises ValueError for a name that is taken, and for an option that means something else in another task.
    """
    if _tasks.get(task.name, task) is not task:
        raise InvalidValueError(f"there is a task {task.name!r} already")
    for kind in ("Options", "EvalOptions"):
        joined(task.name, task.summary, NoOptions, *(getattr(one, kind) for one in (*registered_tasks(), task)))
    _tasks[task.name] = task
    return task


def registered_tasks() -> tuple[Task, ...]:
    """All tasks, in the order in which they were registered."""
    return tuple(_tasks.values())


def find_task(name: str) -> Task:
    """The task of this name; ValueError, with all names, for an unknown one."""
    if name not in _tasks:
        raise InvalidValueError(f"unknown task {name!r}: there are {', '.join(_tasks)}")
    return _tasks[name]


def refuse_foreign_options(config: Any, task: Task, kind: str = "Options") -> None:
    """Raise ValueError for an option that another task has, and that differs from its default.

    kind: which options of tasks are meant, Options or EvalOptions.
    """
    own = {field.name for field in fields(getattr(task, kind))}
    for other in registered_tasks():
        for field in fields(getattr(other, kind)):
            if field.name not in own and getattr(config, field.name, field.default) != field.default:
                raise InvalidValueError(
                    f"{option(field.name)} is for {other.name} ({other.summary}), not for {task.name}"
                )


def all_formats() -> "list[Format]":
    """The formats of all tasks, each once; those of tasks from outside come before the library's."""
    from glocal.data.open import FORMATS

    found = [one for task in registered_tasks() for one in task.formats]
    return sorted(dict.fromkeys(found), key=lambda one: one in FORMATS)


def old_marks() -> dict[str, str]:
    """The keys by which version 0.1 marked a task in the part on the data of a checkpoint, with the task's name."""
    return {task.old_mark: task.name for task in registered_tasks() if task.old_mark is not None}
