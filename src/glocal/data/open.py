"""How a name, a file or a folder becomes a data set: the formats in the order in which they are asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from glocal.data.formats import class_folders, digits, huggingface, idx, shapes, shards, table
from glocal.data.samples import DataSource, Opening
from glocal.errors import InvalidValueError, MissingPathError
from glocal.wording import quoted


class Format(Protocol):
    """A layout of data; the modules of `glocal.data.formats` are such objects.

    The names of the `Opening.args` that a format knows are in its `ARGS`; a format without `ARGS` knows none. A format
    may have a function `claims(data, args)`: whether data that it does not match is of this format by the arguments,
    for instance because they name its folders. A format whose `ONLY_ASKED` is true is asked only for its own task
    (`--task`): without it, other formats open the same data for another one.
    """

    def matches(self, data: str) -> bool:
        """Whether `data` names data of this format, by its name and by what lies there; nothing is read."""

    def open_training(self, data: str, how: Opening) -> DataSource:
        """The data with the splits "train" and "val"; see `open_for_training`."""

    def open_evaluation(self, data: str, how: Opening, held_out: dict | None) -> DataSource:
        """The data with the splits that it has, or "all"; see `open_for_evaluation`. Of `how`, only `args` matter."""


@dataclass(frozen=True)
class OpenedFor:
    """A format whose annotations also suit another task, opened for that one where it is asked for.

    of: the task that the format's own data sources name; others stay as they are. check: raises ValueError for data
    that does not suit the task.
    """

    one: Format
    of: str
    task: str
    check: Callable[[DataSource], None] = lambda source: None

    ONLY_ASKED = True

    @property
    def ARGS(self) -> tuple[str, ...]:
        return getattr(self.one, "ARGS", ())

    def matches(self, data: str) -> bool:
        return self.one.matches(data)

    def claims(self, data: str, args: Mapping[str, Any]) -> bool:
        return hasattr(self.one, "claims") and self.one.claims(data, args)

    def open_training(self, data: str, how: Opening) -> DataSource:
        return self._for_task(self.one.open_training(data, how))

    def open_evaluation(self, data: str, how: Opening, held_out: dict | None) -> DataSource:
        return self._for_task(self.one.open_evaluation(data, how, held_out))

    def _for_task(self, source: DataSource) -> DataSource:
        if source.task != self.of:
            return source
        self.check(source)
        return replace(source, task=self.task)


FORMATS: tuple[Format, ...] = (huggingface, table, shards, idx, class_folders, digits)
EMBEDDED = (digits.NAME, shapes.NAME)
PLAIN = Opening()


def open_for_training(data: str, how: Opening = PLAIN, formats: Sequence[Format] = FORMATS) -> DataSource:
    """Open a data set with the splits "train" and "val".

    data: a folder of images, a .csv file of paths and labels, WebDataset shards (a pattern such as
        "dir/train-{0000..0099}.tar", addresses, or a folder of .tar files), a folder of the four files of MNIST's
        format, "hf:" and the name or the folder of a Hugging Face data set, or the name of an embedded set; of other
        `formats`, what they say.
    how: `val_fraction` is the part of every class to hold out of data without a validation part (default 0.2), drawn
        with `seed`; of shards, a part of the files.
    formats: those to ask, in this order.

    Raises ValueError or OSError, before any image is read, for data that cannot be trained on, and ImportError where
    an extra is missing.
    """
    one = format_of(data, formats, how.args)
    _check_args(one, data, how)
    source = one.open_training(data, how)
    if how.group is not None and (source.held_out or {}).get("group") != how.group:
        raise InvalidValueError(f"--group does not apply to {data}: its layout has no groups")
    return source


def open_for_evaluation(
    data: str,
    split: str = "auto",
    held_out: dict | None = None,
    how: Opening = PLAIN,
    formats: Sequence[Format] = FORMATS,
) -> tuple[DataSource, str]:
    """Open a data set to measure a model on it; returns it with the name of the split to use.

    split: "train", "val", "all", or "auto": "val" where the data set has one, "all" otherwise.
    held_out: `DataSource.held_out` of the model's training; where the data holds the same files, its split is drawn
        again, so that "auto" measures on the images that the model has not seen.
    how: its `args`; all else is in `held_out`.
    """
    one = format_of(data, formats, how.args)
    _check_args(one, data, how)
    source = one.open_evaluation(data, how, held_out)
    if len(source.splits) == 1:
        source = source.with_splits(all=next(iter(source.splits.values())))
    if split == "all" and "all" not in source.splits:
        source = source.with_splits(all=source.splits["train"] + source.splits["val"])
    if split == "auto":
        split = "val" if "val" in source.splits else "all"
    if split not in source.splits:
        raise InvalidValueError(f"{data} has no split {split!r}: it has {' and '.join(source.splits)}")
    return source, split


def _check_args(one: Format, data: str, how: Opening) -> None:
    """Raise ValueError for an argument that the format does not know."""
    known = getattr(one, "ARGS", ())
    unknown = [name for name in how.args if name not in known]
    if unknown:
        takes = f"takes {', '.join(known)}" if known else "takes no arguments"
        raise InvalidValueError(f"--data-args: {data} {takes}, got {quoted(unknown)}")


def format_of(data: str, formats: Sequence[Format] = FORMATS, args: Mapping[str, Any] = MappingProxyType({})) -> Format:
    """The first format that matches `data` and knows the arguments, or else that matches or claims it.

    Raises FileNotFoundError if none does.
    """
    for one in formats:
        if set(args) <= set(getattr(one, "ARGS", ())) and one.matches(data):
            return one
    for one in formats:
        if one.matches(data) or (args and hasattr(one, "claims") and one.claims(data, args)):
            return one
    if data.lower().endswith(".csv"):
        raise MissingPathError(f"there is no file {data!r}")
    if Path(data).exists():
        raise InvalidValueError(f"{data} is of no format that this task reads")
    hint = get_close_matches(data, EMBEDDED, n=1)
    hint = f"did you mean {hint[0]!r}?" if hint else f"embedded sets: {', '.join(EMBEDDED)}"
    raise MissingPathError(f"there is no folder {data!r}, and no embedded set of that name ({hint})")
