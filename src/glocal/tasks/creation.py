"""Creating models by the names that timm knows."""

from difflib import get_close_matches

import timm
from timm.data import resolve_model_data_config
from timm.models._hub import load_model_config_from_hf, load_model_config_from_path
from torch import nn

from glocal.errors import InvalidTypeError, InvalidValueError, MissingPathError, UserError
from glocal.models import check_model_arguments
from glocal.tasks.description import check_class_names, check_preprocessing
from glocal.wording import one_line

LETTERS = 300  # of another library's message, when it is quoted


def check_name(name: str) -> None:
    """Raise ValueError, which names the closest names, if timm does not know a model or a tag of weights."""
    if ":" in name:
        _configuration(name)
        return
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        from glocal.models.create import ALL_HEADS

        close = get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists the names"
        hint = "it is a head, for --head; a model is its backbone" if architecture in ALL_HEADS else hint
        raise InvalidValueError(f"unknown model {name!r}: {hint}")
    tags = timm.models.get_arch_pretrained_cfgs(architecture)
    if tag and name not in tags:
        known = ", ".join(known for known in tags if known != architecture) or "none"
        raise InvalidValueError(f"unknown weights {name!r}: {architecture} has {known}")


def create_model(name: str, **kwargs) -> nn.Module:
    """timm.create_model, with errors that a user can read.

    Raises ValueError for an unknown name or a wrong value, TypeError for an unknown argument.
    """
    check_name(name)
    try:
        model = timm.create_model(name, **kwargs)
        if ":" in name:  # its configuration comes from a file
            _check_configuration(name, model)
        return model
    except UserError:
        raise
    except ValueError as error:  # a layer's, for the value of an argument
        raise InvalidValueError(str(error)) from error
    except TypeError as error:
        if "unexpected keyword argument" in str(error):
            raise InvalidTypeError(f"{name}: {error}") from None
        raise


def _check_configuration(name: str, model: nn.Module) -> None:
    """Raise ValueError if the preprocessing or the class names of a `local-dir:` or `hf-hub:` model are invalid."""
    try:
        check_preprocessing(resolve_model_data_config(model))
        if model.pretrained_cfg.get("label_names"):
            check_class_names(model.pretrained_cfg["label_names"], model.pretrained_cfg["num_classes"])
    except (ValueError, TypeError, ArithmeticError) as error:
        raise InvalidValueError(f"{name}: {one_line(error, LETTERS)}") from None


def registered(name: str, arguments: dict) -> tuple[str, dict]:
    """The name and the arguments with which a checkpoint describes the model of `create_model(name, **arguments)`.

    For a model from a folder or the Hugging Face Hub, they are its architecture and also its own arguments. Raises
    ValueError for arguments that a checkpoint cannot hold.
    """
    if ":" in name:
        name, saved = _configuration(name)
        arguments = {**saved, **arguments}
    check_model_arguments(name, arguments)
    return name, arguments


def _configuration(name: str) -> tuple[str, dict]:
    """Architecture and arguments of a `local-dir:` or `hf-hub:` model; ValueError for forbidden arguments."""
    source, _, place = name.partition(":")
    read = load_model_config_from_path if source == "local-dir" else load_model_config_from_hf
    try:
        _, architecture, arguments = read(place)
    except FileNotFoundError:
        raise MissingPathError(f"{name}: there is no config.json of a timm model") from None
    except Exception as error:  # the network fails, or the file is no configuration
        raise InvalidValueError(f"{name}: its configuration cannot be read: {one_line(error, LETTERS)}") from None
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise InvalidValueError(f"{name}: its configuration names no model that timm knows, but {architecture!r}")
    if isinstance(arguments, dict):  # the weights have this number too
        arguments = {argument: value for argument, value in arguments.items() if argument != "num_classes"}
    check_model_arguments(architecture, arguments)
    return architecture, arguments
