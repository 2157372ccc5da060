"""Data sets of the Hugging Face library `datasets`, by name or from a folder."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from glocal.data import mask_classes, table_objects
from glocal.data.class_lists import class_list
from glocal.data.image import StoredImage
from glocal.data.masks import MaskFile
from glocal.data.names import class_name, split_of
from glocal.data.object_table import strata_of
from glocal.data.objects import Objects
from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.splits import check_classes, fingerprint, hold_out, hold_out_again, refuse_to_draw
from glocal.data.walk import entries, is_folder
from glocal.errors import InvalidValueError, MissingExtraError, PathError
from glocal.wording import one_line, quoted, shown

if TYPE_CHECKING:
    import datasets

# The names of folders from which the library knows splits.
KNOWN_TO_DATASETS = re.compile(
    r"(.*[-._ \d])?(train|training|validation|valid|val|dev|test|testing|eval|evaluation)([-._ \d].*)?"
)
LABEL_NAMES = ("label", "labels", "class")
ARGS = ("masks", "classes", *table_objects.ARGS, *mask_classes.ARGS)
# Columns of images that are masks.
MASK_NAMES = ("annotation", "annotations", "mask", "masks", "label", "labels", "segmentation", "segmentation_mask")
COMPARED = 16  # masks that identify a table, spread evenly
SAVED_BY_SAVE_TO_DISK = ("dataset_dict.json", "state.json")


def matches(data: str) -> bool:
    return data.startswith("hf:")


def open_training(data: str, how: Opening) -> DataSource:
    """Open the splits train and validation (or val, valid, test), or split train; see `open_for_training`."""
    parts = _load(data)
    source = _open(data, parts, how.args)
    if "train" not in source.splits:
        raise InvalidValueError(f"{data} has no split 'train': it has {quoted(list(source.splits))}")
    if "val" not in source.splits:
        samples = source.splits["train"]
        groups = None if how.group is None else _groups(data, parts[_used(parts)["train"]], how.group)
        strata = strata_of(samples) if source.task == "detection" else None
        strata = [0] * len(samples) if source.task == "segmentation" else strata
        source = hold_out(replace(source, splits={"all": samples}), how, _fingerprint(samples), groups, strata)
    else:
        refuse_to_draw(data, how, "it has a validation split")
    return source if source.task in ("segmentation", "detection") else check_classes(source)


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    """Open train and validation (or val, valid, test), as far as they exist; see `open_for_evaluation`."""
    source = _open(data, _load(data), how.args)
    if held_out and list(source.splits) == ["train"] and held_out["files"] == _fingerprint(source.splits["train"]):
        note = f"{data} is the data set of the training: its split 'val' is what was held out then"
        return hold_out_again(source.with_splits(all=source.splits["train"]), held_out).with_notes(note)
    return source


class RowImage:
    """The image in one row of a data set, decoded when it is loaded."""

    __slots__ = ("column", "name", "row", "table")

    def __init__(self, table: "datasets.Dataset", row: int, column: str, name: str):
        self.table = table  # with undecoded images
        self.row = row
        self.column = column
        self.name = name

    def __str__(self) -> str:
        return f"{self.name}, row {self.row}"

    def load(self) -> Image.Image:
        """The image as RGB; raises UnreadableImageError."""
        return self.stored().load()

    def stored(self) -> StoredImage:
        """The image with its content."""
        image = self.table[self.row][self.column] or {}
        content, path = image.get("bytes"), image.get("path")
        return (
            StoredImage(str(self), None, path) if content is None and path else StoredImage(str(self), content or b"")
        )


class RowMask:
    """The mask in one row of a data set; see `StoredMask`."""

    __slots__ = ("column", "name", "row", "table")

    def __init__(self, table: "datasets.Dataset", row: int, column: str, name: str):
        self.table = table  # with undecoded images
        self.row = row
        self.column = column
        self.name = name

    def __str__(self) -> str:
        return f"{self.name}, row {self.row}, {self.column}"

    def read(self) -> bytes | str:
        mask = self.table[self.row][self.column] or {}
        content, path = mask.get("bytes"), mask.get("path")
        return path if content is None and path else content or b""


def _open(data: str, parts: "dict[str, datasets.Dataset]", args: Mapping[str, Any]) -> DataSource:
    notes: list[str] = []
    used = _used(parts)
    chosen = {part: parts[name] for part, name in used.items()} or dict(list(parts.items())[:1])
    unused = sorted(set(parts) - set(used.values()))
    if unused and set(chosen) <= {"train", "val"}:
        notes.append(f"{data}: left out the split {quoted(unused)}")
    first = next(iter(chosen.values()))
    objects = _objects_column(data, first, args, notes)
    if objects is not None:
        image = _image_column(data, first, None, notes)
        images = {part: _images(table, image, f"{data} ({part})") for part, table in chosen.items()}
        return table_objects.open_objects(data, chosen, images, objects, args, notes)
    mask = _mask_column(data, first, args, notes)
    image = _image_column(data, first, mask, notes)
    if mask is not None:
        return _open_masks(data, chosen, image, mask, args, notes)
    column, class_names, multi_label = _label_column(data, chosen, notes)
    number = {name: label for label, name in enumerate(class_names)}
    splits = {}
    for part, table in chosen.items():
        labels = _labels(data, table, column, number, multi_label)
        splits[part] = Samples(_images(table, image, f"{data} ({used.get(part, part)})"), labels)
    return DataSource(data, class_names, splits, notes=notes, task="multilabel" if multi_label else "classification")


def _images(table: "datasets.Dataset", column: str, name: str) -> list[RowImage]:
    """The images of a column, undecoded. name: of the table."""
    table = table.select_columns([column]).cast_column(column, _undecoded())
    return [RowImage(table, row, column, name) for row in range(len(table))]


def _open_masks(
    data: str,
    chosen: "dict[str, datasets.Dataset]",
    image: str,
    mask: str,
    args: Mapping[str, Any],
    notes: list[str],
) -> DataSource:
    """The data set with a column of masks for the annotations."""
    images, masks = {}, {}
    for part, table in chosen.items():
        name = f"{data} ({part})"
        of_masks = table.select_columns([mask]).cast_column(mask, _undecoded())
        images[part] = _images(table, image, name)
        masks[part] = [RowMask(of_masks, row, mask, name) for row in range(len(table))]
    known = class_list(args["classes"], Path(data.removeprefix("hf:"))) if "classes" in args else None
    first = masks.get("train") or next(iter(masks.values()))
    classes, coding = mask_classes.coded(data, known, first, args, notes)
    splits = {part: Samples(images[part], [MaskFile(one, coding) for one in masks[part]]) for part in chosen}
    about = mask_classes.about_classes(classes, coding, first[0])
    return DataSource(data, list(classes.names), splits, notes=notes, task="segmentation", about=about)


def _objects_column(data: str, table: "datasets.Dataset", args: Mapping[str, Any], notes: list[str]) -> str | None:
    """The column of objects: the one that is named, or the first where there are neither labels nor masks."""
    import datasets

    found = table_objects.object_columns(table)
    if "objects" in args:
        if args["objects"] not in found:
            raise InvalidValueError(f"{data} has no column of objects {shown(args['objects'])}: it has {quoted(found)}")
        return args["objects"]
    if not found or not set(args) <= set(table_objects.ARGS):
        return None
    inner = {name: getattr(feature, "feature", feature) for name, feature in table.features.items()}
    labels = [
        name for name, feature in inner.items() if isinstance(feature, datasets.ClassLabel) or name in LABEL_NAMES
    ]
    images = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    if labels or (len(images) > 1 and any(name.lower() in MASK_NAMES for name in images)):
        notes.append(f"{data}: {found[0]!r} holds boxes; --data-args objects={found[0]} trains a detection")
        return None
    return _first(data, "objects", found, notes)


def _used(parts: "dict[str, datasets.Dataset]") -> dict[str, str]:
    """Which splits are "train" and "val", whatever their spelling: the first of each; test, where val is missing."""
    of_split: dict[str, str] = {}
    for name in sorted(parts, key=lambda name: name not in ("train", "validation", "test")):
        of_split.setdefault(split_of(name), name)
    found = {"train": of_split.get("train"), "val": of_split.get("val") or of_split.get("test")}
    return {part: name for part, name in found.items() if name is not None}


def _load(data: str) -> "dict[str, datasets.Dataset]":
    """The splits that `data` names, as `datasets` calls them."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(f"{data} needs the library datasets: pip install 'glocal[data]'") from None
    place = data.removeprefix("hf:")
    if not place:
        raise InvalidValueError("hf: needs the name or the folder of a data set, as in hf:cifar10")
    folder = Path(place)
    saved = any((folder / name).is_file() for name in SAVED_BY_SAVE_TO_DISK)
    if folder.is_dir() and not saved:
        _check_folder(data, folder)
    name, _, config = (place, "", "") if folder.exists() else place.partition(":")
    try:
        loaded = datasets.load_from_disk(place) if saved else datasets.load_dataset(name, config or None)
    except Exception as error:  # anything, from pyarrow's errors to those of a network
        reason = one_line(error)
        if saved and isinstance(error, IndexError):  # what load_from_disk makes of an empty table
            reason = "it holds no rows"
        raise PathError(f"{data} cannot be opened: {reason}") from None
    if isinstance(loaded, datasets.Dataset):
        split = str(loaded.split)
        loaded = {split if split_of(split) in ("val", "test") else "train": loaded}
    parts = {part: table for part, table in loaded.items() if len(table)}
    if not parts:
        raise InvalidValueError(f"{data} holds no rows")
    return parts


