"""The model families. Importing this module registers every variant with timm."""

from types import ModuleType
from typing import Any

from glocal.errors import InvalidValueError
from glocal.models import conv2former, hat_net, transcnn, transnext, transxnet, van
from glocal.models.arguments import TIMM, check_arguments

FAMILIES: dict[str, ModuleType] = {
    "TransXNet": transxnet,
    "TransNeXt": transnext,
    "HAT-Net": hat_net,
    "TransCNN": transcnn,
    "Conv2Former": conv2former,
    "VAN": van,
}


def model_names() -> list[str]:
    """Names of all variants, without tags, family by family, in their order of size."""
    return list(dict.fromkeys(name for family in FAMILIES.values() for name in family.default_cfgs))


def published_top1(name: str) -> float | None:
    """Published ImageNet-1K top-1 of a model, %; None if not published. A name without a tag has the default tag."""
    for family in FAMILIES.values():
        model, _, tag = name.partition(".")
        if model in family.default_cfgs:
            tag = tag or family.default_cfgs[model].tags[0]
            return family.TOP1.get(f"{model}.{tag}")
    return None


def family_of(name: str) -> ModuleType | None:
    """The family of an architecture, by its name without or with a tag; None for a model of timm."""
    architecture = name.partition(".")[0]
    return next((family for family in FAMILIES.values() if architecture in family.default_cfgs), None)


def check_model_arguments(name: str, args: Any) -> None:
    """Raise ValueError for arguments that a file may not give to the model `name`; see `glocal.models.arguments`."""
    family = family_of(name)
    try:
        check_arguments(args, TIMM if family is None else family.ARGUMENTS)
    except ValueError as error:
        raise InvalidValueError(f"{name}: {error}") from None
