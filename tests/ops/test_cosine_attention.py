"""cosine_attention equals its formula, head by head, and in a graph."""

import math

import pytest
import torch

from agreement import assert_agree, random
from glocal.ops import cosine_attention, dispatch, tiled_attention

HEADS, D = 2, 3
SIZES = [(1, 1), (2, 3), (5, 7)]


def head_by_head(qkv, query_embedding, temperature, bias):
    batch, _, height, width = qkv.shape
    q, k, v = qkv.flatten(2).split(HEADS * D, dim=1)
    out = []
    for head in range(HEADS):
        own = slice(head * D, (head + 1) * D)
        query, key = (x[:, own] / x[:, own].norm(dim=1, keepdim=True) for x in (q, k))
        query = (query + query_embedding[head, :, None]) * temperature[head] * math.log(height * width)
        weights = (torch.einsum("bdn,bdm->bnm", query, key) + bias[0, head]).softmax(-1)
        out.append(torch.einsum("bnm,bdm->bdn", weights, v[:, own]))
    return torch.cat(out, dim=1).view(batch, HEADS * D, height, width)


def inputs(size):
    positions = size[0] * size[1]
    return {
        "qkv": random(2, 3 * HEADS * D, *size),
        "query_embedding": random(HEADS, D, seed=1),
        "temperature": random(HEADS, seed=2).abs() + 0.5,
        "bias": random(1, HEADS, positions, positions, seed=3),
    }


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_its_formula(size):
    assert_agree(cosine_attention, head_by_head, inputs(size))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_its_formula_in_a_graph(size):
    with dispatch.as_exported():
        assert_agree(cosine_attention, head_by_head, inputs(size))


def with_table(qkv, query_embedding, temperature, bias):
    """With the bias as a table that has each number once."""
    height, width = qkv.shape[2:]
    table = bias[0].unflatten(1, (height, width)).permute(1, 2, 3, 0).flatten(1, 2)  # (H, W·N, heads)
    table = table.unflatten(1, (width, height, width)).transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (H·H, W·W, heads)
    rows, columns = torch.arange(height**2).view(height, -1), torch.arange(width**2).view(width, -1)
    return cosine_attention(qkv, query_embedding, temperature, table, rows, columns)


@pytest.mark.parametrize("choice", ["reference", "auto"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_its_formula_with_a_table(size, choice, monkeypatch):
    monkeypatch.setattr(dispatch, "_choice", choice)
    monkeypatch.setattr(tiled_attention, "AT_A_TIME", 200)
    assert_agree(with_table, head_by_head, inputs(size))


@pytest.mark.parametrize("function", [cosine_attention, with_table])
def test_is_in_channels_last(function):
    assert function(**inputs((5, 7))).is_contiguous(memory_format=torch.channels_last)