def _check_folder(data: str, folder: Path) -> None:
    """Refuse what `datasets` would leave out, or mix, without a word: ValueError."""
    folders = [entry for entry in entries(folder) if is_folder(entry)]
    unknown = [entry.name for entry in folders if split_of(entry.name) and not KNOWN_TO_DATASETS.fullmatch(entry.name)]
    if unknown:
        raise InvalidValueError(
            f"{data}: the library datasets takes {quoted(unknown)} for no part: "
            f"give {folder} without hf:, or write the names as train and validation"
        )
    inner = [entry for place in folders for entry in entries(place.path) if is_folder(entry)]
    special = sorted({entry.name for entry in [*folders, *inner] if entry.name.startswith("__")})
    if special:
        raise InvalidValueError(f"{data}: the library datasets leaves out {quoted(special)}: give {folder} without hf:")


def _undecoded():
    import datasets

    return datasets.Image(decode=False)


def _mask_column(data: str, table: "datasets.Dataset", args: Mapping[str, Any], notes: list[str]) -> str | None:
    """The column of masks: the one that is named, or one with a usual name where there are no labels of classes."""
    import datasets

    images = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    if "masks" in args:
        if args["masks"] not in images or len(images) < 2:
            raise InvalidValueError(f"{data} has no column of masks {shown(args['masks'])}: it has {quoted(images)}")
        return args["masks"]
    found = [name for name in images if name.lower() in MASK_NAMES] if len(images) > 1 else []
    inner = {name: getattr(feature, "feature", feature) for name, feature in table.features.items()}
    labels = [name for name, feature in inner.items() if isinstance(feature, datasets.ClassLabel)]
    if found and not labels:
        return _first(data, "masks", found, notes)
    if args:
        raise InvalidValueError(
            f"{data}: {quoted(list(args))} is for masks: say their column with --data-args masks=NAME"
        )
    if found:
        notes.append(f"{data}: {found[0]!r} may hold masks; --data-args masks={found[0]} trains a segmentation")
    return None


