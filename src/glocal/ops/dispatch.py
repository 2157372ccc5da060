"""Which backend computes an op, and why the others do not: decided here alone.

GLOCAL_OPS in the environment, or `set_backend`, chooses: "auto" (the default) takes the Triton kernels where they can
run, an op's `cpu.py`, if it has one, on a CPU, and the reference elsewhere; "reference" takes nothing else; "triton"
always takes the kernels, and is an error where it cannot.
"""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from shutil import which

import torch
from torch import Tensor
from torch.autograd import forward_ad

CHOICES = ("auto", "reference", "triton")
OPS = ("aggregated_attention", "channel_norm", "depthwise_conv", "sample_norm")  # those with kernels
WITHOUT_KERNELS = {  # and why
    "grid_attention": "there is no kernel: its cells are a batch for torch's attention",
    "pointwise_conv": "there is no kernel: it is a matrix product",
}
CPU_OPS = ("aggregated_attention", "depthwise_conv", "pointwise_conv")  # those with a way of their own on a CPU
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LOWEST_CAPABILITY = (8, 0)
MOST_ELEMENTS = 2**31 - 1  # the kernels count in 32 bits
MOST_PROGRAMS = 65535  # along the second and third axis of a launch

log = logging.getLogger("glocal")
_choice = os.environ.get("GLOCAL_OPS", "auto")
_said: set[tuple[str, str]] = set()
_for_a_graph = False


def set_backend(choice: str) -> None:
    """Choose as GLOCAL_OPS does, for this process; ValueError for anything but auto, reference and triton."""
    global _choice
    _check(choice, "the backend")
    _choice = choice


def backend() -> str:
    """The choice in force; ValueError where GLOCAL_OPS is none."""
    _check(_choice, "GLOCAL_OPS")
    return _choice


def takes_triton(op: str, tensors: Sequence[Tensor | None], limits: Callable[[], str | None] = lambda: None) -> bool:
    """Whether the kernels compute this call of an op.

    tensors: its arguments, the first one a map. limits: asks the op itself what it has
    against it, where the kernels could run at all.

    Raises RuntimeError, with the check that failed, where they must compute it and cannot. A call on anything but a CPU
    that falls back to the reference says so once for each reason.
    """
    if tensors[0].is_meta or (_choice == "auto" and tensors[0].is_cpu):
        return False
    if backend() == "reference":
        return False
    reason = refusal(tensors[0].device) or _against(tensors) or limits()
    if reason is None:
        return True
    if _choice == "triton":
        raise RuntimeError(f"GLOCAL_OPS=triton, but {op} cannot run there: {reason}")
    if not torch.compiler.is_compiling() and (op, reason) not in _said:
        _said.add((op, reason))
        log.warning("%s is computed by the reference: %s", op, reason)
    return False


def takes_cpu(x: Tensor) -> bool:
    """Whether an op's `cpu.py` computes a call; not in a graph, where a compiler joins what the reference does."""
    return (
        x.is_cpu
        and x.numel() > 0
        and _choice != "reference"
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing() or _for_a_graph)
        and not torch._C._functorch.peek_interpreter_stack()  # torch.func: its tensors do not tell their layout
        and forward_ad._current_level < 0  # forward-mode gradients
    )


