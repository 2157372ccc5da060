"""Figures of a measurement of classification."""

from typing import TYPE_CHECKING

from glocal.figures import MOST_NAMES, draw_confusion, end_of_path, new_figure, occurring, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from glocal.tasks.task import Measured


def draw_images(result: "Measured") -> "Figure":
    """For each class that occurs (row), the part of its images that is predicted as a class (column)."""
    title = f"{result.model} on {end_of_path(result.data)}"
    return draw_confusion(result.values["confusion"], result.values["class_names"], "images", title)


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
    makers = {"confusion": draw_images, "calibration": draw_reliability, "corruptions": draw_corruptions}
    names = {"calibration": "reliability"}
    return {names.get(key, key): make(result) for key, make in makers.items() if key in result.values}


def texts(result: "Measured") -> list[str]:
    """The class names on the figures: none if they are too many."""
    classes = occurring(result.values.get("confusion", ()))
    return [short_name(result.values["class_names"][label]) for label in classes] if len(classes) <= MOST_NAMES else []