def _image_column(data: str, table: "datasets.Dataset", mask: str | None, notes: list[str]) -> str:
    import datasets

    found = [name for name, one in table.features.items() if isinstance(one, datasets.Image) and name != mask]
    if not found:
        raise InvalidValueError(f"{data} has no column of images: it has {quoted(table.column_names)}")
    return _first(data, "images", found, notes)


def _label_column(data: str, tables: "dict[str, datasets.Dataset]", notes: list[str]) -> tuple[str, list[str], bool]:
    """The column of labels, the names of the classes, and whether a row has several labels."""
    import datasets

    features = next(iter(tables.values())).features
    single = {name: feature for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)}
    inner = {name: getattr(feature, "feature", None) for name, feature in features.items()}
    several = {name: feature for name, feature in inner.items() if isinstance(feature, datasets.ClassLabel)}
    if single or several:
        column = _first(data, "labels", sorted(single or several, key=_preferred), notes)
        names = [class_name(name) for name in (single or several)[column].names]
        if len(set(names)) < len(names):
            raise InvalidValueError(f"{data}: the column {column!r} names a class twice")
        return column, list(names), not single
    plain = [name for name, feature in features.items() if name in LABEL_NAMES and isinstance(feature, datasets.Value)]
    if not plain:
        raise InvalidValueError(f"{data} has no column of class labels: it has {quoted(list(features))}")
    values = {value for table in tables.values() for value in table.unique(plain[0]) if value is not None}
    if not all(isinstance(value, (str, int)) for value in values):
        raise InvalidValueError(f"{data}: the column {plain[0]!r} holds neither names nor whole numbers")
    return plain[0], list(dict.fromkeys(class_name(str(value)) for value in sorted(values))), False


