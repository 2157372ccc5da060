"""offset_bias takes a number of the table, or a mixture of them, for every query and key."""

import pytest
import torch

from agreement import assert_agree, random
from glocal.ops import offset_bias, written_as_a_whole

QUERIES, KEYS, TABLE, HEADS = (4, 3), (2, 3), (5, 4), 2


def chosen(axis, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(TABLE[axis], (QUERIES[axis], KEYS[axis]), generator=generator)


def mixed(axis, seed):
    return random(QUERIES[axis], KEYS[axis], TABLE[axis], seed=seed)


def pair_by_pair(table, rows, columns):
    def amount(places, query, key, entry):
        return places[query, key, entry] if places.is_floating_point() else float(places[query, key] == entry)

    values = [
        sum(
            amount(rows, y, i, r) * amount(columns, x, j, c) * table[r, c]
            for r in range(TABLE[0])
            for c in range(TABLE[1])
        )
        for y in range(QUERIES[0])
        for x in range(QUERIES[1])
        for i in range(KEYS[0])
        for j in range(KEYS[1])
    ]
    return torch.stack(values, dim=1).view(HEADS, QUERIES[0] * QUERIES[1], KEYS[0] * KEYS[1])


@pytest.mark.parametrize("columns", [chosen, mixed])
@pytest.mark.parametrize("rows", [chosen, mixed])
def test_equals_the_formula_pair_by_pair(rows, columns):
    places = {"rows": rows(0, 1), "columns": columns(1, 2)}
    assert_agree(
        lambda table: offset_bias(table, **places),
        lambda table: pair_by_pair(table, **places),
        {"table": random(*TABLE, HEADS)},
    )


def test_a_bias_of_few_pairs_is_written():
    assert written_as_a_whole(56 * 56, 7 * 7)
    assert not written_as_a_whole(256 * 256, 32 * 32)


def test_a_bias_is_written_in_a_graph(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert written_as_a_whole(256 * 256, 32 * 32)
