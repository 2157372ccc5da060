"""What training asks of a model: groups, weight decay, checkpointing, dropouts, initialisation, device and dtype."""

import copy
import sys

import pytest
import timm
import torch
from timm.layers import DropPath
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from torch import nn

import glocal
from agreement import random, randomised
from golden.official import official_keys

pytestmark = pytest.mark.usefixtures("one_thread")

PICO = [name for name in glocal.model_names() if name.endswith("_pico")]
SMALLEST = [
    "transxnet_t",
    "transnext_micro",
    "transnext_micro_aaaa",
    "hat_net_tiny",
    "transcnn_tiny",
    "conv2former_n",
    "van_b0",
]


@pytest.fixture(scope="module", params=PICO)
def name(request):
    return request.param


def image(*size, batch=2):
    return random(batch, 3, *(size or (32, 33)))


class TestWeightDecay:
    """timm's rule leaves out vectors and names that end in .bias; TransNeXt's authors also leave out these."""

    TRANSNEXT = ("query_embedding", "relative_pos_bias_local", "cpb", "temperature")

    def authors(self, variant) -> set[str]:
        """Official names that the authors decay."""
        keys = {key for key, shape in official_keys(variant).items() if len(shape) > 1 and not key.endswith(".bias")}
        if variant.startswith("transnext"):
            keys = {key for key in keys if not any(part in key for part in self.TRANSNEXT)}
        return keys

    def decayed(self, groups) -> set[int]:
        return {id(parameter) for group in groups if group["weight_decay"] > 0 for parameter in group["params"]}

    def ours(self, variant, model) -> dict[str, str]:
        """Official name → ours, by tensors that carry their own number through the conversion."""
        keys = official_keys(variant)
        marked = {key: torch.tensor(float(i)).expand(shape) for i, (key, shape) in enumerate(keys.items())}
        converted = sys.modules[type(model).__module__].checkpoint_filter_fn(marked, model)
        official = list(keys)
        return {official[int(tensor[(0,) * tensor.ndim])]: key for key, tensor in converted.items()}

    @pytest.mark.parametrize("grouping", [param_groups_weight_decay, param_groups_layer_decay])
    @pytest.mark.parametrize("variant", SMALLEST)
    def test_the_same_parameters_as_the_authors(self, variant, grouping):
        model = timm.create_model(variant, device="meta")
        decayed = self.decayed(grouping(model, 0.05, no_weight_decay_list=model.no_weight_decay()))
        names = {key for key, parameter in model.named_parameters() if id(parameter) in decayed}
        ours = self.ours(variant, model)
        assert names == {ours[key] for key in self.authors(variant) if "proj_norm" not in key}

    def test_names_exist(self, name):
        model = timm.create_model(name, device="meta")
        assert model.no_weight_decay() <= {key for key, _ in model.named_parameters()}

    def test_published_exceptions(self):
        def endings(variant):
            names = timm.create_model(variant, device="meta").no_weight_decay()
            return {".".join(key.split(".")[4:]) for key in names}

        assert endings("hat_net_pico") == endings("transcnn_pico") == set()
        assert endings("van_pico") == endings("conv2former_pico") == {"scale1.weight", "scale2.weight"}
        assert endings("transxnet_pico") == {"scale1.bias", "scale2.bias", "token_mixer.local_unit.bias"}
        attention = {"query_embedding", "local_bias", "temperature"}
        attention |= {f"position.{fc}.{kind}" for fc in ("fc1", "fc2") for kind in ("weight", "bias")}
        assert endings("transnext_pico") == {f"token_mixer.{key}" for key in attention}


class TestLayerDecay:
    def test_the_learning_rate_grows_with_depth(self, name):
        model = timm.create_model(name, device="meta")
        optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
        scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
        scales = {key: scale[id(parameter)] for key, parameter in model.named_parameters()}
        blocks = [(i, j) for i, stage in enumerate(model.stages) for j in range(len(stage.blocks))]
        for key, value in scales.items():
            part = key.split(".")
            if part[0] == "stem":
                depth = 0
            elif part[0] == "head":
                depth = len(blocks) + 1
            elif part[2] == "blocks":
                depth = blocks.index((int(part[1]), int(part[3]))) + 1
            elif part[2] == "norm":  # with the last block of its stage
                depth = max(n for n, (stage, _) in enumerate(blocks) if stage == int(part[1])) + 1
            else:  # the downsample and the shared position encoding, with the first
                depth = blocks.index((int(part[1]), 0)) + 1
            assert value == pytest.approx(0.7 ** (len(blocks) + 1 - depth)), key
        assert min(scales.values()) < max(scales.values()) == 1.0

    def test_coarse_groups_are_stages(self, name):
        model = timm.create_model(name, device="meta")
        layers = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
        for key, layer in layers.items():
            assert layer == {"stem": 0, "head": 5}.get(
                key.split(".")[0], int(key.split(".")[1]) + 1 if "stages" in key else 0
            )


