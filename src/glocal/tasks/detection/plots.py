"""Figures of a measurement of detection."""

from typing import TYPE_CHECKING

from glocal.figures import end_of_path, new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from glocal.tasks.task import Measured

MOST = 60  # classes whose names fit along an axis


def figures(result: "Measured") -> "dict[str, Figure]":
    """The average precision of each class, and how classes are taken for others."""
    return {"ap": draw_precision(result), "confusion": draw_confusion(result)}


def draw_precision(result: "Measured") -> "Figure":
    """AP and AP50 of the classes that have objects, the best first."""
    kind = result.task.headline.key.partition("_")[0]
    entries = [entry for entry in result.values["per_class"] if entry.get(f"{kind}_ap") is not None]
    entries.sort(key=lambda entry: -entry[f"{kind}_ap"])
    figure, axes = new_figure(6, min(14, 1.6 + 0.25 * len(entries)))
    places = range(len(entries))
    axes.barh(places, [entry[f"{kind}_ap50"] for entry in entries], color="lightsteelblue", label=f"{kind} AP50")
    axes.barh(places, [entry[f"{kind}_ap"] for entry in entries], color="tab:blue", label=f"{kind} AP")
    if len(entries) <= MOST:
        axes.set_yticks(places, [short_name(entry["name"]) for entry in entries])
    else:
        axes.set(ylabel=f"class (the {len(entries):,} that occur, the best on top)")
    axes.invert_yaxis()
    axes.set(xlabel="average precision (%)", xlim=(0, 100), title=f"{result.model} on {end_of_path(result.data)}")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def draw_confusion(result: "Measured") -> "Figure":
    """For each class (row), the part of its objects that is found as a class (column), or not at all."""
    import numpy as np

    cells, names = result.values["confusion"], [*result.values["class_names"], "nothing"]
    nothing = len(names) - 1
    present = sorted({cell[0] for cell in cells} | {cell[1] for cell in cells} | {nothing})
    place = {label: row for row, label in enumerate(present)}
    counts = np.zeros((len(present), len(present)))
    for label, other, objects in cells:
        counts[place[label], place[other]] = objects
    rates = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))
    side = min(12, max(5, 2.5 + 0.3 * len(present)))
    figure, axes = new_figure(side + 1, side)
    picture = axes.imshow(rates, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    figure.colorbar(picture, ax=axes, label="objects of the class (%)", fraction=0.046, pad=0.04)
    if len(present) <= MOST:
        shown = [short_name(names[label]) for label in present]
        axes.set_xticks(range(len(shown)), shown, rotation=90)
        axes.set_yticks(range(len(shown)), shown)
    axes.set(xlabel="found class", ylabel="class", title=f"{result.model} on {end_of_path(result.data)}")
    return figure
