"""Tracing a model as a graph, for any batch and image size or for fixed ones."""

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
TWO_AT_LEAST = re.compile(r"expression u\d+ >= 2 ")  # in a message, of a size that the values decide
DYNAMIC = ("batch", "size")


class Maps(nn.Module):
    """Gives the maps of a model's stages, (B, C, H, W) each. model: has `maps`, or follows timm's contract."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        if hasattr(self.model, "maps"):
            return self.model.maps(x)
        return self.model.forward_intermediates(x, intermediates_only=True)


class LogitsAndEmbedding(nn.Module):
    """Gives a model's logits, (B, classes), and embedding, (B, D). model: follows timm's contract."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.model.forward_features(x)
        return self.model.forward_head(features), self.model.forward_head(features, pre_logits=True)


class Outputs(nn.Module):
    """Gives the outputs of a task's model as a list, for a model without an embedding."""

    def __init__(self, outputs: nn.Module):
        super().__init__()
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        outputs = self.outputs(x)
        return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def with_embedding(trained: Trained) -> nn.Module:
    """A module that gives the task's outputs and, if the model has a classifier, the embedding after them."""
    if has_embedding(trained):
        return LogitsAndEmbedding(trained.model)
    outputs = trained.task.outputs(trained.model)
    return outputs if takes_sizes(outputs) else Outputs(outputs)


def has_embedding(trained: Trained) -> bool:
    """Whether the task's outputs are those of a classifier of timm's contract."""
    task = trained.task
    return task.num_outputs(trained.class_names) > 0 and task.outputs(trained.model) is trained.model


def takes_sizes(model: nn.Module) -> bool:
    """Whether a model takes the sizes of the images in a batch after the images; see `Task.outputs`."""
    return getattr(model, "takes_sizes", False)


def axes_of(model: nn.Module, dynamic: Collection[str] | None) -> tuple[str, ...]:
    """The axes that a file leaves open; None: all that the model can leave open.

    Raises ValueError for others, and for the batch of a model that takes sizes: it has other objects in every image.
    """
    for name in dynamic or ():
        if name not in DYNAMIC:
            raise InvalidValueError(f"dynamic may be {' or '.join(DYNAMIC)}, got {name!r}")
    if not takes_sizes(model):
        return DYNAMIC if dynamic is None else tuple(dynamic)
    if "batch" in (dynamic or ()):
        raise InvalidValueError("a file of a model that finds objects takes an image at a time: its batch is not open")
    return ("size",) if dynamic is None else tuple(dynamic)


def some_sizes(images: torch.Tensor) -> torch.Tensor:
    """Sizes (B, 2) for images (B, C, H, W), a little smaller, so that a file that ignores them is noticed."""
    height, width = images.shape[2:]
    return torch.tensor([[height - height // 16, width - width // 8]]).repeat(len(images), 1)


def trace(
    model: nn.Module,
    input_size: tuple[int, int, int] = (3, 224, 224),
    batch: int = 1,
    dynamic: Collection[str] | None = None,
    raw: bool = False,
) -> ExportedProgram:
    """Fuse a model and trace it with torch.export.

    Args:
        model: takes (B, C, H, W) and returns a tensor or a list of tensors; if it takes sizes (see `Task.outputs`), so
            does the graph.
        input_size: (C, H, W) of the images, if "size" is not dynamic.
        batch: images per call, if "batch" is not dynamic.
        dynamic: what may differ from call to call: "batch", "size", both or nothing; None: see `axes_of`.
        raw: the model takes uint8 (B, H, W, C).

    Raises ValueError for anything else in `dynamic`, or if the model does not allow it to differ.
    """
    dynamic = axes_of(model, dynamic)
    channels, height, width = input_size
    open_axes = {}
    if "batch" in dynamic:
        batch = 2  # torch.export treats 0 and 1 as constants
        open_axes[0] = Dim.DYNAMIC
    if "size" in dynamic:  # with this sample, no side of a map is 1 or equals another side
        height, width = 256, 320
        open_axes |= dict.fromkeys((1, 2) if raw else (2, 3), Dim.DYNAMIC)
    sample = torch.zeros(batch, channels, height, width)
    if raw:
        sample = sample.permute(0, 2, 3, 1).to(torch.uint8).contiguous()
    samples, axes = (sample,), (open_axes or None,)
    if takes_sizes(model):
        samples, axes = (sample, some_sizes(sample)), (open_axes or None, None)
    model = fuse(model).cpu().requires_grad_(False)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if hasattr(symbols, "backed_size_oblivious"):  # otherwise the graph needs maps of at least 2 × 2
            stack.enter_context(symbols.patch(backed_size_oblivious=True))
        try:
            program = torch.export.export(model, samples, dynamic_shapes=axes)
        except (torch._dynamo.exc.UserError, RuntimeError, ValueError, AssertionError) as error:
            what = f" with {' and '.join(dynamic)} left open" if dynamic else ""
            raise InvalidValueError(
                f"torch.export does not take this model{what}: {one_line(error, first_only=True)}"
            ) from error
    # If torch asks for the memory layout of a map, the graph gets the condition that the batch, or a side, is not 1,
    # although the operations are the same. (`export` compares the file with the model for a batch of 1 too.)
    program._guards_code = [guard for guard in program._guards_code if not INEQUALITY.fullmatch(guard)]
    _allow_few_boxes(program)
    return program


def _allow_few_boxes(program: ExportedProgram) -> None:
    """Let the graph run where non-maximum suppression leaves one box, or none.

    As torchvision describes it, it leaves two at least, and torch.export makes a condition of that.
    """
    asserted = torch.ops.aten._assert_scalar.default
    nodes = [node for node in program.graph.nodes if node.target is asserted and TWO_AT_LEAST.search(node.args[1])]
    if not nodes:
        return
    for node in nodes:
        program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


@contextmanager
def measuring(model: nn.Module):
    """Put the model into eval mode for a while; afterwards every part has its mode again."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters and buffers; the CPU if it has none."""
    return next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
