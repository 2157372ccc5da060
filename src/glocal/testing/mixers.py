"""`check_mixer`: the properties that every mixer must have, checked on any class."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glocal.ops.dispatch import as_exported
from glocal.testing.agreement import difference, failing_as, poisoned, problem, random, randomised

SIZES = ((8, 8), (5, 7), (1, 1), (2, 3), (13, 9))
BATCH = 2
EXACT = 1e-9  # relative, in float64


@dataclass(frozen=True)
class Case:
    """A mixer under test, and how it is built and called."""

    mixer: Callable[..., nn.Module]
    dim: int
    stage_position: Callable[[], nn.Module] | None

    def build(self, seed: int = 0, **options: float) -> nn.Module:
        """As the skeleton builds it, from the random numbers of a seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.mixer(self.dim, **options)

    def filled(self) -> nn.Module:
        """In eval mode and float64, with random parameters: no zero or one may hide an error."""
        return randomised(self.build()).eval()

    def input(self, size: tuple[int, int], batch: int = BATCH, seed: int = 0) -> Tensor:
        return random(batch, self.dim, *size, seed=seed)

    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the mixer is called with: a map, and the stage's position for it if the mixer takes one."""
        if self.stage_position is None:
            return (x,)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return x, randomised(self.stage_position()).to(x.dtype).eval()(x).detach()

    def call(self, module: nn.Module, x: Tensor, seed: int = 1) -> Tensor:
        """Call the mixer on a map, with random numbers of its own."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return module(*self.inputs(x))


def check_mixer(
    mixer: Callable[..., nn.Module],
    dim: int = 16,
    stage_position: Callable[[], nn.Module] | None = None,
    skip: Sequence[str] = (),
) -> None:
    """Check that a token or channel mixer can take a place in `Backbone`.

    Args:
        mixer: built as `mixer(dim)` and `mixer(dim, proj_drop=…)`; bind other arguments with `functools.partial`.
        dim: channels to build it for.
        stage_position: builds what the stage computes for its blocks, if the mixer is called as `mixer(x, position)`;
            as in `Backbone`.
        skip: properties, of `PROPERTIES`, that are not checked.

    Raises:
        AssertionError: a property does not hold; the message is one sentence that begins with the mixer's name.
        ValueError: an unknown name in `skip`.
    """
    unknown = sorted(set(skip) - set(PROPERTIES))
    if unknown:
        raise ValueError(f"skip may hold {', '.join(PROPERTIES)}, not {', '.join(unknown)}")
    case = Case(mixer, dim, stage_position)
    for name, holds in PROPERTIES.items():
        if name not in skip:
            with failing_as(mixer):
                holds(case)


def require(holds: object, sentence: str) -> None:
    if not holds:
        raise AssertionError(sentence)


def is_built(case: Case) -> None:
    for options in ({}, {"proj_drop": 0.0}):
        call = "mixer(dim, proj_drop=0.0)" if options else "mixer(dim)"
        try:
            module = case.build(**options)
        except TypeError as error:
            raise AssertionError(f"is not built by {call} ({problem(error)}).") from error
        require(isinstance(module, nn.Module), f"returns {type(module).__name__}, not a module, for {call}.")


def initialises_its_parameters(case: Case) -> None:
    with poisoned():
        module = case.build()
    for name, tensor in module.state_dict().items():
        filled = not tensor.is_floating_point() or tensor.isfinite().all()
        require(filled, f"does not initialise {name} in its constructor.")


def is_built_without_memory(case: Case) -> None:
    try:
        with torch.device("meta"):
            module = case.build()
    except Exception as error:
        raise AssertionError(f"cannot be built on the meta device ({problem(error)}).") from error
    elsewhere = [name for name, parameter in module.named_parameters() if not parameter.is_meta]
    require(not elsewhere, f"creates {', '.join(elsewhere)} elsewhere if it is built on the meta device.")


def keeps_the_shape(case: Case) -> None:
    module = case.filled()
    for size in SIZES:
        x = case.input(size)
        try:
            out = case.call(module, x)
        except Exception as error:
            raise AssertionError(f"fails on a map of {size[0]} × {size[1]} positions ({problem(error)}).") from error
        require(isinstance(out, Tensor), f"returns {type(out).__name__}, not a tensor.")
        require(out.shape == x.shape, f"turns a map of shape {tuple(x.shape)} into one of shape {tuple(out.shape)}.")
        require(out.isfinite().all(), f"returns numbers that are not finite for {size[0]} × {size[1]} positions.")


def keeps_the_type(case: Case) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        out = case.call(case.build().to(dtype).eval(), case.input((5, 7)).to(dtype))
        require(out.dtype == dtype, f"returns {out.dtype} for a map in {dtype}.")


def treats_images_by_themselves(case: Case) -> None:
    module = case.filled()
    x = case.input((5, 7))
    together = case.call(module, x)
    for i in range(len(x)):
        wrong = difference(together[i : i + 1], case.call(module, x[i : i + 1]), EXACT)
        require(not wrong, f"lets the images of a batch change one another's result in eval mode: {wrong}.")


def repeats_its_result(case: Case) -> None:
    module, x = case.filled(), case.input((5, 7))
    require(torch.equal(case.call(module, x, seed=1), case.call(module, x, seed=2)), "is random in eval mode.")


def leaves_its_input(case: Case) -> None:
    module = case.filled()
    for dtype in (torch.float64, torch.float32):
        x = case.input((5, 7)).to(dtype)
        before = x.clone()
        with torch.no_grad():
            case.call(module.to(dtype), x)
        require(torch.equal(x, before), "writes into its input.")


def forgets_other_sizes(case: Case) -> None:
    used, x = case.filled(), case.input((5, 7))
    with torch.no_grad():
        for size in ((7, 5), (35, 1), (8, 8), (13, 9)):  # some with as many positions
            case.call(used, case.input(size))
        wrong = difference(case.call(used, x), case.call(case.filled(), x), EXACT)
    require(not wrong, f"returns another result after it has seen other sizes: {wrong}.")


def follows_its_parameters(case: Case) -> None:
    module, x = case.filled(), case.input((5, 7))
    with torch.no_grad():
        case.call(module, x)
        for parameter in module.parameters():
            parameter.mul_(0.5)
        fresh = case.build().double().eval()
        fresh.load_state_dict(module.state_dict())
        wrong = difference(case.call(module, x), case.call(fresh, x), EXACT)
    require(not wrong, f"still uses what it computed from its parameters before they changed: {wrong}.")


def hands_on_gradients(case: Case) -> None:
    module, x = case.filled(), case.input((5, 7)).requires_grad_()
    named = dict(module.named_parameters())
    out = case.call(module, x)
    require(out.requires_grad, "returns a result without a gradient.")
    grads = torch.autograd.grad((out * random(*out.shape, seed=1)).sum(), [x, *named.values()], allow_unused=True)
    require(grads[0] is not None and grads[0].any(), "hands no gradient on to its input.")
    for name, grad in zip(["its input", *named], grads, strict=True):
        require(grad is not None, f"hands no gradient on to {name}.")
        require(grad.isfinite().all(), f"computes a gradient of {name} that is not finite.")


def trains_on_one_value(case: Case) -> None:
    module, x = case.build().train(), case.input((1, 1), batch=1).float().requires_grad_()
    try:
        case.call(module, x).sum().backward()
    except Exception as error:
        raise AssertionError(f"cannot be trained on one image of one position ({problem(error)}).") from error
    for name, parameter in module.named_parameters():
        finite = parameter.grad is None or parameter.grad.isfinite().all()
        require(finite, f"computes a gradient of {name} that is not finite for one image of one position.")


def ignores_the_memory_format(case: Case) -> None:
    module, x = case.filled(), case.input((5, 7))
    expected = case.call(module, x)
    last = torch.channels_last
    wrong = difference(case.call(module.to(memory_format=last), x.contiguous(memory_format=last)), expected, EXACT)
    require(not wrong, f"returns another result in channels_last: {wrong}.")


def is_saved_and_loaded(case: Case) -> None:
    module, x = case.filled(), case.input((5, 7))
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    expected = case.call(module, x)
    after = {name: tensor.shape for name, tensor in module.state_dict().items()}
    require(after == shapes, "changes the names or shapes of its state dict in a forward pass.")
    loaded = case.build(seed=1).double().eval()  # other random numbers, if any are kept outside the state dict
    loaded.load_state_dict(module.state_dict())
    wrong = difference(case.call(loaded, x), expected, EXACT)
    require(not wrong, f"returns another result after its state dict is loaded into a new one: {wrong}.")
    try:
        copied = copy.deepcopy(module)
    except Exception as error:
        raise AssertionError(f"cannot be copied ({problem(error)}).") from error
    require(torch.equal(case.call(copied, x), expected), "returns another result after it is copied.")


def drops_in_training_only(case: Case) -> None:
    plain, dropped, x = case.filled(), case.build(proj_drop=0.5).double().eval(), case.input((5, 7))
    dropped.load_state_dict(plain.state_dict())
    wrong = difference(case.call(dropped, x), case.call(plain, x), EXACT)
    require(not wrong, f"lets proj_drop act in eval mode: {wrong}.")
    same = not difference(case.call(dropped.train(), x), case.call(plain.train(), x), EXACT)
    require(not same, "ignores proj_drop in training.")


def is_exported(case: Case) -> None:
    module, inputs = case.filled(), case.inputs(case.input((5, 7)))
    with torch.no_grad():
        expected = module(*inputs)
        with as_exported():
            wrong = difference(module(*inputs), expected, EXACT)
        require(not wrong, f"returns another result in the form for exported graphs: {wrong}.")
        try:
            exported = torch.export.export(module, inputs).module()
        except Exception as error:
            raise AssertionError(f"is refused by torch.export ({problem(error)}).") from error
        wrong = difference(exported(*inputs), expected, EXACT)
    require(not wrong, f"returns another result after it is exported: {wrong}.")


def is_scripted(case: Case) -> None:
    module, inputs = case.filled(), case.inputs(case.input((5, 7)))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")
            scripted = torch.jit.script(module)
    except Exception as error:
        raise AssertionError(f"is refused by TorchScript ({problem(error)}).") from error
    with torch.no_grad():
        wrong = difference(scripted(*inputs), module(*inputs), EXACT)
    require(not wrong, f"returns another result after it is compiled by TorchScript: {wrong}.")


PROPERTIES: dict[str, Callable[[Case], None]] = {
    "builds": is_built,
    "initialises": initialises_its_parameters,
    "meta": is_built_without_memory,
    "shape": keeps_the_shape,
    "type": keeps_the_type,
    "batch": treats_images_by_themselves,
    "deterministic": repeats_its_result,
    "input": leaves_its_input,
    "sizes": forgets_other_sizes,
    "fresh": follows_its_parameters,
    "gradients": hands_on_gradients,
    "one_value": trains_on_one_value,
    "channels_last": ignores_the_memory_format,
    "state_dict": is_saved_and_loaded,
    "proj_drop": drops_in_training_only,
    "export": is_exported,
    "script": is_scripted,
}
