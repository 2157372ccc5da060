"""Dividing a data set into a part to train on and a part to validate on, and finding that division again."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from glocal.data.samples import DataSource, Opening, Samples
from glocal.errors import InvalidValueError
from glocal.wording import quoted

DEFAULT_VAL_FRACTION = 0.2


def hold_out(source: DataSource, how: Opening, files: str) -> DataSource:
    """Divide the split "all" into "train" and "val"; `files` is the `fingerprint` of its files."""
    val_fraction = DEFAULT_VAL_FRACTION if how.val_fraction is None else how.val_fraction
    divided = hold_out_again(source, {"val_fraction": val_fraction, "seed": how.seed, "files": files})
    if not divided.splits["val"].labels:
        raise InvalidValueError(f"{source.name}: every class has a single image, so that none can be held out")
    single = [name for label, name in enumerate(source.class_names) if label not in _occurring(divided.splits["val"])]
    if single:
        several = isinstance(divided.splits["val"].labels[0], tuple)
        few = "too few images of their own" if several else "a single image, kept for training"
        divided = divided.with_notes(f"{quoted(single)}: {few}; none is held out")
    return divided


def refuse_to_draw(data: str, how: Opening, reason: str) -> None:
    """Raise ValueError if the user says how to draw a validation part, where `reason` is why none is drawn."""
    for option, value in (("--val-fraction", how.val_fraction), ("--group", how.group)):
        if value is not None:
            raise InvalidValueError(f"{option} does not apply to {data}: {reason}")


def hold_out_again(source: DataSource, held_out: dict) -> DataSource:
    """Divide the split "all" as a training did, whose `DataSource.held_out` is given."""
    samples = source.splits["all"]
    train, val = stratified_split(samples.labels, held_out["val_fraction"], held_out["seed"])
    splits = {"train": samples.subset(train), "val": samples.subset(val)}
    return replace(source, splits=splits, held_out=held_out)


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
    labels: list[int] | list[tuple[int, ...]], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Draw `fraction` of every class's samples, at least one and never all; returns the indices (kept, drawn).

    A class with a single sample keeps it. The same labels, fraction and seed give the same split for ever
    (numpy freezes RandomState's stream). For several labels per sample, see `_draw_several`.
    """
    random = np.random.RandomState(seed)
    if any(isinstance(label, tuple) for label in labels):
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
    """A text that changes with the classes and with the content of the training part; the data may be moved."""
    content = source.class_names, source.splits["train"].content()
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _occurring(samples: Samples) -> set[int]:
    labels = samples.labels
    return {i for label in labels for i in label} if labels and isinstance(labels[0], tuple) else set(labels)