def _preferred(name: str) -> int:
    return LABEL_NAMES.index(name) if name in LABEL_NAMES else len(LABEL_NAMES)


def _first(data: str, what: str, columns: list[str], notes: list[str]) -> str:
    if len(columns) > 1:
        notes.append(f"{data}: {what} are those of the column {columns[0]!r}, not of {quoted(columns[1:])}")
    return columns[0]


def _labels(
    data: str, table: "datasets.Dataset", column: str, number: dict[str, int], multi_label: bool
) -> list[int] | list[tuple[int, ...]]:
    values: Sequence = table.with_format(None)[column][:]
    is_class = getattr(table.features.get(column), "names", None) is not None
    labels = []
    for row, value in enumerate(values):
        if multi_label:
            label = tuple(sorted(set(value or ())))
        else:
            label = value if is_class or value is None else number[class_name(str(value))]
        if label is None or any(not 0 <= i < len(number) for i in (label if multi_label else [label])):
            raise InvalidValueError(f"{data}, row {row}: no label ({value!r} in the column {column!r})")
        labels.append(label)
    return labels


def _groups(data: str, table: "datasets.Dataset", column: str) -> list:
    """The values of the column that --group names, one for each row."""
    if column not in table.column_names:
        raise InvalidValueError(f"{data} has no column {column!r} (--group): it has {quoted(table.column_names)}")
    values = list(table.with_format(None).select_columns([column])[column])
    other = next((value for value in values if not isinstance(value, (str, int, float, NoneType))), None)
    if other is not None:
        raise InvalidValueError(f"{data}: the column {column!r} (--group) holds neither texts nor numbers")
    return [None if value == "" or value != value else value for value in values]  # nan is no value


def _fingerprint(samples: Samples) -> str:
    """Identify a table by its labels, in the order of its rows: its images need not have names."""
    if samples.labels and isinstance(samples.labels[0], MaskFile):
        places = np.unique(np.linspace(0, len(samples) - 1, COMPARED).astype(int)).tolist()
        masks = [hashlib.sha256(_content(samples.labels[place].path)).hexdigest() for place in places]
        return fingerprint([str(len(samples)), *masks])
    if samples.labels and isinstance(samples.labels[0], Objects):
        return fingerprint(f"{row}\t{label.content()}" for row, label in enumerate(samples.labels))
    return fingerprint(f"{row}\t{label}" for row, label in enumerate(samples.labels))


def _content(mask: RowMask) -> bytes:
    """The content of a mask, or the name of its file."""
    found = mask.read()
    return found if isinstance(found, bytes) else Path(found).name.encode("utf-8", "surrogateescape")
