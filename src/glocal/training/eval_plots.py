"""Pictures of a measurement, as PNG files."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from glocal.training.evaluate import EvalResult

MOST_NAMES = 40  # classes whose names fit along an axis
MOST_NUMBERS = 15  # classes whose counts fit into the cells


def check_matplotlib() -> None:
    """Raise ImportError where it is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("--plots needs matplotlib: pip install 'glocal[train]'") from None


def draw(result: "EvalResult | list[EvalResult]", folder: Path) -> list[Path]:
    """Write what can be drawn of a result into a folder; of several results, their accuracy by image size."""
    if isinstance(result, list):
        figures = {"sizes": draw_sizes(result)}
    else:
        figures = {}
        if result.confusion is not None:
            figures["confusion"] = draw_confusion(result)
        if result.calibration is not None:
            figures["reliability"] = draw_reliability(result)
        if result.corruptions is not None:
            figures["corruptions"] = draw_corruptions(result)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=150, bbox_inches="tight")  # the layout forgets the label of an image's y axis
    return paths


def draw_confusion(result: "EvalResult") -> "Figure":
    """The part of each class's images (rows) that was taken for each class (columns), of the classes that occur."""
    import numpy as np

    occurring = sorted({label for label, _, _ in result.confusion} | {other for _, other, _ in result.confusion})
    place = {label: row for row, label in enumerate(occurring)}
    counts = np.zeros((len(occurring), len(occurring)), dtype=int)
    for label, other, images in result.confusion:
        counts[place[label], place[other]] = images
    rates = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))

    few = len(occurring) <= MOST_NAMES
    side = min(12, max(5, 2.5 + 0.35 * len(occurring))) if few else 8
    figure, axes = _figure(side + 1, side)
    picture = axes.imshow(rates, cmap="Blues", vmin=0, vmax=100, interpolation="nearest" if few else "antialiased")
    figure.colorbar(picture, ax=axes, label="images of the class (%)", fraction=0.046, pad=0.04)
    axes.set(xlabel="predicted class", ylabel="class", title=f"{result.model} on {_short(result.data)}")
    if few:
        names = [result.class_names[label] for label in occurring]
        axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 3 else 90)
        axes.set_yticks(range(len(names)), names)
    else:
        axes.set(xlabel=f"predicted class (the {len(occurring):,} that occur, in order)")
    if len(occurring) <= MOST_NUMBERS:
        for row, column in np.argwhere(counts):
            colour = "white" if rates[row, column] > 50 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8)
    return figure


def draw_reliability(result: "EvalResult") -> "Figure":
    """Accuracy by confidence, and how many images have that confidence."""
    figure, (axes, below) = _figure(5, 6, rows=2, sharex=True, height_ratios=(3, 1))
    width = 1 / len(result.calibration)
    filled = [one for one in result.calibration if one["images"]]
    middles = [(one["low"] + one["high"]) / 2 for one in filled]
    axes.bar(middles, [one["accuracy"] for one in filled], width, edgecolor="white", label="accuracy")
    confidences = [one["confidence"] for one in filled]
    axes.plot(
        confidences, [one["accuracy"] for one in filled], "o", color="black", markersize=3, label="at mean confidence"
    )
    axes.plot([0, 1], [0, 1], "--", color="grey", label="perfect calibration")
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02), title=f"{result.model}: ECE {result.ece:.2f} %")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    below.bar(middles, [one["images"] for one in filled], width, edgecolor="white", color="grey")
    below.set(xlabel="confidence", ylabel="images")
    return figure


def draw_sizes(results: "list[EvalResult]") -> "Figure":
    """Accuracy, or mAP, by the size of the input."""
    figure, axes = _figure(6, 4)
    sizes = [one.img_size[0] for one in results]
    names = {"top1": "top-1", "top5": "top-5", "map": "mAP"}
    for name, label in names.items():
        values = [getattr(one, name) for one in results]
        if None not in values:
            axes.plot(sizes, values, "o-", label=label)
    axes.set_xticks(sizes)
    title = f"{results[0].model} on {_short(results[0].data)}"
    axes.set(xlabel="height and width of the input (pixels)", ylabel="%", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_corruptions(result: "EvalResult") -> "Figure":
    """Error by corruption and severity."""
    figure, axes = _figure(6, 1.5 + 0.35 * len(result.corruptions))
    rows = [
        [float("nan") if error is None else error for error in one["errors"]] for one in result.corruptions.values()
    ]
    picture = axes.imshow(rows, cmap="Reds", vmin=0, vmax=100, aspect="auto")
    figure.colorbar(picture, ax=axes, label="error (%)")
    axes.set_xticks(range(5), range(1, 6))
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in result.corruptions])
    for row, errors in enumerate(rows):
        for column, error in enumerate(errors):
            if error == error:
                colour = "white" if error > 60 else "black"
                axes.text(column, row, f"{error:.1f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set(xlabel="severity", title=f"{result.model}: mean error {result.mean_error:.1f} %")
    return figure


def _figure(width: float, height: float, rows: int = 1, **options):
    """A figure that belongs to no window and to no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, **options)


def _short(data: str) -> str:
    """The end of a path, which is what tells one from another."""
    return data if len(data) <= 40 else "…" + data[-39:]
