"""Figures of a measurement, as PNG files."""

from pathlib import Path
from typing import TYPE_CHECKING

from glocal.figures import end_of_path, new_figure, text_as_it_is
from glocal.tasks.task import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(result: Measured | list[Measured], folder: Path) -> list[Path]:
    """Write the figures of a result into a folder; for several results, their measures by image size."""
    several = isinstance(result, list)
    first = result[0] if several else result
    names = [] if several else first.task.plot_texts(first)
    with text_as_it_is("".join([first.model, end_of_path(first.data), *names])):
        figures = {"sizes": draw_sizes(result)} if several else first.task.plots(first)
        paths = []
        for name, figure in figures.items():
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=150, bbox_inches="tight")  # the layout forgets an image's y label
    return paths


def draw_sizes(results: list[Measured]) -> "Figure":
    """The measures that have the unit of the headline measure, by the size of the input."""
    figure, axes = new_figure(6, 4)
    sizes = [result.img_size[0] for result in results]
    headline = results[0].task.headline
    for measure in results[0].task.measures:
        values = [result.values.get(measure.key) for result in results]
        same_axis = (measure.unit, measure.higher_is_better) == (headline.unit, headline.higher_is_better)
        if None not in values and same_axis:
            axes.plot(sizes, values, "o-", label=measure.title)
    axes.set_xticks(sizes)
    title = f"{results[0].model} on {end_of_path(results[0].data)}"
    axes.set(xlabel="height and width of the input (pixels)", ylabel=headline.unit.strip(), title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
