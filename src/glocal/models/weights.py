"""Reads tensors from files of any origin: nothing in a file is called, what is not a tensor is not built."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from glocal.errors import InvalidValueError, MissingPathError
from glocal.models import official
from glocal.models.build import reading_weights

FILE_NAME = "model.safetensors"  # in the folder of a run, and in those of Hugging Face


class Skipped:
    """Stands in a checkpoint for an object of a class that is not loaded. It keeps nothing that it is given."""

    def __new__(cls, *args: Any, **kwargs: Any):
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any):
        pass


def read_tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without the wrapping of training code.

    Files are `.safetensors`, or what torch.save writes; of a folder, such as a run, `model.safetensors` is read.
    Objects of the training library beside the tensors (logs, the run's settings, message hubs) are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, or holds no tensors.
    """
    path = os.fspath(path)
    if os.path.isfile(inside := os.path.join(path, FILE_NAME)):
        path = inside
    if not os.path.isfile(path):
        raise MissingPathError(f"there is no checkpoint {path!r}")
    try:
        if path.endswith(".safetensors"):
            checkpoint: Mapping[str, Any] = load_file(path)
        else:
            skipped = [(Skipped, name) for name in _others(path)]
            with reading_weights(), torch.serialization.safe_globals(skipped):
                checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a foreign file nearly anything
        raise InvalidValueError(f"{path} is not a checkpoint, or is damaged") from error
    if not isinstance(checkpoint, Mapping):
        raise InvalidValueError(f"{path} is not a checkpoint: it holds no names")
    return official.state_dict(checkpoint)


def _others(path: str) -> list[str]:
    """The names in a file that torch does not load; none in files of torch before version 1.6."""
    with reading_weights():
        try:
            return torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except ValueError:
            return []
