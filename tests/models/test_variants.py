"""Every variant on the meta device: its size, its config, and the contract that names and shapes alone can show."""

from fnmatch import fnmatch
from functools import cache

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg, list_models
from timm.models._manipulate import group_parameters

import glocal
from glocal.models import FAMILIES
from golden.official import official_keys

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

# Published sizes, computed exactly. HAT-Net's are less a norm that the authors own but never use.
PARAMETERS = {
    "transxnet_t": 12_834_808,
    "transxnet_s": 26_864_068,
    "transxnet_b": 48_009_002,
    "transnext_micro": 12_809_304,
    "transnext_tiny": 28_258_960,
    "transnext_small": 49_741_564,
    "transnext_base": 89_721_496,
    "transnext_micro_aaaa": 13_114_008,
    "hat_net_tiny": 12_655_912,
    "hat_net_small": 25_747_784,
    "hat_net_medium": 42_942_472,
    "hat_net_large": 63_132_488,
    "transcnn_tiny": 13_315_976,
    "transcnn_small": 26_538_824,
    "transcnn_medium": 48_322_504,
    "transcnn_large": 80_033_352,
    "conv2former_n": 14_992_840,
    "conv2former_t": 26_697_204,
    "conv2former_s": 50_032_692,
    "conv2former_b": 90_029_112,
    "conv2former_b_22k": 88_784_952,
    "conv2former_l": 198_893_736,
    "van_b0": 4_105_800,
    "van_b1": 13_861_800,
    "van_b2": 26_578_472,
    "van_b3": 44_765_608,
    "van_b4": 60_283_176,
    "van_b5": 89_967_688,
    "van_b6": 199_829_416,
}
PICO = [f"{family}_pico" for family in ("transxnet", "transnext", "hat_net", "transcnn", "conv2former", "van")]
VARIANTS = [*PARAMETERS, *PICO]
QUICK = [*PICO, "hat_net_tiny", "transcnn_tiny", "conv2former_n", "van_b0"]  # in seconds, not tens of them

# Tag → image size, crop, mean and std of the authors' evaluation, and the top-1 in percent that they publish.
CONFIGS = {
    "transxnet_t.in1k": (224, 0.9, IMAGENET, 81.6),
    "transxnet_s.in1k": (224, 0.9, IMAGENET, 83.8),
    "transxnet_b.in1k": (224, 0.95, IMAGENET, 84.6),
    "transxnet_b.in1k_384": (384, 0.95, IMAGENET, 85.5),
    "transnext_micro.in1k": (224, 0.875, IMAGENET, 82.5),
    "transnext_tiny.in1k": (224, 0.875, IMAGENET, 84.0),
    "transnext_small.in1k": (224, 0.875, IMAGENET, 84.7),
    "transnext_small.in1k_384": (384, 1.0, IMAGENET, 86.0),
    "transnext_base.in1k": (224, 0.875, IMAGENET, 84.8),
    "transnext_base.in1k_384": (384, 1.0, IMAGENET, 86.2),
    "transnext_micro_aaaa.in1k": (256, 0.875, IMAGENET, 82.6),
    "hat_net_tiny.in1k": (224, 0.875, IMAGENET, 79.8),
    "hat_net_small.in1k": (224, 0.875, IMAGENET, 82.6),
    "hat_net_medium.in1k": (224, 0.875, IMAGENET, 84.0),
    "hat_net_large.in1k": (224, 0.875, IMAGENET, 84.2),
    "transcnn_tiny.in1k": (256, 0.875, IMAGENET, 80.4),
    "transcnn_small.in1k": (256, 0.875, IMAGENET, 83.1),
    "transcnn_medium.in1k": (256, 0.875, IMAGENET, 83.8),
    "transcnn_large.in1k": (256, 0.875, IMAGENET, 84.2),
    "conv2former_n.in1k": (224, 0.9, HALF, 81.5),
    "conv2former_t.in1k": (224, 0.9, HALF, 83.2),
    "conv2former_s.in1k": (224, 0.9, HALF, 84.1),
    "conv2former_s.in22k_ft_in1k": (224, 0.9, HALF, 84.9),
    "conv2former_b.in1k": (224, 0.9, HALF, 84.4),
    "conv2former_b_22k.in22k_ft_in1k": (224, 0.9, HALF, 86.2),
    "conv2former_l.in22k_ft_in1k": (224, 0.9, HALF, 87.0),
    "conv2former_l.in22k_ft_in1k_384": (384, 0.9, HALF, 87.7),
    "van_b0.in1k": (224, 0.9, HALF, 75.4),
    "van_b1.in1k": (224, 0.9, HALF, 81.1),
    "van_b2.in1k": (224, 0.9, HALF, 82.8),
    "van_b3.in1k": (224, 0.9, HALF, 83.9),
    "van_b4.in1k": (224, 0.9, HALF, 84.2),
}

