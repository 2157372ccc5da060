"""The description in a checkpoint. It is checked before use, because the file may come from a stranger."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from types import MappingProxyType
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from glocal.errors import InvalidValueError
from glocal.options import LONGEST_GROUP, check_data_args
from glocal.wording import one_line

LARGEST = 32 * 2**20  # characters of a description; with 100,000 class names it has 5 million
MOST_PIXELS = 16384  # of a side of a resized image
NO_MARKS: Mapping[str, str] = MappingProxyType({})
DEFAULT = "classification"  # the task of files that name no task: version 0.1 wrote them
SAME_AS_MODEL = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_\-]+)?$"  # a name of timm's registry, with or without a tag


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("glocal", "timm", "torch")}


@dataclass(frozen=True)
class CheckpointInfo:
    """The description in a checkpoint.

    model: name for timm.create_model, with `model_args` and the number of classes. class_names: a name per output, in
    order. preprocessing: fields of `glocal.data.preprocessing.Preprocessing`. task: the name of a registered task.
    task_args: arguments of the task's head and results, which the task checks. metrics: of the validation, for the
    epoch that was kept. data: the name of the training data, the arguments of its layout, and how its validation part
    was drawn.
    """

    model: str
    class_names: list[str]
    preprocessing: dict
    metrics: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    model_args: dict = field(default_factory=dict)
    task: str = DEFAULT
    task_args: dict = field(default_factory=dict)
    versions: dict = field(default_factory=_versions)

    def to_json(self) -> str:
        """The description as JSON; non-finite numbers become null, because JSON has none."""
        metrics = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in self.metrics.items()
        }
        data = dict(self.data)
        if "name" in data:  # the name of a folder may hold bytes that are not text
            data["name"] = data["name"].encode("utf-8", "backslashreplace").decode()
        values = {**asdict(self), "metrics": metrics, "data": data}
        if not self.task_args:  # earlier versions do not know them
            del values["task_args"]
        return json.dumps(values, ensure_ascii=False, allow_nan=False)


def parse_description(text: str, marks: Mapping[str, str] = NO_MARKS) -> CheckpointInfo:
    """The description in a text; ValueError, which names the wrong field, if the text is not a description.

    marks: keys with which version 0.1 marked a task in the part on the data, with the task's name.

    Types, lengths and ranges of all fields are checked here, except for the values of `model_args` and `task_args`: the
    model's family checks the first when the model is built (`glocal.models.check_model_arguments`), the task the second
    (`Task.check_model_args`).
    """
    if len(text) > LARGEST:
        raise InvalidValueError(f"it has {len(text):,} characters, more than {LARGEST:,}")
    try:
        description = _with_task(msgspec.json.decode(text), marks)
        msgspec.convert(description, _Description)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidValueError(one_line(error)[:300]) from None  # the message may hold a value of any length
    return CheckpointInfo(**description)


def _with_task(description: object, marks: Mapping[str, str]) -> object:
    """The same description with the task, which version 0.1 marked in the part on the data."""
    if not isinstance(description, dict) or not isinstance(description.get("data"), dict):
        return description
    data = dict(description["data"])
    task = description.get("task")
    for name in [name for name in data if name in marks]:
        if msgspec.convert(data.pop(name), bool):
            task = task or marks[name]
    return {**description, "data": data, **({} if task is None else {"task": task})}


def check_preprocessing(values: object) -> None:
    """Raise ValueError for invalid fields of `glocal.data.preprocessing.Preprocessing`."""
    try:
        msgspec.convert(values, _Preprocessing)
    except msgspec.ValidationError as error:
        raise InvalidValueError(f"the preprocessing: {error}") from None


def check_class_names(names: object, count: int) -> None:
    """Raise ValueError if the value is not a list of `count` different names."""
    try:
        names = msgspec.convert(names, _ClassNames)
    except msgspec.ValidationError as error:
        raise InvalidValueError(f"the class names: {error}") from None
    if len(set(names)) < len(names):
        raise InvalidValueError("the class names hold one twice")
    if len(names) != count:
        raise InvalidValueError(f"there are {len(names):,} class names for {count:,} classes")


_Short = Annotated[str, Meta(max_length=4096)]
_Key = Annotated[str, Meta(min_length=1, max_length=100)]
_ClassNames = Annotated[list[Annotated[str, Meta(min_length=1, max_length=1000)]], Meta(max_length=1_000_000)]
_Side = Annotated[int, Meta(ge=1, le=8192)]
_Channels = Annotated[int, Meta(ge=1, le=64)]
_Level = Annotated[float, Meta(ge=-1e4, le=1e4)]  # of pixels in 0…1 or 0…255
_Spread = Annotated[float, Meta(ge=1e-6, le=1e4)]


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Whole(_Strict):
    shorter: _Side
    longer: _Side
    multiple: Annotated[int, Meta(ge=1, le=1024)] = 1
    align: Literal["pad", "resize"] = "pad"
    antialias: bool = True

    def __post_init__(self):
        if self.longer < self.shorter:
            raise InvalidValueError(f"whole: the longer side, {self.longer}, is less than the shorter, {self.shorter}")


class _Bands(_Strict):
    numbers: Annotated[list[Annotated[int, Meta(ge=1, lt=2**16)]], Meta(min_length=1, max_length=64)]
    pixels: Literal["uint8", "uint16", "int16", "float32"]


class _Preprocessing(_Strict):
    input_size: tuple[_Channels, _Side, _Side]
    mean: Annotated[list[_Level], Meta(min_length=1, max_length=64)]
    std: Annotated[list[_Spread], Meta(min_length=1, max_length=64)]
    interpolation: Literal["bicubic", "bilinear", "nearest", "box", "hamming", "lanczos"] = "bicubic"
    crop_pct: Annotated[float, Meta(gt=0, le=2)] = 1.0
    crop_mode: Literal["center", "squash", "border"] = "center"
    whole: _Whole | None = None
    bands: _Bands | None = None

    def __post_init__(self):
        if self.bands is not None and len(self.bands.numbers) != self.input_size[0]:
            raise InvalidValueError(f"{len(self.bands.numbers)} bands for {self.input_size[0]} channels")
        if self.whole is not None and self.interpolation not in ("bilinear", "bicubic", "nearest"):
            raise InvalidValueError(f"images that are taken whole are not resized by {self.interpolation}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.input_size[0]):
                raise InvalidValueError(f"{name} has not one value for each of {self.input_size[0]} channels")
        if max(self.input_size[1:]) / self.crop_pct > MOST_PIXELS:
            raise InvalidValueError(
                f"crop_pct {self.crop_pct:g} resizes images to more than {MOST_PIXELS:,} pixels a side"
            )


class _HeldOut(_Strict):
    val_fraction: Annotated[float, Meta(gt=0, lt=1)]
    seed: Annotated[int, Meta(ge=0, lt=2**32)]
    files: Annotated[str, Meta(max_length=64)]
    group: Annotated[str, Meta(max_length=LONGEST_GROUP)] | None = None  # for people: it is not searched
    val: str | None = None

    def __post_init__(self):
        if self.group is not None and self.val is None:
            raise InvalidValueError("held_out has a group, but not the images of val")


class _Data(_Strict):
    name: _Short | None = None
    held_out: _HeldOut | None = None
    args: dict = {}

    def __post_init__(self):
        check_data_args(self.args)


class _Description(_Strict):
    model: Annotated[str, Meta(max_length=200, pattern=SAME_AS_MODEL)]
    class_names: _ClassNames
    preprocessing: _Preprocessing
    metrics: Annotated[dict[_Key, float | int | None], Meta(max_length=1000)] = {}
    data: _Data = msgspec.field(default_factory=_Data)
    model_args: Annotated[dict[_Key, object], Meta(max_length=100)] = {}
    task: _Key = DEFAULT
    task_args: Annotated[dict[_Key, object], Meta(max_length=100)] = {}
    versions: Annotated[dict[_Key, _Key], Meta(max_length=100)] = {}

    def __post_init__(self):
        if len(set(self.class_names)) < len(self.class_names):
            raise InvalidValueError("class_names names a class twice")
