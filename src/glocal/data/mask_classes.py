"""Which classes the masks of a data set hold, and how: from a class list, what the user says, and the masks."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from glocal.data.class_lists import ClassList
from glocal.data.image import UnreadableImageError, is_strict
from glocal.data.masks import (
    IGNORE,
    VOID,
    Coding,
    StoredMask,
    distinct_colors,
    equal_channel,
    mask_kind,
    palette_of,
    read_mask,
)
from glocal.errors import InvalidValueError
from glocal.wording import counted, shown

ARGS = ("reduce_zero_label", "binary", "ignore", "values")  # what a user may say
MOST_CLASSES = 1000  # that masks without a class list may have; more are numbers of objects
CHECKED = 32  # masks that are read at once where the classes are known
MOST_READ = 5000  # where they are not, or if every fault is to be refused
KINDS = ("indices", "colors")
NUMBERS = re.compile(r"\d{1,9}(,\d{1,9})*")

T = TypeVar("T")


def coded(
    root: Path | str,
    known: ClassList | None,
    masks: Sequence[str | StoredMask],
    args: Mapping[str, Any],
    notes: list[str],
) -> tuple[ClassList, Coding]:
    """The classes, and how the masks hold them; adds to `notes` what the user should know.

    root: of the data, for messages. known: the class list, if there is one; CHECKED of the masks are then read. Without
    one the values in MOST_READ masks at most are the classes. masks: those of the training.

    Raises ValueError where the masks do not fit, or cannot be told apart from masks that mean something else.
    """
    if known is not None:
        _refuse_single(root, known)
    zero, binary = (_switch(args, name) for name in ("reduce_zero_label", "binary"))
    ignored, ignored_colors, ignored_names = _ignored(args)
    given = args.get("values")
    if given is not None and given not in KINDS:
        raise InvalidValueError(f"values must be {' or '.join(KINDS)}, got {shown(given)}")
    if given == "colors" and (known is None or known.colors is None or binary):
        raise InvalidValueError("values: colors: the class list has no colours")
    if zero and binary:
        raise InvalidValueError("reduce_zero_label and binary exclude each other: binary masks have a class for 0")
    kind = _kind_of(masks)
    if binary:
        if known is not None and (len(known.names) != 2 or known.ids is not None):
            raise InvalidValueError(f"binary: masks of 0 and 255 have two classes, not {len(known.names)}")
        known = replace(known or ClassList(["background", "foreground"]), ids=[0, VOID], colors=None)
    elif known is None and zero and kind.startswith("RGB"):
        raise InvalidValueError("reduce_zero_label: the masks have colours; say which colour counts nowhere: ignore")
    by_color = known is not None and not binary and _by_color(known, kind, args)
    if zero:
        if known is not None and (known.ids is not None or by_color):
            raise InvalidValueError("reduce_zero_label: the class list says itself which value each class has")
        known = known and replace(known, from_one=True)
    if not by_color and ignored_colors:
        raise InvalidValueError("ignore: the masks are read as numbers, not as colours")
    if by_color and ignored:
        raise InvalidValueError("ignore: the masks are read as colours, not as numbers")
    if known is None:
        if ignored_names:
            raise InvalidValueError(f"ignore: without a class list, no class is called {ignored_names[0]!r}")
        return _found_classes(root, masks, {*ignored, *([0] if zero else [])}, notes)
    known = _with_ids(known)
    ignored_names += [known.names[known.ids.index(value)] for value in ignored if value in known.ids]
    if by_color:
        colors = [list(color) for color in known.colors]
        ignored_names += [known.names[colors.index(color)] for color in ignored_colors if color in colors]
    if ignored_names:
        known = known.without(list(dict.fromkeys(ignored_names)))
        _refuse_single(root, known)
    if by_color:
        hint = "the colours of the classes are in the class list; values=indices if the masks hold numbers"
        coding = Coding.of_colors(known.colors, [*known.ignored_colors, *ignored_colors], hint)
    else:
        coding = _index_coding(known, ignored, binary)
    _check(root, masks, coding, binary, notes)
    return known, coding


def about_classes(classes: ClassList, coding: Coding, mask: str | StoredMask) -> dict[str, Any]:
    """`DataSource.about` of what `coded` returns: the values and the colours, from a mask's palette if need be."""
    ids = list(range(len(classes.names))) if coding.by_color else list(classes.ids)
    colors = classes.colors or _colors_of_palette(mask, ids) or distinct_colors(len(classes.names))
    return {"colors": [list(color) for color in colors], "ids": ids}


