"""Pictures of a measurement, as PNG files."""

import logging
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from glocal.errors import MissingExtraError
from glocal.wording import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from glocal.evaluation.result import EvalResult

MOST_NAMES = 40  # classes whose names fit along an axis
MOST_NUMBERS = 15  # classes whose counts fit into the cells
MOST_LETTERS = 30  # of a class's name

log = logging.getLogger(__name__)


def check_matplotlib() -> None:
    """Raise ImportError where it is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtraError("--plots needs matplotlib: pip install 'glocal[train]'") from None


def draw(result: "EvalResult | list[EvalResult]", folder: Path) -> list[Path]:
    """Write what can be drawn of a result into a folder; of several results, their accuracy by image size."""
    several = isinstance(result, list)
    one = result[0] if several else result
    names = [] if several or one.confusion is None else _names(one, _occurring(one))
    with _text_as_it_is("".join([one.model, _end(one.data), *names])):
        figures = {"sizes": draw_sizes(result)} if several else _figures(result)
        paths = []
        for name, figure in figures.items():
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=150, bbox_inches="tight")  # the layout forgets an image's y label
    return paths


def _figures(result: "EvalResult") -> "dict[str, Figure]":
    figures = {}
    if result.confusion is not None:
        figures["confusion"] = draw_confusion(result)
    if result.calibration is not None:
        figures["reliability"] = draw_reliability(result)
    if result.corruptions is not None:
        figures["corruptions"] = draw_corruptions(result)
    return figures


def draw_confusion(result: "EvalResult") -> "Figure":
    """The part of each class's images (rows) that was taken for each class (columns), of the classes that occur."""
    import numpy as np

    occurring = _occurring(result)
    place = {label: row for row, label in enumerate(occurring)}
    counts = np.zeros((len(occurring), len(occurring)), dtype=int)
    for label, other, images in result.confusion:
        counts[place[label], place[other]] = images
    rates = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))

    few, names = len(occurring) <= MOST_NAMES, _names(result, occurring)
    margin = 0.1 * max(0, max(map(len, names), default=0) - 12)  # of long names
    side = margin + (min(12, max(5, 2.5 + 0.35 * len(occurring))) if few else 8)
    figure, axes = _figure(side + 1, side)
    picture = axes.imshow(rates, cmap="Blues", vmin=0, vmax=100, interpolation="nearest" if few else "antialiased")
    figure.colorbar(picture, ax=axes, label="images of the class (%)", fraction=0.046, pad=0.04)
    axes.set(xlabel="predicted class", ylabel="class", title=f"{result.model} on {_end(result.data)}")
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


def _occurring(result: "EvalResult") -> list[int]:
    return sorted({label for label, _, _ in result.confusion} | {other for _, other, _ in result.confusion})


def _names(result: "EvalResult", labels: list[int]) -> list[str]:
    """What stands along the axes for these classes: their names, or nothing for too many."""
    return [_short(result.class_names[label]) for label in labels] if len(labels) <= MOST_NAMES else []


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
    title = f"{results[0].model} on {_end(results[0].data)}"
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


def _end(data: str) -> str:
    """The end of a path, which is what tells one from another."""
    data = printable(data)
    return data if len(data) <= 40 else "…" + data[-39:]


def _short(name: str) -> str:
    """A class's name; of a long one, the beginning and the end."""
    name = printable(name)
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 10]}…{name[-9:]}"


@contextmanager
def _text_as_it_is(text: str):
    """Draw text without formulas ($) and with fonts for all its letters; a note where none is installed for some."""
    import matplotlib

    fonts, lacking = _fonts_for({letter for letter in text if not letter.isspace()})
    if lacking:
        log.warning(
            "the plots show boxes in the place of some letters, such as %s: no font that is installed here has them "
            "(Noto Sans CJK, say, has Chinese, Japanese and Korean ones)",
            lacking[0],
        )
    finder = logging.getLogger("matplotlib.font_manager")  # reports that a font has another weight
    level = finder.level
    finder.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context({"text.parse_math": False, "font.family": fonts}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
            yield
    finally:
        finder.setLevel(level)


def _fonts_for(letters: set[str]) -> tuple[list[str], list[str]]:
    """Names of fonts that together have all the letters, matplotlib's own first; and the letters that none has."""
    from matplotlib import font_manager

    names = ["DejaVu Sans"]
    lacking = _lacking(font_manager.findfont("DejaVu Sans"), letters)
    files = sorted(font_manager.findSystemFonts()) if lacking else []  # matplotlib's list may be older than a font
    for file in sorted(files, key=lambda file: "Regular" not in file):
        left = _lacking(file, lacking)
        if len(left) < len(lacking):
            font_manager.fontManager.addfont(file)
            names.append(font_manager.get_font(file).family_name)
            lacking = left
        if not lacking:
            break
    return names, sorted(lacking)


def _lacking(file: str, letters: set[str]) -> set[str]:
    """The letters that a font does not have; all for a file that is no font."""
    from matplotlib import font_manager

    try:
        font = font_manager.get_font(file)
    except (OSError, RuntimeError):
        return letters
    return {letter for letter in letters if not font.get_char_index(ord(letter))}
