"""Images and their masks: which files belong together, by their names."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glocal.data.image import is_image_name, left_out
from glocal.data.walk import files_below
from glocal.errors import InvalidValueError
from glocal.wording import quoted

# Names of folders, in lower case.
IMAGES = ("images", "image", "imgs", "img", "img_dir", "jpegimages", "photos", "leftimg8bit")
MASKS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "ann_dir", "segmentation", "segmentations",
    "segmentationclass", "segmentationclassraw", "labelids", "gt", "ground_truth", "groundtruth",
)  # fmt: skip
# What the names of an image and of its mask have behind what they have in common.
IMAGE_SUFFIXES = ("", "_image", "_img", "_rgb", "_sat", "_leftImg8bit")
MASK_SUFFIXES = (
    "", "_mask", "-mask", "_masks", "_label", "_labels", "_gt", "_seg", "_segmentation", "_L", "_labelIds",
    "_labelTrainIds", "_gtFine_labelIds", "_gtFine_labelTrainIds",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    image: str
    mask: str


@dataclass(frozen=True)
class Part:
    """Images with their masks, and what has no other half."""

    pairs: list[Pair]
    images_alone: list[str]
    masks_alone: list[str]


def paired(
    images: Path, masks: Path, notes: list[str], image_suffix: str | None = None, mask_suffix: str | None = None
) -> Part:
    """The images and the masks whose names fit together.

    The folders below are part of a name. The suffixes, where they are not given, are those that most names have.
    """
    below = files_below([str(images), str(masks)])
    of_images = [file for file in below[str(images)] if is_image_name(file)]
    of_masks = [file for file in below[str(masks)] if is_image_name(file)]
    others = [file for file in below[str(images)] if not is_image_name(file)]
    if others:
        notes.append(f"{images}: {left_out(others)}")
    whole = {os.path.relpath(file, images): file for file in of_images}
    names = {os.path.splitext(name)[0]: file for name, file in whole.items()}
    mask_names = {os.path.splitext(os.path.relpath(file, masks))[0]: file for file in of_masks}
    best: dict[str, tuple[str, str]] = {}
    image_suffixes = IMAGE_SUFFIXES if image_suffix is None else (image_suffix,)
    mask_suffixes = MASK_SUFFIXES if mask_suffix is None else (mask_suffix,)
    for end in image_suffixes:
        keys = {name.removesuffix(end): file for name, file in names.items() if name.endswith(end)}
        for mask_end in mask_suffixes:
            found = {
                key: (file, mask_names[key + mask_end]) for key, file in keys.items() if key + mask_end in mask_names
            }
            best = found if len(found) > len(best) else best
    with_ending = {name: (file, mask_names[name]) for name, file in whole.items() if name in mask_names}  # a.jpg.png
    if len(with_ending) > len(best):
        best = with_ending
    else:
        _check_doubles(of_images, {image for image, _ in best.values()})
    _check_doubles(of_masks, {mask for _, mask in best.values()})
    used = {file for pair in best.values() for file in pair}
    if mask_suffix:  # other files beside the masks are known
        of_masks = [file for file in of_masks if os.path.splitext(file)[0].endswith(mask_suffix)]
    return Part(
        [Pair(*best[key]) for key in sorted(best)],
        [file for file in of_images if file not in used],
        [file for file in of_masks if file not in used],
    )


def _check_doubles(files: Sequence[str], paired: set[str]) -> None:
    """Raise ValueError if two files have the name that belongs to one other half."""
    stems = Counter(os.path.splitext(file)[0] for file in files)
    for file in sorted(paired):
        stem = os.path.splitext(file)[0]
        if stems[stem] > 1:
            same = [other for other in files if os.path.splitext(other)[0] == stem]
            raise InvalidValueError(f"{quoted(same)} differ in their endings alone: leave the one that is meant")
