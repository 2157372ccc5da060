"""grid_attention equals dense attention under a same-cell mask, and each cell is by itself."""

import pytest
import torch

from agreement import assert_agree, inside_nan, random, run
from glocal.ops import grid_attention

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(5, 7), (13, 9), (1, 1), (2, 3), (8, 8), (6, 4)]
GRIDS = [2, 3, 7, 8]


def dense(q, k, v, grid):
    """Attention between all positions, with weight zero between different cells."""
    *_, d, height, width = q.shape
    cell = torch.arange(height)[:, None] // grid * width + torch.arange(width) // grid  # a name for every cell
    together = cell.flatten()[:, None] == cell.flatten()
    logits = torch.einsum("bhdn,bhdm->bhnm", q.flatten(3), k.flatten(3)) / d**0.5
    weights = logits.exp() * together
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("bhnm,bhdm->bhdn", weights, v.flatten(3)).reshape(q.shape)


def inputs(size, batch=2, heads=2, d=3):
    return {name: random(batch, heads, d, *size, seed=i) for i, name in enumerate("qkv")}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matches_masked_dense_attention(size, grid):
    assert_agree(lambda q, k, v: grid_attention(q, k, v, grid), lambda q, k, v: dense(q, k, v, grid), inputs(size))


@pytest.mark.parametrize("grid", [3, 4, 8])
@pytest.mark.parametrize("size", [(5, 7), (13, 9), (1, 6)], ids=str)
def test_every_cell_is_by_itself(size, grid):
    """Also the cut cells at the right and bottom, where there is padding in the whole map and none here."""
    named = inputs(size)
    whole = grid_attention(**named, grid=grid)
    for y in range(0, size[0], grid):
        for x in range(0, size[1], grid):
            cell = {name: tensor[..., y : y + grid, x : x + grid] for name, tensor in named.items()}
            torch.testing.assert_close(whole[..., y : y + grid, x : x + grid], dense(**cell, grid=max(size)))


def test_reads_nothing_outside_the_map():
    named = inputs((5, 7))
    poisoned = {name: inside_nan(tensor, margin=4) for name, tensor in named.items()}
    torch.testing.assert_close(grid_attention(**poisoned, grid=4), dense(**named, grid=4))


def test_padding_has_no_weight_even_against_very_negative_logits():
    """Zero padding has logit 0: against logits of -1e4 it would take all of the weight."""
    named = {"q": torch.full((1, 1, 4, 3, 3), 100.0), "k": torch.full((1, 1, 4, 3, 3), -50.0)}
    v = random(1, 1, 4, 3, 3, dtype=torch.float32)
    out, grads = run(lambda v: grid_attention(**named, v=v, grid=2), {"v": v})
    torch.testing.assert_close(out[..., 2, 2], v[..., 2, 2])  # alone in its cell
    torch.testing.assert_close(out[..., :2, 2], v[..., :2, 2].mean(-1, keepdim=True).expand(-1, -1, -1, 2))
    assert grads["v"].isfinite().all()


@pytest.mark.parametrize("size", [(2, 3), (3, 1)], ids=str)
def test_gradcheck(size):
    named = {name: tensor.requires_grad_() for name, tensor in inputs(size, batch=1).items()}
    assert torch.autograd.gradcheck(lambda *args: grid_attention(*args, 2), tuple(named.values()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype):
    named = inputs((13, 9))
    expected = dense(**named, grid=4)
    out, grads = run(lambda q, k, v: grid_attention(q, k, v, 4), {n: t.to(dtype) for n, t in named.items()})
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=0.1, atol=0.1)
    assert all(grad.isfinite().all() for grad in grads.values())
