"""The published robustness sets of ImageNet, in the folder layouts of their authors."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from timm.data import ImageNetInfo

from glocal.data.corruptions import ALEXNET_ERROR, SEVERITIES
from glocal.data.image import images_below
from glocal.data.open import open_for_evaluation
from glocal.data.samples import DataSource, Samples
from glocal.errors import InvalidValueError, MissingPathError

# A and R have 200 classes each; models are measured on these classes (Hendrycks et al., arXiv 1907.07174, 2006.16241).
SUBSETS = {"imagenet-a": 200, "imagenet-r": 200}
_Real = list[list[Annotated[int, Meta(ge=0, lt=1000)]]]  # the accepted classes of each image
VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.")  # numbered from 1


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The WordNet ids of ImageNet-1K's 1000 classes, in the order of the labels."""
    return tuple(ImageNetInfo("imagenet-1k").label_names())


def open_robustness_set(name: str, root: Path, model_classes: Sequence[str]) -> DataSource:
    """Open ImageNet-A, -R, -Sketch or -V2: a folder per class below `root`.

    V2's folders have the numbers of the classes; if the model names classes by WordNet id, they are translated.
    """
    _check_folder(name, root)
    source, _ = open_for_evaluation(str(root), "all")
    names = source.class_names
    numbered = all(label.isdecimal() for label in names)
    if name == "imagenet-v2" and numbered and not set(names) <= set(model_classes):
        ids = imagenet_classes()
        beyond = [label for label in names if int(label) >= len(ids)]
        if beyond:
            raise InvalidValueError(f"{root}: the folder {beyond[0]!r} is no number of a class, which go from 0 to 999")
        source = replace(source, class_names=[ids[int(label)] for label in names])
    if len(names) != SUBSETS.get(name, len(names)):
        return source.with_notes(f"{root} holds {len(names)} classes; {name} has {SUBSETS[name]}")
    return source


def open_corrupted(root: Path) -> dict[tuple[str, int], DataSource]:
    """Open ImageNet-C: a data set for each (corruption, severity) in `root/CORRUPTION/SEVERITY/CLASS/`.

    The archives' own folders, as in `root/noise/gaussian_noise`, are found too.
    """
    _check_folder("imagenet-c", root)
    found = {}
    for corruption in ALEXNET_ERROR:
        places = [place for place in (root / corruption, *root.glob(f"*/{corruption}")) if place.is_dir()]
        for severity in SEVERITIES:
            if places and (places[0] / str(severity)).is_dir():
                found[corruption, severity], _ = open_for_evaluation(str(places[0] / str(severity)), "all")
    if not found:
        raise InvalidValueError(f"{root} holds no folder such as gaussian_noise/1: is it ImageNet-C?")
    return found


def open_real(root: Path) -> tuple[Samples, list[tuple[int, ...]], int]:
    """Open the ImageNet validation images below `root` with their ReaL labels (Beyer et al., arXiv 2006.07159).

    The labels come from `root/real.json`, or else from timm: a list of class numbers for each validation image, in the
    order of the file names. Returns the images, whose label is their place in the list of accepted classes; that list;
    and the number of images that are left out because they have no label.
    """
    _check_folder("real", root)
    file = root / "real.json"
    text = (file if file.is_file() else files("timm.data") / "_info" / "imagenet_real_labels.json").read_text()
    accepted = _parse_real(text, file)
    paths, labels, unlabelled, beyond = [], [], 0, 0
    for path in images_below(str(root))[0]:
        number = VALIDATION_NAME.match(Path(path).name)
        if number is None:
            continue
        place = int(number[1]) - 1
        if not 0 <= place < len(accepted):
            beyond += 1
        elif accepted[place]:
            paths.append(path)
            labels.append(place)
        else:
            unlabelled += 1
    if beyond:
        raise InvalidValueError(f"{file} has {len(accepted):,} entries, too few for {beyond:,} of the images in {root}")
    if not paths:
        raise InvalidValueError(f"{root} holds no image named like ILSVRC2012_val_00000001.JPEG that has ReaL labels")
    return Samples(paths, labels), accepted, unlabelled


def _parse_real(text: str, file: Path) -> list[tuple[int, ...]]:
    try:
        accepted = [tuple(labels) for labels in msgspec.json.decode(text, type=_Real)]
    except (ValueError, RecursionError):
        raise InvalidValueError(f"{file} is no list with a list of class numbers (0 to 999) per image") from None
    return accepted


def _check_folder(name: str, root: Path) -> None:
    if not root.is_dir():
        raise MissingPathError(f"--set {name} needs the folder of that set, and there is no folder {str(root)!r}")
