"""`check_op`: the properties that every op must have, checked on any function."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from glocal.ops import dispatch
from glocal.testing.agreement import difference, failing_as, inside_nan, poisoned, problem, run

SIZES = ((5, 7), (1, 1), (2, 3), (13, 9))
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2}
LAYOUTS = ("contiguous", "channels_last", "part of a wider map", "inside a map of NaN")

Inputs = Mapping[str, Tensor]


def check_op(
    op: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    inputs: Callable[[int, int], Inputs],
    maps: Sequence[str] = ("x",),
    tolerances: Mapping[torch.dtype, float] = TOLERANCES,
    sizes: Sequence[tuple[int, int]] = SIZES,
    backend: str = "auto",
    graphs: bool = True,
    custom_ops: Callable[[Inputs], Sequence[tuple[Callable, tuple]]] | None = None,
) -> None:
    """Check that an op computes what its reference does, with every gradient, whatever its inputs look like.

    Args:
        op, reference: called with the inputs by name; return a tensor.
        inputs: makes the inputs for a map of (H, W) positions, in float64.
        maps: names of the inputs whose last two axes are H and W; they are laid out in memory in several ways.
        tolerances: types of the inputs that are tried, with the largest error that is allowed in each, relative to the
            largest number of a result. The reference always computes in float64.
        sizes: (H, W) that are tried.
        backend: GLOCAL_OPS while the op is called; "triton" needs a GPU, or TRITON_INTERPRET=1.
        graphs: whether the forms for exporters and for torch.compile are checked too.
        custom_ops: the op's registered custom ops (`torch.library`), each with arguments, for float32 inputs that
            require gradients.

    Raises:
        AssertionError: a property does not hold; the message is one sentence that begins with the op's name.
    """
    dtype = next(iter(tolerances))
    with backend_for_a_while(backend), failing_as(op):
        for size in sizes:
            for tried, tolerance in tolerances.items():
                agrees(op, reference, typed(inputs(*size), tried), tolerance, size)
        for size in ((5, 7), (2, 3)):
            for layout in LAYOUTS[1:]:
                named = typed(inputs(*size), dtype)
                named |= {key: laid_out(named[key], layout) for key in maps}
                agrees(op, reference, named, tolerances[dtype], size, layout)
        named = typed(inputs(5, 7), dtype)
        repeats_its_result(op, named)
        leaves_its_inputs(op, named)
        if graphs:
            agrees_in_graphs(op, reference, named, tolerances[dtype])
        for custom_op, args in custom_ops(typed(inputs(5, 7), torch.float32)) if custom_ops is not None else ():
            is_lawful(custom_op, args)


@contextmanager
def backend_for_a_while(choice: str) -> Iterator[None]:
    before = dispatch.backend()
    dispatch.set_backend(choice)
    try:
        yield
    finally:
        dispatch.set_backend(before)


def typed(named: Inputs, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) for name, tensor in named.items()}


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers, (B, …, H, W), in another place in memory; all axes between the first and H are channels."""
    if layout == "inside a map of NaN":
        return inside_nan(x)
    shape = x.shape
    x = x.reshape(shape[0], -1, *shape[-2:]).contiguous(memory_format=torch.channels_last)
    if layout == "part of a wider map":
        x = torch.cat([x, torch.full_like(x, float("nan"))], dim=1)[:, : x.shape[1]]
    return x.reshape(shape)


def agrees(
    op: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    named: dict[str, Tensor],
    tolerance: float,
    size: tuple[int, int],
    layout: str = LAYOUTS[0],
) -> None:
    """Output and gradients in training, and the output without gradients, against the reference in float64."""
    dtype = next(iter(named.values())).dtype
    where = f"for {size[0]} × {size[1]} positions in {dtype}, {layout}"
    with backend_for_a_while("reference"):
        expected, expected_grads = run(reference, typed(named, torch.float64))
    with poisoned():
        try:
            out, grads = run(op, named)
            with torch.no_grad():
                inferred = op(**named)
        except Exception as error:
            raise AssertionError(f"fails {where} ({problem(error)}).") from error
    if out.dtype != dtype:
        raise AssertionError(f"returns {out.dtype} {where}.")
    compared = {"output": (out, expected), "output without gradients": (inferred, expected)}
    compared |= {f"gradient of {name}": (grads[name], expected_grads[name]) for name in named}
    for name, (actual, wanted) in compared.items():
        if wrong := difference(actual, wanted, tolerance):
            raise AssertionError(f"computes another {name} than the reference {where}: {wrong}.")


def repeats_its_result(op: Callable[..., Tensor], named: dict[str, Tensor]) -> None:
    (first, grads), (second, again) = run(op, named), run(op, named)
    if not torch.equal(first, second) or not all(torch.equal(grads[name], again[name]) for name in named):
        raise AssertionError("returns other numbers for the same inputs when it is called again.")


def leaves_its_inputs(op: Callable[..., Tensor], named: dict[str, Tensor]) -> None:
    copies = {name: tensor.clone() for name, tensor in named.items()}
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            op(**named)
        for name, tensor in named.items():
            if not torch.equal(tensor, copies[name]):
                raise AssertionError(f"writes into {name}.")


def agrees_in_graphs(
    op: Callable[..., Tensor], reference: Callable[..., Tensor], named: dict[str, Tensor], tolerance: float
) -> None:
    with backend_for_a_while("reference"):
        expected, _ = run(reference, typed(named, torch.float64))
    torch._dynamo.reset()
    compiled = torch.compile(lambda **tensors: op(**tensors), backend="eager", fullgraph=True)
    with torch.no_grad():
        for form, call in (("for exported graphs", op), ("under torch.compile", compiled)):
            try:
                with dispatch.as_exported() if call is op else torch.no_grad():
                    out = call(**named)
            except Exception as error:
                raise AssertionError(f"fails {form} ({problem(error)}).") from error
            if wrong := difference(out, expected, tolerance):
                raise AssertionError(f"computes another output {form} than the reference: {wrong}.")


def is_lawful(custom_op: Callable, args: tuple) -> None:
    try:
        torch.library.opcheck(custom_op, args)
    except Exception as error:
        raise AssertionError(f"has a custom op that torch.library.opcheck refuses ({problem(error)}).") from error
