"""The recipes: they say what they are, and what the authors did."""

import functools
import io
import math
import random
import re
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from rich.console import Console
from timm.optim import create_optimizer_v2

import glocal
from glocal.cli import main
from glocal.cli.parser import CommandParser
from glocal.data.preprocessing import Augmentation, Preprocessing
from glocal.models import FAMILIES, published_top1
from glocal.models.heads import published
from glocal.tasks.checkpoint import read_info
from glocal.training.config import DEFAULT_MODEL, RECIPES, TrainConfig, find_recipe
from glocal.training.groups import parameter_groups
from glocal.training.train import train
from run_output import rows

FILES = {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
OURS = ("finetune", "segment", "detect", "detect_fast", "instances")
DETECTION = [name for name in FILES if "_coco_" in name]  # test_detection_recipes.py
DENSE = [name for name in FILES if name.endswith("_ade20k")]
PUBLISHED = [name for name in FILES if name not in (*OURS, *DENSE, *DETECTION)]
FROM_22K = [name for name in PUBLISHED if "_in22k_ft_in1k" in name]
TAGS = [tag for family in FAMILIES.values() for tag in family.TOP1]

# From the authors' code and papers, or, where those are silent (*), what we chose:
# drop path, EMA, repeated augmentation, learning rate at batch 1024, clipping, epochs that really run.
SETTINGS = {
    "transxnet_t_in1k": (0.1, 0.9998, 1, 2e-3, None, 310),
    "transxnet_s_in1k": (0.2, 0.99985, 1, 2e-3, None, 310),
    "transxnet_b_in1k": (0.4, 0.99985, 1, 2e-3, None, 310),
    "transxnet_b_in1k_384": (0.4, None, 1, 1e-5, None, 5),  # *
    "transnext_micro_in1k": (0.15, None, 3, 1e-3, 1.0, 300),
    "transnext_micro_aaaa_in1k": (0.15, None, 3, 1e-3, 1.0, 300),
    "transnext_tiny_in1k": (0.25, None, 3, 1e-3, 1.0, 300),
    "transnext_small_in1k": (0.45, None, 3, 1e-3, 1.0, 300),
    "transnext_base_in1k": (0.6, None, 3, 1e-3, 1.0, 300),
    "transnext_small_in1k_384": (0.7, None, 3, 1e-5, 1.0, 5),
    "transnext_base_in1k_384": (0.8, None, 3, 1e-5, 1.0, 5),
    "hat_net_tiny_in1k": (0.1, None, 3, 1e-3, None, 300),  # * drop path and clipping
    "hat_net_small_in1k": (0.1, None, 3, 1e-3, None, 300),  # *
    "hat_net_medium_in1k": (0.3, None, 3, 1e-3, 1.0, 300),  # *
    "hat_net_large_in1k": (0.3, None, 3, 1e-3, 1.0, 300),  # *
    "transcnn_tiny_in1k": (0.1, None, 3, 1e-3, None, 300),  # *
    "transcnn_small_in1k": (0.1, None, 3, 1e-3, None, 300),  # *
    "transcnn_medium_in1k": (0.3, None, 3, 1e-3, 1.0, 300),  # *
    "transcnn_large_in1k": (0.3, None, 3, 1e-3, 1.0, 300),  # *
    "conv2former_n_in1k": (0.1, None, 1, 1e-3, None, 310),  # * drop path
    "conv2former_t_in1k": (0.1, None, 1, 1e-3, None, 310),  # *
    "conv2former_s_in1k": (0.4, None, 1, 1e-3, None, 310),  # *
    "conv2former_b_in1k": (0.5, None, 1, 1e-3, None, 310),  # *
    "conv2former_s_in22k": (0.1, None, 1, 1e-3, None, 90),  # * drop path
    "conv2former_b_22k_in22k": (0.1, None, 1, 1e-3, None, 90),  # *
    "conv2former_l_in22k": (0.1, None, 1, 1e-3, None, 90),  # *
    "conv2former_s_in22k_ft_in1k": (0.2, None, 1, 1e-4, None, 30),  # * all but the epochs
    "conv2former_b_22k_in22k_ft_in1k": (0.2, None, 1, 1e-4, None, 30),  # *
    "conv2former_l_in22k_ft_in1k": (0.3, None, 1, 1e-4, None, 30),  # *
    "conv2former_l_in22k_ft_in1k_384": (0.3, None, 1, 1e-4, None, 30),  # *
    "van_b0_in1k": (0.1, None, 1, 1e-3, None, 310),
    "van_b1_in1k": (0.1, None, 1, 1e-3, None, 310),
    "van_b2_in1k": (0.1, None, 1, 1e-3, None, 310),
    "van_b3_in1k": (0.2, None, 1, 1e-3, None, 310),
    "van_b4_in1k": (0.2, None, 1, 1e-3, None, 310),  # * drop path
    "van_b4_in22k": (0.1, None, 1, 5e-4, None, 90),  # * drop path and rate
    "van_b5_in22k": (0.1, None, 1, 5e-4, None, 90),  # *
    "van_b6_in22k": (0.1, None, 1, 5e-4, None, 90),  # *
    "van_b4_in22k_ft_in1k": (0.2, None, 1, 1e-4, None, 30),  # * all but the epochs
    "van_b5_in22k_ft_in1k": (0.2, None, 1, 1e-4, None, 30),  # *
    "van_b6_in22k_ft_in1k": (0.3, None, 1, 1e-4, None, 30),  # *
}

# Of trainings on ADE20K, from the authors' configs, by head and family: steps, batch size, rate, weight decay, power of
# the schedule (None: a cosine), lowest rate, steps of the warm-up, its first part of the rate, clipping.
ADE20K = {
    ("upernet", "transnext"): (160_000, 16, 6e-5, 0.05, 1.0, 0, 1500, 1e-6, None),
    ("upernet", "van"): (160_000, 16, 6e-5, 0.01, 1.0, 0, 1500, 1e-6, None),
    ("semantic_fpn", "transxnet"): (80_000, 32, 2e-4, 1e-4, None, 1e-8 * 2e-4, 1000, 0.1, None),
    ("semantic_fpn", "van"): (40_000, 32, 2e-4, 1e-4, 0.9, 0, 0, None, None),
    ("mask2former", "transnext"): (160_000, 16, 1e-4, 0.05, 0.9, 0, 0, None, 0.01),
}
ADE20K_DROP_PATH = {
    ("upernet", "transnext"): {"tiny": 0.4, "small": 0.6, "base": 0.7},
    ("upernet", "van"): {"b0": 0.1, "b1": 0.1, "b2": 0.1, "b3": 0.3, "b4": 0.4, "b5": 0.4, "b6": 0.5},
    ("semantic_fpn", "transxnet"): {"t": 0.1, "s": 0.2, "b": 0.3},
    ("semantic_fpn", "van"): {"b0": 0.2, "b1": 0.2, "b2": 0.2, "b3": 0.3, "b4": 0.4},
    ("mask2former", "transnext"): {"tiny": 0.3, "small": 0.5, "base": 0.6},
}
# Steps from one saved file to the next, which are our epochs.
ADE20K_SAVED = {"upernet": 16_000, "semantic_fpn": 4_000, "mask2former": 5_000}

# Family: batch size, lowest rate, interpolation while training, from scratch on ImageNet-1K.
FROM_SCRATCH = {
    "transxnet": (1024, 1e-5, "random"),
    "transnext": (1024, 1e-5, "bicubic"),
    "hat_net": (1024, 1e-5, "bicubic"),
    "transcnn": (1024, 1e-5, "bicubic"),
    "conv2former": (1024, 1e-6, "random"),
    "van": (1024, 1e-6, "random"),
}


recipe = functools.cache(TrainConfig.from_recipe)  # reading a file again for every test takes seconds


def opening(name: str) -> dict[str, str]:
    """The comment at the top of a recipe: label → text."""
    lines = FILES[name].read_text(encoding="utf-8").splitlines()
    comment = [line[2:] for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]]
    parts, label = {}, ""
    for line in comment[2:]:
        label = line[:10].strip() or label
        parts[label] = f"{parts.get(label, '')} {line[10:].strip()}".strip()
    return parts