def takes_onednn(x: Tensor, *parameters: Tensor | None) -> bool:
    """Whether oneDNN may compute a convolution and the GELU after it in one, where `takes_cpu` has said yes.

    The operations are those that torch.compile puts into its graphs.
    """
    tensors = [x, *(parameter for parameter in parameters if parameter is not None)]
    return (
        takes_inference_ops(*tensors)
        and all(tensor.dtype == torch.float32 for tensor in tensors)
        and all(tensor.ndim > 1 or tensor.is_contiguous() for tensor in tensors)  # it reads a bias as if it were
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


def takes_inference_ops(*tensors: Tensor) -> bool:
    """Whether operations of torch's may compute a call that have no gradient and know no autocast.

    Whoever watches the operations, to count them for instance, knows the common ones only: then they may not.
    """
    return (
        not torch.compiler.is_compiling()
        and type(tensors[0]) is Tensor
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        and forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._len_torch_dispatch_stack()
    )


def exporting() -> bool:
    """Whether a graph is made, by torch.export or under `for_a_graph`: one of operations that runtimes know."""
    if torch.jit.is_scripting():
        return False
    else:
        return torch.compiler.is_exporting() or _for_a_graph


@contextmanager
def for_a_graph():
    """Let layers and ops compute in the way that runtimes want, for whoever writes down what they do."""
    global _for_a_graph
    before, _for_a_graph = _for_a_graph, True
    try:
        yield
    finally:
        _for_a_graph = before


def tracing() -> bool:
    """Whether torch.export or torch.jit.trace makes a graph, which takes other sizes than those at hand."""
    if torch.jit.is_scripting():
        return False
    else:
        return torch.jit.is_tracing() or torch.compiler.is_exporting()


def too_many(samples: int) -> str | None:
    """What the kernels have against more samples, or heads of samples, than they can share out."""
    return None if samples <= MOST_PROGRAMS else f"there are more than {MOST_PROGRAMS:,} samples or heads"


def other_shapes(**tensors: tuple[Tensor | None, tuple[int, ...]]) -> str | None:
    """What the kernels, which check no shape, have against tensors that are not of the shapes beside them."""
    for name, (tensor, shape) in tensors.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            return f"{name} is {tuple(tensor.shape)}, not {shape}"
    return None


def refusal(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device; None where they can."""
    return _refusal(device.type, device.index or 0)


@torch.compiler.assume_constant_result
def _refusal(kind: str, index: int) -> str | None:
    return _examine(kind, index)


@cache
def _examine(kind: str, index: int) -> str | None:
    if find_spec("triton") is None:
        return "Triton is not installed"
    if kind == "cuda" and not ("CC" in os.environ or any(which(name) for name in ("cc", "gcc", "clang"))):
        return "Triton needs a C compiler when it starts: cc, gcc or clang"
    if kind == "cpu":
        return None if interprets() else "the tensors are on the CPU, and TRITON_INTERPRET=1 is not set"
    if kind != "cuda" or torch.version.cuda is None:
        return f"the kernels are for NVIDIA GPUs, the tensors are on {kind}"
    capability = torch.cuda.get_device_capability(index)
    if capability < LOWEST_CAPABILITY:
        names = [".".join(map(str, pair)) for pair in (capability, LOWEST_CAPABILITY)]
        return f"the GPU has compute capability {names[0]}, the kernels need {names[1]}"
    return None


def interprets() -> bool:
    """Whether Triton's interpreter is on, which runs the kernels on a CPU, to check them."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


def report() -> list[tuple[str, str, str]]:
    """For every op: the device, the backend it would take there, and what is against the other ("" for nothing)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    against = refusal(device)
    rows = []
    for op in sorted({*OPS, *WITHOUT_KERNELS}):
        if backend() == "reference":
            rows.append((op, device.type, "reference", "GLOCAL_OPS=reference"))
        elif op in WITHOUT_KERNELS:
            own = "cpu" if device.type == "cpu" and op in CPU_OPS else "reference"
            rows.append((op, device.type, own, WITHOUT_KERNELS[op]))
        elif against is None and (device.type == "cuda" or backend() == "triton"):
            rows.append((op, device.type, "triton", ""))
        elif backend() == "triton":
            rows.append((op, device.type, "none", f"GLOCAL_OPS=triton, but {against}"))
        else:
            reason = against or "the interpreter is for checks: GLOCAL_OPS=triton takes it"
            own = device.type == "cpu" and op in CPU_OPS
            rows.append((op, device.type, "cpu" if own else "reference", reason))
    return rows


def autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors in the type that autocast computes in where the first one is; unchanged where it is off.

    As in torch's own operations float64 stays what it is.
    """
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return list(tensors)
    dtype = torch.get_autocast_dtype(kind)
    return [tensor if tensor is None or tensor.dtype == torch.float64 else tensor.to(dtype) for tensor in tensors]


def _against(tensors: Sequence[Tensor | None]) -> str | None:
    """What a call's tensors have against the kernels."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing() or _for_a_graph:
        return "an exported graph keeps to torch's own operations"
    first = tensors[0]
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.dtype not in DTYPES:
            return f"there is no kernel for {str(tensor.dtype).removeprefix('torch.')}"
        if tensor.device != first.device:
            return f"its tensors are on {first.device} and {tensor.device}"
        if tensor.numel() == 0:
            return "a tensor is empty"
        if sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) > MOST_ELEMENTS:
            return f"a tensor spans more than {MOST_ELEMENTS:,} elements"
    return None


def _check(choice: str, name: str) -> None:
    if choice not in CHOICES:
        raise ValueError(f"{name} must be one of {', '.join(CHOICES)}, got {choice!r}")
