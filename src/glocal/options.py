"""Options of all commands: the ranges of numbers, and reading options of the right types from files."""

import math
import numbers
import re
import types
from dataclasses import fields, make_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec

from glocal import safe_yaml
from glocal.errors import InvalidTypeError, InvalidValueError
from glocal.wording import shown

DECIMAL = re.compile(r"(\d+(\.\d*)?|\.\d+)", re.ASCII)
NO_NAME = re.compile("[\0\ud800-\udfff]")  # file names have no NUL, and text in files no surrogates
LONGEST_GROUP = 200  # letters of --group


class Range(NamedTuple):
    """The allowed values of a number: `low` to `high`, and not above `most`, the largest reasonable value.

    above: whether `low` itself is excluded. below: whether `high` itself is excluded.
    """

    low: float
    high: float = math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False


FINITE = Range(-math.inf)
PART = Range(0, 1)
RATE = Range(0, most=1000)
IMAGES = Range(1, most=1 << 20)
PIXELS = Range(1, most=8192)
STEPS = Range(1, most=10_000_000)

RANGES = {
    # training
    "epochs": Range(1, most=100_000),
    "epoch_steps": STEPS,
    "seed": Range(0, 2**32 - 1),
    "img_size": PIXELS,
    "batch_size": IMAGES,
    "accumulate": IMAGES,
    "lr": Range(0, most=1000, above=True),
    "lr_batch_size": IMAGES,
    "min_lr": RATE,
    "warmup_lr": RATE,
    "warmup_ratio": PART,
    "warmup_epochs": Range(0, most=100_000),
    "warmup_steps": Range(0, most=10_000_000),
    "poly_power": Range(0, most=100, above=True),
    "cooldown_epochs": Range(0, most=100_000),
    "weight_decay": RATE,
    "layer_decay": Range(0, 1, above=True),
    "clip_grad": Range(0, most=1e9, above=True),
    "drop_path": Range(0, 1, below=True),
    "ema": Range(0, 1, below=True),
    "val_fraction": Range(0, 1, above=True, below=True),
    "val_every": Range(1, most=100_000),
    "crop_pct": Range(0, 1, above=True),
    "repeated_augmentation": Range(1, most=1000),
    "workers": Range(0, most=4096),
    "devices": Range(1, most=1024),
    "num_nodes": Range(1, most=16_384),
    "save_every_minutes": Range(0, most=60 * 24 * 366),
    # images, export, service
    "every": Range(1, most=1_000_000),
    "shard_size": Range(1, most=10_000_000),
    "tile": Range(16, most=65_536),
    "overlap": Range(0, most=65_536),
    "top_k": Range(1, most=100_000),
    "calibration_images": Range(1, most=1_000_000),
    "threads": Range(1, most=4096),
    "port": Range(0, 65_535),
    "max_batch": Range(1, most=65_536),
    "max_wait_ms": Range(0, most=60_000),
    "max_queue": Range(1, most=1_000_000),
    "max_connections": Range(1, most=100_000),
    "idle_timeout": Range(0, most=86_400, above=True),
    "max_images": Range(1, most=1_000_000),
    "max_megabytes": Range(0, most=65_536, above=True),
    "max_megapixels": Range(0, most=10_000, above=True),
    "timeout": Range(0, most=86_400, above=True),
    # benchmarks
    "rounds": Range(1, most=1_000_000),
    "size": Range(32, most=4096),  # at least the stride of the last stage
}


def check_values(config: Any) -> None:
    """Raise ValueError, naming the option, if a number is out of range or a value is not among an option's choices."""
    check_numbers(config)
    for name, hint in _hints(type(config)).items():
        choices = [choice for kind in _members(hint) if get_origin(kind) is Literal for choice in get_args(kind)]
        value = getattr(config, name)
        if choices and value not in choices and not (value is None and type(None) in _members(hint)):
            raise InvalidValueError(f"{option(name)} must be one of {', '.join(choices)}, got {shown(value)}")


def check_numbers(config: Any, **own: Range) -> None:
    """Raise ValueError, naming the option, if a number of a config is out of range; None is allowed.

    own: ranges for this config only.
    """
    for name, kind in numeric_fields(type(config)).items():
        value = getattr(config, name)
        if value is not None:
            check_number(option(name), value, kind, own.get(name) or range_of(type(config), name))