class TestFiles:
    @pytest.mark.parametrize("name", FILES)
    def test_every_value_is_an_option_within_its_range(self, name):
        TrainConfig.from_recipe(name)

    @pytest.mark.parametrize("name", FILES)
    def test_no_value_stands_twice(self, name):
        keys = re.findall(r"^(\w+):", FILES[name].read_text(encoding="utf-8"), re.MULTILINE)
        assert len(keys) == len(set(keys))

    @pytest.mark.parametrize("name", FILES)
    def test_opens_with_command_cost_expected_and_source(self, name):
        parts = opening(name)
        assert f"--recipe {name} " in parts["Command"]
        assert all(parts[label] for label in ("Cost", "Expected", "Source"))

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_opens_with_paper_and_what_is_unknown_or_differs(self, name):
        parts = opening(name)
        assert re.search(r"arXiv \d{4}\.\d{5}", parts["Paper"])
        assert parts["Unknown"]
        assert "bf16" in parts["Differs"]

    @pytest.mark.parametrize("name", [*DENSE, *DETECTION])
    def test_of_ade20k_and_coco_opens_with_paper_and_what_is_unknown_or_differs(self, name):
        parts = opening(name)
        assert re.search(r"arXiv \d{4}\.\d{5}", parts["Paper"])
        assert parts["Unknown"]
        assert parts["Differs"]

    @pytest.mark.parametrize("one", published.PUBLISHED, ids=lambda one: f"{one.head}-{one.backbone}-{one.pretraining}")
    def test_every_published_miou_has_a_recipe_that_expects_it(self, one):
        from_22k = "_in22k" if one.pretraining == "in22k" else ""
        expected = opening(f"{one.head}_{one.backbone}{from_22k}_ade20k")["Expected"]
        figures = [figure for figure in (one.miou, one.miou_multi_scale) if figure is not None]
        assert all(f"{figure} %" in expected for figure in figures)

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_is_for_a_model_of_its_name(self, name):
        model = recipe(name).model
        assert name.startswith(f"{model}_in")
        assert timm.is_model(model)

    @pytest.mark.parametrize("name", [name for name in FILES if recipe(name).model_args])
    def test_the_model_takes_its_arguments(self, name):
        config = recipe(name)
        timm.create_model(config.model, device="meta", drop_path_rate=config.drop_path, **config.model_args)

    @pytest.mark.parametrize("tag", TAGS)
    def test_every_published_accuracy_has_a_recipe_that_expects_it(self, tag):
        assert f"{published_top1(tag)} %" in opening(tag.replace(".", "_"))["Expected"]

    @pytest.mark.parametrize("tag", TAGS)
    def test_the_size_is_that_of_the_published_weights(self, tag):
        size = timm.get_pretrained_cfg(tag).input_size[-1]
        assert recipe(tag.replace(".", "_")).img_size == size

    @pytest.mark.parametrize("name", FILES)
    def test_the_documentation_lists_it(self, name):
        page = Path(__file__).parents[2] / "docs" / "recipes.md"
        assert f"`{name}`" in page.read_text(encoding="utf-8")


