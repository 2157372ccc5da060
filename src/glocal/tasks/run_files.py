"""The files of a run that other commands read: its weights and its options."""

from pathlib import Path

from glocal import trust
from glocal.errors import InvalidValueError
from glocal.options import check_data_args, read_option
from glocal.tasks.checkpoint import FILE_NAME, find_checkpoint, read_info

BEST = FILE_NAME
RAW = "model.raw.safetensors"
CONFIG = "config.yaml"
DEFAULT_DATA = "digits"  # of `glocal train`


def own_data(checkpoint: str) -> tuple[str, dict, Path]:
    """The data of a run, the arguments of its layout, and the file that names both.

    ValueError if no file names the data, or if it is a command.
    """
    from glocal.data.open import EMBEDDED

    file = find_checkpoint(checkpoint)
    config = file.parent / CONFIG
    if file.name in (BEST, RAW) and config.is_file():
        data = read_option(config, "data", str, DEFAULT_DATA)
        args = read_option(config, "data_args", dict, {})
        check_data_args(args)
        for text, typed in ((data, "DATA"), *((text, "--data-args") for text in trust.texts_in(args))):
            if trust.runs_command(text):
                raise InvalidValueError(f"{config} names a command as its data, {text!r}: to run it, type {typed}")
        return data, args, config
    info = read_info(file)
    name = None if info is None else info.data.get("name")
    if name not in EMBEDDED:
        raise InvalidValueError(f"give DATA, the images to measure on: {file} does not say where they are")
    return name, {}, file
