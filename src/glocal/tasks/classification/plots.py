"""Figures of a measurement of classification."""

from typing import TYPE_CHECKING

from glocal.figures import end_of_path, new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from glocal.tasks.task import Measured

MOST_NAMES = 40  # classes whose names fit along an axis
MOST_NUMBERS = 15  # classes whose counts fit into the cells


def draw_confusion(result: "Measured") -> "Figure":
    """Confusion matrix of the classes that occur: the part of a class's images (row) predicted as a class (column)."""
    import numpy as np

    occurring = _occurring(result)
    place = {label: row for row, label in enumerate(occurring)}
    counts = np.zeros((len(occurring), len(occurring)), dtype=int)
    for label, other, images in result.values["confusion"]:
        counts[place[label], place[other]] = images
    rates = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))

    few, names = len(occurring) <= MOST_NAMES, _names(result, occurring)
    margin = 0.1 * max(0, max(map(len, names), default=0) - 12)  # room for long names
    side = margin + (min(12, max(5, 2.5 + 0.35 * len(occurring))) if few else 8)
    figure, axes = new_figure(side + 1, side)
    picture = axes.imshow(rates, cmap="Blues", vmin=0, vmax=100, interpolation="nearest" if few else "antialiased")
    figure.colorbar(picture, ax=axes, label="images of the class (%)", fraction=0.046, pad=0.04)
    axes.set(xlabel="predicted class", ylabel="class", title=f"{result.model} on {end_of_path(result.data)}")
    if few:
        axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 3 else 90)
        axes.set_yticks(range(len(names)), names)
    else:
        axes.set(xlabel=f"predicted class (the {len(occurring):,} that occur, in order)")
    if len(occurring) <= MOST_NUMBERS:
        for row, column in np.argwhere(counts):
            colour = "white" if rates[row, column] > 50 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8)
    return figure


def _occurring(result: "Measured") -> list[int]:
    return sorted(
        {label for label, _, _ in result.values["confusion"]} | {other for _, other, _ in result.values["confusion"]}
    )


def _names(result: "Measured", labels: list[int]) -> list[str]:
    """The labels of the axes for these classes: their names, or none if the classes are too many."""
    return [short_name(result.values["class_names"][label]) for label in labels] if len(labels) <= MOST_NAMES else []


def draw_reliability(result: "Measured") -> "Figure":
    """Reliability diagram: accuracy by confidence, and the number of images by confidence."""
    figure, (axes, below) = new_figure(5, 6, rows=2, sharex=True, height_ratios=(3, 1))
    width = 1 / len(result.values["calibration"])
    bins = [found for found in result.values["calibration"] if found["images"]]
    middles = [(found["low"] + found["high"]) / 2 for found in bins]
    accuracies = [found["accuracy"] for found in bins]
    axes.bar(middles, accuracies, width, edgecolor="white", label="accuracy")
    confidences = [found["confidence"] for found in bins]
    axes.plot(confidences, accuracies, "o", color="black", markersize=3, label="at mean confidence")
    axes.plot([0, 1], [0, 1], "--", color="grey", label="perfect calibration")
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02), title=f"{result.model}: ECE {result.values['ece']:.2f} %")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    below.bar(middles, [found["images"] for found in bins], width, edgecolor="white", color="grey")
    below.set(xlabel="confidence", ylabel="images")
    return figure


def draw_corruptions(result: "Measured") -> "Figure":
    """Error by corruption and severity."""
    figure, axes = new_figure(6, 1.5 + 0.35 * len(result.values["corruptions"]))
    rows = [
        [float("nan") if error is None else error for error in entry["errors"]]
        for entry in result.values["corruptions"].values()
    ]
    picture = axes.imshow(rows, cmap="Reds", vmin=0, vmax=100, aspect="auto")
    figure.colorbar(picture, ax=axes, label="error (%)")
    axes.set_xticks(range(5), range(1, 6))
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in result.values["corruptions"]])
    for row, errors in enumerate(rows):
        for column, error in enumerate(errors):
            if error == error:
                colour = "white" if error > 60 else "black"
                axes.text(column, row, f"{error:.1f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set(xlabel="severity", title=f"{result.model}: mean error {result.values['mean_error']:.1f} %")
    return figure


def figures(result: "Measured") -> "dict[str, Figure]":
    """The figures that a result allows, by file name."""
    makers = {"confusion": draw_confusion, "calibration": draw_reliability, "corruptions": draw_corruptions}
    names = {"calibration": "reliability"}
    return {names.get(key, key): make(result) for key, make in makers.items() if key in result.values}


def texts(result: "Measured") -> list[str]:
    """The class names on the figures."""
    return _names(result, _occurring(result)) if "confusion" in result.values else []
