"""What a file of options may not ask for by itself: to run a command, to fetch code or a model, to replace files.

A user who types it, or who adds --trust, may. Data at paths and at web addresses is allowed to a file: it is read only.
"""

import os
import re
from pathlib import Path
from typing import Any

from glocal.errors import InvalidValueError

DATA = ("data", "calibration", "images")  # options that name data
MODELS = ("model", "teacher", "name", "models", "baseline")  # options that name models
HOW = "give it yourself, or --trust"


def runs_command(data: str) -> bool:
    """Whether data is (or has in it) what is run by a shell: pipe:COMMAND, in any spelling that a reader may take."""
    return "pipe:" in re.sub(r"[\x00-\x20{}]", "", data).lower()


def check_option(label: str, name: str, value: Any) -> None:
    """Raise ValueError for the value of an option that a file, called `label`, may not give."""
    texts = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
    for text in texts:
        if name in DATA and runs_command(text):
            raise InvalidValueError(
                f"{label} names a command as its data, {text!r}: to run it, type {name.upper()} again or give --trust"
            )
        if name in MODELS and ":" in text.partition(",")[0]:
            raise InvalidValueError(f"{label} names a model from elsewhere, {text!r}: {HOW}")
    if name == "overwrite" and value:
        raise InvalidValueError(f"{label} says overwrite: {HOW}")
    if name == "json" and texts and os.path.lexists(texts[0]):
        raise InvalidValueError(f"{label} names --json {texts[0]!r}, which is there already: {HOW}")


def provenance(values: dict[str, tuple[Any, Path]]) -> list[str]:
    """What will be read that a file has named, and where that is said: a line for each option.

    values: of options that files gave, each with the file.
    """
    lines = []
    for name in (*DATA, "checkpoint", "teacher_checkpoint"):
        value, file = values.get(name, (None, None))
        if value:
            texts = value if isinstance(value, list) else [value]
            more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
            lines.append(f"reading {', '.join(texts[:3])}{more} ({name.replace('_', ' ')}, as {file} says)")
    return lines
