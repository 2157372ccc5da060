"""The recipes of detectors: what the authors did, and their groups of parameters by the authors' own names."""

import io
import math
import re

import pytest
import torch
from rich.console import Console

import glocal
from glocal.models import family_of, official
from glocal.models.create import split
from glocal.models.detectors import DETECTORS, published
from glocal.tasks import find_task
from glocal.tasks.checkpoint import read_info
from glocal.training.config import RECIPES, TrainConfig
from glocal.training.groups import parameter_groups
from glocal.training.train import train
from golden.detectors import all_keys
from golden.official import official_keys
from run_output import rows

NAMES = sorted(path.stem for path in RECIPES.glob("*_coco_*.yaml"))
SCALES = [0.6, 0.64, 0.68, 0.72, 0.76, 0.8, 0.84, 0.88, 0.92, 0.96, 1.0]  # of 800 pixels: 480, 512, …, 800

# From the authors' configs, by head and family: epochs, where the rate falls to a tenth, weight decay, clipping, steps
# of the warm-up. VAN's authors published no code: what the paper says, and the steps of PVT's code.
SETTINGS = {
    ("retinanet", "transxnet"): (12, "8,11", 1e-4, None, 500),
    ("mask_rcnn", "transxnet"): (12, "8,11", 0.05, None, 500),
    ("mask_rcnn", "transnext"): (12, "8,11", 0.05, None, 500),
    ("dino", "transnext"): (12, "11", 0.05, 0.1, 0),
    ("retinanet", "van"): (12, "8,11", 0.05, None, 500),
    ("mask_rcnn", "van"): (12, "8,11", 0.05, None, 500),
    ("mask_rcnn", "van_3x"): (36, "27,33", 0.05, None, 500),
    ("cascade_mask_rcnn", "van_3x"): (36, "27,33", 0.05, None, 500),
}
DROP_PATH = {
    ("retinanet", "transxnet"): {"t": 0.1, "s": 0.2, "b": 0.3},
    ("mask_rcnn", "transxnet"): {"t": 0.1, "s": 0.2, "b": 0.3},
    ("mask_rcnn", "transnext"): {"tiny": 0.4, "small": 0.6, "base": 0.7},
    ("dino", "transnext"): {"tiny": 0.3, "small": 0.5, "base": 0.6},
}


def parts(name: str) -> tuple[str, str, str]:
    """Head, family (with _3x for 36 epochs) and size."""
    pattern = r"(retinanet|cascade_mask_rcnn|mask_rcnn|dino)(?:_[45]scale)?_([a-z]+)_([a-z0-9]+)_coco_(1x|3x|12ep)"
    head, family, size, length = re.fullmatch(pattern, name).groups()
    return head, f"{family}_3x" if length == "3x" else family, size


class TestSettings:
    def test_every_published_detector_has_a_recipe(self):
        def key(config):
            return config.head, config.model, config.epochs, config.head_args.get("scales")

        found = {key(TrainConfig.from_recipe(name)) for name in NAMES}
        listed = {(one.head, one.backbone, one.epochs, one.head_args.get("scales")) for one in published.PUBLISHED}
        assert found == listed
        assert len(NAMES) == len(found)

    @pytest.mark.parametrize("name", NAMES)
    def test_as_published(self, name):
        config, (head, family, size) = TrainConfig.from_recipe(name), parts(name)
        assert (config.head, config.model) == (head, f"{family.removesuffix('_3x')}_{size}")
        epochs, milestones, decay, clip, warmup = SETTINGS[head, family]
        assert (config.epochs, config.milestones, config.schedule) == (epochs, milestones, "multistep")
        assert (config.weight_decay, config.clip_grad, config.warmup_steps) == (decay, clip, warmup)
        assert config.warmup_ratio == (0.001 if warmup else None)
        assert (config.lr, config.batch_size, config.lr_batch_size, config.optimizer) == (1e-4, 16, None, "adamw")
        if (head, family) in DROP_PATH:
            assert config.drop_path == DROP_PATH[head, family][size]
        assert config.precision == ("fp16" if name == "mask_rcnn_transnext_base_coco_1x" else "fp32")
        bias = {"bias_mode": "interpolate", "img_size": 800} if family == "transnext" else {}
        assert (config.model_args, config.pretrained, config.ema) == (bias, True, None)

    @pytest.mark.parametrize("name", NAMES)
    def test_images_as_published(self, name):
        config, (head, family, _) = TrainConfig.from_recipe(name), parts(name)
        task = find_task(config.task)
        assert head in task.heads
        augmentation = task.augmentation(config, _Source(), _Preprocessing(task, config))
        several = head == "dino" or family == "van_3x"
        assert list(augmentation.scales) == (SCALES if several else [])
        assert augmentation.detr_crop == (head == "dino")
        assert (augmentation.hflip, augmentation.photometric, augmentation.scale_jitter) == (0.5, False, None)
        assert (augmentation.mosaic, augmentation.copy_paste) == (0, 0)
        assert (config.skip_empty, config.skip_small) == (head != "dino", 32)
        assert augmentation.label_interpolation == "nearest"
        whole = augmentation.whole
        assert (whole.shorter, whole.longer, whole.multiple) == (800, 1333, 1 if head == "dino" else 32)
        if several:
            shorter = {augmentation._size((3000, 4000))[0] for augmentation in _each(augmentation)}
            assert shorter == set(range(480, 801, 32))

    @pytest.mark.parametrize("one", published.PUBLISHED, ids=lambda one: f"{one.head}-{one.backbone}-{one.epochs}")
    def test_expects_what_was_published(self, one):
        scales = one.head_args.get("scales")
        (name,) = [
            name
            for name in NAMES
            for config in [TrainConfig.from_recipe(name)]
            if (config.head, config.model, config.epochs) == (one.head, one.backbone, one.epochs)
            and config.head_args.get("scales") == scales
        ]
        text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
        assert f"{one.box_ap} % box AP" in text
        assert one.mask_ap is None or f"{one.mask_ap} % mask AP" in text


