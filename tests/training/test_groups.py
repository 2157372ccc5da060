"""Rates and weight decays of parameters by their names, equal to the optimizers that the authors' libraries build."""

import gzip
import io
import json
from fnmatch import fnmatchcase

import pytest
import timm
import torch
from rich.console import Console
from timm.optim import create_optimizer_v2

import glocal
from glocal.models import family_of, official
from glocal.models.create import split
from glocal.models.heads import HEADS
from glocal.tasks.checkpoint import read_weights
from glocal.training import loop
from glocal.training.config import ParameterRule, TrainConfig, parameter_rules
from glocal.training.freezing import freeze
from glocal.training.groups import parameter_groups
from glocal.training.train import train
from golden.dense import FOLDER, all_keys
from golden.official import official_keys

with gzip.open(FOLDER / "optimizer_groups.json.gz", "rt") as file:
    PUBLISHED = json.load(file)

HEAD_NAMES = {"upernet": "upernet", "sfpn": "semantic_fpn", "mask2former": "mask2former"}


def official_names(case: str) -> dict[str, str]:
    """The authors' name of each parameter and buffer of a dense model, by ours."""
    head, variant = case.split("_", 1)
    difference, renames = all_keys()["_backbone_differences"][variant], family_of(variant).RENAMES
    backbone = [f"backbone.{name}" for name in official_keys(variant) if name not in difference["absent"]]
    backbone += difference["extra"]
    names = {f"backbone.model.{official.rename(name.removeprefix('backbone.'), renames)}": name for name in backbone}
    for name in all_keys()[case]:
        ((ours, _),) = split({name: torch.zeros(1)}, HEADS[HEAD_NAMES[head]])[1].items()
        names[ours] = name
    return names


