"""Image folders: one subfolder per class, in one folder or in `train` and `val`."""

import os
from pathlib import Path

from glocal.data.groups import groups_of_files
from glocal.data.image import is_image_name, left_out
from glocal.data.mask_pairs import IMAGES, MASKS
from glocal.data.names import class_name, split_of
from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.splits import check_classes, fingerprint, hold_out, hold_out_again, refuse_to_draw
from glocal.data.walk import entries, files_below, is_folder, parents
from glocal.errors import InvalidValueError, MissingPathError, NotAFolderError
from glocal.wording import counted, quoted


def matches(data: str) -> bool:
    return Path(data).exists()


def open_training(data: str, how: Opening) -> DataSource:
    """Open the training and the validation part of a folder, or split the folder itself; see `open_for_training`.

    Every class needs at least one training image: an empty class folder is refused, as it is nearly always a copy that
    failed. A class without validation images is only noted.
    """
    root, notes = Path(data), []
    parts = _parts(root, notes)
    if parts:
        for part, other in (("train", "val"), ("val", "train")):
            if part not in parts:
                there = parts[other]
                raise MissingPathError(
                    f"{root} has no subfolder {part!r} beside {there.name!r}: "
                    f"add it, or give {there}, which is then split by --val-fraction"
                )
        refuse_to_draw(str(root), how, f"it has a subfolder {parts['val'].name!r}")
        scanned = _scan(root, parts, notes, full="train")
        (class_names, train), (val_names, val) = scanned["train"], scanned["val"]
        _check_known(root, class_names, val_names)
        val = val.relabel([class_names.index(name) for name in val_names])
        source = DataSource(str(root), class_names, {"train": train, "val": val}, notes=notes)
    else:
        class_names, samples = _scan(root, {"all": root}, notes, full="all")["all"]
        source = DataSource(str(root), class_names, {"all": samples}, notes=notes)
        names = _names(root, samples)
        groups = None if how.group is None else groups_of_files(str(root), names, how.group)
        source = hold_out(source, how, fingerprint(names), groups)
    return check_classes(source).with_notes(*_notes_on_masks(root, class_names))


def _notes_on_masks(root: Path, class_names: list[str]) -> list[str]:
    """What to say of two classes that are called like images and their masks: perhaps they are that."""
    lower = {name.lower() for name in class_names}
    if len(class_names) != 2 or not lower & {*IMAGES} or not lower & {*MASKS}:
        return []
    return [
        f"{root}: {quoted(class_names)} are taken for two classes; if the second holds masks of the first, give "
        "--task segmentation"
    ]


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    """Open the training and the validation part if they exist, else the folder itself; see `open_for_evaluation`."""
    root, notes = Path(data), []
    parts = _parts(root, notes)
    if parts:
        scanned = _scan(root, parts, notes)
        class_names = sorted({name for part_names, _ in scanned.values() for name in part_names})
        splits = {
            part: samples.relabel([class_names.index(name) for name in part_names])
            for part, (part_names, samples) in scanned.items()
        }
        return DataSource(str(root), class_names, splits, notes=notes)
    class_names, samples = _scan(root, {"all": root}, notes)["all"]
    source = DataSource(str(root), class_names, {"all": samples}, notes=notes)
    if held_out and held_out["files"] == fingerprint(_names(root, samples)):
        note = f"{root} is the folder of the training: its split 'val' is what was held out then"
        return hold_out_again(source, held_out).with_notes(note)
    return source


def _parts(root: Path, notes: list[str]) -> dict[str, Path]:
    """The folders "train" and "val" that `root` is divided into, whatever their spelling; empty where it is not.

    A part holds class folders. A single folder called train that holds images is a class: trains, for instance. Other
    names of parts are none of classes: ValueError.
    """
    if not root.is_dir():
        raise NotAFolderError(f"{root} is a file: give the folder that holds one subfolder of images per class")
    folders = [entry.name for entry in entries(root) if is_folder(entry)]
    named = [name for name in folders if split_of(name)]
    divided = [name for name in named if any(is_folder(entry) for entry in entries(root / name))]
    flat = [name for name in named if name not in divided]
    of_split: dict[str, list[str]] = {}
    for name in divided:
        of_split.setdefault(split_of(name), []).append(name)
    for split, names in of_split.items():
        if len(names) > 1:
            raise InvalidValueError(
                f"{root} has {quoted(names)}, each of them named like a {split} part: leave one of them"
            )
    unlabelled = [name for name in flat if divided and split_of(name) == "test"]
    unclear = [name for name in flat if name not in unlabelled]
    if unclear and (divided or len(folders) == 1 or [split_of(name) for name in unclear] != ["train"]):
        raise InvalidValueError(
            f"{root}: {quoted(unclear)} {'are' if len(unclear) > 1 else 'is'} named like a part of a data set, but "
            "without class folders: make a subfolder per class in it, move it elsewhere, or rename it if it is a class"
        )
    parts = {split: root / names[0] for split, names in of_split.items()}
    if "val" not in parts and "test" in parts:
        parts["val"] = parts.pop("test")
        if "train" in parts:
            notes.append(f"{root}: validated on {parts['val'].name!r}")
    parts.pop("test", None)
    beside = [name for name in folders if root / name not in parts.values()] if parts else []
    if beside:
        notes.append(f"{root}: left out {quoted(beside)} beside {quoted(sorted(part.name for part in parts.values()))}")
    return parts


