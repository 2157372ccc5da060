"""Options that a file may not give: they run a command, fetch code or a model, or replace files.

They are allowed if the user types them, or adds --trust. A file may name data at paths and web addresses, because data
is only read.
"""

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from glocal.errors import InvalidValueError

DATA = ("data", "data_args", "calibration", "images")  # options that name data
MODELS = ("model", "name", "models", "baseline")  # options that name models, besides those of tasks
FILES = ("checkpoint",)  # options that name other files to read, besides those of tasks
WRITTEN = ("json", "show_batch")  # options that name files to write
HOW = "give it yourself, or --trust"


def runs_command(data: str) -> bool:
    """Whether data is or contains a shell command: pipe:COMMAND, in any spelling that a reader may accept."""
    return "pipe:" in re.sub(r"[\x00-\x20{}]", "", data).lower()


def leads_out(path: str) -> bool:
    """Whether a path may name what is not in the folder that it is relative to."""
    outside = re.match("~|[a-zA-Z][a-zA-Z0-9+.-]*:", path) or runs_command(path)
    absolute = PurePosixPath(path).root or PureWindowsPath(path).drive or PureWindowsPath(path).root
    return bool(outside or absolute or ".." in PureWindowsPath(path).parts)


def texts_in(value: Any) -> list[str]:
    """The texts in the value of an option: it, or those in lists and mappings, whose keys are names."""
    if isinstance(value, dict):
        return [text for one in value.values() for text in texts_in(one)]
    if isinstance(value, list):
        return [text for one in value for text in texts_in(one)]
    return [value] if isinstance(value, str) else []


def check_option(label: str, config: type, name: str, value: Any) -> None:
    """Raise ValueError if a file may not give this value to the option.

    label: name of the file in messages. config: class of the options; its attribute MODELS names more that are models.
    """
    texts = texts_in(value)
    for text in texts:
        if name in DATA and runs_command(text):
            typed = "--data-args" if name == "data_args" else name.upper()
            raise InvalidValueError(
                f"{label} names a command as its data, {text!r}: to run it, type {typed} again or give --trust"
            )
        if name in (*MODELS, *getattr(config, "MODELS", ())) and ":" in text.partition(",")[0]:
            raise InvalidValueError(f"{label} names a model from elsewhere, {text!r}: {HOW}")
    if name == "overwrite" and value:
        raise InvalidValueError(f"{label} says overwrite: {HOW}")
    if name in WRITTEN and texts and os.path.lexists(texts[0]):
        option = f"--{name.replace('_', '-')}"
        raise InvalidValueError(f"{label} names {option} {texts[0]!r}, which already exists: {HOW}")


def provenance(config: type, values: dict[str, tuple[Any, Path]]) -> list[str]:
    """A line for each option by which a file names files to read, with the name of that file.

    config: class of the options; its attribute FILES names more that are files. values: the options that files gave:
    name → (value, file).
    """
    lines = []
    for name in (*DATA, *FILES, *getattr(config, "FILES", ())):
        value, file = values.get(name, (None, None))
        if value:
            texts = value if isinstance(value, list) else [value]
            if isinstance(value, dict):
                texts = [f"{key}: {one}" for key, one in value.items()]
            more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
            lines.append(f"reading {', '.join(texts[:3])}{more} ({name.replace('_', ' ')}, as {file} says)")
    return lines