def by_name(model, groups) -> dict[str, tuple[float, float]]:
    """The factor of the rate, and the weight decay, of every parameter."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = [
        (names[parameter], (group.get("lr_scale", 1.0), group["weight_decay"]))
        for group in groups
        for parameter in group["params"]
    ]
    assert len(dict(found)) == len(found)  # each in one group
    return dict(found)


@pytest.mark.parametrize("case", PUBLISHED)
def test_recipes_give_the_authors_groups(case):
    published, names = PUBLISHED[case], official_names(case)
    head, variant = case.split("_", 1)
    with torch.device("meta"):
        model = glocal.create(HEAD_NAMES[head], variant)
    config = TrainConfig.from_recipe(f"{HEAD_NAMES[head]}_{variant}_ade20k")
    assert (config.lr, config.weight_decay) == (published["lr"], published["weight_decay"])
    found = {names[name]: values for name, values in by_name(model, parameter_groups(model, config)).items()}
    assert len(found) == published["parameters"]
    assert {name for name, (_, decay) in found.items() if decay == 0} == set(published["no_decay"])
    assert {decay for _, decay in found.values()} <= {0.0, published["weight_decay"]}
    assert {name: scale for name, (scale, _) in found.items() if scale != 1} == dict(published["other_lr"])


@pytest.fixture(scope="module")
def model():
    return timm.create_model("van_pico", num_classes=4)


def groups_of(model, **options) -> dict[str, tuple[float, float]]:
    return by_name(model, parameter_groups(model, TrainConfig(weight_decay=0.1, **options)))


@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_without_rules_as_timm(model, layer_decay):
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.1, layer_decay=layer_decay)
    assert groups_of(model, layer_decay=layer_decay) == by_name(model, optimizer.param_groups)


def test_all_decay(model):
    assert set(groups_of(model, decay_1d=True).values()) == {(1.0, 0.1)}
    assert set(groups_of(model, decay_1d=True, parameter_rules=["*.bias decay=0"]).values()) == {(1.0, 0.0), (1.0, 0.1)}


def test_later_rules_count_for_what_they_say(model):
    found = groups_of(
        model, decay_1d=True, parameter_rules=["stages.* lr=0.1 decay=0.5", "stages.3.* lr=2", "*.norm.* decay=0"]
    )
    for name, values in found.items():
        scale = 1.0 if not name.startswith("stages.") else 2.0 if name.startswith("stages.3.") else 0.1
        decay = 0.0 if fnmatchcase(name, "*.norm.*") else 0.05 if name.startswith("stages.") else 0.1
        assert values == (scale, decay), name
    assert len(set(found.values())) == 6


def test_rules_and_layer_decay_multiply(model):
    plain, ruled = groups_of(model, layer_decay=0.7), groups_of(model, layer_decay=0.7, parameter_rules=["stem.* lr=3"])
    for name, (scale, decay) in plain.items():
        assert ruled[name] == (scale * 3 if name.startswith("stem.") else scale, decay)


def test_frozen_parts_are_left_out():
    model = timm.create_model("van_pico", num_classes=4)
    freeze(model, "stem")
    found = groups_of(model, parameter_rules=["stem.* lr=0.1", "head.* lr=2"])
    assert not any(name.startswith("stem.") for name in found)
    assert found["head.fc.weight"] == (2.0, 0.1)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("backbone.* lr=0.1", ParameterRule("backbone.*", lr=0.1)),
        ("  *norm*   decay=0 ", ParameterRule("*norm*", decay=0.0)),
        ("head.fc.weight decay=2.5 lr=1e-3", ParameterRule("head.fc.weight", lr=1e-3, decay=2.5)),
    ],
)
def test_texts(text, rule):
    assert parameter_rules([text]) == [rule]


@pytest.mark.parametrize(
    "text",
    ["", "backbone.*", "lr=0.1", "a lr=0.1 b", "a lr=x", "a lr=-1", "a rate=0.1", "a lr=", "a lr=nan", "a lr=99999"],
)
def test_texts_that_are_no_rule(text):
    with pytest.raises(ValueError, match=r"--parameter-rules must be names with lr=X or decay=X such as"):
        TrainConfig(parameter_rules=["* lr=1", text])


class TestTraining:
    def run(self, data, output, **changes):
        settings = dict(model="test_resnet", img_size=32, batch_size=16, workers=0, device="cpu", epochs=1, lr=1e-2)
        return train(TrainConfig(str(data), output=str(output), **settings, **changes), Console(file=io.StringIO()))

    def test_rules_reach_the_optimizer(self, digits_folder, tmp_path, monkeypatch):
        seen, original = [], loop.lightning.Trainer.fit

        def fit(self, module, *args, **kwargs):
            seen.append((module.model, self))
            return original(self, module, *args, **kwargs)

        monkeypatch.setattr(loop.lightning.Trainer, "fit", fit)
        rules = ["layer1.* lr=0.1", "conv1.* lr=0"]
        self.run(digits_folder, tmp_path, parameter_rules=rules, decay_1d=True, schedule="poly", min_lr=5e-3)
        ((model, trainer),) = seen
        names = {parameter: name for name, parameter in model.named_parameters()}
        for group in trainer.optimizers[0].param_groups:
            for parameter in group["params"]:
                part = names[parameter].split(".")[0]
                rate = {"layer1": 5e-4, "conv1": 0.0}.get(part, 5e-3)
                assert (group["lr"], group["weight_decay"]) == (pytest.approx(rate), 0.05)

    @pytest.mark.usefixtures("one_thread")
    @pytest.mark.parametrize("optimizer", ["adamw", "muon"])
    def test_rules_that_change_nothing(self, digits_folder, tmp_path, optimizer):
        for name, rules in (("plain", []), ("ruled", ["* lr=1", "*.weight lr=1"])):
            self.run(digits_folder, tmp_path / name, optimizer=optimizer, parameter_rules=rules)
        plain, ruled = (read_weights(tmp_path / name / "model.safetensors") for name in ("plain", "ruled"))
        assert all(torch.equal(plain[name], ruled[name]) for name in plain)

    def test_a_rule_that_names_nothing(self, digits_folder, tmp_path):
        with pytest.raises(ValueError, match=r"--parameter-rules: no parameter of the model is named 'backbone\.\*'"):
            self.run(digits_folder, tmp_path / "run", parameter_rules=["backbone.* lr=0.1"])
        assert not (tmp_path / "run").exists()
