"""The pictures of `glocal eval --plots`, of classes with any names."""

from pathlib import Path

import matplotlib
import pytest
from matplotlib import font_manager

from glocal.training import eval_plots
from glocal.training.evaluate import EvalResult


def result_of(class_names, data="data"):
    confusion = [[label, label, 5] for label in range(len(class_names))]
    classes = dict(class_names=class_names, confusion=confusion)
    return EvalResult("van_pico", data, "val", [32, 32], "cpu", 10, [], 1.0, top1=100.0, **classes)


@pytest.mark.parametrize("name", [r"$\frac{$", "$5 and $10", "x_{1}^{2}$y$", "$$"])
def test_names_are_no_formulas(name, tmp_path):
    result = result_of([name, "dog"], data=f"/data/{name}")
    eval_plots.draw(result, tmp_path)  # a broken formula is an error
    with eval_plots._text_as_it_is(name):
        figure = eval_plots.draw_confusion(result)
    labels = [*figure.axes[0].get_xticklabels(), *figure.axes[0].get_yticklabels()]
    assert [label.get_text() for label in labels] == [name, "dog"] * 2
    assert not any(label.get_parse_math() for label in [*labels, figure.axes[0].title])


def test_matplotlibs_settings_stay(tmp_path):
    before = dict(matplotlib.rcParams)
    eval_plots.draw(result_of(["cat", "dog"]), tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_long_names_are_shortened_in_the_middle():
    figure = eval_plots.draw_confusion(result_of(["begin" + "n" * 200 + "end", "dog\n\x1b[31m"]))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["begin" + "n" * 15 + "…" + "n" * 6 + "end", r"dog\n\x1b[31m"]
    assert len(names[0]) == eval_plots.MOST_LETTERS


def test_letters_without_a_font_are_told_once(tmp_path, caplog, recwarn, monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    eval_plots.draw(result_of(["猫", "犬", "кошка"]), tmp_path)
    (note,) = caplog.messages
    assert "boxes in the place of some letters, such as 犬: no font that is installed here has them" in note
    assert not recwarn.list


def test_font_that_has_the_letters_is_found(tmp_path, caplog, monkeypatch):
    """⌚, which matplotlib's own DejaVu lacks, in a font that it brings along too."""
    fonts = Path(matplotlib.get_data_path(), "fonts/ttf")
    (tmp_path / "broken.ttf").write_text("no font")
    installed = [tmp_path / "broken.ttf", fonts / "STIXNonUni.ttf", fonts / "STIXGeneral.ttf"]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(font) for font in installed])
    assert eval_plots._fonts_for({"a", "⌚"}) == (["DejaVu Sans", "STIXGeneral"], [])
    eval_plots.draw(result_of(["a⌚", "dog"]), tmp_path)
    assert not caplog.messages
