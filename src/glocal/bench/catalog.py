"""All published models with their cost, their published accuracy and their weights.

Counting all models takes a minute, so the counts are kept in `costs.json`; `python -m glocal.bench.catalog` writes it
anew, and a test counts again.
"""

import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from glocal.bench.cost import measure
from glocal.models import FAMILIES, published_top1

COSTS = Path(__file__).with_name("costs.json")


@dataclass(frozen=True)
class Entry:
    """A model with its tag.

    Attributes:
        size: side of its images, pixels.
        params, macs: parameters and multiply–accumulates of one image of that size.
        top1: published ImageNet-1K top-1, %; None if there is none.
        weights: "download", "by hand" (the authors' file is behind a web page: `source`) or "none".
        source: address of the weights, '' if there are none.
    """

    name: str
    family: str
    size: int
    params: int
    macs: int
    top1: float | None
    weights: str
    source: str


def catalog(pattern: str = "*") -> list[Entry]:
    """All models of the library whose name (with or without tag) matches the fnmatch pattern, family by family."""
    costs = json.loads(COSTS.read_text())
    entries = []
    for family, tagged in tagged_configs():
        for name, config in tagged:
            if not (fnmatch(name, pattern) or fnmatch(name.partition(".")[0], pattern)):
                continue
            weights = "download" if config.url else "by hand" if config.notes else "none"
            source = config.url or (config.notes[0] if config.notes else "")
            cost = costs[name]
            entries.append(
                Entry(
                    name,
                    family,
                    config.input_size[-1],
                    cost["params"],
                    cost["macs"],
                    published_top1(name),
                    weights,
                    source,
                )
            )
    return entries


def tagged_configs() -> list[tuple[str, list[tuple[str, object]]]]:
    """(family, [(name.tag, pretrained config), …]) in order."""
    return [
        (
            family,
            [
                (f"{name}.{tag}", config)
                for name, default in module.default_cfgs.items()
                for tag, config in default.cfgs.items()
            ],
        )
        for family, module in FAMILIES.items()
    ]


def write_costs():
    """Count every model and keep the counts."""
    names = [name for _, tagged in tagged_configs() for name, _ in tagged]
    costs = {}
    for name in names:
        cost = measure(name)
        costs[name] = {"params": cost.params, "macs": cost.macs}
        print(f"{name}: {cost.params:,} parameters, {cost.macs:,} MACs")
    COSTS.write_text(json.dumps(costs, indent=1) + "\n")


if __name__ == "__main__":
    write_costs()