# Where the authors publish the files of weights. Of fine-tuned B5 and B6 of VAN there are figures alone.
GITHUB = "https://github.com/{}/releases/download/{}"
TRANSNEXT = "https://huggingface.co/DaiShiResearch/{}/resolve/main/{}.pth?download=true"
VAN = "https://huggingface.co/Visual-Attention-Network/VAN-{}-original/resolve/main/{}.pth.tar"
URLS = {
    "transxnet_t.in1k": GITHUB.format("LMMMEng/TransXNet", "v1.0/transx-t.pth.tar"),
    "transxnet_s.in1k": GITHUB.format("LMMMEng/TransXNet", "v1.0/transx-s.pth.tar"),
    "transxnet_b.in1k": GITHUB.format("LMMMEng/TransXNet", "v1.0/transx-b.pth.tar"),
    "transxnet_b.in1k_384": GITHUB.format("LMMMEng/TransXNet", "v1.0/transx-b-384.pth.tar"),
    "transnext_micro.in1k": TRANSNEXT.format("transnext-micro-224-1k", "transnext_micro_224_1k"),
    "transnext_tiny.in1k": TRANSNEXT.format("transnext-tiny-224-1k", "transnext_tiny_224_1k"),
    "transnext_small.in1k": TRANSNEXT.format("transnext-small-224-1k", "transnext_small_224_1k"),
    "transnext_small.in1k_384": TRANSNEXT.format("transnext-small-384-1k-ft-1k", "transnext_small_384_1k_ft_1k"),
    "transnext_base.in1k": TRANSNEXT.format("transnext-base-224-1k", "transnext_base_224_1k"),
    "transnext_base.in1k_384": TRANSNEXT.format("transnext-base-384-1k-ft-1k", "transnext_base_384_1k_ft_1k"),
    "transnext_micro_aaaa.in1k": TRANSNEXT.format("transnext-micro-AAAA-256-1k", "transnext_micro_AAAA_256_1k"),
    "hat_net_tiny.in1k": GITHUB.format("yun-liu/HAT-Net", "v2.0/HAT-Net_Tiny.pth"),
    "hat_net_small.in1k": GITHUB.format("yun-liu/HAT-Net", "v2.0/HAT-Net_Small.pth"),
    "hat_net_medium.in1k": GITHUB.format("yun-liu/HAT-Net", "v2.0/HAT-Net_Medium.pth"),
    "hat_net_large.in1k": GITHUB.format("yun-liu/HAT-Net", "v2.0/HAT-Net_Large.pth"),
    "transcnn_tiny.in1k": GITHUB.format("yun-liu/TransCNN", "v1.0/TransCNN-Tiny.pth"),
    "transcnn_small.in1k": GITHUB.format("yun-liu/TransCNN", "v1.0/TransCNN-Small.pth"),
    "transcnn_medium.in1k": GITHUB.format("yun-liu/TransCNN", "v1.0/TransCNN-Medium.pth"),
    "transcnn_large.in1k": GITHUB.format("yun-liu/TransCNN", "v1.0/TransCNN-Large.pth"),
    "van_b0.in1k": VAN.format("Tiny", "van_tiny_754"),
    "van_b1.in1k": VAN.format("Small", "van_small_811"),
    "van_b2.in1k": VAN.format("Base", "van_base_828"),
    "van_b3.in1k": VAN.format("Large", "van_large_839"),
}
# Pages from which a person can fetch a file.
SHARES = {
    "conv2former_n.in1k": "https://pan.baidu.com/s/1sgO-UhF27UQrGtfKJzck3A?pwd=6ku9",
    "conv2former_t.in1k": "https://pan.baidu.com/s/1Rfsi5p5usr3UE46jigtlcg?pwd=gwq4",
    "conv2former_s.in1k": "https://pan.baidu.com/s/16Lu1LcQkOoSQXnZVGxGPxg?pwd=6z6m",
    "conv2former_s.in22k_ft_in1k": "https://pan.baidu.com/s/1uMBF5xSvdWa5TCjQ_jlK4g?pwd=1iij",
    "conv2former_b.in1k": "https://pan.baidu.com/s/1q5V1J3jzAoKQis-hx6rTVg?pwd=bdgj",
    "conv2former_b_22k.in22k_ft_in1k": "https://pan.baidu.com/s/1rkt3NhYQhPPOD5kj67uZCw?pwd=gbj9",
    "conv2former_l.in22k_ft_in1k": "https://pan.baidu.com/s/1_YYQ_rY9QRkq-m2lv23GPg?pwd=44os",
    "conv2former_l.in22k_ft_in1k_384": "https://pan.baidu.com/s/1vyBaA4UGUX_qlS-ugxpTSQ?pwd=gu0m",
    "van_b4.in1k": "https://cloud.tsinghua.edu.cn/d/0100f0cea37d41ba8d08/",
}
FIGURES_ALONE = {"van_b5.in22k_ft_in1k": 86.3, "van_b6.in22k_ft_in1k": 86.9}


