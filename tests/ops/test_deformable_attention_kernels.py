"""The Triton kernels of deformable attention compute what the reference does, with every gradient."""

import pytest
import torch

from agreement import poisoned
from glocal.ops import deformable_attention, dispatch
from ops.test_deformable_attention import inputs

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("one_thread", "by_triton")

NAMES = ("output", "values", "places", "weights")
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 1e-2}


@pytest.fixture
def by_triton(monkeypatch):
    """Every op takes its kernels, or fails; fresh memory is full of NaN."""
    monkeypatch.setattr(dispatch, "_choice", "triton")
    with poisoned():
        yield


def run(sizes, tensors, compute=deformable_attention):
    """Output, and gradients of values, places and weights, of a loss that weighs the outputs unevenly."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    out = compute(leaves[0], sizes, *leaves[1:])
    factor = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).view(out.shape[::-1]).permute(2, 1, 0)
    return out.detach(), *torch.autograd.grad(out, leaves, factor)


def assert_equal(sizes, tensors, tolerance=TOLERANCE[torch.float32]):
    actual = run(sizes, tensors)
    dispatch.set_backend("reference")
    expected = run(sizes, [tensor.double() for tensor in tensors])
    for name, one, wanted, given in zip(NAMES, actual, expected, (tensors[0], *tensors), strict=True):
        assert one.dtype == given.dtype, name
        error = (one.double() - wanted).norm() / wanted.norm().clamp(min=1e-3)
        assert error < tolerance, f"{name}: relative error {error:.1e}"
    return actual


def typed(tensors, dtype=torch.float32):
    return [tensor.to(dtype) for tensor in tensors]


@pytest.mark.parametrize("sizes", [[(1, 1)], [(3, 2), (2, 1)]], ids=str)
def test_matches_the_reference(sizes):
    assert_equal(sizes, typed(inputs(sizes, 1, 3, 2, 2, 4)))


@pytest.mark.slow
def test_matches_the_reference_on_larger_maps():
    sizes = [(7, 4), (4, 2), (2, 1)]
    assert_equal(sizes, typed(inputs(sizes)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=str)
def test_low_precision(dtype):
    sizes = [(3, 2), (1, 2)]
    assert_equal(sizes, typed(inputs(sizes, 1, 3, 2, 2, 4), dtype), TOLERANCE[dtype])


def test_more_than_one_block_of_queries_and_reads():
    """Many reads of few positions, of 3 channels, which are no power of two."""
    sizes = [(2, 1)]
    assert_equal(sizes, typed(inputs(sizes, 1, 70, 1, 2, 3)))


def test_reads_nothing_outside_the_maps():
    """Values and gradients as parts of larger tensors, full of NaN; places far outside; memory in another order."""
    sizes = [(3, 2)]
    values, places, weights = typed(inputs(sizes, 2, 3, 2, 2, 4))
    places[0, 0] = 40.0
    places[0, 1] = -1e9
    wider = torch.full((2, 9, 3, 8), torch.nan)
    wider[:, 1:7, :2, :4] = values
    out = assert_equal(sizes, [wider[:, 1:7, :2, :4], places.transpose(0, 1).contiguous().transpose(0, 1), weights])
    assert (out[0][0, 0] == 0).all()
    assert (out[2][0, :2] == 0).all()


def test_places_on_centres_and_borders():
    sizes = [(2, 2)]
    values, places, weights = typed(inputs(sizes, 1, 3, 1, 4, 2))
    places.copy_(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, -0.25])[torch.arange(24) % 6].view_as(places))
    assert_equal(sizes, [values, places, weights])


@pytest.mark.parametrize(
    ("place", "shape", "message"),
    [
        (1, (1, 3, 2, 1, 2, 3), r"places is \(1, 3, 2, 1, 2, 3\), not \(1, 3, 2, 1, 2, 2\)"),
        (2, (1, 4, 2, 1, 2), r"weights is \(1, 4, 2, 1, 2\), not \(1, 3, 2, 1, 2\)"),
        (0, (1, 6, 2, 256), "heads of 256 channels are wider than 128"),
    ],
)
def test_refuses_other_shapes(place, shape, message):
    tensors = typed(inputs([(3, 2)], 1, 3, 2, 2, 4))
    tensors[place] = torch.ones(shape)
    with pytest.raises(RuntimeError, match=f"cannot run there: .*{message}"):
        deformable_attention(tensors[0], [(3, 2)], *tensors[1:])


def test_autocast():
    """As the reference, where values come from a layer in the lower type, and places and weights do not."""
    values, places, weights = typed(inputs([(3, 2)], 1, 3, 2, 2, 4))
    values = values.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = deformable_attention(values, [(3, 2)], places, weights)
        dispatch.set_backend("reference")
        expected = deformable_attention(values, [(3, 2)], places, weights)
    assert out.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(out, expected, rtol=1e-2, atol=1e-2)


def test_is_a_lawful_custom_op():
    from glocal.ops.deformable_attention import triton

    leaves = [tensor.requires_grad_() for tensor in typed(inputs([(1, 2)], 1, 1, 1, 1, 2))]
    torch.library.opcheck(triton._op, (*leaves, [1, 2]))


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    sizes = [(3, 2)]
    tensors = typed(inputs(sizes, 1, 3, 2, 2, 4))
    compiled = torch.compile(deformable_attention, backend="aot_eager", fullgraph=True)
    for one, expected in zip(run(sizes, tensors, compiled), run(sizes, tensors), strict=True):
        torch.testing.assert_close(one, expected)
