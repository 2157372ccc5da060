"""Dividing a data set into a part to train on and a part to validate on, and finding that division again."""

import hashlib
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from glocal.data.groups import draw_groups, groups_of_files, numbered
from glocal.data.samples import DataSource, Opening, Samples
from glocal.errors import InvalidValueError, MissingPathError
from glocal.wording import counted, quoted

DEFAULT_VAL_FRACTION = 0.2

Strata = Callable[[Samples], Sequence[int] | Sequence[tuple[int, ...]]]


def hold_out(
    source: DataSource,
    how: Opening,
    files: str,
    groups: Sequence[Hashable] | None = None,
    strata: Sequence[int] | Sequence[tuple[int, ...]] | None = None,
) -> DataSource:
    """Divide the split "all" into "train" and "val".

    files: the `fingerprint` of its files. groups: what `how.group` finds for each image; images of one group stay
    together, None is a group of its own. strata: of each image, the class or the classes of which "val" is to have its
    part; by default the labels.
    """
    samples = source.splits["all"]
    fraction = DEFAULT_VAL_FRACTION if how.val_fraction is None else how.val_fraction
    _, val = stratified_split(samples.labels if strata is None else strata, fraction, how.seed, groups)
    if not val:
        only = "every class has a single image" if groups is None else "every group has a class that no other has"
        raise InvalidValueError(f"{source.name}: {only}, so that none can be held out")
    held_out = {"val_fraction": fraction, "seed": how.seed, "files": files}
    if groups is not None:
        held_out["group"] = how.group
    if groups is not None or strata is not None:
        held_out["val"] = _written(val, len(samples))
    divided = _divided(source, val, held_out)
    if groups is not None:
        divided = divided.with_notes(*_about_groups(source, val, groups))
    return divided if strata is not None else _with_note_of_classes(divided, groups is not None)


def _with_note_of_classes(source: DataSource, grouped: bool) -> DataSource:
    """The same with a note on the classes that "val" lacks."""
    labels = source.splits["val"].labels
    single = [name for label, name in enumerate(source.class_names) if label not in _occurring(source.splits["val"])]
    if not single:
        return source
    few = "too few images of their own" if isinstance(labels[0], tuple) else "a single image, kept for training"
    few = "in no group that can be held out" if grouped else few
    return source.with_notes(f"{quoted(single)}: {few}; none is held out")


def _about_groups(source: DataSource, val: list[int], groups: Sequence[Hashable]) -> list[str]:
    """How many groups are held out, and which images are of no group, one line each."""
    number = numbered(groups)
    held, count = len(np.unique(number[val])), len(np.unique(number))
    part = len(val) / len(number)
    notes = [f"{source.name}: {held:,} of {counted(count, 'group')} held out, {part:.1%} of the images"]
    images = source.splits["all"].images
    alone = [str(image) for image, group in zip(images, groups, strict=True) if group is None]
    if alone:
        notes.append(f"{source.name}: {counted(len(alone), 'image')} of no group, each taken for one: {quoted(alone)}")
    return notes


def refuse_to_draw(data: str, how: Opening, reason: str) -> None:
    """Raise ValueError if the user says how to draw a validation part, where `reason` is why none is drawn."""
    for option, value in (("--val-fraction", how.val_fraction), ("--group", how.group)):
        if value is not None:
            raise InvalidValueError(f"{option} does not apply to {data}: {reason}")


def hold_out_again(source: DataSource, held_out: dict) -> DataSource:
    """Divide the split "all" as a training did, whose `DataSource.held_out` is given.

    Where groups or strata chose the images of "val", `held_out` holds these: a regular expression in a stranger's file
    is never searched, and another version of scikit-learn changes no split (docs/decisions/held-out-groups.md).
    """
    if held_out.get("val") is not None:
        return _divided(source, _read(held_out["val"], source), held_out)
    labels = source.splits["all"].labels
    if not all(isinstance(label, (int, tuple)) for label in labels):
        raise InvalidValueError(f"the checkpoint does not say which images of {source.name} were held out")
    return _divided(source, stratified_split(labels, held_out["val_fraction"], held_out["seed"])[1], held_out)


def folder_for_training(
    root: Path, source: DataSource, how: Opening, strata: Strata = lambda samples: [0] * len(samples)
) -> DataSource:
    """The parts of a folder with the splits "train" and "val"; a single part is divided.

    strata: the class or the classes of each image of which "val" is to have its part; see `hold_out`.
    """
    if set(source.splits) == {"val"}:
        raise MissingPathError(f"{root} has a part to validate on and none to train on")
    if "val" in source.splits:
        refuse_to_draw(str(root), how, "it has a validation part")
        return source
    source = _as_all(source)
    names = _names_below(root, source)
    if len(names) < 2:
        raise InvalidValueError(f"{root} holds a single image with annotations, so that none can be held out")
    groups = None if how.group is None else groups_of_files(str(root), names, how.group)
    return hold_out(source, how, fingerprint(names), groups, strata(source.splits["all"]))


def folder_for_evaluation(root: Path, source: DataSource, held_out: dict | None) -> DataSource:
    """The parts of a folder that there are, or "all", or divided as in the training where it is the same data."""
    if len(source.splits) > 1 or "val" in source.splits:
        return source
    source = _as_all(source)
    if held_out and held_out["files"] == fingerprint(_names_below(root, source)):
        note = f"{root} is the folder of the training: its split 'val' is what was held out then"
        return hold_out_again(source, held_out).with_notes(note)
    return source


