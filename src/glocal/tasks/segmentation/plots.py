"""Figures of a measurement of segmentation."""

from typing import TYPE_CHECKING

from glocal.figures import end_of_path, new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from glocal.tasks.task import Measured

MOST = 60  # classes whose names fit along an axis


def figures(result: "Measured") -> "dict[str, Figure]":
    """The IoU of each class, and how classes are taken for others."""
    return {"iou": draw_iou(result), "confusion": draw_confusion(result)}


def draw_iou(result: "Measured") -> "Figure":
    """The IoU of the classes, the best first."""
    entries = sorted(result.values["per_class"], key=lambda entry: -entry["iou"])
    figure, axes = new_figure(6, min(14, 1.2 + 0.25 * len(entries)))
    places = range(len(entries))
    axes.barh(places, [entry["iou"] for entry in entries], color="tab:blue")
    axes.axvline(result.values["miou"], color="black", linestyle="--", label=f"mIoU {result.values['miou']:.1f} %")
    if len(entries) <= MOST:
        axes.set_yticks(places, [short_name(entry["name"]) for entry in entries])
        for place, entry in enumerate(entries):
            axes.text(min(entry["iou"], 92) + 1, place, f"{entry['iou']:.1f}", va="center", fontsize=8)
    else:
        axes.set(ylabel=f"class (the {len(entries):,} that occur, the best on top)")
    axes.invert_yaxis()
    axes.set(xlabel="IoU (%)", xlim=(0, 100), title=f"{result.model} on {end_of_path(result.data)}")
    figure.legend(loc="outside lower center", fontsize=8)
    return figure


def draw_confusion(result: "Measured") -> "Figure":
    """For each class (row), the part of its pixels that is predicted as a class (column)."""
    import numpy as np

    cells = result.values["confusion"]
    occurring = sorted({cell[0] for cell in cells} | {cell[1] for cell in cells})
    place = {label: row for row, label in enumerate(occurring)}
    counts = np.zeros((len(occurring), len(occurring)))
    for label, other, pixels in cells:
        counts[place[label], place[other]] = pixels
    rates = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))
    side = min(12, max(5, 2.5 + 0.3 * len(occurring)))
    figure, axes = new_figure(side + 1, side)
    picture = axes.imshow(rates, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    figure.colorbar(picture, ax=axes, label="pixels of the class (%)", fraction=0.046, pad=0.04)
    if len(occurring) <= MOST:
        names = [short_name(result.values["class_names"][label]) for label in occurring]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted class", ylabel="class", title=f"{result.model} on {end_of_path(result.data)}")
    return figure
