"""Tables for the terminal of a measurement of segmentation."""

from glocal.tasks.task import Measured, ResultTable

MOST = 20  # classes
CONFUSIONS = 10


def tables(result: Measured) -> list[ResultTable]:
    """The classes with the lowest IoU, and the most frequent mistakes."""
    found, entries = [], sorted(result.values.get("per_class", []), key=lambda entry: entry["iou"])
    if entries:
        titles = {"iou": "IoU", "accuracy": "accuracy", "precision": "precision", "boundary_iou": "boundary IoU"}
        shown = [key for key in titles if key in entries[0]]
        rows = [[entry["name"], *(_percent(entry[key]) for key in shown)] for entry in entries[:MOST]]
        heading = "classes" if len(entries) <= MOST else "worst classes"
        found.append(ResultTable(heading, ["class", *(titles[key] for key in shown)], rows))
    mistakes = sorted((cell for cell in result.values.get("confusion", []) if cell[0] != cell[1]), key=lambda c: -c[2])
    if mistakes:
        names, pixels = result.values["class_names"], sum(cell[2] for cell in result.values["confusion"])
        rows = [[names[a], names[b], f"{100 * count / pixels:.2f} %"] for a, b, count in mistakes[:CONFUSIONS]]
        found.append(ResultTable("most frequent confusions", ["class", "taken for", "of all pixels"], rows, left=2))
    return found


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} %"
