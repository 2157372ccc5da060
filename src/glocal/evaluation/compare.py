"""Results of measurements side by side. Imports no torch, because a comparison needs no model."""

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec

from glocal.errors import InvalidValueError, MissingPathError
from glocal.tasks import registered_tasks
from glocal.tasks.task import Measure

SPEED = Measure("images_per_second", "images/s", digits=0)
ERROR = Measure("error", "error", " %", higher_is_better=False)  # for a corruption
FACTS = {"model": "model", "data": "data", "set": "set", "split": "split", "images": "images", "img_size": "input size"}


@dataclass(frozen=True)
class Comparison:
    """A table. columns: titles. rows: a title, and a cell per column. notes: why the comparison is not fair."""

    columns: list[str]
    rows: list[tuple[str, list[str]]]
    notes: list[str]


def compare(files: list[str]) -> Comparison:
    """Compare results of `glocal eval --json`: differences are to the first result; * marks the best value of a row.

    If a file has several sizes, each size is a column. Raises ValueError if a file holds no result.
    """
    named = [entry for file in files for entry in _read(file)]
    results = [result for _, result in named]
    rows = [
        (title, [_fact(result.get(name)) for result in results])
        for name, title in FACTS.items()
        if any(name in result for result in results)
    ]
    for measure in _measures(results):
        values = [result.get(measure.key) for result in results]
        if any(value is not None for value in values):
            rows.append((measure.title, _cells(values, measure)))
    corruptions = dict.fromkeys(name for result in results for name in result.get("corruptions", {}))
    for name in corruptions:
        values = [result.get("corruptions", {}).get(name, {}).get("mean") for result in results]
        rows.append((f"error, {name.replace('_', ' ')}", _cells(values, ERROR)))
    notes = [
        f"not measured on the same {title}: the differences are not the models' alone"
        for name, title in (("data", "data"), ("set", "set"), ("split", "split"), ("images", "images"))
        if len({json.dumps(result.get(name)) for result in results}) > 1
    ]
    return Comparison([title for title, _ in named], rows, notes[:1])


def _read(file: str) -> list[tuple[str, dict]]:
    """The results in a file, each with a title."""
    try:
        content = msgspec.json.decode(Path(file).read_bytes())
    except OSError as error:
        raise MissingPathError(f"--compare {file}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise InvalidValueError(f"--compare {file}: not a JSON file") from None
    results = content if isinstance(content, list) else [content]
    if not results or not all(map(_is_result, results)):
        raise InvalidValueError(f"--compare {file}: not a result of glocal eval --json")
    if len(results) == 1:
        return [(file, results[0])]
    return [(f"{file} at {_fact(result.get('img_size'))}", result) for result in results]


def _is_result(content: object) -> bool:
    if not isinstance(content, dict) or not {"model", "data", "images"} <= content.keys():
        return False
    numbers = all(isinstance(content.get(measure.key), int | float | None) for measure in _measures([content]))
    tables = content.get("corruptions", {})
    return numbers and isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values())


def _fact(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return "×".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _measures(results: list[dict]) -> list[Measure]:
    """The measures of the results' tasks, each key once, with the loss behind the others; and the speed.

    Files of version 0.1 name no task: they may be of any.
    """
    named = {str(result["task"]) for result in results if result.get("task") is not None}
    found: dict[str, Measure] = {}
    for task in registered_tasks():
        if not named or task.name in named:
            for measure in task.measures:
                found.setdefault(measure.key, measure)
    return [*sorted(found.values(), key=lambda measure: not measure.higher_is_better), SPEED]


def _cells(values: list[float | None], measure: Measure) -> list[str]:
    known = [value for value in values if value is not None]
    best = (max if measure.higher_is_better else min)(known)
    cells = []
    for place, value in enumerate(values):
        if value is None:
            cells.append("–")
            continue
        cell = measure.shown(value)
        if place and values[0] is not None:
            cell += f" ({value - values[0]:+,.{measure.digits}f})"
        cells.append(cell + (" *" if value == best and len(set(known)) > 1 else "  "))
    return cells