class TestSettings:
    def test_the_table_is_complete(self):
        assert set(SETTINGS) == set(PUBLISHED)

    @pytest.mark.parametrize("name", SETTINGS)
    def test_published_or_chosen(self, name):
        config = recipe(name)
        rate = config.lr * 1024 / config.lr_batch_size if config.lr_batch_size else config.lr
        settings = config.drop_path, config.ema, config.repeated_augmentation, rate, config.clip_grad
        drop_path, ema, repeated, published_rate, clip, epochs = SETTINGS[name]
        assert settings == (drop_path, ema, repeated, pytest.approx(published_rate), clip)
        assert config.epochs + config.cooldown_epochs == epochs

    @pytest.mark.parametrize("name", [name for name in PUBLISHED if name.endswith("_in1k") and "in22k" not in name])
    def test_from_scratch(self, name):
        config = recipe(name)
        family = next(family for family in FROM_SCRATCH if name.startswith(family))
        assert (config.batch_size, config.min_lr, config.train_interpolation) == FROM_SCRATCH[family]
        assert (config.warmup_epochs, config.warmup_lr, config.weight_decay) == (5, 1e-6, 0.05)
        assert (config.mixup, config.cutmix, config.mixup_prob, config.mixup_switch_prob) == (0.8, 1.0, 1.0, 0.5)
        assert (config.auto_augment, config.color_jitter) == ("rand-m9-mstd0.5-inc1", 0.4)
        assert (config.random_erasing, config.label_smoothing, config.crop_scale) == (0.25, 0.1, 0.08)
        assert not config.pretrained
        assert config.checkpoint is None

    @pytest.mark.parametrize("name", [name for name in PUBLISHED if name.endswith("_in1k_384") and "22k" not in name])
    def test_384_starts_from_published_weights_at_a_constant_rate_without_cutmix(self, name):
        config = recipe(name)
        assert config.pretrained
        assert config.lr == config.min_lr
        assert (config.warmup_epochs, config.mixup, config.cutmix, config.img_size) == (0, 0.8, 0, 384)

    @pytest.mark.parametrize("name", ["transnext_small", "transnext_base"])
    def test_384_measures_as_the_published_weights_do(self, name):
        config = recipe(f"{name}_in1k_384")
        published = timm.get_pretrained_cfg(f"{name}.in1k_384")
        assert (config.crop_pct, config.crop_mode) == (published.crop_pct, published.crop_mode) == (1.0, "squash")

    @pytest.mark.parametrize("name", FROM_22K)
    def test_fine_tuning_starts_where_the_pretraining_ends(self, name):
        config = recipe(name)
        pretraining = Path(config.checkpoint).name
        assert f"--output {config.checkpoint}" in opening(pretraining)["Command"]
        assert recipe(pretraining).model == config.model

    @pytest.mark.parametrize("name", [name for name in FROM_22K if not name.endswith("_384")])
    def test_layer_decay_of_all_levels_together_is_convnexts(self, name):
        config = recipe(name)
        model = timm.create_model(config.model, device="meta")
        levels = 2 + sum(len(stage.blocks) for stage in model.stages)
        assert f"over the {levels} of this network" in FILES[name].read_text(encoding="utf-8")
        assert config.layer_decay ** (levels - 1) == pytest.approx(0.8**13, rel=0.04)


