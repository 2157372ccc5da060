"""Reading what a training leaves in its folder."""

import csv
from pathlib import Path


def rows(output: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, one per epoch."""
    with open(output / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))
