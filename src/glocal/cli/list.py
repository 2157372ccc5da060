"""List the models of the library, with their cost, the accuracy their authors published, and their weights."""

from dataclasses import asdict, dataclass

from glocal.cli.output import console
from glocal.errors import InvalidValueError
from glocal.files import check_target
from glocal.terminal import Table


@dataclass(frozen=True)
class ListConfig:
    """What to list.

    Args:
        pattern: names to list, with * for any letters (default: all), for instance 'trans*'
        json: also write the list to this file
    """

    pattern: str = "*"
    json: str | None = None

    def __post_init__(self):
        if self.json is not None:  # before the list is shown
            check_target("--json", self.json)


CONFIG = ListConfig
POSITIONAL = {"pattern": "?"}


def run(config: ListConfig) -> int:
    import json
    from pathlib import Path

    from glocal.bench.catalog import catalog

    entries = catalog(config.pattern)
    if not entries:
        wider = next((wider for wider in (f"{config.pattern}*", f"*{config.pattern}*") if catalog(wider)), None)
        hint = f"did you mean {wider!r}?" if wider is not None else "`glocal list` shows them all"
        raise InvalidValueError(f"no model matches {config.pattern!r}; {hint}")
    table = Table()
    table.add_column("model", no_wrap=True)
    for heading in ("size", "params\n(M)", "MACs\n(G)", "top-1\n(%)"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    family = entries[0].family
    for entry in entries:
        if entry.family != family:
            table.add_section()
            family = entry.family
        top1 = "" if entry.top1 is None else f"{entry.top1:.1f}"
        params, macs = f"{entry.params / 1e6:.1f}", f"{entry.macs / 1e9:.2f}"
        table.add_row(entry.name, str(entry.size), params, macs, top1, entry.weights)
    screen = console()
    screen.print(table)
    screen.print("top-1: on ImageNet-1K, as the authors published it", style="italic", highlight=False)
    if config.json is not None:
        Path(config.json).write_text(json.dumps([asdict(entry) for entry in entries], indent=1) + "\n")
    return 0
