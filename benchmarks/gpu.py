"""What `benchmarks/gpu.sh` runs: one part after the other until the time is up, the results written after each."""

import argparse
import json
import os
import time
from datetime import date
from pathlib import Path

import gpu_kernels
import torch
from rich.console import Console

from glocal.bench.config import BenchConfig
from glocal.cli import bench
from glocal.ops import dispatch

MODELS = ["transxnet_t", "transnext_tiny", "conv2former_t", "hat_net_tiny", "van_b1"]
LINEAR = "transnext_tiny,pool_size=7"
TRAIN = dict(mode="train", precision="bf16", batch_sizes="128", rounds=10)
COMMON = dict(device="cuda")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=480, help="nothing new is begun after them (default: 480)")
    parser.add_argument("--output", type=Path, default=Path(os.environ.get("OUT", "benchmarks/results")))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("error: torch finds no GPU here")
    start = time.monotonic()
    name = torch.cuda.get_device_name().lower().replace(" ", "-")
    file = args.output / f"{name}-{date.today().isoformat()}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    results: dict = {"left_out": []}
    for part, measure in parts().items():
        if time.monotonic() - start > args.seconds:
            results["left_out"].append(part)
            continue
        Console().rule(f"{part}, after {time.monotonic() - start:.0f} s")
        results[part] = measure()
        file.write_text(json.dumps(results, indent=1) + "\n")
    file.write_text(json.dumps(results, indent=1) + "\n")
    Console().print(f"{file} after {time.monotonic() - start:.0f} s, left out: {results['left_out'] or 'nothing'}")


def parts() -> dict:
    """The parts by name, those that matter most first; compiling a model for training takes a minute or so."""
    compiled = {
        f"train-compiled-{model}": lambda model=model: bench.measure(
            BenchConfig([model], **TRAIN, compile=True, **COMMON)
        )
        for model in ("van_b1", "conv2former_t", "hat_net_tiny", "transxnet_t", "transnext_tiny")
    }
    sizes = dict(batch_sizes="8", sizes="224,384,512,768,1024", precision="bf16", rounds=5)
    return {
        "kernels": gpu_kernels.measure_all,
        "train": lambda: bench.measure(BenchConfig(MODELS, **TRAIN, **COMMON)),
        "infer": lambda: bench.measure(
            BenchConfig(MODELS, fuse=True, precision="bf16", batch_sizes="1,128", rounds=20, **COMMON)
        ),
        "growth": lambda: bench.measure(BenchConfig([*MODELS, LINEAR], **sizes, **COMMON)),
        "train-reference": lambda: by_reference(BenchConfig(MODELS, **TRAIN, **COMMON)),
        **compiled,
    }


def by_reference(config: BenchConfig) -> dict:
    dispatch.set_backend("reference")
    try:
        return bench.measure(config)
    finally:
        dispatch.set_backend("auto")


if __name__ == "__main__":
    main()
