"""Figures of a measurement of detection."""

from typing import TYPE_CHECKING

from glocal.figures import MOST_NAMES, draw_confusion, end_of_path, new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from glocal.tasks.task import Measured


def figures(result: "Measured") -> "dict[str, Figure]":
    """The average precision of each class, and how classes are taken for others."""
    return {"ap": draw_precision(result), "confusion": draw_objects(result)}


def draw_precision(result: "Measured") -> "Figure":
    """AP and AP50 of the classes that have objects, the best first."""
    kind = result.task.headline.key.partition("_")[0]
    entries = [entry for entry in result.values["per_class"] if entry.get(f"{kind}_ap") is not None]
    entries.sort(key=lambda entry: -entry[f"{kind}_ap"])
    figure, axes = new_figure(6, min(14, 1.6 + 0.25 * len(entries)))
    places = range(len(entries))
    axes.barh(places, [entry[f"{kind}_ap50"] for entry in entries], color="lightsteelblue", label=f"{kind} AP50")
    axes.barh(places, [entry[f"{kind}_ap"] for entry in entries], color="tab:blue", label=f"{kind} AP")
    if len(entries) <= MOST_NAMES:
        axes.set_yticks(places, [short_name(entry["name"]) for entry in entries])
    else:
        axes.set(ylabel=f"class (the {len(entries):,} that occur, the best on top)")
    axes.invert_yaxis()
    axes.set(xlabel="average precision (%)", xlim=(0, 100), title=f"{result.model} on {end_of_path(result.data)}")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def draw_objects(result: "Measured") -> "Figure":
    """For each class (row), the part of its objects that is found as a class (column), or not at all."""
    names = [*result.values["class_names"], "nothing"]
    title = f"{result.model} on {end_of_path(result.data)}"
    return draw_confusion(result.values["confusion"], names, "objects", title, "found class", {len(names) - 1})