@cache
def on_meta(name: str) -> torch.nn.Module:
    return timm.create_model(name, device="meta").eval()


def test_the_library_and_this_table_name_the_same_variants():
    assert sorted(glocal.model_names()) == sorted(VARIANTS)
    assert set(VARIANTS) <= set(list_models())


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    expected = PARAMETERS[name]
    for key, shape in official_keys(name).items():
        if "proj_norm" in key:
            expected -= shape[0]
    assert sum(parameter.numel() for parameter in on_meta(name).parameters()) == expected


@pytest.mark.parametrize("name", PICO)
def test_pico_is_small(name):
    assert sum(parameter.numel() for parameter in on_meta(name).parameters()) <= 1_500_000


@pytest.mark.parametrize("name", PARAMETERS)
def test_official_names_and_shapes_convert_strictly(name):
    """Loading raises on any name too many or too few and on any other shape."""
    official = {key: torch.empty(shape, device="meta") for key, shape in official_keys(name).items()}
    family = next(module for module in FAMILIES.values() if name in module.default_cfgs)
    model = on_meta(name)
    converted = family.checkpoint_filter_fn(official, model)
    assert list(map(tuple, (converted[key].shape for key in model.state_dict()))) == [
        tuple(tensor.shape) for tensor in model.state_dict().values()
    ]
    assert len(converted) == len(model.state_dict())
    unused = sum("proj_norm" in key for key in official)
    assert len(converted) == len(official) - unused


