"""Tables for the terminal of a measurement of detection."""

from glocal.tasks.task import Measured, ResultTable

MOST = 20  # classes
CONFUSIONS = 10
SHOWN = ("box_ap", "box_ap50", "mask_ap", "mask_ap50", "voc_ap50")  # measures of a class


def tables(result: Measured) -> list[ResultTable]:
    """The classes with the lowest AP, and the most frequent mistakes."""
    found = []
    entries = [entry for entry in result.values.get("per_class", []) if entry["objects"] or entry["found"]]
    if entries:
        key = "mask_ap" if "mask_ap" in entries[0] else "box_ap"
        entries.sort(key=lambda entry: 101 if entry[key] is None else entry[key])
        shown = [name for name in SHOWN if name in entries[0]]
        titles = {measure.key: measure.title for measure in result.task.measures}
        rows = [
            [entry["name"], f"{entry['objects']:,}", *(percent(entry[name]) for name in shown)]
            for entry in entries[:MOST]
        ]
        heading = "classes" if len(entries) <= MOST else "worst classes"
        found.append(ResultTable(heading, ["class", "objects", *(titles[name] for name in shown)], rows))
    names = [*result.values.get("class_names", []), "nothing"]
    wrong = sorted((cell for cell in result.values.get("confusion", []) if cell[0] != cell[1]), key=lambda c: -c[2])
    if wrong:
        rows = [[names[a], names[b], f"{count:,}"] for a, b, count in wrong[:CONFUSIONS]]
        found.append(ResultTable("most frequent mistakes", ["class", "taken for", "objects"], rows, left=2))
    return found


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} %"
