"""What the time of a model's training step and inference goes to on this CPU, by kind of operation.

python benchmarks/profiles.py [--models NAME …] [--batch-size 8] [--img-size 224] [--json FILE]

Shares are of the profiler's own time in each operation, medians over the steps; inference is of the fused model.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import profile

import glocal  # noqa: F401 (its models)
from glocal.bench.timing import machine
from glocal.deploy import fuse
from glocal.device import keep_freed_memory

MODELS = ["transxnet_t", "transnext_tiny", "conv2former_t", "hat_net_tiny", "van_b1", "convnext_tiny"]
KINDS = {  # of operations that are no convolutions, by parts of their names
    "norms": ("batch_norm", "layer_norm", "group_norm"),
    "activations": ("gelu", "silu", "sigmoid", "hardtanh"),
    "softmax, attention": ("softmax", "scaled_dot_product"),
    "products": ("mm", "linear", "bmm", "addmv", "dot"),
    "copies": ("copy_", "cat", "clone", "index", "pad", "fill_", "zero_", "slice_backward", "im2col", "col2im"),
    "sums, elementwise products": ("add", "mul", "sum", "sub", "div", "mean", "norm", "sqrt", "pow", "rsqrt"),
}
COLUMNS = ["products", "depthwise", *[kind for kind in KINDS if kind != "products"], "other"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the shares here")
    args = parser.parse_args()
    keep_freed_memory()
    rows = []
    for mode in ("train", "inference"):
        for name in track(args.models, mode):
            rows.append({"mode": mode, "model": name} | shares(name, mode, args))
    table = Table("step", "model", "ms per image", *COLUMNS, title="% of the time")
    for row in rows:
        cells = [f"{100 * row['shares'].get(column, 0):.0f}" for column in COLUMNS]
        table.add_row(row["mode"], row["model"], f"{row['ms']:.0f}", *cells)
    Console(width=150).print(table)
    if args.json:
        result = {"machine": machine(torch.device("cpu"), None), "rows": rows}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def shares(name: str, mode: str, args: argparse.Namespace) -> dict:
    """Milliseconds per image, and the share of each kind of operation in them."""
    torch.manual_seed(0)
    model = timm.create_model(name)
    model = (model.train() if mode == "train" else fuse(model.eval())).to(memory_format=torch.channels_last)
    images = torch.randn(args.batch_size, 3, args.img_size, args.img_size)
    images = images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.set_grad_enabled(mode == "train"):
            result = model(images)
            if mode == "train":
                result.sum().backward()

    for _ in range(2):
        step()
    seen: dict[str, list[float]] = defaultdict(list)
    for _ in range(args.steps):
        with profile(record_shapes=True) as recorded:
            step()
        total: dict[str, float] = defaultdict(float)
        for event in recorded.events():
            if event.device_type == DeviceType.CPU:
                total[kind_of(event.name, event.input_shapes)] += event.self_cpu_time_total
        for kind in COLUMNS:
            seen[kind].append(total[kind])
    medians = {kind: statistics.median(times) for kind, times in seen.items()}
    whole = sum(medians.values())
    return {
        "ms": whole / 1000 / args.batch_size,
        "shares": {kind: time / whole for kind, time in medians.items()},
    }


def kind_of(name: str, shapes: list) -> str:
    """The kind of an operation of the profiler."""
    if "conv" in name:
        kernels = [shape for shape in shapes if len(shape) == 4][-1:]  # after the map, and its gradient
        return "depthwise" if kernels and kernels[0][1] == 1 else "products"
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other")


if __name__ == "__main__":
    main()
