"""The classes that a model recognises worst."""

from glocal.tasks.task import Measured, ResultTable


def worst_classes(result: Measured, score: str, limit: int = 10) -> list[dict]:
    """The entries of per_class with the lowest score."""
    return sorted(result.values.get("per_class", []), key=lambda entry: entry[score])[:limit]


def table_of_worst(result: Measured, score: str) -> list[ResultTable]:
    """The worst classes as a table; none if the measurement has no scores per class."""
    rows = [[entry["name"], f"{entry[score]:.2f} %", f"{entry['images']:,}"] for entry in worst_classes(result, score)]
    return [ResultTable("worst classes", ["class", score.replace("_", " "), "images"], rows)] if rows else []
