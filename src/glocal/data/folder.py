"""Image folders: one subfolder per class, in one folder or in `train` and `val`."""

import os
from pathlib import Path

from glocal.data.image import is_image_name
from glocal.data.source import (
    DataSource,
    Samples,
    check_classes,
    counted,
    fingerprint,
    hold_out,
    hold_out_again,
    quoted,
)


def open_training_folder(root: Path, val_fraction: float | None, seed: int) -> DataSource:
    """Open `root/train` and `root/val`, or split `root` itself; see `open_for_training`.

    Every class needs at least one training image: an empty class folder is refused, as it is nearly always a copy that
    failed. A class without validation images is only noted.
    """
    notes: list[str] = []
    if _is_split(root):
        for part in ("train", "val"):
            if not (root / part).is_dir():
                raise FileNotFoundError(
                    f"{root} has no subfolder {part!r} beside {_other(part)!r}: "
                    f"add it, or give {root / _other(part)}, which is then split by --val-fraction"
                )
        if val_fraction is not None:
            raise ValueError(f"--val-fraction does not apply to {root}: it has a subfolder 'val'")
        class_names, train = _scan(root / "train", notes, refuse_empty=True)
        val_names, val = _scan(root / "val", notes)
        _check_known(root, class_names, val_names)
        val = val.relabel([class_names.index(name) for name in val_names])
        source = DataSource(str(root), class_names, {"train": train, "val": val}, notes=notes)
    else:
        class_names, samples = _scan(root, notes, refuse_empty=True)
        source = DataSource(str(root), class_names, {"all": samples}, notes=notes)
        source = hold_out(source, val_fraction, seed, _fingerprint(root, samples))
    check_classes(source)
    return source


def open_evaluation_folder(root: Path, held_out: dict | None) -> DataSource:
    """Open what there is of `root/train` and `root/val`, or `root` itself; see `open_for_evaluation`."""
    notes: list[str] = []
    if _is_split(root):
        splits, names = {}, set()
        scanned = {part: _scan(root / part, notes) for part in ("train", "val") if (root / part).is_dir()}
        for part_names, _ in scanned.values():
            names.update(part_names)
        class_names = sorted(names)
        for part, (part_names, samples) in scanned.items():
            splits[part] = samples.relabel([class_names.index(name) for name in part_names])
        return DataSource(str(root), class_names, splits, notes=notes)
    class_names, samples = _scan(root, notes)
    source = DataSource(str(root), class_names, {"all": samples}, notes=notes)
    if held_out and held_out["files"] == _fingerprint(root, samples):
        notes.append(f"{root} is the folder of the training: its split 'val' is what was held out then")
        return hold_out_again(source, held_out)
    return source


def _is_split(root: Path) -> bool:
    """Whether `root` is divided into `train` and `val`; raises for what is no folder or divided in another way.

    A part holds class folders. A folder of that name that holds images is a class: trains, for instance.
    """
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file: give the folder that holds one subfolder of images per class")
    parts = {
        path.name for path in root.iterdir() if path.is_dir() and any(inside.is_dir() for inside in path.iterdir())
    }
    if parts & {"train", "val"}:
        return True
    foreign = sorted(parts & {"training", "test", "valid", "validation"})
    if len(foreign) > 1:
        raise ValueError(f"{root} is divided into {quoted(foreign)}: rename the parts to 'train' and 'val'")
    return False


def _other(part: str) -> str:
    return {"train": "val", "val": "train"}[part]


def _scan(root: Path, notes: list[str], refuse_empty: bool = False) -> tuple[list[str], Samples]:
    """List the classes below `root` and their images, sorted, at any depth; adds to `notes` what is left out."""
    folders = sorted(
        (path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))),
        key=lambda path: path.name,
    )
    loose = sum(is_image_name(path) for path in root.iterdir())
    if not folders:
        found = f"{counted(loose, 'image')} directly in it" if loose else "it is empty"
        raise ValueError(f"{root} has no class folders ({found}): put each class's images in a subfolder of its own")
    if loose:
        notes.append(f"{root}: left out {counted(loose, 'image')} beside the class folders")
    names, empty, images, labels, others = [], [], [], [], 0
    for folder in folders:
        files = sorted(
            os.path.join(place, file)
            for place, _, inside in os.walk(folder, followlinks=True)
            for file in inside
            if not file.startswith(".")
        )
        of_class = [file for file in files if is_image_name(file)]
        others += len(files) - len(of_class)
        if not of_class:
            empty.append(folder.name)
            continue
        images += of_class
        labels += [len(names)] * len(of_class)
        names.append(folder.name)
    if others:
        notes.append(f"{root}: left out {counted(others, 'file')} whose names do not end like an image's")
    if not images:
        raise ValueError(f"{root} holds no images: {counted(len(folders), 'class folder')}, all empty")
    if empty and refuse_empty:
        raise ValueError(f"{root}: no images in the class folder {quoted(empty)}; fill it or remove it")
    if empty:
        notes.append(f"{root}: no images in the class folder {quoted(empty)}")
    return names, Samples(images, labels)


def _check_known(root: Path, train: list[str], val: list[str]) -> None:
    unknown = [name for name in val if name not in train]
    if unknown:
        raise ValueError(f"{root}: val holds classes that train does not: {quoted(unknown)}")


def _fingerprint(root: Path, samples: Samples) -> str:
    """Identify a folder by the names of its images, wherever it lies."""
    return fingerprint(Path(image).relative_to(root).as_posix() for image in samples.images)
