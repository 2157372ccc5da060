"""The four-stage skeleton of all families, with timm's model contract. Both are implemented only here.

A backbone is a stem and four stages; a stage is a downsample and blocks; a block is a token mixer and a channel mixer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatch
from typing import Any

import torch
import torch.nn as nn
from timm.layers import DropPath, get_device_dtype, trunc_normal_
from timm.models import checkpoint
from timm.models._features import FeatureGetterNet, feature_take_indices
from torch import Tensor

from glocal.layers.conv import is_plain
from glocal.layers.fusion import absorb_input_norm, absorb_scale
from glocal.layers.head import ClassifierHead

# Called with a number of channels, returns a module. A mixer also gets `proj_drop`; a downsample, its input channels.
Build = Callable[..., nn.Module]
PerStage = Build | Sequence[Build]

INITS = ("trunc_normal", "fan_out", "fan_out_spatial")


class Block(nn.Module):
    """x + drop_path(scale(mixer(norm(x)))), first with the token mixer, then with the channel mixer.

    Args:
        dim: channels.
        token_mixer, channel_mixer, norm1, norm2, scale1, scale2: modules; an identity if a family has none.
        drop_path: probability that a branch is dropped for a sample.
        position: module before the branches that adds position information; its residual is its own.
        uses_position: whether the token mixer also gets the position bias that the stage's blocks share.
    """

    uses_position: torch.jit.Final[bool]

    def __init__(
        self,
        token_mixer: nn.Module,
        channel_mixer: nn.Module,
        norm1: nn.Module,
        norm2: nn.Module,
        scale1: nn.Module,
        scale2: nn.Module,
        position: nn.Module,
        drop_path: float,
        uses_position: bool,
    ):
        super().__init__()
        self.uses_position = uses_position
        self.position = position
        self.norm1 = norm1
        self.token_mixer = token_mixer
        self.scale1 = scale1
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = norm2
        self.channel_mixer = channel_mixer
        self.scale2 = scale2
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, position: Tensor | None = None) -> Tensor:
        x = self.position(x)
        y = self.norm1(x)
        if self.uses_position:  # a constant: TorchScript compiles only the branch that runs
            assert position is not None  # the stage passes it
            y = self.token_mixer(y, position)
        else:
            y = self.token_mixer(y)
        x = x + self.drop_path1(self.scale1(y))
        return x + self.drop_path2(self.scale2(self.channel_mixer(self.norm2(x))))

    def reparameterize(self):
        """Merge linear steps that follow each other, for inference (`glocal.deploy.fuse`)."""
        for mixer in (self.token_mixer, self.channel_mixer):
            if hasattr(mixer, "reparameterize"):  # before the scale: a mixer may end with a norm
                mixer.reparameterize()
        self.scale1 = absorb_scale(self.token_mixer, self.scale1)
        self.scale2 = absorb_scale(self.channel_mixer, self.scale2)
        first = getattr(self.channel_mixer, "input_conv", None)
        if first is not None and is_plain(self.channel_mixer, type(self.channel_mixer)):
            self.norm2 = absorb_input_norm(self.norm2, getattr(self.channel_mixer, first))


class Stage(nn.Module):
    """Downsample, blocks, norm. `forward` returns the normed map; the next stage receives the same map.

    Args:
        downsample: (B, C', H, W) → (B, C, ⌈H/2⌉, ⌈W/2⌉), an identity in the first stage.
        blocks: the stage's `Block`s.
        norm: after the last block, an identity if a family has none.
        output_norm: after the norm, for dense heads alone: the next stage does not get its result.
        position: computes the position bias that the blocks share, from the stage's map; None if they share none.
    """

    shares_position: torch.jit.Final[bool]

    def __init__(
        self,
        downsample: nn.Module,
        blocks: list[nn.Module],
        norm: nn.Module,
        output_norm: nn.Module,
        position: nn.Module | None,
    ):
        super().__init__()
        self.grad_checkpointing = False
        self.shares_position = position is not None
        self.downsample = downsample
        self.position = position if position is not None else nn.Identity()
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.output_norm = output_norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.forward_blocks(x))

    def forward_maps(self, x: Tensor, norm: bool) -> tuple[Tensor, Tensor]:
        """What the next stage receives, and the map for other uses: before the norm, or after all norms with `norm`."""
        before_norm = self.forward_blocks(x)
        x = self.norm(before_norm)
        return x, self.output_norm(x) if norm else before_norm

    def forward_blocks(self, x: Tensor) -> Tensor:
        """The map after the last block, before the norm."""
        x = self.downsample(x)
        position: Tensor | None = None
        if self.shares_position:
            position = self.position(x)
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x, position)
            else:
                x = block(x, position)
        return x


class Backbone(nn.Module):
    """A stem, four stages of any mixers, and a classification head. Each family chooses these arguments.

    Takes images (B, in_chans, H, W) of any H, W ≥ 32 and returns logits (B, num_classes); the stages' maps have
    ⌈H/4⌉, ⌈H/8⌉, ⌈H/16⌉ and ⌈H/32⌉ rows.

    Args:
        dims, depths: channels and number of blocks of each stage.
        stem: built as `stem(in_chans, dims[0])`, stride 4.
        downsample: built as `downsample(in_dim, dim)`, stride 2.
        token_mixer, channel_mixer: built as `mixer(dim, proj_drop=…)`; a builder for all stages, or a sequence of them.
        norm1, norm2: built as `norm(dim)`, before the token and the channel mixer.
        position: built as `position(dim)`, at the start of a block.
        stage_position: a builder for each stage, called without arguments. Its module computes the position bias that
            the blocks of a stage share, and the token mixers are called as `mixer(x, bias)`. None: no shared bias.
        scale: built as `scale(dim)`, at the end of both branches (LayerScale).
        stage_norm: built as `norm(dim)`, at the end of a stage; a builder for all stages, or a sequence of them.
        output_norm: as `stage_norm`, for the maps that `forward_intermediates(norm=True)` returns; the next stage
            does not get its result.
        head_hidden_size: width of a 1×1 convolution before the pooling; 0 for no convolution.
        in_chans, num_classes, global_pool, drop_rate, proj_drop, drop_path_rate: as in timm's models;
            the drop path rate grows linearly over all blocks, from 0.
        init: "trunc_normal": every weight truncated normal with std 0.02; "fan_out": convolutions normal with variance
            2 / fan-out, linear layers truncated normal; "fan_out_spatial": as "fan_out", but 1×1 convolutions
            truncated normal too.
        undecayed: fnmatch patterns of parameter names. Weight decay leaves these out, as it does biases and norms.
        device, dtype: of the parameters, at construction.

    Raises:
        ValueError: the length of a per-stage argument is not the number of stages, or `init` is unknown.
    """

    def __init__(
        self,
        *,
        dims: Sequence[int],
        depths: Sequence[int],
        stem: Build,
        downsample: Build,
        token_mixer: PerStage,
        channel_mixer: PerStage,
        norm1: Build = nn.Identity,
        norm2: Build = nn.Identity,
        position: Build = nn.Identity,
        stage_position: Sequence[Build] | None = None,
        scale: Build = nn.Identity,
        stage_norm: PerStage = nn.Identity,
        output_norm: PerStage = nn.Identity,
        head_hidden_size: int = 0,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        proj_drop: float = 0.0,
        drop_path_rate: float = 0.0,
        init: str = "trunc_normal",
        undecayed: Sequence[str] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        stages = len(dims)
        depths = per_stage("depths", depths, stages)
        token_mixers = per_stage("token_mixer", token_mixer, stages)
        channel_mixers = per_stage("channel_mixer", channel_mixer, stages)
        stage_norms = per_stage("stage_norm", stage_norm, stages)
        output_norms = per_stage("output_norm", output_norm, stages)
        stage_positions = per_stage("stage_position", stage_position, stages)
        if init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, not {init!r}")
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.num_features = dims[-1]
        self.drop_rate = drop_rate
        self.init = init
        self.undecayed = tuple(undecayed)
        self.feature_info = [dict(num_chs=dim, reduction=4 * 2**i, module=f"stages.{i}") for i, dim in enumerate(dims)]
        drop_paths = iter(linear_schedule(drop_path_rate, sum(depths)))

        with created_on(device, dtype):
            self.stem = stem(in_chans, dims[0])
            self.stages = nn.Sequential()
            for i, dim in enumerate(dims):
                blocks = [
                    Block(
                        token_mixer=token_mixers[i](dim, proj_drop=proj_drop),
                        channel_mixer=channel_mixers[i](dim, proj_drop=proj_drop),
                        norm1=norm1(dim),
                        norm2=norm2(dim),
                        scale1=scale(dim),
                        scale2=scale(dim),
                        position=position(dim),
                        drop_path=next(drop_paths),
                        uses_position=stage_positions[i] is not None,
                    )
                    for _ in range(depths[i])
                ]
                self.stages.append(
                    Stage(
                        downsample=downsample(dims[i - 1], dim) if i > 0 else nn.Identity(),
                        blocks=blocks,
                        norm=stage_norms[i](dim),
                        output_norm=output_norms[i](dim),
                        position=stage_positions[i]() if stage_positions[i] is not None else None,
                    )
                )
            self.head = ClassifierHead(dims[-1], num_classes, global_pool, drop_rate, head_hidden_size)
            self.head_hidden_size = self.head.out_dim
            if not next(self.parameters()).is_meta:  # meta tensors hold no values, but PyTorch would take as long
                self.init_weights()

    @torch.jit.ignore
    def init_weights(self):
        """Initialise every parameter and buffer, also after `to_empty()`."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                by_fan_out = isinstance(module, nn.Conv2d) and (
                    self.init == "fan_out" or (self.init == "fan_out_spatial" and module.kernel_size != (1, 1))
                )
                if by_fan_out:
                    fan_out = module.out_channels * module.weight[0, 0].numel() // module.groups
                    nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
                else:
                    trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif module is not self and hasattr(module, "reset_parameters"):
                module.reset_parameters()

    # timm's model contract -----------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last stage's normed map, (B, num_features, ⌈H/32⌉, ⌈W/32⌉), from images."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Compute logits from the map of `forward_features`; with `pre_logits`, the vector before the classifier."""
        return self.head(x, pre_logits=pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the map of each stage in `indices`: after its last block, or after its norm with `norm=True`.

        Args:
            x: (B, in_chans, H, W).
            indices: stages to return; an int n means the last n, None means all.
            stop_early: skip the stages after the last in `indices`.
            intermediates_only: return only the list.

        Returns:
            (final map, list of maps), or only the list. The final map is the normed map of the last stage that ran.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', not '{output_fmt}'")
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        if torch.jit.is_scripting() or not stop_early:  # noqa: SIM108 (TorchScript cannot slice modules)
            stages = self.stages
        else:
            stages = self.stages[: max_index + 1]

        intermediates: list[Tensor] = []
        x = self.stem(x)
        for i, stage in enumerate(stages):
            x, taken = stage.forward_maps(x, norm)
            if i in take_indices:
                intermediates.append(taken)
        if intermediates_only:
            return intermediates
        return x, intermediates

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers that the stages in `indices` do not need, and return these indices."""
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        cut = max_index < len(self.stages) - 1
        del self.stages[max_index + 1 :]
        if prune_norm:  # a norm between two stages stays: the next stage needs it
            self.stages[-1].norm = nn.Identity().train(self.training)
            for stage in self.stages:
                stage.output_norm = nn.Identity().train(self.training)
        if cut:
            self.num_features = self.feature_info[max_index]["num_chs"]
        if cut or prune_head:
            self.head = ClassifierHead(self.num_features, 0, "", self.drop_rate).train(self.training)
            self.num_classes, self.head_hidden_size = 0, self.head.out_dim
        return take_indices

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: str | None = None):
        """Replace the classifier by a new one, and the pooling if `global_pool` is given ('' for no pooling)."""
        self.num_classes = num_classes
        hidden = self.head.hidden
        pool = self.head.global_pool.pool_type if global_pool is None else global_pool
        with created_on(**get_device_dtype(self)):
            head = ClassifierHead(self.num_features, num_classes, pool, self.drop_rate, self.head.hidden_size)
            if num_classes > 0:
                trunc_normal_(head.fc.weight, std=0.02)
                nn.init.zeros_(head.fc.bias)
        head.hidden = hidden
        self.head = head.train(self.training)
        self.head_hidden_size = head.out_dim

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True):
        """Recompute every block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer decay: the stem, every block (or stage) in order, the head."""
        if coarse:
            return dict(stem=r"^stem", blocks=r"^stages\.(\d+)")
        return dict(
            stem=r"^stem",
            blocks=[
                (r"^stages\.(\d+)\.(?:downsample|position)", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^stages\.(\d+)\.norm", (99999,)),
            ],
        )

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters with two or more axes that the family's authors trained without weight decay."""
        return {
            name for name, _ in self.named_parameters() if any(fnmatch(name, pattern) for pattern in self.undecayed)
        }


class FeatureBackbone(FeatureGetterNet):
    """The model of `features_only=True`: a list of maps, before the stages' norms, or after them with `norm`."""

    def set_grad_checkpointing(self, enable: bool = True):
        self.model.set_grad_checkpointing(enable)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return inside("model", self.model.group_matcher(coarse))

    def no_weight_decay(self) -> set[str]:
        return {f"model.{name}" for name in self.model.no_weight_decay()}


def inside(part: str, matcher: dict[str, Any]) -> dict[str, Any]:
    """The group matcher of a part, for the model that holds it: parameter names begin with the name of the part."""

    def named(pattern: str) -> str:
        return pattern.replace("^", rf"^{part}\.")

    blocks = matcher["blocks"]
    blocks = named(blocks) if isinstance(blocks, str) else [(named(pattern), order) for pattern, order in blocks]
    return dict(stem=named(matcher["stem"]), blocks=blocks)


def per_stage(name: str, value: Any, stages: int) -> list[Any]:
    """A list with an entry for each stage: the given sequence, or the single value repeated."""
    if value is None or callable(value):
        return [value] * stages
    if len(value) != stages:
        raise ValueError(f"{name} has {len(value)} entries for {stages} stages")
    return list(value)


def linear_schedule(maximum: float, steps: int) -> list[float]:
    """Numbers from 0 to `maximum` in equal steps; if `steps` is 1, only 0."""
    return [maximum * i / max(steps - 1, 1) for i in range(steps)]


@contextmanager
def created_on(device: torch.device | str | None, dtype: torch.dtype | None) -> Iterator[None]:
    """Create parameters and buffers on a device and in a dtype; None keeps the surrounding default."""
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype or default)
        with torch.device(device) if device is not None else nullcontext():
            yield
    finally:
        torch.set_default_dtype(default)
