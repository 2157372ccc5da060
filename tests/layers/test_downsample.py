"""Stems and down-sampling layers: their formulas, and ceil at odd sizes."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from agreement import random, randomised
from glocal.layers.downsample import (
    ConvStem,
    FineConvStem,
    NormConvDownsample,
    OverlapPatchEmbed,
    TwoBranchDownsample,
)
from glocal.layers.norm import BatchNorm2d, GroupNorm1, LayerNorm2d
from glocal.ops import pad_to_even

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(8, 8), (7, 6), (6, 7), (5, 9), (1, 1), (2, 1)]


def batch_norm(norm, x):
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5)


def layer_norm(norm, x, eps=1e-6):
    return F.layer_norm(x.permute(0, 2, 3, 1), norm.weight.shape, norm.weight, norm.bias, eps).permute(0, 3, 1, 2)


def ceil_half(size):
    return tuple(math.ceil(n / 2) for n in size)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_odd_size_is_padded_with_zeros(size):
    conv = randomised(torch.nn.Conv2d(3, 4, 2, 2))
    x = random(2, 3, *size)
    padded = torch.zeros(2, 3, *(n + n % 2 for n in size), dtype=x.dtype)
    padded[..., : size[0], : size[1]] = x
    out = conv(pad_to_even(x))
    assert out.shape[2:] == ceil_half(size)
    torch.testing.assert_close(out, F.conv2d(padded, conv.weight, conv.bias, stride=2))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_overlap_patch_embed(size):
    down = randomised(OverlapPatchEmbed(3, 4, norm=partial(LayerNorm2d, eps=1e-5))).eval()
    x = random(2, 3, *size)
    out = down(x)
    assert out.shape[2:] == ceil_half(size)
    expected = F.conv2d(x, down.conv.weight, down.conv.bias, stride=2, padding=1)
    torch.testing.assert_close(out, layer_norm(down.norm, expected, 1e-5))


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (35, 34)], ids=str)
def test_overlap_patch_embed_as_a_stem(size):
    stem = randomised(OverlapPatchEmbed(3, 4, kernel_size=7, stride=4, bias=False)).eval()
    x = random(2, 3, *size)
    out = stem(x)
    assert out.shape[2:] == tuple(math.ceil(n / 4) for n in size)
    torch.testing.assert_close(out, batch_norm(stem.norm, F.conv2d(x, stem.conv.weight, stride=4, padding=3)))


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (35, 34)], ids=str)
def test_conv_stem(size):
    stem = randomised(ConvStem(3, 4, norm=partial(GroupNorm1, eps=1e-6))).eval()
    x = random(2, 3, *size)
    hidden = F.conv2d(x, stem.conv1.weight, stem.conv1.bias, stride=2, padding=1)
    hidden = F.silu(F.group_norm(hidden, 1, stem.norm.weight, stem.norm.bias, 1e-6))
    out = stem(x)
    assert out.shape[2:] == tuple(math.ceil(n / 4) for n in size)
    torch.testing.assert_close(out, F.conv2d(hidden, stem.conv2.weight, stem.conv2.bias, stride=2, padding=1))


@pytest.mark.parametrize("size", [(32, 32), (34, 46), (33, 47), (35, 34)], ids=str)
def test_fine_conv_stem(size):
    stem = randomised(FineConvStem(3, 4)).eval()
    x = random(2, 3, *size)
    y = batch_norm(stem.norm1, F.gelu(F.conv2d(x, stem.conv1.weight, stride=2, padding=1)))
    y = batch_norm(stem.norm2, F.gelu(F.conv2d(y, stem.conv2.weight, padding=1)))
    y = F.pad(y, [0, y.shape[3] % 2, 0, y.shape[2] % 2])
    out = stem(x)
    assert out.shape[2:] == tuple(math.ceil(n / 4) for n in size)
    torch.testing.assert_close(out, F.conv2d(y, stem.conv3.weight, stride=2))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_norm_conv_downsample(size):
    down = randomised(NormConvDownsample(3, 4))
    x = random(2, 3, *size)
    padded = F.pad(layer_norm(down.norm, x), [0, size[1] % 2, 0, size[0] % 2])  # after the norm: zeros stay zeros
    torch.testing.assert_close(down(x), F.conv2d(padded, down.conv.weight, down.conv.bias, stride=2))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_two_branch_downsample(size):
    down = randomised(TwoBranchDownsample(3, 4)).eval()
    x = random(2, 3, *size)
    conv = batch_norm(down.norm1, F.conv2d(x, down.conv.weight, down.conv.bias, stride=2, padding=1))
    padded = F.pad(x, [0, size[1] % 2, 0, size[0] % 2], value=float("-inf"))
    residual = F.conv2d(F.max_pool2d(padded, 2), down.residual.weight, down.residual.bias)
    out = down(x)
    assert out.shape[2:] == ceil_half(size)
    torch.testing.assert_close(out, F.silu(conv + batch_norm(down.norm2, residual)))


def test_default_norms():
    assert isinstance(OverlapPatchEmbed(3, 4).norm, BatchNorm2d)
    assert NormConvDownsample(3, 4).norm.eps == 1e-6
