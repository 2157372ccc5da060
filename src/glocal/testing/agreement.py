"""Two functions agree when their outputs and the gradients of every input do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal values that depend on the shape and the seed alone, up to the rounding of the type."""
    generator = torch.Generator().manual_seed(1000 * seed + sum((i + 1) * n for i, n in enumerate(shape)))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def run(function: Callable[..., Tensor], inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The output for named inputs, and the gradient of a fixed random projection of it for each of them."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
    out = function(**leaves)
    grads = torch.autograd.grad((out * random(*out.shape, dtype=out.dtype).to(out.device)).sum(), list(leaves.values()))
    return out.detach(), dict(zip(leaves, grads, strict=True))


def assert_agree(
    actual: Callable[..., Tensor], expected: Callable[..., Tensor], inputs: dict[str, Tensor], tolerance: float = 1e-10
):
    out, grads = run(actual, inputs)
    expected_out, expected_grads = run(expected, inputs)
    torch.testing.assert_close(out, expected_out, rtol=tolerance, atol=tolerance, msg=lambda m: f"output: {m}")
    for name, grad in grads.items():
        torch.testing.assert_close(
            grad, expected_grads[name], rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"grad of {name}: {m}"
        )


def inside_nan(tensor: Tensor, margin: int = 3) -> Tensor:
    """The same values as a view into a larger map full of NaN: code that reads beyond an edge gets a NaN."""
    *lead, height, width = tensor.shape
    poisoned = tensor.new_full((*lead, height + 2 * margin, width + 2 * margin), float("nan"))
    view = poisoned[..., margin : margin + height, margin : margin + width]
    view.copy_(tensor)
    return view


@torch.no_grad()
def randomised(module: nn.Module, scale: float = 1.0) -> nn.Module:
    """The module in float64 with random parameters and running statistics: no zero or one may hide an error."""
    module.double()
    for i, (name, tensor) in enumerate(module.state_dict().items()):
        if tensor.is_floating_point():
            noise = random(*tensor.shape, seed=i)
            tensor.copy_(1 + noise.abs() if name.endswith("running_var") else scale * noise)
    return module


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill memory that nothing has written yet with NaN."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill, torch.utils.deterministic.fill_uninitialized_memory = (
        torch.utils.deterministic.fill_uninitialized_memory,
        True,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill


@contextmanager
def failing_as(tested: Callable) -> Iterator[None]:
    """Begin the message of a failed check with the name of what is tested, a class, a function or a partial of one."""
    named = getattr(tested, "func", tested)
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{getattr(named, '__name__', named)} {error}") from error.__cause__


def problem(error: Exception) -> str:
    """An error as the end of a sentence: its type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def difference(actual: Tensor, expected: Tensor, tolerance: float) -> str:
    """How two tensors differ, as the end of a sentence; "" if they agree within `tolerance` of the largest number."""
    if actual.shape != expected.shape:
        return f"its shape is {tuple(actual.shape)}, not {tuple(expected.shape)}"
    actual, expected = actual.detach().double(), expected.detach().double()
    if not actual.isfinite().all() and expected.isfinite().all():
        return "it is not finite"
    scale = expected.abs().max().clamp(min=1e-6) if expected.numel() else torch.ones(())
    error = ((actual - expected).abs().max() / scale).item() if expected.numel() else 0.0
    return "" if error <= tolerance else f"the relative error is {error:.1e}"