class TestGradientCheckpointing:
    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    def test_same_output_and_same_gradients(self, name, training):
        model = randomised(timm.create_model(name, num_classes=7, drop_rate=0.0), 0.2).train(training)
        results = []
        for enable in (False, True):
            twin = copy.deepcopy(model)
            twin.set_grad_checkpointing(enable)
            x = image().requires_grad_()
            out = twin(x)
            (out * random(*out.shape)).sum().backward()
            results.append([out, x.grad, *(parameter.grad for parameter in twin.parameters())])
        for plain, checkpointed in zip(*results, strict=True):
            torch.testing.assert_close(checkpointed, plain)

    def test_blocks_run_again_in_the_backward_pass(self, name):
        model = timm.create_model(name)
        calls = []
        model.stages[2].blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
        for enable, expected in ((True, 2), (False, 1)):
            calls.clear()
            model.set_grad_checkpointing(enable)
            model(image().float()).sum().backward()
            assert len(calls) == expected


class TestDropouts:
    def test_drop_path_grows_linearly_over_the_blocks(self, name):
        model = timm.create_model(name, drop_path_rate=0.4, device="meta")
        blocks = [block for stage in model.stages for block in stage.blocks]
        for i, block in enumerate(blocks):
            for module in (block.drop_path1, block.drop_path2):
                if i == 0:
                    assert isinstance(module, nn.Identity)
                else:
                    assert isinstance(module, DropPath)
                    assert module.drop_prob == pytest.approx(0.4 * i / (len(blocks) - 1))

    def test_no_drop_path_by_default(self, name):
        assert not any(isinstance(m, DropPath) for m in timm.create_model(name, device="meta").modules())

    @pytest.mark.parametrize("argument", ["drop_path_rate", "proj_drop", "drop_rate"])
    def test_acts_in_training_only(self, name, argument):
        plain = timm.create_model(name, num_classes=7, drop_rate=0.0, dtype=torch.float64)
        dropped = timm.create_model(name, num_classes=7, dtype=torch.float64, **{"drop_rate": 0.0, argument: 0.5})
        dropped.load_state_dict(plain.state_dict())
        x = image()
        with torch.no_grad():
            assert torch.equal(dropped.eval()(x), plain.eval()(x))
            torch.manual_seed(0)
            first, second = dropped.train()(x), dropped(x)
        assert not torch.equal(first, second)

    def test_proj_drop_reaches_both_mixers_of_every_block(self, name):
        model = timm.create_model(name, proj_drop=0.3, drop_rate=0.0, device="meta")
        for stage in model.stages:
            for block in stage.blocks:
                assert block.token_mixer.drop.p == 0.3
                assert block.channel_mixer.drop.p == 0.3


class TestConstruction:
    @pytest.mark.parametrize("in_chans", [1, 4])
    def test_in_chans(self, name, in_chans):
        model = timm.create_model(name, in_chans=in_chans).eval()
        assert model.in_chans == in_chans
        assert tuple(model(torch.zeros(1, in_chans, 32, 32)).shape) == (1, 1000)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
    def test_dtype(self, name, dtype):
        model = timm.create_model(name, dtype=dtype).eval()
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert {buffer.dtype for buffer in model.buffers()} <= {dtype, torch.int64}
        assert torch.get_default_dtype() == torch.float32
        out = model(image(32, 32).to(dtype))
        assert out.dtype == dtype
        assert out.isfinite().all()

    def test_device(self, name):
        for kwargs in (dict(device="meta"), dict(device=torch.device("meta"), dtype=torch.bfloat16)):
            model = timm.create_model(name, **kwargs)
            assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
        with torch.device("meta"):
            assert all(parameter.is_meta for parameter in timm.create_model(name).parameters())
        assert torch.get_default_device() == torch.device("cpu")

    def test_a_failure_leaves_the_defaults_alone(self):
        with pytest.raises(ValueError, match="multiple of head_dim"):
            timm.create_model("hat_net_pico", head_dim=7, dtype=torch.float64, device="meta")
        assert torch.get_default_dtype() == torch.float32
        assert torch.zeros(1).device.type == "cpu"

    def test_unknown_argument(self, name):
        for kwargs in ({}, {"features_only": True}):
            with pytest.raises(TypeError, match="not_an_argument"):
                timm.create_model(name, device="meta", not_an_argument=1, **kwargs)

    def test_converting_after_a_forward(self, name):
        """Nothing computed in one dtype may be left for the next."""
        model = timm.create_model(name).eval()
        with torch.inference_mode():
            model(image(32, 32).float())
            assert model.to(torch.bfloat16)(image(32, 32).bfloat16()).dtype == torch.bfloat16


