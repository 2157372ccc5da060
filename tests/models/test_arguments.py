"""What a file may give to a model: the arguments that its family declares, in their ranges, and nothing else."""

import inspect

import pytest
import timm

from glocal.models import FAMILIES, check_model_arguments
from glocal.models.arguments import COMMON, TIMM

# What timm's builder does with files, folders and addresses.
FORBIDDEN = {
    "pretrained": True,
    "pretrained_cfg": {"url": "http://127.0.0.1/x"},
    "pretrained_cfg_overlay": {"url": "data:,x"},
    "cache_dir": "/somewhere",
    "checkpoint_path": "/etc/passwd",
    "features_only": True,
    "num_classes": 3,
    "device": "cuda",
    "scriptable": True,
}


@pytest.mark.parametrize("name", ["transxnet_pico", "van_b0.in1k", "test_resnet"])
@pytest.mark.parametrize("argument", FORBIDDEN)
def test_what_opens_loads_or_writes_is_no_argument(name, argument):
    with pytest.raises(ValueError, match=f"{name}: a checkpoint cannot hold the argument '{argument}', only"):
        check_model_arguments(name, {argument: FORBIDDEN[argument]})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_argument_of_a_family_is_declared_and_exists(family):
    """A new argument that nobody declares could not be trained with: its checkpoints could not be read."""
    module = FAMILIES[family]
    cls = next(cls for name, cls in vars(module).items() if name.replace("-", "") == family.replace("-", ""))
    own = {
        name for name, parameter in inspect.signature(cls).parameters.items() if parameter.kind.name != "VAR_KEYWORD"
    }
    assert set(module.ARGUMENTS) == own | set(COMMON)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("transxnet_pico", {"depths": [1, 1, 1, 1], "kernel_size": 5, "layer_scale": 1e-3, "img_size": [64, 96]}),
        ("transnext_pico", {"pretrain_size": 256, "reductions": [8, 4, 2, None], "bias_mode": "interpolate"}),
        ("hat_net_pico", {"grids": [4, 4, 4, 1], "drop_rate": 0}),
        ("transcnn_pico", {"expansions": [1.5, 2, 2, 2]}),
        ("conv2former_pico", {"head_hidden_size": 64, "expansion": 2}),
        ("van_pico", {"global_pool": "max", "in_chans": 1}),
        ("test_vit", {"img_size": 32, "patch_size": 8, "class_token": False, "global_pool": "avg"}),
    ],
)
def test_declared_ones_build_the_model(name, args):
    check_model_arguments(name, args)
    timm.create_model(name, num_classes=2, **args)


@pytest.mark.parametrize(
    ("name", "args", "reason"),
    [
        ("van_pico", {"depths": [1_000_000] * 4}, r"the argument depths: Expected `int` <= 128 - at `\$\[0\]`"),
        ("van_pico", {"depths": [1, 1, 1]}, "Expected `array` of length >= 4"),
        ("van_pico", {"dims": [32, 64, 160, 2.5]}, "Expected `int`, got `float`"),
        ("van_pico", {"layer_scale": float("nan")}, "the argument layer_scale"),
        ("van_pico", {"layer_scale": True}, "Expected `float`, got `bool`"),
        ("transnext_pico", {"img_size": [224, 224, 224]}, "of length <= 2"),
        ("transnext_pico", {"bias_mode": "__import__"}, "Invalid enum value"),
        ("transnext_pico", {"pool_size": 10**400}, "the argument pool_size"),
        ("test_vit", {"act_layer": "../x"}, "matching regex"),
        ("test_vit", {"depth": None}, "Expected `int`, got `null`"),
        ("test_vit", ["depth"], "must be names with values"),
        ("test_vit", {"weight_init": "x\x1b[2J" * 100}, "cannot hold the argument 'weight_init'"),
    ],
)
def test_another_type_or_range(name, args, reason):
    with pytest.raises(ValueError, match=reason) as error:
        check_model_arguments(name, args)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


def test_of_timms_models_the_names_are_those_that_timm_has():
    taken = set()
    for name in (
        "vit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
        "convnext_tiny",
        "resnet18",
        "deit3_small_patch16_224",
    ):
        cls = type(timm.create_model(name, device="meta") if name != "resnet18" else timm.create_model(name))
        taken |= set(inspect.signature(cls).parameters)
    assert not {name for name in TIMM if name not in taken} - {"proj_drop"}
