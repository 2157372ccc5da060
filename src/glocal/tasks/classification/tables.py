"""Tables for the terminal of a measurement of classification."""

from glocal.tasks.labels.tables import table_of_worst
from glocal.tasks.task import Measured, ResultTable

MOST = 10  # confusions


def tables(result: Measured) -> list[ResultTable]:
    """The errors by corruption, the worst classes and the most frequent mistakes, as far as they were measured."""
    found = [corruptions(result)] if "corruptions" in result.values else []
    found += table_of_worst(result, "accuracy")
    mistakes = confusions(result)
    if mistakes:
        rows = [[label, other, f"{images:,}"] for label, other, images in mistakes]
        found.append(ResultTable("most frequent confusions", ["class", "taken for", "images"], rows, left=2))
    return found


def confusions(result: Measured, limit: int = MOST) -> list[tuple[str, str, int]]:
    """The most frequent mistakes: class, prediction, images."""
    names = result.values.get("class_names")
    mistakes = [cell for cell in result.values.get("confusion", []) if cell[0] != cell[1]]
    mistakes.sort(key=lambda cell: -cell[2])
    return [(names[label], names[other], images) for label, other, images in mistakes[:limit]]


def corruptions(result: Measured) -> ResultTable:
    """Error in percent by corruption and severity."""
    rated = "mce" in result.values
    rows = []
    for name, entry in result.values["corruptions"].items():
        cells = [*entry["errors"], entry["mean"], *([entry["ce"]] if rated else [])]
        rows.append([name.replace("_", " "), *("–" if cell is None else f"{cell:.1f}" for cell in cells)])
    columns = ["corruption", *"12345", "mean", *(["CE"] if rated else [])]
    return ResultTable("error (%) by severity", columns, rows)
