"""What options may be, whoever gives them: every number has bounds, every value of a file has its type."""

import importlib
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest

from glocal import cli, trust
from glocal.evaluation.config import EvalConfig
from glocal.options import Range, check_values, joined, numeric_fields, range_of, read_options
from glocal.training.config import TrainConfig

CONFIGS = [importlib.import_module(f"glocal.cli.{name}").CONFIG for name in cli.COMMANDS]
NUMBERS = sorted({(config, name) for config in CONFIGS for name in numeric_fields(config)}, key=str)


@pytest.mark.parametrize(("config", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_every_number_has_finite_bounds(config, name):
    allowed = range_of(config, name)
    assert math.isfinite(allowed.low)
    assert math.isfinite(min(allowed.high, allowed.most))


@pytest.mark.parametrize(("config", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("value", [10**400, math.inf, math.nan, -1e300, True, "3"], ids=lambda value: str(value)[:10])
def test_no_number_is_out_of_bounds(config, name, value):
    needed = {"images": ["a"], "models": ["a"], "name": "a", "model": "a", "output": "x.onnx"}
    with pytest.raises((ValueError, TypeError), match=f"^--{name.replace('_', '-')} must be "):
        config(**{key: one for key, one in needed.items() if key in config.__dataclass_fields__} | {name: value})


@pytest.fixture
def read(tmp_path):
    def read(text, config=TrainConfig):
        (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
        return read_options(tmp_path / "c.yaml", config, "c.yaml")

    return read


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("epochs: 3\nlr: 1\nema: 0.5", {"epochs": 3, "lr": 1.0, "ema": 0.5}),
        ("epochs: '3'", {"epochs": 3}),
        ("data: 1e5\nfreeze: no\nmodel: 007", {"data": "1e5", "freeze": "no", "model": "007"}),
        ("max_bad: 0.01\nlr: ~", {"max_bad": "0.01", "lr": None}),
        ("loss: bce\ncompile: never", {"loss": "bce", "compile": "never"}),
        ("model_args: {a: [1, 2], b: yes}", {"model_args": {"a": [1, 2], "b": True}}),
    ],
)
def test_values_have_the_type_of_their_option(read, text, values):
    assert read(text) == values


def test_a_list_of_texts(read):
    assert read("compare: [a, 1, no]", EvalConfig) == {"compare": ["a", "1", "no"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: null", "c.yaml: --epochs must be a whole number, got None"),
        ("epochs: true", "c.yaml: --epochs must be a whole number, got True"),
        ("epochs: 1.5", "c.yaml: --epochs must be a whole number, got 1.5"),
        ("epochs: [1]", "c.yaml: --epochs must be a whole number, got [1]"),
        ("lr: yes", "c.yaml: --lr must be a number, got True"),
        ("lr: " + "1" * 400, "c.yaml: --lr must be a number, got '1111"),
        ("balanced: x", "c.yaml: --balanced must be true or false, got 'x'"),
        ("loss: mse", "c.yaml: --loss must be one of ce, bce, asl, got 'mse'"),
        ("data: [a]", "c.yaml: --data must be a text, got ['a']"),
        ("data: null", "c.yaml: --data must be a text, got None"),
        ("model_args: null", "c.yaml: --model-args must be a mapping, got None"),
        ("model_args: [a]", "c.yaml: --model-args must be a mapping, got ['a']"),
        ('output: "a\\0b"', r"c.yaml: --output has characters that no name can have: 'a\x00b'"),
        ("batch-size: 3", "c.yaml: unknown option 'batch-size'; did you mean --batch-size?"),
        ("zzz: 3", "c.yaml: unknown option 'zzz'"),
    ],
)
def test_wrong_types_are_named(read, text, message):
    with pytest.raises(ValueError, match=r"c\.yaml") as error:
        read(text)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("value", ["null", "a", "true", "{a: b}", "[null]", "[[a]]"])
def test_what_is_no_list(read, value):
    with pytest.raises(ValueError, match=r"c\.yaml: --compare must be a list of texts, got "):
        read(f"compare: {value}", EvalConfig)


@dataclass(frozen=True)
class First:
    """Options.

    Args:
        first: a number
        guide: a model
    """

    RANGES: ClassVar = {"first": Range(0, 1)}
    MODELS: ClassVar = ("guide",)

    first: float = 0.5
    guide: str | None = None


@dataclass(frozen=True)
class Second:
    """Options.

    Args:
        second: a number
        notes: a file
    """

    RANGES: ClassVar = {"second": Range(2, 3)}
    FILES: ClassVar = ("notes",)

    second: float = 2.0
    notes: str | None = None


@dataclass(frozen=True)
class Base:
    """Options.

    Args:
        seed: a number
    """

    seed: int = 0

    def __post_init__(self):
        check_values(self)


class TestWhatPartsSay:
    """Each part of joined options has its own ranges, models and files."""

    CONFIG = joined("Config", "Options.", Base, First, Second)

    @pytest.mark.parametrize(("name", "value"), [("first", 1.5), ("second", 1.5), ("seed", -1)])
    def test_ranges(self, name, value):
        with pytest.raises(ValueError, match=f"--{name} must be at "):
            self.CONFIG(**{name: value})

    def test_a_file_gives_no_model_from_elsewhere(self):
        with pytest.raises(ValueError, match="names a model from elsewhere"):
            trust.check_option("c.yaml", self.CONFIG, "guide", "hf-hub:someone/model")
        trust.check_option("c.yaml", self.CONFIG, "notes", "hf-hub:someone/model")

    def test_a_file_to_read_is_said(self):
        assert trust.provenance(self.CONFIG, {"notes": ("n.txt", "c.yaml")}) == [
            "reading n.txt (notes, as c.yaml says)"
        ]