def _colors_of_palette(mask: str | StoredMask, ids: Sequence[int]) -> list[list[int]] | None:
    """The colours that the palette of a mask gives to the classes, if it tells all of them apart."""
    try:
        colors = palette_of(mask)
    except UnreadableImageError:
        return None
    if colors is None or max(ids) >= len(colors):
        return None
    of_classes = [colors[value] for value in ids]
    return of_classes if len(set(map(tuple, of_classes))) == len(ids) else None


def _with_ids(known: ClassList) -> ClassList:
    """The same with the value of each class written out."""
    if known.ids is not None:
        return known
    count = len(known.names)
    if known.from_one:
        return replace(known, ids=list(range(1, count + 1)), ignored=[0, *known.ignored], from_one=False)
    return replace(known, ids=list(range(count)))


def _index_coding(known: ClassList, ignored: Sequence[int], binary: bool) -> Coding:
    count, ids = len(known.names), list(known.ids)
    void = [VOID] if count <= VOID and VOID not in ids else []
    hint = f"the class list has {count} names, of the values {_ranges(ids)}"
    hint += "" if 0 not in ids or count in ids else "; --data-args '{reduce_zero_label: true}' if 0 counts nowhere"
    coding = Coding.of_indices(ids, [*known.ignored, *ignored, *void], hint)
    if binary:  # masks of one bit have 1 for 255
        coding = replace(coding, values=(*coding.values, (1, 1)))
    return coding


def _ranges(ids: Sequence[int]) -> str:
    ids = sorted(ids)
    if ids == list(range(ids[0], ids[-1] + 1)):
        return f"{ids[0]} to {ids[-1]}"
    return ", ".join(map(str, ids[:8])) + (", …" if len(ids) > 8 else "")


def _switch(args: Mapping[str, Any], name: str) -> bool:
    value = args.get(name, False)
    if not isinstance(value, bool):
        raise InvalidValueError(f"{name} must be true or false, got {shown(value)}")
    return value


def _ignored(args: Mapping[str, Any]) -> tuple[list[int], list[list[int]], list[str]]:
    """The values, the colours and the names of classes that `ignore` lists; texts such as "255" and "0,0,0", too."""
    given = args.get("ignore", [])
    given = [given] if isinstance(given, (int, float, str)) else given
    values, colors, names = [], [], []
    for one in given if isinstance(given, Sequence) else [given]:
        numbers = one
        if isinstance(one, str):
            numbers = [int(part) for part in one.split(",")] if NUMBERS.fullmatch(one) else None
        elif isinstance(one, int) and not isinstance(one, bool):
            numbers = [one]
        if numbers is None:
            names.append(one)
            continue
        fits = isinstance(numbers, Sequence) and all(isinstance(number, int) for number in numbers)
        if fits and len(numbers) == 1 and 0 <= numbers[0] < 1 << 24:
            values.append(numbers[0])
        elif fits and len(numbers) == 3 and all(0 <= number <= 255 for number in numbers):
            colors.append(list(numbers))
        else:
            raise InvalidValueError(f"ignore: expected values, colours (r,g,b) or names of classes, got {shown(one)}")
    return values, colors, names


def _kind_of(masks: Sequence[str | StoredMask]) -> str:
    """Pillow's mode of the first mask that can be opened."""
    for mask in masks[:CHECKED]:
        try:
            return mask_kind(mask)[0]
        except UnreadableImageError as error:
            first = error
    raise InvalidValueError(f"none of the first {counted(len(masks[:CHECKED]), 'mask')} can be used: {first}")


def _by_color(known: ClassList, kind: str, args: Mapping[str, Any]) -> bool:
    """Whether masks are read by their colours: where they have some, and the class list too."""
    given = args.get("values")
    if given is not None or known.colors is None:
        return given == "colors"
    if kind == "P":
        return not known.official
    return kind.startswith("RGB") or all(red == green == blue for red, green, blue in known.colors)


@dataclass
class _Found:
    """What masks hold.

    values: how many masks hold each value of one channel. wide: whether some have more than 8 bits. ignored: masks that
    hold nothing but ignored pixels. failed: why others cannot be used.
    """

    values: Counter = field(default_factory=Counter)
    wide: bool = False
    ignored: list[str | StoredMask] = field(default_factory=list)
    failed: list[UnreadableImageError] = field(default_factory=list)
    read: int = 0


def most_checked() -> int:
    """How many masks are looked at before the training: if `is_strict`, nearly all."""
    return MOST_READ if is_strict() else CHECKED


def spread(values: Sequence[T], most: int) -> list[T]:
    """At most `most` of the values, spread evenly."""
    places = np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)
    return [values[place] for place in places]