class TestADE20K:
    def parts(self, name) -> tuple[tuple[str, str], str, bool]:
        """Head and family, the size of the model, and whether it comes from ImageNet-22K."""
        pattern = r"(upernet|semantic_fpn|mask2former)_([a-z]+)_([a-z0-9]+)(_in22k)?_ade20k"
        head, family, size, from_22k = re.fullmatch(pattern, name).groups()
        return (head, family), size, from_22k is not None

    def test_the_tables_are_complete(self):
        found = {(kind, size) for kind, size, _ in map(self.parts, DENSE)}
        assert found == {(kind, size) for kind, sizes in ADE20K_DROP_PATH.items() for size in sizes}
        assert len(DENSE) == 22  # VAN-B4 has two

    @pytest.mark.parametrize("name", DENSE)
    def test_as_published(self, name):
        config, (kind, size, _) = recipe(name), self.parts(name)
        steps, batch, rate, decay, power, lowest, warmup, ratio, clip = ADE20K[kind]
        assert (config.head, config.model) == (kind[0], f"{kind[1]}_{size}")
        assert config.epochs * config.epoch_steps == steps
        assert config.epoch_steps == ADE20K_SAVED[config.head]
        assert config.batch_size == (32 if kind == ("upernet", "van") and size == "b4" else batch)
        assert (config.lr, config.weight_decay, config.lr_batch_size) == (rate, decay, None)
        assert config.schedule == ("cosine" if power is None else "poly")
        assert (config.poly_power, config.min_lr) == (power, pytest.approx(lowest, abs=0))
        assert (config.warmup_steps, config.warmup_ratio, config.clip_grad) == (warmup, ratio, clip)
        assert config.drop_path == ADE20K_DROP_PATH[kind][size]
        assert (config.optimizer, config.precision, config.ema, config.cooldown_epochs) == ("adamw", "fp32", None, 0)

    @pytest.mark.parametrize("name", DENSE)
    def test_images_as_published(self, name):
        config, (kind, _, _) = recipe(name), self.parts(name)
        assert (config.img_size, config.resize_range, config.max_class_share) == (512, "0.5,2", 0.75)
        assert (config.hflip, config.photometric, config.aux_weight, config.mask_loss) == (0.5, True, 0.4, "ce")
        windows = "512,341" if kind == ("upernet", "transnext") else None
        assert (config.whole, config.window) == (None, windows)  # by default, 512 and four times as much
        assert config.size_multiple == (None if windows else 32)
        assert config.size_align == ("pad" if kind[1] == "transnext" else "resize")

    @pytest.mark.parametrize("name", DENSE)
    def test_starts_from_the_published_pretraining(self, name):
        config, (kind, size, from_22k) = recipe(name), self.parts(name)
        if from_22k:
            assert (config.pretrained, config.checkpoint) == (False, f"runs/van_{size}_in22k")
            assert f"--output {config.checkpoint}" in opening(f"van_{size}_in22k")["Command"]
        else:
            assert (config.pretrained, config.checkpoint) == (True, None)
            assert timm.get_pretrained_cfg(config.model).tag == "in1k"
        bias = {"bias_mode": "interpolate", "img_size": 512} if kind[1] == "transnext" else {}
        assert config.model_args == bias

    @pytest.mark.parametrize(
        "name",
        [pytest.param(name, marks=[] if re.search("_t(iny)?_", name) else pytest.mark.slow) for name in DENSE],
    )
    def test_every_rule_names_a_parameter(self, name):
        config = recipe(name)
        with torch.device("meta"):
            model = glocal.create(config.head, config.model)
        groups = parameter_groups(model, config)
        assert {group["weight_decay"] for group in groups} <= {0.0, config.weight_decay}
        assert {group["lr_scale"] for group in groups} == ({0.1, 1.0} if config.head == "mask2former" else {1.0})


