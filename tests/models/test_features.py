"""Feature maps: features_only in all of timm's forms, forward_intermediates, and pruning."""

import copy

import pytest
import timm
import torch
from timm.models import FeatureInfo, group_parameters
from timm.optim import create_optimizer_v2

import glocal
from agreement import random, randomised
from glocal.layers.norm import GroupNorm1, LayerNorm2d

pytestmark = pytest.mark.usefixtures("one_thread")

PICO = [name for name in glocal.model_names() if name.endswith("_pico")]
NORMED = {"transnext_pico": (0, 1, 2, 3), "van_pico": (0, 1, 2, 3), "transxnet_pico": (3,)}  # stages with a norm
CHANNELS = {name: [24, 48, 96, 168] for name in ("transnext_pico", "hat_net_pico", "transcnn_pico")}
CHANNELS |= {name: [24, 48, 96, 160] for name in ("transxnet_pico", "conv2former_pico", "van_pico")}


def build(name, **kwargs):
    return randomised(timm.create_model(name, num_classes=7, **kwargs), 0.2).eval()


def image(*size):
    return random(2, 3, *(size or (32, 33)))


def extractor(model, name, **kwargs):
    """The same model as a feature extractor."""
    overlay = dict(state_dict=model.state_dict())
    kwargs |= dict(pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)
    return timm.create_model(name, dtype=torch.float64, **kwargs).eval()


@pytest.fixture(scope="module", params=PICO)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return build(name)


@pytest.fixture(scope="module")
def maps(model):
    """(before the stage norms, after them), by running the stages one by one."""
    x, before, after = model.stem(image()), [], []
    for stage in model.stages:
        x = stage.downsample(x)
        position = stage.position(x) if stage.shares_position else None
        for block in stage.blocks:
            x = block(x, position)
        before.append(x.detach())
        x = stage.norm(x)
        after.append(x.detach())
    return before, after


def close(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.detach(), b)


