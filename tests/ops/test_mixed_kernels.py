"""mixed_kernels equals a mixture sample by sample, eager and in one pass as in a graph."""

import pytest
import torch
import torch.nn.functional as F

from agreement import random
from glocal.ops import dispatch, kernel_contexts, mixed_kernels

CHANNELS, K, HIDDEN = 4, 3, 5


def inputs(groups):
    return {
        "expand": random(groups * CHANNELS, HIDDEN, 1, 1, seed=1),
        "expand_bias": random(groups * CHANNELS, seed=2),
        "weight": random(groups, CHANNELS, K, K, seed=3),
        "bias": random(groups, CHANNELS, seed=4),
    }


def sample_by_sample(hidden, expand, expand_bias, bank):
    """The bank's kernels, each tap of each channel by itself."""
    out = torch.empty(len(hidden), *bank.shape[1:], dtype=hidden.dtype)
    for b in range(len(hidden)):
        for channel in range(CHANNELS):
            for i in range(bank.shape[2]):
                for j in range(bank.shape[3]):
                    logits = (expand[:, :, 0, 0] @ hidden[b, :, i, j] + expand_bias).view(-1, CHANNELS)
                    out[b, channel, i, j] = (logits[:, channel].softmax(0) * bank[:, channel, i, j]).sum()
    return out


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("together", [False, True])
def test_equals_a_mixture_of_each_tap(groups, together):
    named = inputs(groups)
    whole = random(2, HIDDEN, K + 1, K + 1)
    apart = [whole[..., :K, :K], whole[..., K:, K:]]
    hidden = [whole] if together else apart
    kernels, biases = mixed_kernels(hidden, **named, height=9, width=9)
    own = named["expand"], named["expand_bias"]
    torch.testing.assert_close(kernels, sample_by_sample(apart[0], *own, named["weight"]))
    expected = sample_by_sample(apart[1], *own, named["bias"][..., None, None]).flatten(1)
    torch.testing.assert_close(biases, expected)


def test_a_small_map_gets_the_taps_that_meet_it():
    named, hidden = inputs(2), [random(2, HIDDEN, K, K), random(2, HIDDEN, 1, 1, seed=1)]
    whole, _ = mixed_kernels(hidden, **named, height=9, width=9)
    near, _ = mixed_kernels(hidden, **named, height=1, width=1)
    torch.testing.assert_close(near, whole[..., 1:2, 1:2])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7)], ids=str)
def test_contexts_are_the_pooled_map_and_its_mean(size):
    x = random(2, CHANNELS, *size)
    pooled, mean = kernel_contexts(x, K, together=True)
    torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(x, K))
    torch.testing.assert_close(mean, x.mean((2, 3), keepdim=True))
    with dispatch.as_exported():
        (both,) = kernel_contexts(x, K, together=True)
        assert len(kernel_contexts(x, K, together=False)) == 2
    torch.testing.assert_close(both[..., :K, :K], pooled)
    torch.testing.assert_close(both[..., K:, K:], mean)
