"""Time models side by side, ours and timm's, as ratios to a baseline.

The models take turns in one process, so that whatever else the machine does slows all of them alike; the medians count.
"""

from pathlib import Path

from glocal.bench.config import BenchConfig, is_run, parse_model
from glocal.cli.output import console, track
from glocal.errors import InvalidValueError
from glocal.files import check_target
from glocal.terminal import Table

CONFIG = BenchConfig
POSITIONAL = {"models": "+"}


def check_untrusted(config: BenchConfig, files: dict[str, Path]) -> None:
    """Raise ValueError for arguments of a model that a file may not give."""
    from glocal.models import check_model_arguments

    models = config.models if "models" in files else []
    models = [*models, config.baseline] if "baseline" in files else models
    for name, args in (parse_model(model) for model in models if not is_run(model)):
        try:
            check_model_arguments(name, args)
        except ValueError as error:
            raise InvalidValueError(f"{next(iter(files.values()))} names the model {name}: {error}") from None


def run(config: BenchConfig) -> int:
    import json

    from glocal.bench.report import measure

    if config.json is not None:  # before anything is timed
        check_target("--json", config.json)
    report = measure(config, lambda items, total: track(items, total, "rounds"))
    show(report)
    if config.json is not None:
        Path(config.json).write_text(json.dumps(report.to_dict(), indent=1) + "\n")
    return 1 if any(timing.error for timing in report.timings) else 0


def show(report) -> None:
    """Print the tables of a `glocal.bench.report.Report`."""
    config, facts = report.config, report.machine
    kind = "training step" if config.mode == "train" else "inference"
    table = Table(
        heading=f"{kind}, {config.precision}, {facts['device']}, {facts['threads']} threads, "
        f"{config.engine} {facts[config.engine]}",
    )
    table.add_column("model")
    counted = ("params (M)", "MACs (G)") if config.head else ()
    finds = any(timing.boxes is not None for timing in report.timings)
    for heading in (
        *counted,
        "size",
        "batch",
        "ms/image",
        "images/s",
        f"to {config.baseline}",
        "spread",
        "fastest",
        "memory (MiB)",
        *(("objects",) if finds else ()),
    ):
        table.add_column(heading, justify="right")
    for timing in report.timings:
        size, batch = "×".join(map(str, dict.fromkeys(timing.size))), str(timing.batch_size)
        counts = [] if timing.params is None else [f"{timing.params / 1e6:.1f}", f"{timing.macs / 1e9:,.1f}"]
        if timing.error:
            table.add_row(label(timing), *[""] * len(counted), size, batch, timing.error)
            continue
        ratio, fastest = ("" if ratio is None else f"{ratio:.2f}" for ratio in (timing.ratio, timing.fastest_ratio))
        memory = "" if timing.memory is None else f"{timing.memory:,.0f}"
        rate = 1000 / timing.ms
        rate = f"{rate:.2f}" if config.head and rate < 10 else f"{rate:,.0f}"
        figures = [f"{timing.ms:.2f}", rate, ratio, f"{timing.spread:.2f}", fastest, memory]
        if finds:
            figures.append("" if timing.boxes is None else f"{timing.boxes:,.0f}")
        table.add_row(label(timing), *counts, size, batch, *figures)
    console().print(table)
    _show_parts(report)
    if not report.growth:
        return
    table = Table(heading="growth with the pixels of an image: pixels to the power of")
    table.add_column("model")
    for heading in ("batch", "time", "memory"):
        table.add_column(heading, justify="right")
    for row in report.growth:
        memory = "" if row.memory is None else f"{row.memory:.2f}"
        table.add_row(label(row), str(row.batch_size), f"{row.time:.2f}", memory)
    console().print(table)


def _show_parts(report) -> None:
    """Print where the time of each detector goes."""
    rows = [timing for timing in report.timings if timing.parts]
    if not rows:
        return
    table = Table(heading="parts of the time, %")
    table.add_column("model")
    for heading in ("size", "batch", *rows[0].parts):
        table.add_column(heading, justify="right")
    for row in rows:
        size = "×".join(map(str, dict.fromkeys(row.size)))
        table.add_row(label(row), size, str(row.batch_size), *(f"{100 * part:.1f}" for part in row.parts.values()))
    console().print(table)


def label(row) -> str:
    """A model's name, with its head if it has one."""
    return f"{row.model} + {row.head}" if row.head else row.model