def check_data_args(values: dict[str, Any]) -> None:
    """Raise ValueError if the arguments of a layout of data are not few, plain and short.

    They are kept in the description of a checkpoint, so that they may come from a stranger.
    """
    named = isinstance(values, dict) and all(isinstance(name, str) and name.isidentifier() for name in values)
    if not named or len(values) > 100 or max(map(len, values), default=0) > 100 or not _is_plain(values, levels=3):
        raise InvalidValueError(
            "--data-args must be names with texts, numbers, true, false, or lists or mappings of such, for instance "
            f"{{masks: labels}}, got {shown(values)}"
        )


def _is_plain(value: Any, levels: int) -> bool:
    """Whether a value is a short one of JSON, with at most so many levels of lists and mappings."""
    if isinstance(value, str):
        return len(value) <= 1000 and not NO_NAME.search(value)
    if isinstance(value, (bool, int, float)):
        return abs(value) <= 2**53  # not nan
    if not isinstance(value, (list, dict)) or not levels or len(value) > 10_000:
        return False
    inside = [*value, *value.values()] if isinstance(value, dict) else value
    names = isinstance(value, list) or all(isinstance(name, str) for name in value)
    return names and all(_is_plain(one, levels - 1) for one in inside)


def range_of(config: type, name: str) -> Range:
    """The range of a number: that of the attribute RANGES of a config class, else that of the table of this file."""
    return getattr(config, "RANGES", {}).get(name) or RANGES.get(name, FINITE)


def numeric_fields(config: type) -> dict[str, type]:
    """The fields of a config class that are numbers, each with int or float."""
    found = {name: _members(hint) for name, hint in _hints(config).items()}
    return {name: int if int in kinds else float for name, kinds in found.items() if {int, float} & set(kinds)}


def check_number(name: str, value: Any, kind: type, allowed: Range) -> None:
    """Raise TypeError if the value is not a number of this kind, ValueError if it is out of range."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if kind is int else numbers.Real):
        raise InvalidTypeError(f"{name} must be {wanted(kind)}, got {shown(value)}")
    low, high, most, above, below = allowed
    enough = value > low if above else value >= low
    little = (value < high if below else value <= high) and value != math.inf
    if not enough or not little:
        bounds = [f"more than {low:g}" if above else f"at least {low:g}"]
        if high != math.inf:
            bounds.append(f"less than {_text(high)}" if below else f"at most {_text(high)}")
        raise InvalidValueError(f"{name} must be {' and '.join(bounds)}, got {_text(value)}")
    if value > most:
        raise InvalidValueError(f"{name} must be at most {_text(most)}, got {_text(value)}")


def whole_numbers(text: str, name: str, like: str, allowed: Range) -> list[int]:
    """Whole numbers separated by commas, without repetitions; ValueError, naming the option, for any other text.

    like: an example of the notation, for the message.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) <= safe_yaml.MAX_NUMBER for part in parts):
        raise InvalidValueError(f"{name} must be {like}, got {shown(text)}")
    found = list(dict.fromkeys(map(int, parts)))
    if min(found) < allowed.low:
        raise InvalidValueError(f"{name} must be {like}, got {shown(text)}")
    for number in found:
        check_number(name, number, int, allowed)
    return found


def numbers_of(text: str, name: str, like: str, allowed: Range) -> list[float]:
    """Numbers separated by commas; ValueError, naming the option, for any other text. See `whole_numbers`."""
    found = []
    for part in text.split(","):
        if not DECIMAL.fullmatch(part.strip()) or len(part) > safe_yaml.MAX_NUMBER:
            raise InvalidValueError(f"{name} must be {like}, got {shown(text)}")
        found.append(float(part))
        check_number(name, found[-1], float, allowed)
    return found


def read_options(file: Path, config: type, label: str, otherwise: str = "") -> dict[str, Any]:
    """The options in a YAML file, each of its type in `config`. Does not check ranges.

    label: name of the file in messages. otherwise: hint for an unknown option that resembles no known option.

    Raises ValueError if the file is not a mapping of options, an option is unknown, or a value has a wrong type.
    """
    content = _read(file, label)
    hints = _hints(config)
    for name in content:
        if name not in hints:
            same = name.replace("-", "_")
            close = [same] if same in hints else get_close_matches(same, hints, n=2, cutoff=0.6)
            hint = f"did you mean {' or '.join(map(option, close))}?" if close else otherwise
            raise InvalidValueError(f"{label}: unknown option {shown(str(name))}" + (f"; {hint}" if hint else ""))
    return {str(name): _typed(f"{label}: {option(name)}", value, hints[name]) for name, value in content.items()}


def read_option(file: Path, name: str, hint: Any, default: Any) -> Any:
    """One option of a YAML file, of the type `hint`; does not check other options. Raises as `read_options`."""
    for found, value in _read(file, str(file)).items():
        if found == name:
            return _typed(f"{file}: {option(name)}", value, hint)
    return default