class TestInitialisation:
    def test_same_seed_same_weights(self, name):
        def state():
            torch.manual_seed(3)
            return timm.create_model(name).state_dict()

        first, second = state(), state()
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_after_to_empty(self, name):
        model = timm.create_model(name, device="meta", dtype=torch.float64, num_classes=5).to_empty(device="cpu").eval()
        with torch.no_grad():
            for tensor in [*model.parameters(), *model.buffers()]:
                tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
        model.init_weights()
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            assert tensor.isfinite().all(), key
        fresh = timm.create_model(name, num_classes=5).state_dict()
        for key, tensor in model.state_dict().items():  # as at construction, in distribution
            assert tensor.shape == fresh[key].shape
            if tensor.is_floating_point() and tensor.numel() > 200:
                expected = fresh[key].double()
                torch.testing.assert_close(tensor.std(), expected.std(), rtol=0.3, atol=1e-9, msg=key)
                torch.testing.assert_close(tensor.mean(), expected.mean(), rtol=0.3, atol=0.3 * expected.std(), msg=key)
            elif not tensor.is_floating_point():
                assert tensor == 0, key
        assert model(image(32, 32)).isfinite().all()

    def test_starting_values(self, name):
        torch.manual_seed(0)
        model = timm.create_model(name)
        for key, module in model.named_modules():
            if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
                assert (module.weight == 1).all()
                assert (module.bias == 0).all()
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                if module.bias is not None:
                    assert (module.bias == 0).all(), key
                by_fan_out = isinstance(module, nn.Conv2d) and (
                    name == "van_pico" or (name == "transnext_pico" and module.kernel_size != (1, 1))
                )
                fan_out = module.weight.numel() // module.weight.shape[1] // getattr(module, "groups", 1)
                std = (2 / fan_out) ** 0.5 if by_fan_out else 0.02
                if module.weight.numel() >= 400:
                    assert module.weight.std().item() == pytest.approx(std, rel=0.2), key

    @pytest.mark.parametrize(
        ("key", "std"),  # of VAN's convolutions √(2 / (k² · channels out / groups)); of TransNeXt's, but for 1×1
        [
            ("van_pico/stem.conv", 0.04124),  # 7² · 24
            ("van_pico/stages.1.downsample.conv", 0.06804),  # 3² · 48
            ("van_pico/stages.1.blocks.0.token_mixer.expand", 0.20412),  # 48
            ("van_pico/stages.1.blocks.0.token_mixer.attention.0", 0.28284),  # 5², depthwise
            ("van_pico/stages.1.blocks.0.token_mixer.attention.1", 0.20203),  # 7², depthwise
            ("van_pico/stages.1.blocks.0.channel_mixer.fc1", 0.10206),  # 192
            ("van_pico/stages.1.blocks.0.channel_mixer.conv", 0.47140),  # 3², depthwise
            ("van_pico/head.fc", 0.02),
            ("transnext_pico/stem.conv", 0.04124),
            ("transnext_pico/stages.1.downsample.conv", 0.06804),
            ("transnext_pico/stages.1.blocks.0.channel_mixer.conv", 0.47140),
            ("transnext_pico/stages.1.blocks.0.token_mixer.q", 0.02),
            ("transnext_pico/stages.1.blocks.0.channel_mixer.fc1", 0.02),
        ],
    )
    def test_deviation_of_starting_weights_in_figures(self, key, std):
        torch.manual_seed(0)
        model, _, layer = key.partition("/")
        weight = timm.create_model(model).get_submodule(layer).weight
        # Five standard errors: of n normal numbers the deviation is known to 1 / √(2n) of itself.
        assert weight.std().item() == pytest.approx(std, rel=5 / (2 * weight.numel()) ** 0.5)

    def test_layer_scale_starts_as_published(self):
        for variant, value in [("transxnet_t", 1e-5), ("conv2former_n", 1e-6), ("van_b0", 1e-2)]:
            with torch.device("meta"):
                scale = timm.create_model(variant).stages[0].blocks[0].scale1
            assert scale.init == value