class TestRandAugment:
    def test_its_greatest_strength_applies_to_an_image(self):
        augmentation = Augmentation(
            crop_scale=0.08,
            crop_ratio=3 / 4,
            hflip=0.5,
            color_jitter=0.4,
            auto_augment="rand-m10-n100-p1.0-inc1",  # 100 operations, so that every kind is among them
            random_erasing=0.25,
        )
        transform = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3).training_transform(augmentation)
        random.seed(0)
        np.random.seed(0)
        assert transform(Image.new("RGB", (40, 40), "teal")).shape == (3, 32, 32)


class TestWeightDecay:
    """timm's rule spares vectors and biases; TransNeXt's author spares four more kinds of parameters."""

    TRANSNEXT = ("*.query_embedding", "*.local_bias", "*.token_mixer.position.*", "*.temperature")
    LAYER_SCALE = ("*.scale?.weight",)  # a vector in the code of VAN and Conv2Former, of more axes here
    # What one may expect to be spared and is not.
    DECAYED = ("stages.*.position.encoding", "*.scale?.weight", "*.local_unit.weight")

    def decayed(self, name) -> tuple[set[str], dict]:
        """Names that the optimizer of a training decays, and all parameters."""
        model = timm.create_model(name, device="meta")
        optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
        ids = {id(p) for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}
        parameters = dict(model.named_parameters())
        return {key for key, parameter in parameters.items() if id(parameter) in ids}, parameters

    @pytest.mark.parametrize(
        ("name", "spared"),
        [
            ("transxnet_pico", ()),
            ("transnext_pico", TRANSNEXT),
            ("hat_net_pico", ()),
            ("transcnn_pico", ()),
            ("conv2former_pico", LAYER_SCALE),
            ("van_pico", LAYER_SCALE),
        ],
    )
    def test_spares_what_the_authors_spare_and_nothing_else(self, name, spared):
        decayed, parameters = self.decayed(name)
        expected = {
            key
            for key, parameter in parameters.items()
            if parameter.ndim > 1 and not key.endswith(".bias") and not any(fnmatch(key, part) for part in spared)
        }
        assert decayed == expected

    @pytest.mark.parametrize("pattern", DECAYED)
    def test_transxnets_positions_scales_and_kernels_are_decayed(self, pattern):
        decayed, parameters = self.decayed("transxnet_pico")
        keys = {key for key in parameters if fnmatch(key, pattern)}
        assert keys
        assert keys <= decayed

    @pytest.mark.parametrize("pattern", TRANSNEXT)
    def test_transnexts_embeddings_biases_and_temperatures_are_not(self, pattern):
        decayed, parameters = self.decayed("transnext_pico")
        keys = {key for key in parameters if fnmatch(key, pattern)}
        assert keys
        assert not keys & decayed


