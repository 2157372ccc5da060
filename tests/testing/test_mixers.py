"""check_mixer accepts every mixer of ours, and refuses a mixer for each property that it lacks."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.layers.channel_mixers import MSFFN, ConvFFN, ConvGLU, InvertedResidual, ResidualConvFFN
from glocal.layers.norm import BatchNorm2d, GroupNorm1
from glocal.layers.position import RelativePosition
from glocal.layers.token_mixers import (
    AggregatedAttention,
    ConvModulation,
    CosineAttention,
    DMixer,
    HierarchicalAttention,
    LargeKernelAttention,
)
from glocal.testing import check_mixer
from glocal.testing.mixers import PROPERTIES

pytestmark = pytest.mark.usefixtures("one_thread")

OURS = {
    "aggregated": partial(AggregatedAttention, pretrain_size=7, reduction=2, head_dim=8),
    "aggregated_linear": partial(AggregatedAttention, pretrain_size=7, reduction=2, pool_size=3, head_dim=8),
    "aggregated_interpolated": partial(AggregatedAttention, pretrain_size=7, reduction=2, base_size=(8, 6), head_dim=8),
    "cosine": partial(CosineAttention, pretrain_size=7, head_dim=8),
    "conv_modulation": ConvModulation,
    "large_kernel": LargeKernelAttention,
    "hierarchical": partial(HierarchicalAttention, head_dim=8, grid=3, reduction=2, norm=GroupNorm1),
    "hierarchical_global": partial(HierarchicalAttention, head_dim=8, grid=1, reduction=1, norm=BatchNorm2d),
    "conv_ffn": ConvFFN,
    "residual_conv_ffn": ResidualConvFFN,
    "conv_glu": ConvGLU,
    "ms_ffn": MSFFN,
    "inverted_residual": partial(InvertedResidual, norm=GroupNorm1),
    "inverted_residual_norms": partial(InvertedResidual, norm=BatchNorm2d, inner_norm=BatchNorm2d),
}


@pytest.mark.parametrize("name", OURS)
def test_takes_our_own(name):
    check_mixer(OURS[name])


def test_takes_a_mixer_that_is_given_the_stages_position():
    position = partial(RelativePosition, 2, (7, 7), 2)
    check_mixer(partial(DMixer, num_heads=2, reduction=2), stage_position=position)


class Pool(nn.Module):
    """PoolFormer's mixer with a learned scale: has every property."""

    def __init__(self, dim: int, proj_drop: float = 0.0):
        super().__init__()
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.scale = nn.Parameter(torch.ones(dim, 1, 1))
        self.drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop((self.pool(x) - 2 * x) * self.scale)


def test_takes_one_from_outside():
    check_mixer(Pool)


class NeedsAWidth(Pool):
    def __init__(self, dim: int, width: int, proj_drop: float = 0.0):
        super().__init__(dim, proj_drop)


def returns_no_module(dim: int, proj_drop: float = 0.0):
    return F.relu


class LeavesMemory(Pool):
    def __init__(self, dim: int, proj_drop: float = 0.0):
        super().__init__(dim, proj_drop)
        self.scale = nn.Parameter(torch.empty(dim, 1, 1))


class NeedsValues(Pool):
    def __init__(self, dim: int, proj_drop: float = 0.0):
        super().__init__(dim, proj_drop)
        assert float(self.scale.sum()) > 0


class OnACPU(Pool):
    def __init__(self, dim: int, proj_drop: float = 0.0):
        super().__init__(dim, proj_drop)
        self.scale = nn.Parameter(torch.ones(dim, 1, 1, device="cpu"))


class Shrinks(Pool):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(super().forward(x), 2, ceil_mode=True)


class NeedsTwoRows(Pool):
    def forward(self, x: Tensor) -> Tensor:
        return F.pad(super().forward(x), [0, 0, 1, 1], mode="reflect")[..., 1:-1, :]


class ReturnsAPair(Pool):
    def forward(self, x: Tensor):
        return x, super().forward(x)


class Infinite(Pool):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (x.shape[-1] - 1)


class InFloat32(Pool):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class NormalisesTheBatch(Pool):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - x.mean((0, 2, 3), keepdim=True)


class Noisy(Pool):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-3 * torch.randn_like(x)


class WritesIntoItsInput(Pool):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if not torch.is_grad_enabled():
            x.mul_(0.5)
        return y


class Remembers(Pool):
    """Keeps what it computed for the first map with as many positions."""

    def __init__(self, dim: int, proj_drop: float = 0.0):
        super().__init__(dim, proj_drop)
        self.kept: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.arange(x.shape[-2], dtype=x.dtype).unsqueeze(1).expand(x.shape[-2:]).flatten()
        kept = self.kept.setdefault(x.shape[-2] * x.shape[-1], rows)
        return super().forward(x) + kept.to(x.dtype).view(x.shape[-2:])


class KeepsItsScale(Pool):
    """Squares its scale once."""

    def __init__(self, dim: int, proj_drop: float = 0.0):
        super().__init__(dim, proj_drop)
        self.squared: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x) * self.scale**2
        if self.squared is None:
            self.squared = (self.scale**2).detach().double()
        return super().forward(x) * self.squared.to(x.dtype)


