"""Common to all plots: figures without a window, confusion matrices, and text that is drawn unchanged."""

import logging
import warnings
from collections.abc import Collection, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from glocal.errors import MissingExtraError
from glocal.wording import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LETTERS = 30  # of a class name
MOST_NAMES = 60  # classes whose names fit along an axis
MOST_NUMBERS, LARGEST_NUMBER = 15, 100_000  # classes whose counts fit into the cells of a matrix, if counts are below
LACKING = (
    "the %s show boxes instead of some letters, such as %s: no installed font has these letters "
    "(for Chinese, Japanese and Korean, install for instance Noto Sans CJK)"
)

log = logging.getLogger(__name__)


def check_matplotlib() -> None:
    """Raise ImportError if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401 (only whether it is there)
    except ImportError:
        raise MissingExtraError("--plots needs matplotlib: pip install 'glocal[train]'") from None


def new_figure(width: float, height: float, rows: int = 1, **options):
    """A figure that belongs to no window and to no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, **options)


def end_of_path(data: str) -> str:
    """A path, shortened to its end if it is long: paths mostly differ at the end."""
    data = printable(data)
    return data if len(data) <= 40 else "…" + data[-39:]


def short_name(name: str) -> str:
    """A class name; if it is long, only its beginning and its end."""
    name = printable(name)
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 10]}…{name[-9:]}"


def draw_confusion(
    cells: Collection[tuple[int, int, int]],
    names: Sequence[str],
    things: str,
    title: str,
    columns: str = "predicted class",
    always: Collection[int] = (),
) -> "Figure":
    """A confusion matrix: for each class (row), the part of its things that is taken for a class (column).

    cells: (class, other class, number of things). names: of all classes. things: what is counted. columns: the title of
    the columns. always: classes that are drawn even if they do not occur.
    """
    import numpy as np

    shown = occurring(cells, always)
    place = {label: row for row, label in enumerate(shown)}
    counts = np.zeros((len(shown), len(shown)), dtype=int)
    for label, other, number in cells:
        counts[place[label], place[other]] = number
    rates = 100 * counts / np.maximum(1, counts.sum(1, keepdims=True))

    few, written = len(shown) <= MOST_NAMES, [short_name(names[label]) for label in shown]
    longest = max(map(len, written), default=0)
    side = 0.1 * max(0, longest - 12) + min(12, max(5, 2.5 + 0.35 * len(shown))) if few else 8
    figure, axes = new_figure(side + 1, side)
    picture = axes.imshow(rates, cmap="Blues", vmin=0, vmax=100, interpolation="nearest" if few else "antialiased")
    figure.colorbar(picture, ax=axes, label=f"{things} of the class (%)", fraction=0.046, pad=0.04)
    axes.set(xlabel=columns, ylabel="class", title=title)
    if few:
        axes.set_xticks(range(len(shown)), written, rotation=0 if longest < 3 else 90)
        axes.set_yticks(range(len(shown)), written)
    else:
        axes.set(xlabel=f"{columns} (the {len(shown):,} that occur, in order)")
    if len(shown) <= MOST_NUMBERS and counts.max(initial=0) < LARGEST_NUMBER:
        for row, column in np.argwhere(counts):
            colour = "white" if rates[row, column] > 50 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8)
    return figure


def occurring(cells: Collection[tuple[int, int, int]], always: Collection[int] = ()) -> list[int]:
    """The classes of a confusion matrix that are drawn. Arguments: see `draw_confusion`."""
    return sorted({label for cell in cells for label in cell[:2]} | set(always))


@contextmanager
def text_as_it_is(text: str):
    """Draw text without formulas ($) and with fonts for all its letters; warn if no font has a letter."""
    import matplotlib

    fonts, lacking = _fonts_for({letter for letter in text if not letter.isspace()})
    if lacking:
        log.warning(LACKING, "plots", lacking[0])
    finder = logging.getLogger("matplotlib.font_manager")  # reports that a font has another weight
    level = finder.level
    finder.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context({"text.parse_math": False, "font.family": fonts}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
            yield
    finally:
        finder.setLevel(level)


def font_file(text: str) -> str | None:
    """The file of an installed font that has the letters of a text, or most of them; None without matplotlib.

    Warns, once for the same letters, if no font has a letter.
    """
    try:
        from matplotlib import font_manager
    except ImportError:
        return None
    own = font_manager.findfont("DejaVu Sans")
    lacking = _lacking(own, {letter for letter in text if not letter.isspace()})
    return _font_with(frozenset(lacking)) if lacking else own


@cache
def _font_with(letters: frozenset[str]) -> str:
    """The file of the font that has the most of some letters that matplotlib's own font lacks, and Latin letters."""
    from matplotlib import font_manager

    best, lacking = font_manager.findfont("DejaVu Sans"), letters
    for file in sorted(font_manager.findSystemFonts(), key=lambda file: "Regular" not in file):
        left = _lacking(file, letters | set("aZ0%"))
        if len(left) < len(lacking):
            best, lacking = file, left
        if not lacking:
            break
    if lacking:
        log.warning(LACKING, "pictures", min(lacking))
    return best


def _fonts_for(letters: set[str]) -> tuple[list[str], list[str]]:
    """Names of fonts that together have the letters, matplotlib's own first; and the letters that no font has."""
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
    """The letters that a font does not have; all letters if the file is not a font."""
    from matplotlib import font_manager

    try:
        font = font_manager.get_font(file)
    except (OSError, RuntimeError):
        return letters
    return {letter for letter in letters if not font.get_char_index(ord(letter))}