def exclude(config: Any, one: str, other: str) -> None:
    """Raise ValueError if both options are given."""
    if getattr(config, one) is not None and getattr(config, other) is not None:
        raise InvalidValueError(f"{option(one)} and {option(other)} exclude each other")


@cache
def joined(name: str, about: str, base: type, *parts: type) -> type:
    """A flat frozen dataclass of the options of `base` and `parts`; its docstring has the help of all options.

    When an object is made, `base` and each part check their own options. about: the docstring's first line. Raises
    ValueError if two parts define an option differently.

    A part may say more of its options, in attributes that are no fields: RANGES, the ranges of its numbers by name;
    MODELS, the options that name a model, and FILES, those that name a file to read, which `glocal.trust` looks after.
    """
    parts = tuple(dict.fromkeys(part for part in parts if part is not base))
    meanings: dict[str, tuple] = {}
    for part in (base, *parts):
        for field in fields(part):
            meaning = field.type, field.default
            if meanings.setdefault(field.name, meaning) != meaning:
                raise InvalidValueError(f"{option(field.name)} of {part.__name__} means something else elsewhere")
    # A part that is a base class of another part is already inherited through it.
    bases = [part for part in parts if not any(part is not other and issubclass(other, part) for other in parts)]
    helps = [(part.__doc__ or "").partition("Args:\n")[2].rstrip() for part in (base, *parts)]

    def check(config) -> None:
        for part in (base, *bases):
            if hasattr(part, "__post_init__"):
                part.__post_init__(config)

    doc = "\n".join([about, "", "    Args:", *filter(None, helps), "    "])
    namespace = {"__post_init__": check, "__doc__": doc, "__module__": base.__module__}
    namespace["RANGES"] = {name: one for part in (base, *parts) for name, one in getattr(part, "RANGES", {}).items()}
    for kind in ("MODELS", "FILES"):
        namespace[kind] = tuple(dict.fromkeys(name for part in (base, *parts) for name in getattr(part, kind, ())))
    return make_dataclass(name, [], bases=(*bases, base), namespace=namespace, frozen=True)


def option(name: str) -> str:
    """The option of a field as the user writes it."""
    return f"--{name.replace('_', '-')}"


def wanted(hint: Any) -> str:
    """What kind of value a type expects, in words."""
    kinds = _members(hint)
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        return f"one of {', '.join(choices)}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", dict: "a mapping"}
    return next((names[kind] for kind in kinds if kind in names), "a list of texts")


def _read(file: Path, label: str) -> dict[safe_yaml.Scalar, Any]:
    try:
        with open(file, "rb") as stream:
            text = stream.read(safe_yaml.MAX_BYTES + 1).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidValueError(f"{label}: not a text file in UTF-8") from None
    try:
        content = safe_yaml.read(text)
    except safe_yaml.YamlError as error:
        raise InvalidValueError(f"{label}: broken YAML: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(name.resolve(), str) for name in content):
        raise InvalidValueError(f"{label}: expected `option: value` on each line")
    return content


def _typed(name: str, value: Any, hint: Any) -> Any:
    """A value of a file in the type of its option; if the type is text, 1e5 and no stay text."""
    kinds = _members(hint)
    written = str in kinds or any(get_origin(kind) is Literal for kind in kinds)
    if isinstance(value, list) and hint == list[str]:
        found = [_written(one) for one in value]
    else:
        found = _written(value) if written else safe_yaml.plain(value)
    for text in found if isinstance(found, list) else [found]:
        if isinstance(text, str) and NO_NAME.search(text):
            raise InvalidValueError(f"{name} has characters that no name can have: {shown(text)}")
    lax = isinstance(found, str) and not written and len(found) <= safe_yaml.MAX_NUMBER  # "3" is allowed for 3
    try:
        return msgspec.convert(found, hint, strict=not lax)
    except msgspec.ValidationError:
        raise InvalidValueError(f"{name} must be {wanted(hint)}, got {shown(found)}") from None


def _written(value: Any) -> Any:
    """A scalar as it is written, even if it looks like a number; an empty value gives None."""
    plain = safe_yaml.plain(value)
    return str(value) if isinstance(value, safe_yaml.Scalar) and plain is not None else plain


@cache
def _hints(config: type) -> dict[str, Any]:
    hints = get_type_hints(config)
    return {field.name: hints[field.name] for field in fields(config)}


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; for any other type, only itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _text(value: Any) -> str:
    return shown(value) if isinstance(value, numbers.Integral) else f"{value:g}"
