"""Two functions agree when their outputs and the gradients of every input do."""

from collections.abc import Callable

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
    grads = torch.autograd.grad((out * random(*out.shape, dtype=out.dtype)).sum(), list(leaves.values()))
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
    """The same values as a view into a larger map full of NaN: whoever reads beyond an edge gets one."""
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
