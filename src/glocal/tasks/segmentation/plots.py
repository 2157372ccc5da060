"""Figures of a measurement of segmentation."""

from typing import TYPE_CHECKING

from glocal.figures import MOST_NAMES, draw_confusion, end_of_path, new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from glocal.tasks.task import Measured


def figures(result: "Measured") -> "dict[str, Figure]":
    """The IoU of each class, and how classes are taken for others."""
    return {"iou": draw_iou(result), "confusion": draw_pixels(result)}


def draw_iou(result: "Measured") -> "Figure":
    """The IoU of the classes, the best first."""
    entries = sorted(result.values["per_class"], key=lambda entry: -entry["iou"])
    figure, axes = new_figure(6, min(14, 1.2 + 0.25 * len(entries)))
    places = range(len(entries))
    axes.barh(places, [entry["iou"] for entry in entries], color="tab:blue")
    axes.axvline(result.values["miou"], color="black", linestyle="--", label=f"mIoU {result.values['miou']:.1f} %")
    if len(entries) <= MOST_NAMES:
        axes.set_yticks(places, [short_name(entry["name"]) for entry in entries])
        for place, entry in enumerate(entries):
            axes.text(min(entry["iou"], 92) + 1, place, f"{entry['iou']:.1f}", va="center", fontsize=8)
    else:
        axes.set(ylabel=f"class (the {len(entries):,} that occur, the best on top)")
    axes.invert_yaxis()
    axes.set(xlabel="IoU (%)", xlim=(0, 100), title=f"{result.model} on {end_of_path(result.data)}")
    figure.legend(loc="outside lower center", fontsize=8)
    return figure


def draw_pixels(result: "Measured") -> "Figure":
    """For each class (row), the part of its pixels that is predicted as a class (column)."""
    title = f"{result.model} on {end_of_path(result.data)}"
    return draw_confusion(result.values["confusion"], result.values["class_names"], "pixels", title)
