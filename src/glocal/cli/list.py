"""List the models of the library, with their cost, the accuracy their authors published, and their weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from glocal.cli.output import console
from glocal.errors import InvalidValueError
from glocal.files import check_target
from glocal.options import check_values
from glocal.terminal import Table


@dataclass(frozen=True)
class ListConfig:
    """What to list.

    Args:
        pattern: names to list, with * for any letters (default: all), for instance 'trans*'
        task: classification, or segmentation or detection for the published heads on backbones
        json: also write the list to this file
    """

    pattern: str = "*"
    task: Literal["classification", "segmentation", "detection"] = "classification"
    json: str | None = None

    def __post_init__(self):
        check_values(self)
        if self.json is not None:  # before the list is shown
            check_target("--json", self.json)


CONFIG = ListConfig
POSITIONAL = {"pattern": "?"}


def run(config: ListConfig) -> int:
    return list_models(config) if config.task == "classification" else list_heads(config)


# For each task: the columns between the backbone and the weights, as heading and attribute; what is below the table.
COLUMNS = {
    "segmentation": {
        "pre-training": "pretraining",
        "mIoU\n(%)": "miou",
        "mIoU, scales\nand flips (%)": "miou_multi_scale",
    },
    "detection": {"arguments": "head_args", "epochs": "epochs", "box AP\n(%)": "box_ap", "mask AP\n(%)": "mask_ap"},
}
NOTES = {
    "segmentation": "mIoU: on ADE20K, as the authors published it; --json has the addresses",
    "detection": "AP: on COCO, as the authors published it; --json has the addresses",
}


def list_heads(config: ListConfig) -> int:
    from fnmatch import fnmatch

    from glocal.models.detectors.published import PUBLISHED as DETECTORS
    from glocal.models.heads.published import PUBLISHED as SEGMENTATION

    published = DETECTORS if config.task == "detection" else SEGMENTATION
    entries = [one for one in published if any(fnmatch(name, config.pattern) for name in (one.head, one.backbone))]
    if not entries:
        raise InvalidValueError(f"no head and no backbone matches {config.pattern!r}; the pattern * shows them all")
    table = Table()
    for heading in ("head", "backbone"):
        table.add_column(heading, no_wrap=True)
    for heading in COLUMNS[config.task]:
        table.add_column(heading, justify="right" if "%" in heading else "left", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    for place, entry in enumerate(entries):
        if place and entry.head != entries[place - 1].head:
            table.add_section()
        cells = [cell(getattr(entry, name)) for name in COLUMNS[config.task].values()]
        table.add_row(entry.head, entry.backbone, *cells, entry.weights)
    screen = console()
    screen.print(table)
    screen.print(NOTES[config.task], style="italic", highlight=False)
    write_json(config, [asdict(entry) | {"weights": entry.weights} for entry in entries])
    return 0


def cell(value: Any) -> str:
    """A value of a published head for the table."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={one}" for name, one in value.items())
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def write_json(config: ListConfig, entries: list[dict]) -> None:
    import json
    from pathlib import Path

    if config.json is not None:
        Path(config.json).write_text(json.dumps(entries, indent=1) + "\n")


def list_models(config: ListConfig) -> int:
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
    write_json(config, [asdict(entry) for entry in entries])
    return 0
