"""Norms: PyTorch's own results, and the rule for a single value per channel."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agreement import random, randomised
from glocal.layers.norm import BatchNorm2d, GroupNorm1, LayerNorm2d

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = [{}, {"affine": False}, {"momentum": None}, {"momentum": 0.3}, {"track_running_stats": False}, {"eps": 0.1}]


def norms(**options):
    """Ours and PyTorch's, in the same random state."""
    ours = randomised(BatchNorm2d(3, **options))
    theirs = nn.BatchNorm2d(3, **options).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 3, 1, 2), (2, 3, 1, 1)], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_batch_norm_is_pytorchs(options, training, shape):
    pair = norms(**options)
    results = []
    for norm in pair:
        norm.train(training)
        x = random(*shape).requires_grad_()
        out = torch.stack([norm(x), norm(2 * x + 1)])  # twice: what the first leaves behind is seen
        (out * random(*out.shape, seed=1)).sum().backward()
        results.append([out, x.grad, *(p.grad for p in norm.parameters()), *norm.state_dict().values()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_batch_norm_trains_on_a_single_value():
    """One image and a 1×1 map: the running statistics normalise, and stay as they are."""
    ours, theirs = norms()
    before = copy.deepcopy(ours.state_dict())
    x = random(1, 3, 1, 1)
    with pytest.raises(ValueError, match="more than 1 value"):
        theirs.train()(x)
    torch.testing.assert_close(ours.train()(x), theirs.eval()(x))
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_batch_norm_is_converted_like_pytorchs():
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(BatchNorm2d(3)), nn.SyncBatchNorm)


@pytest.mark.parametrize("size", [(5, 7), (1, 1)], ids=str)
def test_layer_norm_2d_normalises_every_position(size):
    norm = randomised(LayerNorm2d(4, eps=0.1))
    x = random(2, 4, *size)
    for y in range(size[0]):
        for column in range(size[1]):
            expected = F.layer_norm(x[:, :, y, column], (4,), norm.weight, norm.bias, 0.1)
            torch.testing.assert_close(norm(x)[:, :, y, column], expected)


def test_group_norm_1_normalises_every_image():
    norm = randomised(GroupNorm1(4, eps=0.1))
    x = random(3, 4, 5, 7)
    variance, mean = torch.var_mean(x, dim=(1, 2, 3), keepdim=True, correction=0)
    expected = (x - mean) / (variance + 0.1).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize(("build", "eps"), [(LayerNorm2d, 1e-6), (GroupNorm1, 1e-5), (BatchNorm2d, 1e-5)])
def test_default_eps(build, eps):
    assert build(4).eps == eps
