"""Parameters and multiply–accumulates of a model, counted on the meta device: nothing is computed."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from glocal.backbone import Backbone
from glocal.errors import InvalidValueError
from glocal.layers.position import SizeCached
from glocal.layers.token_mixers import AggregatedAttention
from glocal.tasks.creation import create_model
from glocal.wording import one_line


@dataclass(frozen=True)
class StageCost:
    """A stage's name, output shape (C, H, W), number of blocks, parameters and multiply–accumulates."""

    name: str
    shape: tuple[int, ...]
    blocks: int
    params: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """A model at one input size (C, H, W); `stages` holds the stem, the stages and the head of our models."""

    name: str
    input_size: tuple[int, int, int]
    params: int
    macs: int
    stages: tuple[StageCost, ...]


def measure(name: str, size: int | tuple[int, int] | None = None) -> Cost:
    """Count parameters and multiply–accumulates of a model of timm's registry; see `count`.

    Args:
        name: with or without a tag.
        size: of the image, a side or (H, W); None takes the model's own.

    Raises ValueError for an unknown name, and for a size that is not positive or that the model does not take.
    """
    return count(create_model(name, device="meta"), name, size)


def count(model: nn.Module, name: str, size: int | tuple[int, int] | None = None) -> Cost:
    """Count parameters and multiply–accumulates of one image in eval mode.

    Counted are convolutions, linear layers and attention products; norms, activations and softmax are not, and neither
    are position biases, which depend on the input size alone and are computed once for it.

    Args:
        model: on the meta device, with the `pretrained_cfg` of timm. It is put into eval mode, without gradients.
        name: for the result and errors.
        size: as in `measure`.
    """
    model.eval().requires_grad_(False)
    channels, height, width = model.pretrained_cfg["input_size"]
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 1:
            raise InvalidValueError(f"size must be positive, got {size}")
    image = torch.empty(1, channels, height, width, device="meta")
    shapes: dict[str, tuple[int, ...]] = {}
    extra: dict[str, int] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, part=part: shapes.update({part: tuple(output.shape[1:])}))
        for part, module in parts(model).items()
    ]
    with torch.no_grad():
        try:
            model(image)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise InvalidValueError(
                f"{name} does not take images of {height}×{width} pixels: {one_line(error)}"
            ) from error
        for part, module in model.named_modules():
            if isinstance(module, AggregatedAttention):
                hooks.append(module.register_forward_hook(local_products(part, extra)))
        with FlopCounterMode(display=False) as counter:
            model(image)
    for hook in hooks:
        hook.remove()

    root = type(model).__name__
    counted = {part: sum(ops.values()) // 2 for part, ops in counter.get_flop_counts().items()}

    # A position bias is kept for the next images (on a meta device it cannot be).
    extra |= {
        part: -counted.get(f"{root}.{part}", 0)
        for part, module in model.named_modules()
        if isinstance(module, SizeCached)
    }

    def macs(part: str) -> int:
        inside = sum(products for place, products in extra.items() if place.startswith(part))
        return counted.get(f"{root}.{part}" if part else root, 0) + inside

    stages = tuple(
        StageCost(part, shapes[part], len(getattr(module, "blocks", ())), count_params(module), macs(part))
        for part, module in parts(model).items()
    )
    return Cost(name, (channels, height, width), count_params(model), macs(""), stages)


def parts(model: nn.Module) -> dict[str, nn.Module]:
    """Stem, stages and head of our backbones; nothing of other models."""
    if not isinstance(model, Backbone):
        return {}
    stages = {f"stages.{i}": stage for i, stage in enumerate(model.stages)}
    return {"stem": model.stem, **stages, "head": model.head}


def count_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def local_products(part: str, extra: dict[str, int]):
    """A hook that counts aggregated attention's 3×3 products, which are sums of element-wise ones, not matrix ones."""

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor):
        extra[part] = 2 * 9 * inputs[0][0].numel()  # q·k and a·v with nine neighbours, for every value of one image

    return count
