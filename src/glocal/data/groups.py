"""Groups: images that belong together (of a patient, a scene, a video, a tile) stay on one side of a split."""

import re
import warnings
from collections.abc import Hashable, Sequence

import numpy as np

from glocal.errors import InvalidValueError, MissingExtraError


def groups_of_files(data: str, names: Sequence[str], pattern: str) -> list[str | None]:
    """The group of each file: what a regular expression finds in its name.

    names: paths relative to the data, with slashes. The group is the first group of the expression that has a part in
    the match, or else the whole match; None for a name without a match. Raises ValueError for an expression that is
    none, or that is found in no name.

    The expression is searched only if the user gives it: one from a stranger could take for ever. A measurement finds
    the split of a training again by other means, see `glocal.data.splits.hold_out_again`.
    """
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidValueError(f"--group {pattern!r} is no regular expression: {error}") from None
    found = [expression.search(name) for name in names]
    if not any(found):
        raise InvalidValueError(f"{data}: --group {pattern!r} is found in no name, for instance not in {names[0]!r}")
    return [None if one is None else next(filter(None, one.groups()), one[0]) for one in found]


def numbered(groups: Sequence[Hashable]) -> np.ndarray:
    """A number for each image, equal for images of one group; None is a group of its own every time."""
    number: dict[Hashable, int] = {}
    alone = (object() if group is None else group for group in groups)
    return np.asarray([number.setdefault(group, len(number)) for group in alone])


def draw_groups(labels: Sequence, fraction: float, seed: int, groups: Sequence[Hashable]) -> list[int]:
    """Draw whole groups, so that about `fraction` of the images of every class are drawn; returns the images' indices.

    This is a fold of scikit-learn's StratifiedGroupKFold, of as many folds as come nearest to 1 / `fraction`: the fold
    that leaves the most classes for the rest, and of these the nearest to `fraction`. For several labels per image, the
    rarest counts. A group then stays if it has a class that the rest would lack. Raises ValueError for a single group.
    """
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError:
        raise MissingExtraError("--group needs scikit-learn: pip install 'glocal[train]'") from None
    number = numbered(groups)
    count = len(np.unique(number))
    if count < 2:
        raise InvalidValueError("--group: all images are of one group, so that none can be held out")
    rows, classes = _classes(labels)
    strata = _rarest(len(labels), rows, classes)
    folds = min(max(2, round(1 / fraction)), count)
    if np.bincount(strata).max() < folds:  # which scikit-learn refuses
        strata = np.zeros_like(strata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a class has fewer images than there are folds
        splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(strata, strata, number)
        drawings = [np.isin(np.arange(len(labels)), drawn) for _, drawn in splits]

    def cost(drawn: np.ndarray) -> tuple[int, float]:
        return len(_lost(drawn, rows, classes)), abs(drawn.sum() - fraction * len(labels))

    drawn = min((drawn for drawn in drawings if drawn.any()), key=cost)
    while len(lost := _lost(drawn, rows, classes)):
        first = rows[(classes == lost[0]) & drawn[rows]][0]
        drawn &= number != number[first]
    return np.flatnonzero(drawn).tolist()


def _classes(labels: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of an image and a class that it has. Annotations that are no indices of classes have none."""
    of_each = [label if isinstance(label, tuple) else (label,) for label in labels]
    pairs = [(row, one) for row, of_one in enumerate(of_each) for one in of_one if isinstance(one, (int, np.integer))]
    found = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _rarest(count: int, rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The rarest class of each of `count` images, numbered from 1; 0 for an image without a class."""
    _, inverse, times = np.unique(classes, return_inverse=True, return_counts=True)
    strata = np.zeros(count, np.int64)
    order = np.argsort(-times[inverse], kind="stable")  # the rarest is written last
    strata[rows[order]] = inverse[order] + 1
    return strata


def _lost(drawn: np.ndarray, rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The classes that only drawn images have."""
    return np.setdiff1d(classes[drawn[rows]], classes[~drawn[rows]])
