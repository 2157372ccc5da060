"""The list of ops, read from their folders, and which backend each one takes on this machine."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

from glocal.ops import dispatch

BACKENDS = ("reference", "triton", "cpu", "graph")  # a file of this name beside an op's `__init__.py` is one


@dataclass(frozen=True)
class Op:
    """An op: its name, the backends it has, and why it has no kernel ("" if it has one)."""

    name: str
    backends: tuple[str, ...]
    no_kernel: str


def ops() -> list[Op]:
    """All ops, by name: every folder of `glocal.ops` with a `reference.py`."""
    found = {}
    for place in import_module("glocal.ops").__path__:
        for folder in Path(place).iterdir():
            if (folder / "reference.py").is_file():
                backends = tuple(name for name in BACKENDS if (folder / f"{name}.py").is_file())
                reason = ""
                if "triton" not in backends:
                    reason = getattr(import_module(f"glocal.ops.{folder.name}"), "NO_KERNEL", "")
                    reason = f"there is no kernel: {reason}" if reason else "there is no kernel"
                found[folder.name] = Op(folder.name, backends, reason)
    return [found[name] for name in sorted(found)]


def report() -> list[tuple[str, str, str, str]]:
    """For every op: the device, the backend it would take there, and what is against the kernels ("" for nothing)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return [(op.name, device.type, *_backend(op, device)) for op in ops()]


def _backend(op: Op, device: torch.device) -> tuple[str, str]:
    choice = dispatch.backend()
    elsewhere = "cpu" if device.type == "cpu" and "cpu" in op.backends else "reference"
    against = dispatch.refusal(device)
    if choice == "reference":
        return "reference", "GLOCAL_OPS=reference"
    if op.no_kernel:
        return elsewhere, op.no_kernel
    if against is None and (device.type == "cuda" or choice == "triton"):
        return "triton", ""
    if choice == "triton":
        return "none", f"GLOCAL_OPS=triton, but {against}"
    return elsewhere, against or "the interpreter is for checks: GLOCAL_OPS=triton takes it"
