"""Decides which backend computes a call of an op, and says why the others do not.

GLOCAL_OPS in the environment, or `set_backend`, chooses: "auto" (the default) takes the Triton kernels if they can
run, an op's `cpu.py`, if it has one, on a CPU, and torch's own operations elsewhere; "reference" takes torch's own
operations everywhere; "triton" always takes the kernels, and is an error if they cannot run.

Only ops ask these questions. Layers call ops.
"""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from shutil import which

import torch
from torch import Tensor
from torch.autograd import forward_ad

from glocal.errors import InvalidValueError, WorkError

CHOICES = ("auto", "reference", "triton")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LOWEST_CAPABILITY = (8, 0)
MOST_ELEMENTS = 2**31 - 1  # the kernels count in 32 bits
KEPT_POSITIONS = 56 * 56  # of maps up to which a gradient may keep what it could compute again: all at 224 × 224
MOST_PROGRAMS = 65535  # along the second and third axis of a launch

log = logging.getLogger("glocal")
_choice = os.environ.get("GLOCAL_OPS", "auto")
_said: set[tuple[str, str]] = set()
_exported_form = False


def set_backend(choice: str) -> None:
    """Choose as GLOCAL_OPS does, for this process; ValueError for anything but auto, reference and triton."""
    global _choice
    _check(choice, "the backend")
    _choice = choice


def backend() -> str:
    """The choice in force; ValueError if GLOCAL_OPS names none."""
    _check(_choice, "GLOCAL_OPS")
    return _choice


def can_use_triton(op: str, tensors: Sequence[Tensor | None], limits: Callable[[], str | None] = lambda: None) -> bool:
    """Whether the Triton kernels compute this call of an op.

    tensors: the op's arguments, a map first. limits: returns why the op itself refuses this call, or None; it is
    asked last.

    Raises RuntimeError, with the check that failed, if GLOCAL_OPS=triton and the kernels cannot run. If "auto" falls
    back on a GPU, the log says so once for each reason.
    """
    if tensors[0].is_meta or (_choice == "auto" and tensors[0].is_cpu):
        return False
    if backend() == "reference":
        return False
    reason = refusal(tensors[0].device) or _against(tensors) or limits()
    if reason is None:
        return True
    if _choice == "triton":
        raise WorkError(f"GLOCAL_OPS=triton, but {op} cannot run there: {reason}")
    if not torch.compiler.is_compiling() and (op, reason) not in _said:
        _said.add((op, reason))
        log.warning("%s is computed by the reference: %s", op, reason)
    return False


def can_use_cpu(x: Tensor) -> bool:
    """Whether an op's `cpu.py` computes a call; not in a graph, where a compiler joins torch's own operations."""
    return (
        x.is_cpu
        and x.numel() > 0
        and _choice != "reference"
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing() or _exported_form)
        and not transforms_are_active()
    )


def can_use_own_gradients(tensors: Sequence[Tensor]) -> bool:
    """Whether a `cpu.py` may compute a call by functions with gradients of their own, whose operations ignore autocast
    and take tensors of one type."""
    first = tensors[0]
    return (
        can_use_cpu(first)
        and _choice == "auto"
        and all(tensor.dtype == first.dtype for tensor in tensors)
        and _is_unwatched(first)
    )


def _is_unwatched(x: Tensor) -> bool:
    """Not while a TorchDispatchMode (a FLOP counter, say) is active: it knows only standard operators."""
    return type(x) is Tensor and not torch.is_autocast_enabled("cpu") and not torch._C._len_torch_dispatch_stack()


def transforms_are_active() -> bool:
    """Whether torch.func (its tensors do not tell their layout) or a forward-mode gradient watches the operations."""
    return bool(torch._C._functorch.peek_interpreter_stack()) or forward_ad._current_level >= 0


def can_use_onednn(x: Tensor, *parameters: Tensor | None) -> bool:
    """Whether oneDNN can compute a convolution and the GELU after it in one operation, if `can_use_cpu` says yes.

    The operations are those that torch.compile puts into its graphs.
    """
    tensors = [x, *(parameter for parameter in parameters if parameter is not None)]
    return (
        can_use_inference_ops(*tensors)
        and all(tensor.dtype == torch.float32 for tensor in tensors)
        and all(tensor.ndim > 1 or tensor.is_contiguous() for tensor in tensors)  # it reads a bias as if it were
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


def can_use_inference_ops(*tensors: Tensor) -> bool:
    """Whether operations of torch that have no gradient and ignore autocast can compute a call."""
    return (
        not torch.compiler.is_compiling()
        and _is_unwatched(tensors[0])
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        and forward_ad._current_level < 0
    )


def exporting() -> bool:
    """Whether an op takes its `graph.py`, the form that runtimes like: in torch.export and under `as_exported`."""
    if torch.jit.is_scripting():
        return False
    else:
        return torch.compiler.is_exporting() or _exported_form


@contextmanager
def as_exported():
    """Let all ops compute in the form that runtimes like, for code that writes down what they do."""
    global _exported_form
    before, _exported_form = _exported_form, True
    try:
        yield
    finally:
        _exported_form = before


def tracing() -> bool:
    """Whether torch.export or torch.jit.trace makes a graph, which also has to be right for other sizes."""
    if torch.jit.is_scripting():
        return False
    else:
        return torch.jit.is_tracing() or torch.compiler.is_exporting()


def sizes_are_open() -> bool:
    """Whether any graph is made (torch.compile, torch.export, torch.jit.trace): no size may decide what it holds."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def can_keep_results(sources: Sequence[Tensor]) -> bool:
    """Whether a result computed from these parameters may serve later calls: on a CPU, outside graphs and torch.func,
    and only if no gradient could be asked for. (On other devices the comparison of the parameters would have to wait.)
    """
    return not (
        sizes_are_open()
        or torch._C._functorch.peek_interpreter_stack()
        or (torch.is_grad_enabled() and any(source.requires_grad for source in sources))
        or any(not source.is_cpu for source in sources)
    )


records_calls = torch.jit.is_tracing  # whether torch.jit.trace makes a graph that names the layers that are called


def full_precision(x: Tensor):
    """A context in which autocast is off on the device of `x`."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def too_many(samples: int) -> str | None:
    """Why the kernels refuse this number of samples, or heads of samples; None if they can divide it."""
    return None if samples <= MOST_PROGRAMS else f"there are more than {MOST_PROGRAMS:,} samples or heads"


def other_shapes(**tensors: tuple[Tensor | None, tuple[int, ...]]) -> str | None:
    """A text on the first tensor whose shape differs from the expected one: the kernels check no shapes themselves."""
    for name, (tensor, shape) in tensors.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            return f"{name} is {tuple(tensor.shape)}, not {shape}"
    return None


def refusal(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device; None if they can."""
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


def autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors in the type that autocast computes in on the first one's device; unchanged if autocast is off.

    As in torch's own operations float64 stays float64.
    """
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return list(tensors)
    dtype = torch.get_autocast_dtype(kind)
    return [tensor if tensor is None or tensor.dtype == torch.float64 else tensor.to(dtype) for tensor in tensors]


def _against(tensors: Sequence[Tensor | None]) -> str | None:
    """Why the kernels refuse the tensors of a call."""
    if torch.compiler.is_exporting() or torch.jit.is_tracing() or _exported_form:
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
        raise InvalidValueError(f"{name} must be one of {', '.join(CHOICES)}, got {choice!r}")
