"""The files of a run that other commands read: its weights and its options."""

from pathlib import Path

from glocal import trust
from glocal.errors import InvalidValueError
from glocal.options import read_option
from glocal.tasks.checkpoint import FILE_NAME, find_checkpoint, read_info

BEST = FILE_NAME
RAW = "model.raw.safetensors"
CONFIG = "config.yaml"
DEFAULT_DATA = "digits"  # of `glocal train`


def own_data(checkpoint: str) -> tuple[str, Path]:
    """The data of a run, and the file that names it; ValueError if no file names it or if it is a command."""
    from glocal.data.open import EMBEDDED

    file = find_checkpoint(checkpoint)
    config = file.parent / CONFIG
    if file.name in (BEST, RAW) and config.is_file():
        data = read_option(config, "data", str, DEFAULT_DATA)
        if trust.runs_command(data):
            raise InvalidValueError(f"{config} names a command as its data, {data!r}: to run it, type DATA")
        return data, config
    info = read_info(file)
    name = None if info is None else info.data.get("name")
    if name not in EMBEDDED:
        raise InvalidValueError(f"give DATA, the images to measure on: {file} does not say where they are")
    return name, file