def _scan(
    root: Path, parts: dict[str, Path], notes: list[str], full: str | None = None
) -> dict[str, tuple[list[str], Samples]]:
    """The classes in each part and their images, sorted, at any depth; adds to `notes` what is left out.

    full: the part in which no class may be without images.
    """
    folders = {part: _class_folders(place, notes) for part, place in parts.items()}
    _drop_doubles(root, parts, folders, notes)
    files = files_below(path for classes in folders.values() for paths in classes.values() for path in paths)
    scanned = {}
    for part, place in parts.items():
        names, empty, images, labels, others = [], [], [], [], []
        for name, paths in sorted(folders[part].items()):
            of_class = [file for path in paths for file in files[path]]
            others += [file for file in of_class if not is_image_name(file)]
            of_class = [file for file in of_class if is_image_name(file)]
            if not of_class:
                empty.append(name)
                continue
            images += of_class
            labels += [len(names)] * len(of_class)
            names.append(name)
        hint = f" ({left_out(others)})" if others else ""
        if not images:
            raise InvalidValueError(f"{place} holds no images: {counted(len(empty), 'class folder')}, all empty{hint}")
        if empty and part == full:
            raise InvalidValueError(
                f"{place}: no images in the class folder {quoted(empty)}; fill it or remove it{hint}"
            )
        if empty:
            notes.append(f"{place}: no images in the class folder {quoted(empty)}")
        if others:
            notes.append(f"{place}: {left_out(others)}")
        scanned[part] = names, Samples(images, labels)
    return scanned


def _class_folders(place: Path, notes: list[str]) -> dict[str, list[str]]:
    """The class folders in a part, by the name of the class."""
    inside = entries(place)
    loose = sum(is_image_name(entry.name) for entry in inside if not is_folder(entry))
    folders = [entry for entry in inside if is_folder(entry)]
    if not folders:
        found = f"{counted(loose, 'image')} directly in it" if loose else "it is empty"
        raise InvalidValueError(
            f"{place} has no class folders ({found}): put each class's images in a subfolder of its own"
        )
    if loose:
        notes.append(f"{place}: left out {counted(loose, 'image')} beside the class folders")
    classes: dict[str, list[str]] = {}
    for folder in folders:
        try:
            name = class_name(folder.name)
        except ValueError as error:
            raise InvalidValueError(f"{place}: a class folder must be renamed, {error}") from None
        classes.setdefault(name, []).append(folder.path)
    return classes


def _drop_doubles(
    root: Path, parts: dict[str, Path], folders: dict[str, dict[str, list[str]]], notes: list[str]
) -> None:
    """Leave out the links in `folders` that lead to another of them, so that no image is in two classes."""
    places = [(part, name, path) for part in parts for name, paths in folders[part].items() for path in paths]
    places.sort(key=lambda place: (os.path.islink(parts[place[0]]), os.path.islink(place[2])))
    seen, doubles = {os.path.realpath(root), *parents(str(root)), *map(os.path.realpath, parts.values())}, []
    for part, name, path in places:
        target = os.path.realpath(path)
        if target in seen:
            doubles.append(os.path.relpath(path, root))
            folders[part][name].remove(path)
        seen.add(target)
    for part, classes in folders.items():
        folders[part] = {name: paths for name, paths in classes.items() if paths}
        if not folders[part]:
            raise InvalidValueError(f"{parts[part]} holds nothing but links to folders that are there already")
    if doubles:
        notes.append(f"{root}: left out links to folders that are there already: {quoted(sorted(doubles))}")


def _check_known(root: Path, train: list[str], val: list[str]) -> None:
    unknown = [name for name in val if name not in train]
    if unknown:
        raise InvalidValueError(f"{root}: val holds classes that train does not: {quoted(unknown)}")


def _names(root: Path, samples: Samples) -> list[str]:
    """The names of a folder's images, the same wherever the folder lies."""
    return [Path(image).relative_to(root).as_posix() for image in samples.images]
