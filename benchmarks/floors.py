"""The floor of every stage's blocks on this CPU: multiply–accumulates and fewest bytes at the machine's own rates.

python benchmarks/floors.py [--sizes 224 512] [--batch-size 8] [--rounds 5] [--json FILE]

Fewest bytes: each of a block's two halves reads its map and writes it once, and reads its weights. The floor is the
longer of the two times, as computing and moving can overlap. Measured is the fused model, eagerly.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from glocal.backbone import Stage
from glocal.bench.cost import measure
from glocal.deploy import fuse
from glocal.device import keep_freed_memory

MODELS = ["transxnet_t", "transnext_tiny", "hat_net_tiny", "conv2former_t", "van_b1"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 512])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    keep_freed_memory()
    macs_per_s, bytes_per_s = rates()
    table = Table(title=f"{macs_per_s / 1e9:.0f} GMAC/s, {bytes_per_s / 1e9:.0f} GB/s, batch {args.batch_size}")
    for heading in ("model", "size", "stage", "MMAC per block", "MB per block", "floor ms", "ms", "times the floor"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    rows = []
    for name in args.models:
        for size in args.sizes:
            for row in blocks(name, size, args.batch_size, args.rounds):
                row["floor_ms"] = 1000 * max(row["macs"] / macs_per_s, row["bytes"] / bytes_per_s)
                rows.append(row)
                figures = row["macs"] / 1e6, row["bytes"] / 1e6, row["floor_ms"], row["ms"], row["ms"] / row["floor_ms"]
                table.add_row(name, str(size), str(row["stage"]), *(f"{figure:.1f}" for figure in figures))
    Console(width=120).print(table)
    if args.json:
        result = {"macs_per_s": macs_per_s, "bytes_per_s": bytes_per_s, "batch_size": args.batch_size, "rows": rows}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def rates() -> tuple[float, float]:
    """Multiply–accumulates per second of a matrix product, and bytes read and written per second by a copy."""
    a, b = torch.randn(2, 2048, 2048)
    source, target = torch.randn(2, 2**25)
    return 2048**3 / fastest(lambda: a @ b), 2 * 4 * 2**25 / fastest(lambda: target.copy_(source))


def fastest(function, repeats: int = 7) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def blocks(name: str, size: int, batch: int, rounds: int) -> list[dict]:
    """What a block of each stage costs, and how long it takes: the median over rounds and blocks."""
    costs = [stage for stage in measure(name, size).stages if stage.blocks]
    model: nn.Module = fuse(timm.create_model(name)).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    seconds: dict[nn.Module, list[float]] = {}
    starts: list[float] = []
    stages = [module for module in model.modules() if isinstance(module, Stage)]
    for stage in stages:
        for block in stage.blocks:
            block.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter()))
            block.register_forward_hook(lambda block, *_: seconds[block].append(time.perf_counter() - starts.pop()))
            seconds[block] = []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            model(images)
    rows = []
    for index, (stage, cost) in enumerate(zip(stages, costs, strict=True)):
        weights = sum(parameter.numel() for parameter in stage.blocks.parameters()) / cost.blocks
        channels, height, width = cost.shape
        taken = [value for block in stage.blocks for value in seconds[block][1:]]
        rows.append(
            {
                "model": name,
                "size": size,
                "stage": index,
                "macs": batch * cost.macs / cost.blocks,  # the downsampling before the blocks among them
                "bytes": 4 * (4 * batch * channels * height * width + weights),
                "ms": 1000 * statistics.median(taken),
            }
        )
    return rows


if __name__ == "__main__":
    main()
