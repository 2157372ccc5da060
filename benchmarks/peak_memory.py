"""The most memory that a training step of a backbone with a head holds on a CPU.

    python benchmarks/peak_memory.py MODEL --size 1024 [--head upernet]

Prints one line of JSON: the most that the process held before the step, and until its end, in MiB. The process trains
nothing else, and takes one step only: whatever the step itself allocates counts, and its allocator keeps nothing from
before. The images are random, in a batch of one, in fp32.
"""

import argparse
import json
import resource

import torch
from timm.optim import create_optimizer_v2

from glocal.bench import headed


def peak() -> float:
    """The most that this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--head", default="upernet")
    args = parser.parse_args()
    torch.manual_seed(0)
    size = args.size, args.size
    model = headed.with_head(args.model, args.head, size).train().to(memory_format=torch.channels_last)
    images = torch.randn(1, 3, *size).contiguous(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-4)
    loss_of = headed.loss_of(model, args.head, images)
    before = peak()
    loss_of().backward()
    optimizer.step()
    found = {"model": args.model, "head": args.head, "size": args.size, "before": round(before), "peak": round(peak())}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
