"""Arguments that a file may give to a model: their names, types and ranges.

A checkpoint, a `config.yaml` or a run folder from another person names a model and its arguments. timm's `create_model`
has more arguments, which a file may not set: they open files, load addresses and write to folders.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from glocal.errors import InvalidTypeError, InvalidValueError
from glocal.wording import one_line, shown

STAGES = Meta(min_length=4, max_length=4)

Side = Annotated[int, Meta(ge=1, le=8192)]
Size = Side | Annotated[list[Side], Meta(min_length=2, max_length=2)]  # side of a square, or (height, width)
Width = Annotated[int, Meta(ge=1, le=16384)]
Depth = Annotated[int, Meta(ge=1, le=128)]
Small = Annotated[int, Meta(ge=1, le=256)]  # kernels, heads, reductions, …
Factor = Annotated[float, Meta(gt=0, le=64)]
Rate = Annotated[float, Meta(ge=0, le=1)]
Weight = Annotated[float, Meta(ge=0, le=100)]

Widths = Annotated[list[Width], STAGES]
Depths = Annotated[list[Depth], STAGES]
Smalls = Annotated[list[Small], STAGES]
SmallsOrNone = Annotated[list[Small | None], STAGES]
Factors = Annotated[list[Factor], STAGES]

# The arguments of `Backbone` that are numbers or names. Each family adds its own.
COMMON: dict[str, Any] = {
    "in_chans": Annotated[int, Meta(ge=1, le=64)],
    "global_pool": Literal["", "avg", "max", "avgmax", "catavgmax", "fast", "fastavg", "fastmax"],
    "drop_rate": Rate,
    "proj_drop": Rate,
    "drop_path_rate": Rate,
}

_Name = Annotated[str, Meta(max_length=40, pattern=r"^[a-z0-9_]*$")]
_Depths = Annotated[list[Depth], Meta(min_length=1, max_length=8)]
_Widths = Annotated[list[Width], Meta(min_length=1, max_length=8)]

# Arguments of timm's own models, with the names that most of these models use.
TIMM: dict[str, Any] = {
    **COMMON,
    "act_layer": _Name,
    "attn_drop_rate": Rate,
    "class_token": bool,
    "depth": Depth,
    "depths": _Depths,
    "dims": _Widths,
    "dynamic_img_pad": bool,
    "dynamic_img_size": bool,
    "embed_dim": Width | _Widths,
    "global_pool": _Name,
    "img_size": Size,
    "init_values": Weight,
    "ls_init_value": Weight,
    "mlp_ratio": Factor,
    "no_embed_class": bool,
    "norm_layer": _Name,
    "num_heads": Small | Annotated[list[Small], Meta(min_length=1, max_length=8)],
    "output_stride": Literal[8, 16, 32],
    "patch_drop_rate": Rate,
    "patch_size": Size,
    "pos_drop_rate": Rate,
    "proj_drop_rate": Rate,
    "qk_norm": bool,
    "qkv_bias": bool,
    "reg_tokens": Annotated[int, Meta(ge=0, le=256)],
    "strict_img_size": bool,
    "window_size": Size,
}


def check_arguments(args: Any, declared: dict[str, Any]) -> None:
    """Raise ValueError for arguments that are not declared, or not of the declared type and range.

    args: values by name, as read from JSON or YAML. declared: types by name, for msgspec.
    """
    if not isinstance(args, dict):
        raise InvalidValueError("the arguments of a model must be names with values")
    for name, value in args.items():
        if name not in declared:
            raise InvalidValueError(
                f"a checkpoint cannot hold the argument {shown(name)}, only {', '.join(sorted(declared))}"
            )
        _check_value(name, value, declared[name])


def check_head_arguments(head: str, args: Any, declared: Mapping[str, Any]) -> None:
    """Raise TypeError for arguments that a head does not have, ValueError for values out of their range.

    head: its name. args: values by name. declared: types by name, for msgspec.
    """
    if not isinstance(args, Mapping):
        raise InvalidValueError(f"the arguments of the head {head} must be names with values")
    for name, value in args.items():
        if name not in declared:
            known = f"only {', '.join(sorted(declared))}" if declared else "it has none"
            raise InvalidTypeError(f"the head {head} does not take the argument {shown(name)}: {known}")
        _check_value(name, value, declared[name])


def _check_value(name: str, value: Any, declared: Any) -> None:
    try:
        msgspec.convert(value, declared)
    except msgspec.ValidationError as error:
        raise InvalidValueError(f"the argument {name}: {one_line(error, 300)}") from None
