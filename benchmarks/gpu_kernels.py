"""The Triton kernels on this GPU: the largest error against the reference in float64, and the time as a ratio to it.

python benchmarks/gpu_kernels.py [--json FILE]

Sizes are those of the tiny models at 224 × 224, and for deformable attention those of DINO's encoder at 800 × 1333.
Errors are of the output and of every gradient, relative to the largest value of the reference's.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from triton.testing import do_bench

from glocal import ops
from glocal.ops import dispatch

BATCH = 64
DEVICE = "cuda"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    rows = measure_all()
    if args.json:
        args.json.write_text(json.dumps({"device": torch.cuda.get_device_name(), "rows": rows}, indent=1) + "\n")


def measure_all() -> list[dict]:
    """A row for every case and type, shown as a table too."""
    table = Table("case", "type", "worst error", "of", "ms", "reference ms", "speed-up", title="forward and backward")
    rows = []
    for name, (function, inputs) in cases().items():
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            row = {"case": name, "dtype": str(dtype).removeprefix("torch.")}
            rows.append(row)
            try:
                row |= measure(function, inputs, dtype)
            except Exception as error:  # whatever a compiler or a driver raises, the other cases are measured
                row["failure"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                table.add_row(name, row["dtype"], row["failure"])
                continue
            table.add_row(
                name, row["dtype"], f"{row['error']:.1e}", row["of"], f"{row['ms']:.3f}", f"{row['reference_ms']:.3f}",
                f"{row['reference_ms'] / row['ms']:.1f}",
            )  # fmt: skip
    Console(width=140).print(table)
    return rows


def cases() -> dict[str, tuple[Callable[..., Tensor], dict[str, Tensor]]]:
    """Functions and their named inputs, in float64."""
    torch.manual_seed(0)

    def image_map(channels: int, side: int) -> Tensor:
        return torch.randn(BATCH, channels, side, side, dtype=torch.float64).to(memory_format=torch.channels_last)

    def depthwise(channels: int, side: int, kernel: int, per_sample: bool = False, **options):
        weight = torch.randn(BATCH if per_sample else channels, channels if per_sample else 1, kernel, kernel).double()
        bias = torch.randn(*([BATCH] if per_sample else []), channels).double()
        inputs = {"x": image_map(channels, side), "weight": weight / kernel, "bias": bias}
        if options.pop("factor", False):
            inputs["factor"] = image_map(channels, side)
        return (lambda **named: ops.depthwise_conv(**named, **options)), inputs

    def multi_scale(channels: int, side: int):
        inputs = {"x": image_map(channels, side)}
        for kernel in (1, 3, 5, 7):
            inputs[f"weight{kernel}"] = torch.randn(channels // 4, 1, kernel, kernel).double() / kernel
            inputs[f"bias{kernel}"] = torch.randn(channels // 4).double()

        def function(x, **named):
            weights = [named[f"weight{kernel}"] for kernel in (1, 3, 5, 7)]
            return ops.multi_scale_depthwise_conv(x, weights, [named[f"bias{kernel}"] for kernel in (1, 3, 5, 7)])

        return function, inputs

    def aggregated(heads: int, side: int, pooled: int, width: int = 24):
        def heads_map() -> Tensor:
            return image_map(heads * width, side).view(BATCH, heads, width, side, side)

        return (lambda **named: ops.aggregated_attention(**named)), {
            "q": heads_map(),
            "k": heads_map(),
            "v": heads_map(),
            "pooled_k": torch.randn(BATCH, heads, width, pooled).double(),
            "pooled_v": torch.randn(BATCH, heads, width, pooled).double(),
            "query_embedding": 0.02 * torch.randn(heads, width).double(),
            "temperature": torch.full((heads,), 4.2).double(),
            "local_bias": torch.randn(heads, 9).double(),
            "pooled_bias": torch.randn(heads, pooled, side * side).double(),
            "tokens": 0.02 * torch.randn(heads, width, 9).double(),
            "token_bias": torch.randn(heads, 9).double(),
        }

    def norm(op: Callable[..., Tensor], channels: int, side: int):
        weight, bias = torch.randn(2, channels, dtype=torch.float64)
        inputs = {"x": image_map(channels, side), "weight": weight, "bias": bias}
        return (lambda **named: op(**named, eps=1e-6)), inputs

    def deformable(sizes: list[tuple[int, int]], heads: int = 8, width: int = 32, points: int = 4):
        count = sum(rows * columns for rows, columns in sizes)
        reads = 1, count, heads, len(sizes), points
        inputs = {
            "values": torch.randn(1, count, heads, width).double(),
            "places": torch.rand(*reads, 2).double(),
            "weights": torch.randn(*reads).double().flatten(3).softmax(-1).view(reads),
        }
        return (lambda values, **named: ops.deformable_attention(values, sizes, **named)), inputs

    return {
        "depthwise 3x3, 192 at 56": depthwise(192, 56, 3),
        "depthwise 3x3 and GELU and factor, 384 at 28": depthwise(384, 28, 3, gelu=True, factor=True),
        "depthwise 11x11, 72 at 56": depthwise(72, 56, 11),
        "depthwise 7x7 dilation 3, 64 at 56": depthwise(64, 56, 7, dilation=3),
        "depthwise per sample 7x7, 24 at 56": depthwise(24, 56, 7, per_sample=True),
        "multi-scale 1 3 5 7, 192 at 56": multi_scale(192, 56),
        "aggregated, 3 heads at 56": aggregated(3, 56, 49),
        "aggregated, 12 heads at 14": aggregated(12, 14, 49),
        "channel norm, 72 at 56": norm(ops.channel_norm, 72, 56),
        "sample norm, 48 at 56": norm(ops.sample_norm, 48, 56),
        "deformable, 8 heads": deformable([(100, 167), (50, 84), (25, 42), (13, 21)]),
    }


def measure(function: Callable[..., Tensor], inputs: dict[str, Tensor], dtype: torch.dtype) -> dict:
    try:
        return _measure(function, inputs, dtype)
    finally:
        dispatch.set_backend("auto")


def _measure(function: Callable[..., Tensor], inputs: dict[str, Tensor], dtype: torch.dtype) -> dict:
    leaves = {name: tensor.to(DEVICE, dtype).requires_grad_() for name, tensor in inputs.items()}
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in leaves.items()}
    dispatch.set_backend("reference")
    expected = function(**exact)
    weight = torch.randn_like(expected).to(dtype).double()
    expected_all = {"output": expected, **dict(zip(exact, gradients(expected, weight, exact), strict=True))}
    weight = weight.to(dtype)

    def step() -> dict[str, Tensor]:
        out = function(**leaves)
        return {"output": out, **dict(zip(leaves, gradients(out, weight, leaves), strict=True))}

    reference_ms = do_bench(step, return_mode="median")
    dispatch.set_backend("triton")
    actual = step()
    errors = {
        name: ((actual[name].double() - value).abs().max() / value.abs().max()).item()
        for name, value in expected_all.items()
    }
    worst = max(errors, key=errors.get)
    ms = do_bench(step, return_mode="median")
    return {"error": errors[worst], "of": worst, "errors": errors, "ms": ms, "reference_ms": reference_ms}


def gradients(out: Tensor, weight: Tensor, leaves: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out, list(leaves.values()), weight)


if __name__ == "__main__":
    main()
