"""Eager CPU inference, ms per image, of our models beside timm's: interleaved rounds, medians.

python benchmarks/eager_cpu.py [--rounds 15] [--json benchmarks/results/eager-cpu.json]
"""

import argparse
import json
import platform
import statistics
import time
from datetime import date
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import glocal

MODELS = ["transxnet_t", "transnext_tiny", "hat_net_tiny", "conv2former_t", "van_b1"]
BASELINES = ["convnext_tiny", "swin_tiny_patch4_window7_224"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="timed passes over all models (default: 15)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()

    models = {name: timm.create_model(name).eval() for name in BASELINES + MODELS}
    rows = {name: {} for name in models}
    for batch_size in args.batch_sizes:
        times = time_interleaved(models, torch.randn(batch_size, 3, args.size, args.size), args.rounds)
        for name, seconds in times.items():
            rows[name][batch_size] = 1000 * statistics.median(seconds) / batch_size

    table = Table(
        title=f"ms per image, {args.size}², float32, eager, {torch.get_num_threads()} threads", title_justify="left"
    )
    table.add_column("model")
    for batch_size in args.batch_sizes:
        table.add_column(f"batch {batch_size}", justify="right")
        table.add_column(f"to {BASELINES[0]}", justify="right")
    for name, by_batch in rows.items():
        cells = [(f"{ms:.1f}", f"{ms / rows[BASELINES[0]][batch_size]:.2f}") for batch_size, ms in by_batch.items()]
        table.add_row(name, *(text for cell in cells for text in cell))
    Console().print(table)
    if args.json:
        machine = dict(cpu=platform.machine(), threads=torch.get_num_threads(), python=platform.python_version())
        versions = dict(torch=torch.__version__, timm=timm.__version__, glocal=glocal.__version__)
        result = dict(date=date.today().isoformat(), machine=machine, versions=versions, rounds=args.rounds, ms=rows)
        args.json.write_text(json.dumps(result, indent=1) + "\n")


@torch.inference_mode()
def time_interleaved(models: dict[str, torch.nn.Module], x: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of `rounds` forward passes of each model, one model after the other, after two untimed rounds."""
    times = {name: [] for name in models}
    for step in track(range(-2, rounds), description=f"batch {len(x)}"):
        for name, model in models.items():
            start = time.perf_counter()
            model(x)
            if step >= 0:
                times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
