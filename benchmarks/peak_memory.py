"""The most memory that a training step of a backbone with a head holds on a CPU.

    python benchmarks/peak_memory.py MODEL --size 1024 [--head upernet] [--keep-freed]
    python benchmarks/peak_memory.py MODEL --size 800x1344 --head mask_rcnn

Prints one line of JSON: the most that the process held before the step, until its loss is known, and until its end, in
MiB. The process trains
nothing else, and takes one step only: whatever the step itself allocates counts, and its allocator keeps nothing from
before. The images are random, in a batch of one, in fp32. With --keep-freed the C library keeps freed memory, as in
`glocal train`.
"""

import argparse
import json
import resource

import torch
from timm.optim import create_optimizer_v2

from glocal.bench import headed
from glocal.bench.config import parse_sizes
from glocal.device import keep_freed_memory


def peak() -> float:
    """The most that this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--size", default="512", help="a side, or HEIGHTxWIDTH")
    parser.add_argument("--head", default="upernet")
    parser.add_argument("--keep-freed", action="store_true")
    args = parser.parse_args()
    if args.keep_freed:
        keep_freed_memory()
    torch.manual_seed(0)
    (size,) = parse_sizes(args.size)
    model = headed.with_head(args.model, args.head, size).train().to(memory_format=torch.channels_last)
    images = torch.randn(1, 3, *size).contiguous(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-4)
    loss_of = headed.loss_of(model, args.head, images)
    before = peak()
    loss = loss_of()
    forward = peak()
    loss.backward()
    optimizer.step()
    held = {"before": round(before), "forward": round(forward), "peak": round(peak())}
    print(json.dumps({"model": args.model, "head": args.head, "size": args.size, "keep_freed": args.keep_freed} | held))


if __name__ == "__main__":
    main()