class _Source:
    hflip, splits, about = None, {"train": None}, {}


def _Preprocessing(task, config):
    with torch.device("meta"):
        model = torch.nn.Conv2d(3, 1, 1)
    return task.preprocessing(model, config, config.img_size)


def _each(augmentation):
    from dataclasses import replace

    return [replace(augmentation, scales=(scale,)) for scale in augmentation.scales]


SMALLEST = ("retinanet_transxnet_t_coco_1x", "mask_rcnn_van_b0_coco_1x", "dino_4scale_transnext_tiny_coco_12ep")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALLEST, "detect", "detect_fast", "instances"])
def test_quick_run(name, tmp_path):
    """One of each head trains, but for the weights that it would download."""
    changes = dict(output=str(tmp_path), quick=True, pretrained=False, device="cpu", data="shapes", batch_size=2)
    config = TrainConfig.from_recipe(name, **changes, data_args={"count": 16, "size": 64})
    result = train(config, Console(file=io.StringIO()))
    assert read_info(tmp_path / "model.safetensors").preprocessing["whole"]["shorter"] == 64
    assert result.epochs == 2
    assert all(math.isfinite(float(row["train_loss"])) for row in rows(tmp_path))


# Groups of parameters

SPARED = {
    "transxnet": ("absolute_pos_embed", "relative_position_bias_table", "norm"),
    "transnext": ("query_embedding", "relative_pos_bias_local", "cpb", "temperature", "norm"),
}
CASES = {
    "retinanet_transxnet_t_coco_1x": "retinanet_transxnet_t_256x320",
    "mask_rcnn_transxnet_t_coco_1x": "maskrcnn_van_b0_192x320",  # the same names
    "mask_rcnn_transnext_tiny_coco_1x": "maskrcnn_transnext_tiny_256x320",
    "dino_4scale_transnext_tiny_coco_12ep": "dino4_transnext_tiny_256x320",
    "dino_5scale_transnext_tiny_coco_12ep": "dino5_transnext_tiny_192x256",
}


def official_names(config: TrainConfig, case: str) -> dict[str, str]:
    """The authors' name of each parameter and buffer of a model, by ours."""
    family = family_of(config.model)
    backbone = [name for name in official_keys(config.model)]
    if config.model.startswith("transxnet"):
        first = 2 if config.head == "retinanet" else 0  # its files lack norm0
        backbone += [f"norm{i}.{kind}" for i in (0, 2, 4, 6) if i >= first for kind in ("weight", "bias")]
    names = {f"backbone.model.{official.rename(name, family.RENAMES)}": f"backbone.{name}" for name in backbone}
    for name in all_keys()["cases"][case]:
        ((ours, _),) = split({name: torch.zeros(1)}, DETECTORS[config.head])[1].items()
        names[ours] = name
    return names


def expected(config: TrainConfig, name: str, shape: torch.Size) -> tuple[float, float]:
    """The factor of the rate and the weight decay of a parameter by its official name, as the authors' configs say."""
    family = config.model.partition("_")[0]
    if config.head == "retinanet":  # nothing is spared
        return 1.0, 1e-4
    if config.head == "mask_rcnn":  # biases decay
        return 1.0, 0.0 if any(part in name for part in SPARED[family]) else 0.05
    flat = 0.0 if len(shape) == 1 else 0.05
    # The keys of the config count the norms and the embeddings of three stages: those of the fourth are left over.
    if not name.startswith("backbone.") or name.startswith(("backbone.norm4.", "backbone.patch_embed4.")):
        return 1.0, flat
    return 0.1, 0.0 if any(part in name for part in SPARED[family]) else flat


@pytest.mark.parametrize("recipe", CASES)
def test_recipes_give_the_authors_groups(recipe):
    config = TrainConfig.from_recipe(recipe)
    names = official_names(config, CASES[recipe])
    with torch.device("meta"):
        model = glocal.create(config.head, config.model, head_args=config.head_args)
    own = {parameter: name for name, parameter in model.named_parameters()}
    found, wanted = {}, {}
    for group in parameter_groups(model, config):
        for parameter in group["params"]:
            name = names[own[parameter]]
            found[name] = group.get("lr_scale", 1.0), group["weight_decay"]
            wanted[name] = expected(config, name, parameter.shape)
    assert found == wanted
    assert len(found) == sum(parameter.requires_grad for parameter in model.parameters())
    if config.head == "dino":
        assert found["backbone.norm4.weight"] == (1.0, 0.0)
        assert found["backbone.patch_embed4.proj.weight"] == (1.0, 0.05)
        assert found["backbone.norm3.weight"] == found["backbone.patch_embed3.proj.bias"] == (0.1, 0.0)
