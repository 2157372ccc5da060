"""Measure a trained model: accuracy and loss, or whatever its task has measures for, and images per second.

Of a data set with `train` and `val`, `val` is measured. Of a folder without them, all images are; unless it is the
folder of the training, split by `glocal train` itself: then the images that it held out are. --split chooses otherwise.

Without DATA, it is the data that the run of --checkpoint was trained on.

--sizes measures at several image sizes; --set reads the robustness sets of ImageNet in their published layouts, and
--corruptions makes those of ImageNet-C on the fly; --compare shows results side by side.
"""

from functools import partial

from glocal.cli.output import console, track
from glocal.evaluation.config import MeasureOptions, eval_config
from glocal.terminal import Table, facts, line
from glocal.trust import provenance

POSITIONAL = {"data": "?"}


def __getattr__(name: str):
    if name == "CONFIG":  # later than this module, as tasks may be registered meanwhile
        return eval_config()
    raise AttributeError(name)


def run(config: MeasureOptions) -> int:
    screen = console()
    if config.compare:
        from glocal.evaluation.compare import compare

        screen.print(_comparison(compare(config.compare)))
        return 0

    from glocal.evaluation.evaluate import evaluate, with_data

    typed = config.data_args
    config, file = with_data(config)
    named = {"data": config.data} | ({} if typed else {"data_args": config.data_args})
    given = {} if file is None else {name: (value, file) for name, value in named.items()}
    for line_of_file in provenance(type(config), given):
        screen.print(line_of_file, soft_wrap=True, highlight=False)
    result = evaluate(config, partial(track, unit="batches"))
    for table in _sizes(result) if isinstance(result, list) else _tables(result):
        screen.print(table)
    for place in (config.json, config.plots, config.pictures):
        if place is not None:
            screen.print(f"Saved in {place}", soft_wrap=True)
    return 0


def _tables(result):
    values = result.values
    rows = {
        **_figures(result),
        "images": f"{result.images:,} ({result.split})",
        **({"images without a label": f"{values['unlabelled']:,}"} if "unlabelled" in values else {}),
        "unreadable files": str(len(result.unreadable)),
        "input size": "×".join(map(str, result.img_size)),
        "speed": f"{result.images_per_second:,.0f} images/s on {result.device}",
    }
    yield facts(f"{result.model} on {result.data}" + (f" ({values['set']})" if "set" in values else ""), rows)
    for found in result.task.tables(result):
        table = _table(*found.columns, heading=found.heading)
        for column in table.columns[: found.left]:
            column.justify = "left"
        for row in found.rows:
            table.add_row(*row)
        yield table


def _figures(result) -> dict[str, str]:
    found = [measure for measure in result.task.measures if measure.key in result.values]
    return {measure.title: measure.shown(result.values[measure.key]) for measure in found}


def _sizes(results):
    heading = f"{results[0].model} on {results[0].data}"
    table = _table("input size", *_figures(results[0]), "images/s", heading=heading)
    for one in results:
        size = "×".join(map(str, one.img_size))
        table.add_row(size, *_figures(one).values(), f"{one.images_per_second:,.0f}")
    yield table


def _comparison(comparison):
    from rich.console import Group

    table = _table("", *comparison.columns)
    for title, cells in comparison.rows:
        table.add_row(title, *cells)
    notes = "in brackets: difference to the first; * the best of the row", *comparison.notes
    return Group(table, *map(line, notes))


def _table(*columns: str, heading: str = "") -> Table:
    table = Table(*columns, heading=heading)
    for column in table.columns[1:]:
        column.justify = "right"
    return table
