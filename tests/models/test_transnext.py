"""TransNeXt's own arguments: linear mode, and how the position bias follows the image size."""

import pytest
import timm
import torch

from agreement import random, randomised
from glocal.layers.position import LogCPB
from glocal.models.transnext import TransNeXt

pytestmark = pytest.mark.usefixtures("one_thread")

NAME = "transnext_pico"


def twins(**kwargs):
    """A plain model and one with other arguments, with the same parameters."""
    plain = randomised(timm.create_model(NAME, num_classes=7), 0.2).eval()
    other = timm.create_model(NAME, num_classes=7, dtype=torch.float64, **kwargs).eval()
    other.load_state_dict(plain.state_dict())
    return plain, other


@torch.no_grad()
def outputs(*models, size):
    return [model(random(2, 3, *size)) for model in models]


def positions(model) -> list[LogCPB]:
    return [module for module in model.modules() if isinstance(module, LogCPB)]


def test_linear_mode_is_normal_mode_where_its_pooled_size_is_the_normal_one():
    """A 64² image is pooled to 2×2 in all of the first three stages."""
    plain, linear = twins(pool_size=2)
    torch.testing.assert_close(*outputs(plain, linear, size=(64, 64)))
    plain_out, linear_out = outputs(plain, linear, size=(96, 64))
    assert not torch.allclose(plain_out, linear_out)


@pytest.mark.parametrize("size", [(32, 32), (33, 130)], ids=str)
@pytest.mark.parametrize("pool_size", [1, 3, 7])
def test_linear_mode_pools_every_map_to_one_size(pool_size, size):
    _, linear = twins(pool_size=pool_size)
    seen = []
    for position in positions(linear):
        position.register_forward_pre_hook(lambda _, sizes: seen.append(sizes))
    (out,) = outputs(linear, size=size)
    assert out.isfinite().all()
    assert [sizes[2:4] for sizes in seen[:-1]] == [(pool_size, pool_size)] * 4
    assert seen[-1][2:4] == seen[-1][:2]  # the last stage attends to all positions


def test_normal_mode_pools_to_a_32nd_of_the_image():
    plain, _ = twins()
    seen = []
    for position in positions(plain):
        position.register_forward_pre_hook(lambda _, sizes: seen.append(sizes))
    outputs(plain, size=(96, 160))
    assert [sizes[:4] for sizes in seen] == [(24, 40, 3, 5), (12, 20, 3, 5), (6, 10, 3, 5), (6, 10, 3, 5), (3, 5, 3, 5)]


def test_interpolation_is_extrapolation_at_its_own_size():
    for img_size, size in [(64, (64, 64)), ((64, 96), (64, 96))]:
        plain, interpolated = twins(bias_mode="interpolate", img_size=img_size)
        torch.testing.assert_close(*outputs(plain, interpolated, size=size))


def test_interpolation_differs_at_another_size():
    plain, interpolated = twins(bias_mode="interpolate", img_size=64)
    expected, actual = outputs(plain, interpolated, size=(96, 80))
    assert actual.isfinite().all()
    assert not torch.allclose(expected, actual)


def test_interpolation_starts_from_the_maps_at_img_size():
    """A pooled side is at least 1 even there, and an odd map is rounded up."""
    model = timm.create_model(NAME, bias_mode="interpolate", img_size=(72, 224))
    bases = [position.base for position in positions(model)]
    assert bases == [(18, 56, 2, 7), (9, 28, 2, 7), (5, 14, 2, 7), (5, 14, 2, 7), (3, 7, 3, 7)]


def test_interpolation_in_linear_mode():
    model = timm.create_model(NAME, bias_mode="interpolate", img_size=64, pool_size=3)
    assert [position.base[2:] for position in positions(model)] == [(3, 3)] * 4 + [(2, 2)]
    assert model.eval()(torch.zeros(1, 3, 80, 48)).isfinite().all()


def test_img_size_alone_changes_nothing():
    plain, other = twins(img_size=96)
    torch.testing.assert_close(*outputs(plain, other, size=(64, 48)), rtol=0, atol=0)


def test_pretrain_size_is_the_unit_of_the_offsets():
    units = [position.unit for position in positions(timm.create_model(NAME, device="meta"))]
    assert units == [8 / 55, 8 / 27, 8 / 13, 8 / 13, 8 / 6]
    units = [position.unit for position in positions(timm.create_model(NAME, device="meta", pretrain_size=256))]
    assert units == [8 / 63, 8 / 31, 8 / 15, 8 / 15, 8 / 7]
    plain, other = twins(pretrain_size=256)
    assert not torch.allclose(*outputs(plain, other, size=(64, 48)))


def test_aaaa_has_aggregated_attention_everywhere_and_was_trained_at_256():
    model = timm.create_model("transnext_micro_aaaa", device="meta")
    mixers = [stage.blocks[0].token_mixer for stage in model.stages]
    assert [mixer.reduction for mixer in mixers] == [16, 8, 4, 2]
    assert [mixer.position.unit for mixer in mixers] == [8 / 63, 8 / 31, 8 / 15, 8 / 7]


def test_aaaa_runs_on_a_small_image():
    model = timm.create_model("transnext_micro_aaaa", num_classes=3).eval()
    assert model(random(1, 3, 32, 32, dtype=torch.float32)).isfinite().all()


def test_384_is_the_size_of_its_tag():
    """The fine-tuned models keep the pre-training size as the unit of their offsets."""
    model = timm.create_model("transnext_small.in1k_384", device="meta", bias_mode="interpolate")
    first = model.stages[0].blocks[0].token_mixer.position
    assert first.base == (96, 96, 12, 12)
    assert first.unit == 8 / 55


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(bias_mode="nearest"), "bias_mode must be one of extrapolate, interpolate, not 'nearest'"),
        (dict(pool_size=0), "pool_size must be at least 1, not 0"),
        (dict(pool_size=-3), "pool_size must be at least 1, not -3"),
        (dict(img_size=0), r"img_size must be a positive side or \(height, width\), not 0"),
        (dict(img_size=(64, 64, 64)), r"img_size .* not \(64, 64, 64\)"),
        (dict(pretrain_size=0), "pretrain_size must be .* not 0"),
    ],
    ids=str,
)
def test_wrong_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model(NAME, **arguments)


@pytest.mark.parametrize("argument", ["expansions", "reductions"])
def test_one_value_for_each_stage(argument):
    with pytest.raises(
        ValueError, match=f"{argument.replace('expansions', 'channel_mixer')} has 3 entries for 4 stages"
    ):
        TransNeXt(dims=(24, 48, 96, 168), depths=(1, 1, 1, 1), device="meta", **{argument: (4, 4, 4)})
