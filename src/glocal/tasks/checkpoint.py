"""The checkpoint file of a training: weights as safetensors, with all that their use needs in the metadata."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from glocal.errors import InvalidValueError, MissingPathError
from glocal.files import write_atomically
from glocal.tasks.description import CheckpointInfo, parse_description
from glocal.tasks.registry import old_marks

if TYPE_CHECKING:  # a description can be read without torch, whose import takes seconds
    from torch import Tensor

FILE_NAME = "model.safetensors"
# A single key: safetensors writes several keys in an order that changes from run to run.
METADATA_KEY = "glocal"
EXPORTED = (".onnx", ".xml", ".pt2")  # endings of files of `glocal export`


def save_checkpoint(path: str | Path, state_dict: dict[str, "Tensor"], info: CheckpointInfo) -> None:
    """Write a checkpoint, which appears when it is complete. The same weights and info give the same bytes."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}
    write_atomically(path, save(tensors, {METADATA_KEY: info.to_json()}))


def find_checkpoint(checkpoint: str | Path) -> Path:
    """The checkpoint file in a run folder, or of a path to a file; FileNotFoundError if it does not exist."""
    path = Path(checkpoint)
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            raise MissingPathError(f"{path} holds no {FILE_NAME}: is it the --output of a `glocal train`?")
        return path / FILE_NAME
    if not path.is_file():
        raise MissingPathError(f"there is no checkpoint {str(path)!r}")
    if path.stat().st_size == 0:
        raise InvalidValueError(f"the checkpoint {path} is empty")
    if path.suffix in EXPORTED:
        raise InvalidValueError(f"{path} is an exported file: give the run that it was made of, and --engine")
    return path


def read_info(path: str | Path) -> CheckpointInfo | None:
    """The description in a checkpoint of `glocal train`; None for other files.

    Raises ValueError if the safetensors file is damaged or its description is invalid.
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
    """The names and shapes of the tensors in a checkpoint; the tensors are not read."""
    with _opened(path, "numpy") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)


def read_weights(path: str | Path) -> dict[str, "Tensor"]:
    """The tensors of a checkpoint, on the CPU."""
    with _opened(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


@contextmanager
def _opened(path: str | Path, framework: str):
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except SafetensorError as error:
        raise InvalidValueError(f"{path} is not a whole safetensors file ({error})") from None
