"""From a model to a graph whose batch and image size may stay open."""

import re
from collections.abc import Collection
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbols

from glocal.deploy.reparameterize import fuse
from glocal.errors import InvalidValueError
from glocal.tasks.task import Trained
from glocal.wording import one_line

INEQUALITY = re.compile(r".* != \d+")
DYNAMIC = ("batch", "size")


class Maps(nn.Module):
    """A model of timm's contract as a function to the maps of its stages, (B, C, H, W) each."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.model.forward_intermediates(x, intermediates_only=True)


class LogitsAndEmbedding(nn.Module):
    """A model of timm's contract as a function to its logits, (B, classes), and its embedding, (B, D)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.model.forward_features(x)
        return self.model.forward_head(features), self.model.forward_head(features, pre_logits=True)


class Outputs(nn.Module):
    """The outputs of a task's model as a list, for a model without a vector before a classifier."""

    def __init__(self, outputs: nn.Module):
        super().__init__()
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        outputs = self.outputs(x)
        return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def with_embedding(trained: Trained) -> nn.Module:
    """A function to the task's outputs and, where there is one before a classifier, the embedding behind them."""
    outputs = trained.task.outputs(trained.model)
    return LogitsAndEmbedding(trained.model) if has_embedding(trained) else Outputs(outputs)


def has_embedding(trained: Trained) -> bool:
    """Whether the task's outputs are those of a classifier of timm's contract."""
    return trained.task.outputs(trained.model) is trained.model


def trace(
    model: nn.Module,
    input_size: tuple[int, int, int] = (3, 224, 224),
    batch: int = 1,
    dynamic: Collection[str] = DYNAMIC,
    raw: bool = False,
) -> ExportedProgram:
    """Trace a model, fused, with torch.export.

    Args:
        model: takes (B, C, H, W) and returns a tensor or a list of them.
        input_size: (C, H, W) of the images, where "size" is not dynamic.
        batch: images at a time, where "batch" is not dynamic.
        dynamic: what may differ from call to call: "batch", "size", both or nothing.
        raw: the model takes uint8 (B, H, W, C).

    Raises ValueError for anything else in `dynamic`, or where the model itself does not leave it open.
    """
    for name in dynamic:
        if name not in DYNAMIC:
            raise InvalidValueError(f"dynamic may be {' or '.join(DYNAMIC)}, got {name!r}")
    channels, height, width = input_size
    open_axes = {}
    if "batch" in dynamic:
        batch = 2  # torch.export takes 0 and 1 for constants
        open_axes[0] = Dim.DYNAMIC
    if "size" in dynamic:  # a sample in which no side of a map is 1 or equals another one
        height, width = 256, 320
        open_axes |= dict.fromkeys((1, 2) if raw else (2, 3), Dim.DYNAMIC)
    sample = torch.zeros(batch, channels, height, width)
    if raw:
        sample = sample.permute(0, 2, 3, 1).to(torch.uint8).contiguous()
    model = fuse(model).cpu().requires_grad_(False)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if hasattr(symbols, "backed_size_oblivious"):  # or the graph is for maps of at least 2 × 2 positions
            stack.enter_context(symbols.patch(backed_size_oblivious=True))
        try:
            program = torch.export.export(model, (sample,), dynamic_shapes=(open_axes or None,))
        except (torch._dynamo.exc.UserError, RuntimeError, ValueError, AssertionError) as error:
            what = f" with {' and '.join(dynamic)} left open" if dynamic else ""
            raise InvalidValueError(
                f"torch.export does not take this model{what}: {one_line(error, first_only=True)}"
            ) from error
    # Where torch asks how a map lies in memory, it notes that the batch, or a side, is not 1, as a condition of the
    # graph, though the operations are the same. (`export` compares the file with the model for a batch of 1, too.)
    program._guards_code = [guard for guard in program._guards_code if not INEQUALITY.fullmatch(guard)]
    return program


@contextmanager
def measuring(model: nn.Module):
    """The model in eval mode for a while; afterwards every part is as it was."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters and buffers are; the CPU for one without."""
    return next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