class TestCommandLine:
    def parse(self, *args: str) -> TrainConfig:
        return CommandParser("glocal train", TrainConfig, {"data": "?"}, "", find_recipe=find_recipe).parse(args)

    def refused(self, capsys, *args: str) -> str:
        assert main(["train", *args]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]

    @pytest.mark.parametrize(
        "name",
        ["transxnet_b_in1k", "transxnet_b_in1k_384", "hat_net_large_in1k", "van_b6_in22k_ft_in1k", "finetune"],
    )
    def test_a_recipe_by_its_name_is_the_file(self, name):
        assert self.parse("--recipe", name, "photos") == TrainConfig.from_recipe(name, data="photos")

    def test_refuses_another_model(self, capsys):
        line = self.refused(capsys, "--recipe", "transnext_tiny_in1k", "--model", "van_b0")
        assert line == "error: the recipe transnext_tiny_in1k is for the model transnext_tiny, not van_b0"

    def test_refuses_another_model_from_python(self):
        with pytest.raises(ValueError, match="the recipe van_b1_in1k is for the model van_b1, not van_b0"):
            TrainConfig.from_recipe("van_b1_in1k", model="van_b0")
        assert TrainConfig.from_recipe("finetune", model="van_b0").model == "van_b0"

    def test_refuses_another_model_of_a_users_file(self, capsys, tmp_path):
        (tmp_path / "mine.yaml").write_text("model: van_b0\n")
        line = self.refused(capsys, "--recipe", "transnext_tiny_in1k", "--config", str(tmp_path / "mine.yaml"))
        assert "for the model transnext_tiny, not van_b0" in line

    def test_names_the_closest_of_an_unknown_recipe(self, capsys):
        assert "transnext_tiny_in1k" in self.refused(capsys, "--recipe", "transnext_tiny")

    def test_names_a_misspelt_key_of_a_users_file(self, capsys, tmp_path):
        (tmp_path / "mine.yaml").write_text("drop_paht: 0.1\n")
        line = self.refused(capsys, "--recipe", "van_b0_in1k", "--config", str(tmp_path / "mine.yaml"))
        assert "'drop_paht'" in line
        assert "--drop-path" in line

    def test_the_command_line_beats_the_recipe(self):
        config = self.parse("--recipe", "transxnet_t_in1k", "--epochs", "30", "--drop-path=0.05", "photos")
        assert config == TrainConfig.from_recipe("transxnet_t_in1k", epochs=30, drop_path=0.05, data="photos")

    @pytest.mark.parametrize("order", [("--recipe", "--config"), ("--config", "--recipe")])
    def test_a_users_file_beats_the_recipe_in_any_order(self, tmp_path, order):
        (tmp_path / "mine.yaml").write_text("epochs: 30\nema: null\n")
        value = {"--recipe": "transxnet_t_in1k", "--config": str(tmp_path / "mine.yaml")}
        config = self.parse(*(word for option in order for word in (option, value[option])))
        assert config == TrainConfig.from_recipe("transxnet_t_in1k", epochs=30, ema=None)

    def test_the_command_line_beats_a_users_file(self, tmp_path):
        (tmp_path / "mine.yaml").write_text("epochs: 30\nseed: 3\n")
        config = self.parse("--recipe", "van_b1_in1k", "--config", str(tmp_path / "mine.yaml"), "--epochs", "20")
        assert config == TrainConfig.from_recipe("van_b1_in1k", epochs=20, seed=3)

    @pytest.mark.parametrize("name", FILES)
    def test_quick_shrinks_it_to_a_valid_training(self, name):
        config = TrainConfig.from_recipe(name, quick=True).shrunk()
        assert config.epochs <= 2
        assert config.cooldown_epochs == 0
        assert config.img_size <= 64
        assert config.batch_size <= 16


SMALLEST = re.compile("_(tiny|t|b0)_ade20k")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in FILES
        if name not in (*DENSE, *DETECTION, "detect", "detect_fast", "instances") or SMALLEST.search(name)
    ],
)
def test_quick_run(name, digits_folder, masks_folder, tmp_path):
    """Every recipe trains, but for the weights that it would download or that another recipe makes.

    Of those on ADE20K, that of the smallest model of each family and head.
    """
    segments = name in (*DENSE, "segment")
    data = masks_folder if segments else digits_folder
    changes = {"batch_size": 2} if name in DENSE else {}  # TransNeXt's position bias of 512 pixels takes a while
    changes |= dict(output=str(tmp_path), quick=True, pretrained=False, checkpoint=None, device="cpu")
    config = TrainConfig.from_recipe(name, data=str(data), **changes)
    result = train(config, Console(file=io.StringIO()))
    info = read_info(tmp_path / "model.safetensors")
    assert info.model == (config.model or DEFAULT_MODEL)
    assert info.preprocessing["input_size"] == [3, 64, 64]
    assert result.epochs == 2
    assert math.isfinite(result.metrics["miou" if segments else "loss"])
    assert all(math.isfinite(float(row["train_loss"])) for row in rows(tmp_path))
    assert len(rows(tmp_path)) == 2
