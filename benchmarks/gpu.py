"""What `benchmarks/gpu.sh` runs: one part after the other until the time is up, the results written after each."""

import argparse
import json
import os
import signal
import time
from datetime import date
from pathlib import Path

import gpu_kernels
import torch
from rich.console import Console

from glocal.bench.config import BenchConfig
from glocal.bench.report import measure
from glocal.cli.bench import show
from glocal.ops import dispatch

MODELS = ["transxnet_t", "transnext_tiny", "conv2former_t", "hat_net_tiny", "van_b1"]
LINEAR = "transnext_tiny,pool_size=7"
TRAIN = dict(mode="train", precision="bf16", batch_sizes="128", rounds=10)
COMMON = dict(device="cuda")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=520, help="then it ends, wherever it is (default: 520)")
    parser.add_argument("--output", type=Path, default=Path(os.environ.get("OUT", "benchmarks/results")))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("error: torch finds no GPU here")
    start = time.monotonic()
    name = torch.cuda.get_device_name().lower().replace(" ", "-")
    file = args.output / f"{name}-{date.today().isoformat()}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    results: dict = {"left_out": []}
    todo = parts()
    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, args.seconds)
    try:
        for part, work in todo.items():
            Console().rule(f"{part}, after {time.monotonic() - start:.0f} s")
            results[part] = work()
            file.write_text(json.dumps(results, indent=1) + "\n")
    except TimeUpError:
        results["left_out"] = [part for part in todo if part not in results]
    signal.setitimer(signal.ITIMER_REAL, 0)
    file.write_text(json.dumps(results, indent=1) + "\n")
    Console().print(f"{file} after {time.monotonic() - start:.0f} s, left out: {results['left_out'] or 'nothing'}")


class TimeUpError(BaseException):
    """No Exception, as those of a model are a row of its table."""


def end(number, frame):
    raise TimeUpError


def parts() -> dict:
    """The parts by name, those that matter most first; compiling a model for training takes a minute or so."""
    infer = dict(fuse=True, precision="bf16", rounds=20, **COMMON)

    def compiled(kind: str, **options) -> dict:
        return {
            f"{kind}-compiled-{model}": lambda model=model: timed(BenchConfig([model], compile=True, **options))
            for model in ("van_b1", "conv2former_t", "hat_net_tiny", "transxnet_t", "transnext_tiny")
        }

    sizes = dict(batch_sizes="8", sizes="224,384,512,768,1024", precision="bf16", rounds=5)
    return {
        "kernels": gpu_kernels.measure_all,
        "train": lambda: timed(BenchConfig(MODELS, **TRAIN, **COMMON)),
        "infer": lambda: timed(BenchConfig(MODELS, batch_sizes="1,128", **infer)),
        "growth": lambda: timed(BenchConfig([*MODELS, LINEAR], **sizes, **COMMON)),
        "train-reference": lambda: by_reference(BenchConfig(MODELS, **TRAIN, **COMMON)),
        **compiled("train", **TRAIN, **COMMON),
        **compiled("infer", batch_sizes="128", **infer),
    }


def timed(config: BenchConfig) -> dict:
    report = measure(config)
    show(report)
    return report.to_dict()


def by_reference(config: BenchConfig) -> dict:
    dispatch.set_backend("reference")
    try:
        return timed(config)
    finally:
        dispatch.set_backend("auto")


if __name__ == "__main__":
    main()
