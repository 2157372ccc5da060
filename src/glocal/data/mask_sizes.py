"""Whether masks have the sizes of their images, by the heads of the files."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from glocal.data import raster
from glocal.data.class_lists import file_beside
from glocal.data.image import UnreadableImageError, is_strict, read_as
from glocal.data.mask_classes import most_checked, spread
from glocal.data.mask_pairs import Pair
from glocal.data.masks import check_size, mask_kind
from glocal.errors import InvalidValueError
from glocal.wording import counted

LOOKED_AT = 8  # pairs whose heads say whether a folder holds masks at all


def are_masks(root: Path, pairs: Sequence[Pair]) -> bool:
    """Whether files that have the names of images are their masks, and not images of another class.

    Either a class list lies beside them; or, of a few pairs, at least half have one size, and masks of one channel.
    """
    if file_beside(root) is not None:
        return True
    chosen = spread(pairs, LOOKED_AT)
    return 2 * sum(map(_is_mask, chosen)) >= len(chosen)


def _is_mask(pair: Pair) -> bool:
    try:
        return not mask_kind(pair.mask)[0].startswith("RGB") and misfit(pair) is None
    except UnreadableImageError:
        return False


def misfit(pair: Pair) -> UnreadableImageError | None:
    """What is to say against a mask that has another size than its image, as both are stored, turned or not.

    Raises UnreadableImageError if one of the heads cannot be read.
    """
    (_, found), size = mask_kind(pair.mask), _size_of(pair.image)
    if size == found[::-1]:
        return None
    try:
        check_size(pair.mask, found[::-1], size[::-1])
    except UnreadableImageError as error:
        return error
    return None


def check_sizes(root: Path, pairs: Sequence[Pair], notes: list[str]) -> None:
    """Look at some pairs: raise ValueError where no mask has the size of its image, note it where some have not."""

    def look(pair: Pair) -> UnreadableImageError | None:
        try:
            return misfit(pair)
        except UnreadableImageError:
            return None  # named when it is read

    chosen = spread(pairs, most_checked())
    with ThreadPoolExecutor() as threads:
        failed = [error for error in threads.map(look, chosen) if error is not None]
    if not failed:
        return
    total = counted(len(chosen), "mask")
    message = f"{root}: {len(failed)} of {total} have another size than their images, the first: {failed[0]}"
    if len(failed) == len(chosen) or is_strict():
        raise InvalidValueError(message)
    notes.append(message)


def _size_of(image: str) -> tuple[int, int]:
    """(width, height) as stored."""
    try:
        return read_as(image, lambda image: image.size)
    except UnreadableImageError:
        if raster.is_tiff(image):
            return raster.size_of(image)
        raise
