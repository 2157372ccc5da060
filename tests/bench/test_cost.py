"""Parameters and multiply–accumulates equal the published architecture's, for every variant."""

import json
from functools import cache

import pytest
import torch

import glocal
from glocal.bench.catalog import COSTS, catalog
from glocal.bench.cost import count, measure
from glocal.models import model_names

# Multiply–accumulates in G at the variant's own size, computed from the authors' hyper-parameters.
MACS = {
    "transxnet_t": 1.80,
    "transxnet_s": 4.60,
    "transxnet_b": 8.35,
    "transxnet_b.in1k_384": 25.2,
    "transnext_micro": 2.53,
    "transnext_tiny": 5.56,
    "transnext_small": 9.98,
    "transnext_small.in1k_384": 31.0,
    "transnext_base": 17.91,
    "transnext_base.in1k_384": 55.0,
    "transnext_micro_aaaa": 3.19,
    "hat_net_tiny": 2.13,
    "hat_net_small": 4.55,
    "hat_net_medium": 8.78,
    "hat_net_large": 12.07,
    "transcnn_tiny": 2.85,
    "transcnn_small": 5.65,
    "transcnn_medium": 9.52,
    "transcnn_large": 15.46,
    "conv2former_n": 2.33,
    "conv2former_t": 4.36,
    "conv2former_s": 8.71,
    "conv2former_b": 15.89,
    "conv2former_l": 36.04,
    "van_b0": 0.86,
    "van_b1": 2.50,
    "van_b2": 4.99,
    "van_b3": 8.93,
    "van_b4": 12.14,
    "van_b5": 17.13,
    "van_b6": 38.71,
}
measured = cache(measure)  # of some models several tests ask
ENTRIES = {entry.name: entry for entry in catalog()}


# One of each family in every run; counting the others takes a minute and a half.
OFTEN = ("transxnet_t", "transnext_micro", "hat_net_tiny", "transcnn_tiny", "conv2former_n", "van_b0")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in MACS])
def test_macs_equal_the_architecture(name):
    cost = measured(name)
    assert cost.macs / 1e9 == pytest.approx(MACS[name], rel=0.03)
    entry = next(entry for key, entry in ENTRIES.items() if key == name or key.startswith(f"{name}."))
    assert (entry.params, entry.macs) == (cost.params, cost.macs), "costs.json is stale: python -m glocal.bench.catalog"


@pytest.mark.parametrize("name", [name for name in model_names() if name.endswith("_pico")] + ["conv2former_b_22k"])
def test_recorded_costs_are_current(name):
    cost = measured(name)
    entry = next(entry for key, entry in ENTRIES.items() if key.startswith(f"{name}."))
    assert (entry.params, entry.macs) == (cost.params, cost.macs), "costs.json is stale: python -m glocal.bench.catalog"


def test_every_tag_is_recorded():
    assert set(json.loads(COSTS.read_text())) == set(ENTRIES)


@pytest.mark.parametrize("name", ["transxnet_t", "transnext_pico", "hat_net_pico", "conv2former_pico"])
def test_parts_add_up(name):
    cost = measured(name)
    assert sum(stage.params for stage in cost.stages) == cost.params
    assert sum(stage.macs for stage in cost.stages) == cost.macs
    assert [stage.shape[1:] for stage in cost.stages[1:-1]] == [(56, 56), (28, 28), (14, 14), (7, 7)]


def test_aggregated_attention_by_hand():
    """One block of transnext_pico's first stage, every product written out."""
    cost = measure("transnext_pico", (64, 96))
    positions, pooled, dim = 16 * 24, 2 * 3, 24
    hidden = int(2 / 3 * 4 * dim)
    attention = positions * dim * (dim + 2 * dim + dim + dim)  # q, kv, pooling projection, output
    attention += pooled * dim * 2 * dim  # kv of the pooled tokens
    attention += positions * dim * (9 + 9 + 9 + 2 * pooled)  # q·k and a·v with neighbours, tokens, pooled q·k and a·v
    glu = positions * (dim * 2 * hidden + 9 * hidden + hidden * dim)
    assert cost.stages[1].macs == attention + glu


def test_size_of_any_timm_model():
    small, large = measure("resnet18", 64), measure("resnet18", 128)
    assert small.params == large.params == 11_689_512
    assert large.macs == pytest.approx(4 * small.macs, rel=0.01)
    assert small.stages == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "args", "published"),
    [
        ("transnext_small", {"pool_size": 16}, 1089),
        ("transnext_base", {"pool_size": 16}, 1268),
        ("van_b2", {}, 948),
        ("van_b3", {}, 1030),
        ("van_b4", {}, 1098),
        ("van_b6", {}, 1658),
    ],
)
def test_macs_of_upernet_at_512_by_2048_are_the_published(backbone, args, published):
    """In 10⁹, within 2 %. The coarse map of TransNeXt has the size of the training."""
    with torch.device("meta"):
        model = glocal.create("upernet", backbone, backbone_args=args)
    assert count(model, backbone, (512, 2048)).macs / 1e9 == pytest.approx(published, rel=0.02)
