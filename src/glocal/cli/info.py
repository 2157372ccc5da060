"""Show a model's stages: the shape of each one's map, its blocks, parameters and multiply–accumulates."""

from dataclasses import dataclass

from glocal.cli.output import console
from glocal.options import check_numbers
from glocal.terminal import Table, facts


@dataclass(frozen=True)
class InfoConfig:
    """The model to show.

    Args:
        name: of a model, with or without a tag
        size: side of the image in pixels (default: the model's own)
    """

    name: str
    size: int | None = None

    def __post_init__(self):
        check_numbers(self)


CONFIG = InfoConfig
POSITIONAL = {"name": None}


def run(config: InfoConfig) -> int:
    from timm import get_pretrained_cfg

    from glocal.bench.cost import measure
    from glocal.models import published_top1

    cost = measure(config.name, config.size)
    published = get_pretrained_cfg(config.name)
    top1 = published_top1(config.name)
    rows = {
        "parameters": f"{cost.params:,}",
        "MACs": f"{cost.macs:,} for an image of {'×'.join(map(str, cost.input_size))}",
        "paper": f"{published.paper_name}, {published.paper_ids}" if published and published.paper_name else "",
        "source": (published.origin_url or "") if published else "",
        "published top-1": f"{top1:.1f} % on ImageNet-1K" if top1 is not None else "",
        "weights": (published.url or (published.notes or ("",))[0]) if published else "",
    }
    screen = console()
    screen.print(facts(config.name, {name: text for name, text in rows.items() if text}))
    if cost.stages:
        table = Table()
        table.add_column("part")
        for heading in ("output", "blocks", "params", "MACs", "of all MACs"):
            table.add_column(heading, justify="right")
        for stage in cost.stages:
            shape, blocks = "×".join(map(str, stage.shape)), str(stage.blocks or "")
            share = f"{100 * stage.macs / cost.macs:.1f} %"
            table.add_row(stage.name, shape, blocks, f"{stage.params:,}", f"{stage.macs:,}", share)
        screen.print(table)
    return 0