class TestFeaturesOnly:
    def test_default_is_all_stages_before_their_norms(self, name, model, maps):
        features = extractor(model, name)
        close(features(image()), maps[0])
        assert features.feature_info.channels() == CHANNELS[name]
        assert features.feature_info.reduction() == [4, 8, 16, 32]

    @pytest.mark.parametrize(
        ("indices", "stages"),
        [
            ((0,), [0]),
            ((-3, 3), [1, 3]),
            (2, [2, 3]),
            ([0, 2], [0, 2]),
        ],
        ids=str,
    )
    def test_out_indices(self, name, model, maps, indices, stages):
        features = extractor(model, name, out_indices=indices)
        close(features(image()), [maps[0][i] for i in stages])
        assert features.feature_info.channels() == [CHANNELS[name][i] for i in stages]
        assert features.feature_info.reduction() == [4 * 2**i for i in stages]
        assert len(features.model.stages) == max(stages) + 1  # later ones are removed

    @pytest.mark.parametrize("indices", [(4,), (0, 1, 2, 3, 4), (-5,), (), 0, 5, -1], ids=str)
    def test_wrong_out_indices(self, indices):
        with pytest.raises(ValueError, match=r"out_indices must be .* not "):
            timm.create_model("van_pico", features_only=True, out_indices=indices)

    def test_normed(self, name, model, maps):
        features = extractor(model, name, feature_cfg=dict(norm=True))
        close(features(image()), maps[1])
        assert any(not torch.equal(a, b) for a, b in zip(*maps, strict=True)) == (name in NORMED)

    # Following a graph takes a minute for TransXNet; test_graphs.py shows that graphs can be followed.
    @pytest.mark.parametrize(
        "feature_cls", ["getter", "list", "dict", "hook", pytest.param("fx", marks=pytest.mark.slow)]
    )
    def test_timms_other_wrappers(self, name, model, maps, feature_cls):
        features = extractor(model, name, feature_cls=feature_cls, out_indices=(1, 3))
        out = features(image())
        if feature_cls == "dict":
            assert list(out) == ["1", "3"]
            out = list(out.values())
        # But for the getter they collect what a stage returns, which its norm has passed.
        expected = maps[0] if feature_cls == "getter" else maps[1]
        close(out, [expected[1], expected[3]])
        assert features.feature_info.channels() == [CHANNELS[name][1], CHANNELS[name][3]]

    @pytest.mark.parametrize("feature_cfg", [{}, dict(norm=True)], ids=["raw", "normed"])
    @pytest.mark.parametrize("indices", [(0,), pytest.param((1, 2), marks=pytest.mark.slow), (0, 3)], ids=str)
    def test_every_parameter_is_trained(self, name, indices, feature_cfg):
        """DistributedDataParallel fails on a parameter without a gradient."""
        features = timm.create_model(name, features_only=True, out_indices=indices, feature_cfg=feature_cfg)
        sum(feature.sum() for feature in features(image().float())).backward()
        assert [key for key, parameter in features.named_parameters() if parameter.grad is None] == []

    def test_gradient_checkpointing_changes_nothing(self, name, model):
        grads = []
        for enable in (False, True):
            features = extractor(model, name).train()
            features.set_grad_checkpointing(enable)
            out = features(image())
            sum((o * random(*o.shape)).sum() for o in out).backward()
            grads.append(out + [parameter.grad for parameter in features.parameters()])
        close(*grads)

    def test_groups_and_undecayed_names_follow_the_wrapper(self, name, model):
        features = timm.create_model(name, features_only=True, device="meta")
        assert features.no_weight_decay() == {f"model.{key}" for key in model.no_weight_decay()}
        kwargs = dict(opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
        scale = {}
        for group in create_optimizer_v2(features, **kwargs).param_groups:
            scale |= {id(parameter): group["lr_scale"] for parameter in group["params"]}
        named = {key: scale[id(parameter)] for key, parameter in features.named_parameters()}
        assert max(named.values()) == pytest.approx(1.0)  # the last block
        assert named[f"model.{features.default_cfg['first_conv']}.weight"] == pytest.approx(0.7**5)
        coarse = features.group_matcher(coarse=True)
        assert len(set(group_parameters(features, coarse, reverse=True).values())) == 5

    def test_in_chans(self, name):
        features = timm.create_model(name, features_only=True, in_chans=5)
        assert len(features(torch.zeros(1, 5, 32, 32))) == 4


class TestForwardIntermediates:
    def test_all_stages_and_the_final_map(self, model, maps):
        final, intermediates = model.forward_intermediates(image())
        close(intermediates, maps[0])
        close([final, model.forward_features(image())], [maps[1][-1]] * 2)
        assert len(FeatureInfo(model.feature_info, 4).channels()) == 4

    @pytest.mark.parametrize("norm", [False, True])
    def test_norm(self, model, maps, norm):
        close(model.forward_intermediates(image(), norm=norm, intermediates_only=True), maps[norm])

    @pytest.mark.parametrize(
        ("indices", "stages"), [(2, [2, 3]), ([0, 2], [0, 2]), ([-1], [3]), ([2, 0], [0, 2])], ids=str
    )
    def test_indices(self, model, maps, indices, stages):
        out = model.forward_intermediates(image(), indices=indices, intermediates_only=True)
        close(out, [maps[0][i] for i in stages])

    def test_stop_early_runs_no_further_stage(self, model, maps):
        calls = []
        handles = [
            s.downsample.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, s in enumerate(model.stages)
        ]
        final, intermediates = model.forward_intermediates(image(), indices=[1], stop_early=True)
        for handle in handles:
            handle.remove()
        assert calls == [0, 1]
        close(intermediates, [maps[0][1]])
        close([final], [maps[1][1]])

    @pytest.mark.parametrize("output_fmt", ["NHWC", "NLC", "nchw"])
    def test_only_nchw(self, model, output_fmt):
        with pytest.raises(ValueError, match=f"output_fmt must be 'NCHW', not '{output_fmt}'"):
            model.forward_intermediates(image(), output_fmt=output_fmt)

    @pytest.mark.parametrize("indices", [[4], [-5], 5, 0], ids=str)
    def test_indices_out_of_range(self, model, indices):
        with pytest.raises((AssertionError, ValueError), match="out of range"):
            model.forward_intermediates(image(), indices=indices)


class TestPrune:
    STAGES = (0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3)

    def test_keeping_the_last_stage_and_the_head_changes_nothing(self, model):
        pruned = copy.deepcopy(model)
        assert pruned.prune_intermediate_layers([3], prune_head=False) == [3]
        close([pruned(image())], [model(image())])
        assert pruned.num_classes == 7

    @pytest.mark.parametrize("stage", STAGES)
    def test_what_is_kept_is_as_before(self, name, model, maps, stage):
        pruned = copy.deepcopy(model)
        assert pruned.prune_intermediate_layers([stage]) == [stage]
        assert len(pruned.stages) == stage + 1
        close(pruned.forward_intermediates(image(), indices=[stage], intermediates_only=True), [maps[0][stage]])
        close([pruned.forward_features(image())], [maps[1][stage]])
        assert pruned.num_features == CHANNELS[name][stage]

    @pytest.mark.parametrize("stage", STAGES)
    def test_without_the_norm_features_end_at_the_last_block(self, model, maps, stage):
        pruned = copy.deepcopy(model)
        pruned.prune_intermediate_layers([stage], prune_norm=True)
        close([pruned.forward_features(image())], [maps[0][stage]])
        assert not any(isinstance(pruned.stages[stage].norm, norm) for norm in (LayerNorm2d, GroupNorm1))

    @pytest.mark.parametrize(
        ("indices", "prune_norm"),
        [([1], True), ([3], False), (2, True)],
    )
    def test_leaves_no_unused_parameter(self, model, indices, prune_norm):
        pruned = copy.deepcopy(model).train()
        kept = pruned.prune_intermediate_layers(indices, prune_norm=prune_norm)
        out = pruned.forward_intermediates(image(), indices=kept, norm=not prune_norm, intermediates_only=True)
        sum(feature.sum() for feature in [*out, pruned.forward_features(image())]).backward()
        assert [key for key, parameter in pruned.named_parameters() if parameter.grad is None] == []

    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    def test_keeps_the_mode(self, name, training):
        pruned = timm.create_model(name, drop_rate=0.5).train(training)
        pruned.prune_intermediate_layers([0])
        assert all(module.training == training for module in pruned.modules())

    def test_a_pruned_model_can_get_a_new_head(self, name, model):
        pruned = copy.deepcopy(model)
        pruned.prune_intermediate_layers([1])
        assert pruned.num_classes == 0
        pruned.reset_classifier(5, "avg")
        features = pruned.forward_features(image())
        assert tuple(pruned.forward_head(features, pre_logits=True).shape) == (2, CHANNELS[name][1])
        assert tuple(pruned(image()).shape) == (2, 5)
        assert pruned.head_hidden_size == CHANNELS[name][1]
        pruned.reset_classifier(0, "avg")
        close([pruned(image())], [features.detach().mean((2, 3))])
