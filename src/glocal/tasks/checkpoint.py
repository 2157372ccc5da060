"""The file that a training leaves: weights as safetensors, and in its metadata all that using them needs."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from glocal.errors import InvalidValueError, MissingPathError
from glocal.files import write_atomically
from glocal.tasks.description import CheckpointInfo, parse_description
from glocal.tasks.registry import old_marks

if TYPE_CHECKING:  # reading what a checkpoint says about itself needs no torch, which takes seconds to import
    from torch import Tensor

FILE_NAME = "model.safetensors"
# One key for everything: safetensors writes several in an order that changes from run to run.
METADATA_KEY = "glocal"


def save_checkpoint(path: str | Path, state_dict: dict[str, "Tensor"], info: CheckpointInfo) -> None:
    """Write a checkpoint that is either whole or not there.

    The same weights and info give the same bytes.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}
    write_atomically(path, save(tensors, {METADATA_KEY: info.to_json()}))


def find_checkpoint(checkpoint: str | Path) -> Path:
    """The file that a run folder or a file name stands for; FileNotFoundError if there is none."""
    path = Path(checkpoint)
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            raise MissingPathError(f"{path} holds no {FILE_NAME}: is it the --output of a `glocal train`?")
        return path / FILE_NAME
    if not path.is_file():
        raise MissingPathError(f"there is no checkpoint {str(path)!r}")
    if path.stat().st_size == 0:
        raise InvalidValueError(f"the checkpoint {path} is empty")
    return path


def read_info(path: str | Path) -> CheckpointInfo | None:
    """What a checkpoint of ours knows about itself; None for other people's files.

    Raises ValueError for a safetensors file that is broken, or whose description is not as it should be.
    """
    if Path(path).suffix != ".safetensors":
        return None
    with _opened(path, "numpy") as file:
        metadata = file.metadata() or {}
    if METADATA_KEY not in metadata:
        return None
    try:
        return parse_description(metadata[METADATA_KEY], old_marks())
    except ValueError as error:
        raise InvalidValueError(
            f"{path}: its description is not one that this version of glocal reads: {error}"
        ) from None


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors of a checkpoint of ours, which are not read for it."""
    with _opened(path, "numpy") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)


def read_weights(path: str | Path) -> dict[str, "Tensor"]:
    """The tensors of a checkpoint of ours, on the CPU."""
    with _opened(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


@contextmanager
def _opened(path: str | Path, framework: str):
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except SafetensorError as error:
        raise InvalidValueError(f"{path} is not a whole safetensors file ({error})") from None
