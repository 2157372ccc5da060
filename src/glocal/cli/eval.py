"""Measure a trained model: top-1 and top-5 accuracy, loss, accuracy per class, calibration, images per second.

Of a data set with `train` and `val`, `val` is measured. Of a folder without them, all images are; unless it is the
folder of the training, split by `glocal train` itself: then the images that it held out are. --split chooses otherwise.

Without DATA, it is the data that the run of --checkpoint was trained on.

--sizes measures at several image sizes; --set reads the robustness sets of ImageNet in their published layouts, and
--corruptions makes those of ImageNet-C on the fly; --compare shows results side by side.
"""

from functools import partial

from glocal.cli.output import console, track
from glocal.evaluation.config import EvalConfig
from glocal.terminal import Table, facts, line

CONFIG = EvalConfig
POSITIONAL = {"data": "?"}
MOST = 10  # worst classes, confusions


def run(config: EvalConfig) -> int:
    screen = console()
    if config.compare:
        from glocal.evaluation.compare import compare

        screen.print(_comparison(compare(config.compare)))
        return 0

    from glocal.evaluation.evaluate import evaluate, with_data

    config, file = with_data(config)
    if file is not None:
        screen.print(f"reading {config.data} (data, as {file} says)", soft_wrap=True, highlight=False)
    result = evaluate(config, partial(track, unit="batches"))
    for table in _sizes(result) if isinstance(result, list) else _tables(result):
        screen.print(table)
    for place in (config.json, config.plots):
        if place is not None:
            screen.print(f"Saved in {place}", soft_wrap=True)
    return 0


def _tables(result):
    rows = {
        **_figures(result),
        "images": f"{result.images:,} ({result.split})",
        **({} if result.unlabelled is None else {"images without a label": f"{result.unlabelled:,}"}),
        "unreadable files": str(len(result.unread)),
        "input size": "×".join(map(str, result.img_size)),
        "speed": f"{result.images_per_second:,.0f} images/s on {result.device}",
    }
    yield facts(f"{result.model} on {result.data}" + (f" ({result.set})" if result.set else ""), rows)
    if result.corruptions is not None:
        yield _corruptions(result)
    worst = result.worst_classes(MOST)
    if worst:
        score = "accuracy" if result.map is None else "average_precision"
        table = _table("class", score.replace("_", " "), "images", heading="worst classes")
        for one in worst:
            table.add_row(one["name"], f"{one[score]:.2f} %", f"{one['images']:,}")
        yield table
    confusions = result.confusions(MOST)
    if confusions:
        table = _table("class", "taken for", "images", heading="most frequent confusions")
        for label, other, images in confusions:
            table.add_row(label, other, f"{images:,}")
        table.columns[1].justify = "left"
        yield table


def _figures(result) -> dict[str, str]:
    names = {"top1": "top-1", "top5": "top-5", "map": "mAP", "loss": "loss", "ece": "ECE"}
    names |= {"mean_error": "mean error, corrupted", "mce": "mCE"}
    values = {name: getattr(result, name) for name in names}
    return {
        names[name]: f"{value:.4f}" if name == "loss" else f"{value:.2f} %"
        for name, value in values.items()
        if value is not None
    }


def _sizes(results):
    heading = f"{results[0].model} on {results[0].data}"
    table = _table("input size", *_figures(results[0]), "images/s", heading=heading)
    for one in results:
        size = "×".join(map(str, one.img_size))
        table.add_row(size, *_figures(one).values(), f"{one.images_per_second:,.0f}")
    yield table


def _corruptions(result):
    rated = result.mce is not None
    table = _table("corruption", *"12345", "mean", *(["CE"] if rated else []), heading="error (%) by severity")
    for name, one in result.corruptions.items():
        cells = [*one["errors"], one["mean"], *([one["ce"]] if rated else [])]
        table.add_row(name.replace("_", " "), *("–" if cell is None else f"{cell:.1f}" for cell in cells))
    return table


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