def _read(masks: Sequence[str | StoredMask], most: int, coding: Coding | None = None) -> _Found:
    """What at most `most` masks hold, spread evenly, and whether a coding knows all of it."""
    by_color = coding is not None and coding.by_color

    def read(mask: str | StoredMask) -> tuple[list[int], bool, bool] | UnreadableImageError:
        try:
            raw = read_mask(mask, by_color)
            raw = raw if by_color or raw.ndim == 2 else equal_channel(raw, str(mask))
            only_ignored = coding is not None and bool((coding.decode(raw, str(mask)) == IGNORE).all())
        except UnreadableImageError as error:
            return error
        return [] if by_color else _occurring(raw), raw.dtype != np.uint8, only_ignored

    found = _Found()
    chosen = spread(masks, most)
    with ThreadPoolExecutor() as threads:
        for mask, one in zip(chosen, threads.map(read, chosen), strict=True):
            if isinstance(one, UnreadableImageError):
                found.failed.append(one)
                continue
            values, wide, only_ignored = one
            found.read += 1
            found.values.update(values)
            found.wide |= wide
            if only_ignored:
                found.ignored.append(mask)
    return found


def _occurring(raw: np.ndarray) -> list[int]:
    values = np.unique(raw) if raw.dtype.kind == "i" else np.flatnonzero(np.bincount(raw.ravel()))
    return values.tolist()


def _check(root: Path | str, masks: Sequence[str | StoredMask], coding: Coding, binary: bool, notes: list[str]) -> None:
    """Read some masks: raise ValueError where none can be used, note it where some cannot."""
    found = _read(masks, most_checked(), coding)
    if not coding.by_color and not binary:
        if set(found.values) <= {0, VOID}:  # perhaps by chance: what there is to find may be rare
            found = _read(masks, MOST_READ, coding)
        _refuse_black_and_white(root, found)
    _note_failed(root, found, notes)
    if found.read and len(found.ignored) == found.read:
        raise InvalidValueError(f"{root}: {counted(found.read, 'mask')} hold nothing but ignored pixels")
    if found.ignored:
        only = counted(len(found.ignored), "mask")
        notes.append(
            f"{root}: nothing but ignored pixels in {only} of {found.read} read, the first: {found.ignored[0]}"
        )


def _note_failed(root: Path | str, found: _Found, notes: list[str]) -> None:
    if not found.failed:
        return
    total = found.read + len(found.failed)
    message = (
        f"{root}: {len(found.failed)} of {counted(total, 'mask')} read cannot be used, the first: {found.failed[0]}"
    )
    if not found.read or is_strict():
        raise InvalidValueError(message)
    notes.append(message)


def _refuse_black_and_white(root: Path | str, found: _Found) -> None:
    """Raise ValueError for masks of 0 and 255 alone: 255 would count as ignored, and nothing but 0 be left."""
    if VOID in found.values and set(found.values) <= {0, VOID}:
        raise InvalidValueError(
            f"{root}: all {counted(found.read, 'mask')} read hold only 0 and 255, and 255 is what counts nowhere: if "
            "255 is a class, say --data-args '{binary: true}'"
        )


def _found_classes(
    root: Path | str, masks: Sequence[str | StoredMask], ignored: set[int], notes: list[str]
) -> tuple[ClassList, Coding]:
    """The values in masks as the classes, by their numbers."""
    found = _read(masks, MOST_READ)
    _refuse_black_and_white(root, found)
    _note_failed(root, found, notes)
    void = set() if found.wide else {VOID}  # with more than 8 bits, 255 is a value as others
    ids = sorted(set(found.values) - ignored - void)
    if len(ids) > MOST_CLASSES or min(ids, default=0) < 0:
        raise InvalidValueError(
            f"{root}: the masks hold {counted(len(ids), 'value')}, from {ids[0]:,} to {ids[-1]:,}: if they are "
            "classes, list them with --data-args '{classes: FILE}'"
        )
    notes.append(
        f"{root}: no list of the classes; the {counted(len(ids), 'value')} in {counted(found.read, 'mask')} are taken "
        "for them (classes.txt beside the folders names them)"
    )
    classes = ClassList(list(map(str, ids)), ids)
    hint = "no mask that was read to find the classes has it; list all of them with --data-args '{classes: FILE}'"
    _refuse_single(root, classes)
    return classes, Coding.of_indices(ids, sorted(ignored | void), hint)


def _refuse_single(root: Path | str, classes: ClassList) -> None:
    if len(classes.names) < 2:
        held = f"a single class, {classes.names[0]!r}" if classes.names else "no classes"
        raise InvalidValueError(f"{root} holds {held}: there is nothing to tell apart")
