"""Tables for the terminal of a measurement of panoptic segmentation."""

from glocal.tasks.task import Measured, ResultTable

MOST = 20  # classes


def tables(result: Measured) -> list[ResultTable]:
    """The classes with the lowest panoptic quality."""
    entries = sorted(result.values.get("per_class", []), key=lambda entry: entry["pq"])
    if not entries:
        return []
    rows = [
        [
            entry["name"],
            {True: "thing", False: "stuff", None: "–"}[entry["thing"]],
            *(f"{entry[key]:.2f} %" for key in ("pq", "sq", "rq")),
            *(f"{entry[key]:,}" for key in ("matched", "false", "missed")),
        ]
        for entry in entries[:MOST]
    ]
    columns = ["class", "kind", "PQ", "SQ", "RQ", "matched", "false", "missed"]
    return [ResultTable("classes" if len(entries) <= MOST else "worst classes", columns, rows, left=2)]
