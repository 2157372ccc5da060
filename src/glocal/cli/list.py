"""List the models of the library, with their cost, the accuracy their authors published, and their weights."""

from dataclasses import asdict, dataclass

from rich.table import Table

from glocal.cli.output import console


@dataclass(frozen=True)
class ListConfig:
    """What to list.

    Args:
        pattern: names to list, with * for any letters (default: all), for instance 'trans*'
        json: also write the list to this file
    """

    pattern: str = "*"
    json: str | None = None


CONFIG = ListConfig
POSITIONAL = {"pattern": "?"}


def run(config: ListConfig) -> int:
    import json
    from pathlib import Path

    from glocal.bench import catalog

    entries = catalog(config.pattern)
    if not entries:
        raise ValueError(f"no model matches {config.pattern!r}; `glocal list` shows them all")
    table = Table(caption="top-1: on ImageNet-1K, as the authors published it", caption_justify="left")
    table.add_column("model")
    for heading in ("size", "params (M)", "MACs (G)", "top-1 (%)"):
        table.add_column(heading, justify="right")
    table.add_column("weights")
    family = entries[0].family
    for entry in entries:
        if entry.family != family:
            table.add_section()
            family = entry.family
        top1 = "" if entry.top1 is None else f"{entry.top1:.1f}"
        params, macs = f"{entry.params / 1e6:.1f}", f"{entry.macs / 1e9:.2f}"
        table.add_row(entry.name, str(entry.size), params, macs, top1, entry.weights)
    console().print(table)
    if config.json is not None:
        Path(config.json).write_text(json.dumps([asdict(entry) for entry in entries], indent=1) + "\n")
    return 0