class Detaches(Pool):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class WithoutGradient(Pool):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class HasAnIdleParameter(Pool):
    def __init__(self, dim: int, proj_drop: float = 0.0):
        super().__init__(dim, proj_drop)
        self.idle = nn.Parameter(torch.ones(dim))


class HasAnInfiniteSlope(Pool):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0 * self.scale).abs().sqrt()


class WithTorchsBatchNorm(Pool):
    def __init__(self, dim: int, proj_drop: float = 0.0):
        super().__init__(dim, proj_drop)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class DividesByTheDeviation(Pool):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y / (y.var((2, 3), keepdim=True, correction=0).sqrt() + 1e-6)


class ReadsMemoryAsItLies(Pool):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.as_strided(x.shape, torch.empty(x.shape).stride())


class HidesABuffer(Pool):
    def __init__(self, dim: int, proj_drop: float = 0.0):
        super().__init__(dim, proj_drop)
        self.shift = torch.randn(dim, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift.to(x.dtype)


class SavesASize(Pool):
    def forward(self, x: Tensor) -> Tensor:
        self.register_buffer("size", torch.tensor(x.shape[-2:]))
        return super().forward(x)


class CannotBeCopied(Pool):
    def __deepcopy__(self, memo):
        raise RuntimeError("no")


class DropsAlways(Pool):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), self.drop.p, training=True)


class NeverDrops(Pool):
    def __init__(self, dim: int, proj_drop: float = 0.0):
        super().__init__(dim)


class DecidesByValues(Pool):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.sum()) > 0 else super().forward(x).clone()


class DiffersInGraphs(Pool):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2 if torch.compiler.is_exporting() else 1)


class TakesAnyArguments(Pool):
    def forward(self, *maps):
        return super().forward(maps[0])


class DiffersInTorchScript(Pool):
    def forward(self, x: Tensor) -> Tensor:
        y = self.drop((self.pool(x) - 2 * x) * self.scale)
        return 2 * y if torch.jit.is_scripting() else y


WRONG = [
    (NeedsAWidth, "builds", "is not built by mixer"),
    (returns_no_module, "builds", "returns function, not a module"),
    (LeavesMemory, "initialises", "does not initialise scale"),
    (NeedsValues, "meta", "cannot be built on the meta device"),
    (OnACPU, "meta", "creates scale elsewhere"),
    (Shrinks, "shape", r"turns a map of shape \(2, 16, 8, 8\) into one of shape \(2, 16, 4, 4\)"),
    (NeedsTwoRows, "shape", "fails on a map of 1 × 1 positions"),
    (ReturnsAPair, "shape", "returns tuple, not a tensor"),
    (Infinite, "shape", "not finite for 1 × 1 positions"),
    (InFloat32, "type", "returns torch.float32 for a map in torch.float64"),
    (NormalisesTheBatch, "batch", "change one another's result"),
    (Noisy, "deterministic", "is random in eval mode"),
    (WritesIntoItsInput, "input", "writes into its input"),
    (Remembers, "sizes", "after it has seen other sizes"),
    (KeepsItsScale, "fresh", "before they changed"),
    (WithoutGradient, "gradients", "returns a result without a gradient"),
    (Detaches, "gradients", "hands no gradient on to its input"),
    (HasAnIdleParameter, "gradients", "hands no gradient on to idle"),
    (HasAnInfiniteSlope, "gradients", "gradient of scale that is not finite"),
    (WithTorchsBatchNorm, "one_value", "cannot be trained on one image of one position"),
    (DividesByTheDeviation, "one_value", "not finite for one image of one position"),
    (ReadsMemoryAsItLies, "channels_last", "another result in channels_last"),
    (HidesABuffer, "state_dict", "after its state dict is loaded into a new one"),
    (SavesASize, "state_dict", "changes the names or shapes of its state dict"),
    (CannotBeCopied, "state_dict", "cannot be copied"),
    (DropsAlways, "proj_drop", "lets proj_drop act in eval mode"),
    (NeverDrops, "proj_drop", "ignores proj_drop in training"),
    (DecidesByValues, "export", "is refused by torch.export"),
    (DiffersInGraphs, "export", "after it is exported"),
    (TakesAnyArguments, "script", "is refused by TorchScript"),
    (DiffersInTorchScript, "script", "after it is compiled by TorchScript"),
]


@pytest.mark.parametrize(("wrong", "name", "message"), WRONG, ids=[f"{mixer.__name__}" for mixer, _, _ in WRONG])
def test_refuses(wrong, name, message):
    with pytest.raises(AssertionError, match=f"^{wrong.__name__} .*{message}.*[.]$"):
        check_mixer(wrong, skip=[other for other in PROPERTIES if other != name])


def test_every_property_has_a_mixer_without_it():
    assert {name for _, name, _ in WRONG} == set(PROPERTIES)


@pytest.mark.parametrize("wrong", [Shrinks, Noisy, DropsAlways])
def test_refuses_with_all_properties(wrong):
    with pytest.raises(AssertionError, match=f"^{wrong.__name__} "):
        check_mixer(wrong)


def test_an_unknown_property_to_skip_is_an_error():
    with pytest.raises(ValueError, match=r"skip may hold builds, .*, not speed"):
        check_mixer(Pool, skip=["speed"])