@pytest.mark.parametrize("name", CONFIGS)
def test_published_config(name):
    size, crop, (mean, std), top1 = CONFIGS[name]
    config = get_pretrained_cfg(name, allow_unregistered=False)
    assert config.input_size == (3, size, size)
    assert config.pool_size == (-(-size // 32), -(-size // 32))
    assert (config.crop_pct, config.mean, config.std) == (crop, mean, std)
    assert config.interpolation == "bicubic"
    assert config.crop_mode == ("squash" if crop == 1.0 else "center")
    assert config.num_classes == 1000
    assert glocal.published_top1(name) == top1


@pytest.mark.parametrize("name", FIGURES_ALONE)
def test_published_figure_without_weights(name):
    assert glocal.published_top1(name) == FIGURES_ALONE[name]


def test_no_other_accuracy_is_called_published():
    assert {tag for family in FAMILIES.values() for tag in family.TOP1} == {*CONFIGS, *FIGURES_ALONE}


def test_the_published_tag_is_the_default():
    for name in VARIANTS:
        tag = get_pretrained_cfg(name).tag
        assert tag == ("untrained" if name in PICO else "in22k_ft_in1k" if "in22k" in tag else "in1k")
        if f"{name}.in1k" in CONFIGS:
            assert tag == "in1k"


def test_every_tag_has_a_config():
    tagged = [f"{m}.{t}" for family in FAMILIES.values() for m, cfgs in family.default_cfgs.items() for t in cfgs.tags]
    assert set(CONFIGS) <= set(tagged)
    for name in tagged:
        assert get_pretrained_cfg(name, allow_unregistered=False) is not None


def test_the_tables_of_files_are_complete_and_name_none_twice():
    assert {*URLS, *SHARES} == set(CONFIGS)
    assert len({*URLS.values(), *SHARES.values()}) == len(CONFIGS)


@pytest.mark.parametrize("name", URLS)
def test_where_weights_can_be_downloaded(name):
    config = get_pretrained_cfg(name)
    assert config.url == URLS[name]
    assert [config.hf_hub_id, config.file, config.source, config.notes] == [None] * 4


@pytest.mark.parametrize("name", SHARES)
def test_weights_that_no_program_can_fetch_say_where_to_get_them(name):
    with pytest.raises(RuntimeError) as error:
        timm.create_model(name, pretrained=True)
    assert str(error.value) == (
        f"the weights of {name} cannot be downloaded by a program: get the file from {SHARES[name]} "
        "and pass pretrained_cfg_overlay=dict(file='…')"
    )


@pytest.mark.parametrize("name", [*PICO, "van_b5", "van_b6"])
def test_weights_that_were_never_published(name):
    with pytest.raises(RuntimeError, match=rf"no weights of {name}\S* have been published"):
        timm.create_model(name, pretrained=True)


def test_unknown_tag():
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        timm.create_model("van_b0.nope")


@pytest.mark.parametrize("name", VARIANTS)
def test_config_and_feature_info_fit_the_model(name):
    model, config = on_meta(name), get_pretrained_cfg(name)
    tensors = model.state_dict()
    assert all(tensor.is_meta for tensor in tensors.values())
    assert f"{config.first_conv}.weight" in tensors
    assert f"{config.classifier}.weight" in tensors
    for i, info in enumerate(model.feature_info):
        assert info["reduction"] == 4 * 2**i
        assert model.get_submodule(info["module"]) is model.stages[i]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in VARIANTS]
)
def test_forward_on_the_meta_device(name):
    model, config = on_meta(name), get_pretrained_cfg(name)
    features = model.forward_features(torch.empty(1, *config.input_size, device="meta"))
    assert tuple(features.shape) == (1, model.num_features, *config.pool_size)
    assert tuple(model.forward_head(features).shape) == (1, 1000)
    assert tuple(model.forward_head(features, pre_logits=True).shape) == (1, model.head_hidden_size)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_groups_and_undecayed_names_fit(name):
    model = on_meta(name)
    names = [name for name, _ in model.named_parameters()]
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(layers) == set(names)
    depth = sum(len(stage.blocks) for stage in model.stages)
    assert max(layers.values()) == depth + 1  # the stem is 0, the head comes after the last block
    for pattern in model.no_weight_decay():
        assert any(fnmatch(name, pattern) for name in names)
