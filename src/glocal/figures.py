"""Common to all plots: figures without a window, and text that is drawn unchanged."""

import logging
import warnings
from contextlib import contextmanager
from functools import cache

from glocal.errors import MissingExtraError
from glocal.wording import printable

MOST_LETTERS = 30  # of a class name
LACKING = (
    "the %s show boxes instead of some letters, such as %s: no installed font has these letters "
    "(for Chinese, Japanese and Korean, install for instance Noto Sans CJK)"
)

log = logging.getLogger(__name__)


def check_matplotlib() -> None:
    """Raise ImportError if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
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