def _as_all(source: DataSource) -> DataSource:
    return replace(source, splits={"all": next(iter(source.splits.values()))})


def _names_below(root: Path, source: DataSource) -> list[str]:
    """The names of the images, the same wherever the folder lies."""
    return [os.path.relpath(image, root) for image in source.splits["all"].images]


def _divided(source: DataSource, val: list[int], held_out: dict) -> DataSource:
    samples = source.splits["all"]
    train = np.setdiff1d(np.arange(len(samples)), val).tolist()
    splits = {"train": samples.subset(train), "val": samples.subset(val)}
    return replace(source, splits=splits, held_out=held_out)


def _written(drawn: list[int], count: int) -> str:
    """Which of `count` images are drawn: a bit for each, as base64."""
    return b64encode(np.packbits(np.isin(np.arange(count), drawn)).tobytes()).decode()


def _read(text: str, source: DataSource) -> list[int]:
    """The images that `_written` was given; ValueError if the text is not for this data."""
    count = len(source.splits["all"])
    try:
        packed = np.frombuffer(b64decode(text, validate=True), np.uint8)
    except ValueError:
        packed = np.zeros(0, np.uint8)
    drawn = np.flatnonzero(np.unpackbits(packed)).tolist()
    if len(packed) != -(-count // 8) or not drawn or drawn[-1] >= count or len(drawn) == count:
        raise InvalidValueError(f"the checkpoint names images to measure on that {source.name} does not have")
    return drawn


def check_classes(source: DataSource) -> DataSource:
    """The same with a note on what "val" lacks; ValueError for a single class, and for one that only "val" has."""
    names = source.class_names
    if len(names) < 2:
        held = f"a single class, {names[0]!r}" if names else "no labels"
        raise InvalidValueError(f"{source.name} holds {held}: there is nothing to tell apart")
    train, val = _occurring(source.splits["train"]), _occurring(source.splits["val"])
    unknown = [name for label, name in enumerate(names) if label in val - train]
    if unknown:
        raise InvalidValueError(f"{source.name}: val holds classes that train does not: {quoted(unknown)}")
    missing = [name for label, name in enumerate(names) if label not in val]
    if missing and source.held_out is None:
        return source.with_notes(f"{source.name}: no validation images of {quoted(missing)}")
    return source


def stratified_split(
    labels: Sequence[int] | Sequence[tuple[int, ...]],
    fraction: float,
    seed: int,
    groups: Sequence[Hashable] | None = None,
) -> tuple[list[int], list[int]]:
    """Draw `fraction` of every class's samples, at least one and never all; returns the indices (kept, drawn).

    A class with a single sample keeps it. The same labels, fraction and seed give the same split for ever
    (numpy freezes RandomState's stream). For several labels per sample, see `_draw_several`; for `groups` of samples
    that stay together, `draw_groups`, which scikit-learn may change.
    """
    random = np.random.RandomState(seed)
    if groups is not None:
        drawn = draw_groups(labels, fraction, seed, groups)
    elif any(isinstance(label, tuple) for label in labels):
        drawn = _draw_several(labels, fraction, random)
    else:
        drawn = []
        numbers = np.asarray(labels)
        for label in np.unique(numbers):
            members = np.flatnonzero(numbers == label)
            count = min(max(1, round(fraction * len(members))), len(members) - 1)
            drawn.extend(random.permutation(members)[:count].tolist())
    return sorted(set(range(len(labels))) - set(drawn)), sorted(drawn)


def _draw_several(labels: list[tuple[int, ...]], fraction: float, random: np.random.RandomState) -> list[int]:
    """Draw `fraction` of every class as nearly as the overlaps allow; every class keeps at least one sample.

    Classes are served from the rarest on, as rare ones have the fewest samples to choose from (iterative
    stratification, Sechidis et al. 2011); samples without a label come last.
    """
    members: dict[int, list[int]] = {}
    for index in random.permutation(len(labels)).tolist():
        for label in labels[index]:
            members.setdefault(label, []).append(index)
    left = {label: len(of_class) for label, of_class in members.items()}
    undecided, drawn = set(range(len(labels))), []
    for label in sorted(members, key=lambda label: (len(members[label]), label)):
        of_class = members[label]
        wanted = max(1, round(fraction * len(of_class))) - (len(of_class) - left[label])
        for index in of_class:
            if index in undecided and wanted > 0 and all(left[other] > 1 for other in labels[index]):
                drawn.append(index)
                wanted -= 1
                for other in labels[index]:
                    left[other] -= 1
        undecided.difference_update(of_class)
    unlabelled = random.permutation(sorted(undecided)).tolist()
    return drawn + unlabelled[: round(fraction * len(unlabelled))]


def fingerprint(names: Iterable[str]) -> str:
    """Identify a data set by the names of its files, in any order."""
    return hashlib.sha256("\n".join(sorted(names)).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def content_key(source: DataSource) -> str:
    """A text that changes with the classes and with the content of the training part; the data may be moved.

    An annotation that is an object has a `content()`, or a text of its own as its `repr`.
    """
    content = source.class_names, source.splits["train"].content()
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _occurring(samples: Samples) -> set[int]:
    labels = samples.labels
    return {i for label in labels for i in label} if labels and isinstance(labels[0], tuple) else set(labels)
