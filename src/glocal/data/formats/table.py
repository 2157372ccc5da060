"""CSV files of paths and labels, one image per row."""

import csv
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from glocal.data.names import class_name, split_of
from glocal.data.samples import DataSource, Opening, Samples
from glocal.data.splits import check_classes, fingerprint, hold_out, hold_out_again, refuse_to_draw
from glocal.errors import InvalidValueError, MissingPathError
from glocal.wording import counted, quoted

PATH_COLUMNS = ("path", "image", "file", "filename")  # otherwise the first
LABEL_COLUMNS = ("label", "class", "labels")
IS_VALID = {"1": "val", "true": "val", "yes": "val", "0": "train", "false": "train", "no": "train"}  # fastai's column
MISSING = ("", "nan")  # what an empty cell is, and what pandas and NumPy write for one


def matches(data: str) -> bool:
    return data.lower().endswith(".csv") and Path(data).is_file()


def open_training(data: str, how: Opening) -> DataSource:
    """Open the rows of `split` train and val, or split all rows; see `open_for_training`.

    A column `labels` holds any number of class names, separated by | or ;, a column `label` or `class` one.
    """
    file = Path(data)
    table = _read(file, how.group)
    if table.splits is None:
        source = hold_out(table.source({"all": table.rows}), how, table.fingerprint(), table.groups)
    else:
        refuse_to_draw(data, how, "it has a column 'split'")
        parts = {part: [row for row in table.rows if table.splits[row] == part] for part in ("train", "val")}
        for part, rows in parts.items():
            if not rows:
                raise InvalidValueError(
                    f"{file}: no row has the split {part!r}; without a column 'split', one is drawn"
                )
        source = table.source(parts)
    return check_classes(source)


def open_evaluation(data: str, how: Opening, held_out: dict | None) -> DataSource:
    """Open the rows of each `split`, or all rows; see `open_for_evaluation`."""
    file = Path(data)
    table = _read(file)
    if table.splits is not None:
        parts = {part: [row for row in table.rows if table.splits[row] == part] for part in ("train", "val")}
        return table.source({part: rows for part, rows in parts.items() if rows})
    source = table.source({"all": table.rows})
    if held_out and held_out["files"] == table.fingerprint():
        note = f"{file} is the table of the training: its split 'val' is what was held out then"
        return hold_out_again(source, held_out).with_notes(note)
    return source


@dataclass
class _Table:
    """The columns of a CSV file, unchanged; `splits` is None if there is no such column, `groups` if none is asked for.

    The group of an empty cell is None.
    """

    file: Path
    paths: list[str]
    labels: list[tuple[str, ...]]
    splits: list[str] | None
    groups: list[str | None] | None
    multi_label: bool
    notes: list[str]

    @property
    def rows(self) -> range:
        return range(len(self.paths))

    def source(self, parts: dict[str, list[int] | range]) -> DataSource:
        names = sorted({name for rows in parts.values() for row in rows for name in self.labels[row]}, key=_by_number)
        number = {name: label for label, name in enumerate(names)}
        splits = {}
        for part, rows in parts.items():
            labels = [tuple(sorted({number[name] for name in self.labels[row]})) for row in rows]
            images = [os.path.join(self.file.parent, self.paths[row]) for row in rows]
            splits[part] = Samples(images, labels if self.multi_label else [label for (label,) in labels])
        return DataSource(
            str(self.file), names, splits, notes=self.notes, task="multilabel" if self.multi_label else "classification"
        )

    def fingerprint(self) -> str:
        """Identify the table by its paths and labels, wherever it lies, in the order of its rows."""
        return fingerprint(
            f"{row}\t{path}\t{'|'.join(labels)}"
            for row, (path, labels) in enumerate(zip(self.paths, self.labels, strict=True))
        )


def _read(file: Path, group: str | None = None) -> _Table:
    """Read and check a table; ValueError and FileNotFoundError name the file, the row (of the file) and the reason."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start:,})") from None
    except csv.Error as error:
        raise InvalidValueError(f"{file}, row {reader.line_num}: {error}") from None
    if not rows:
        raise InvalidValueError(f"{file} is empty")
    header = [name.lower() for name in rows.pop(0)[1]]
    path_column, label_column, split_column = _columns(file, header)
    if group is not None and group.strip().lower() not in header:
        raise InvalidValueError(f"{file} has no column {group!r} (--group): its header has {quoted(header)}")
    if not rows:
        raise InvalidValueError(f"{file} holds a header and no rows")
    for line, row in rows:
        if len(row) != len(header):
            raise InvalidValueError(
                f"{file}, row {line}: {counted(len(row), 'cell')}, where the header has {len(header)}"
            )
    notes: list[str] = []
    if split_column is not None:
        rows = _with_known_splits(file, rows, split_column, header[split_column], notes)
    multi_label = header[label_column] == "labels"
    labels = []
    for line, row in rows:
        cell = row[label_column]
        names = cell.replace(";", "|").split("|") if multi_label else [cell]
        missing = multi_label and any(name.strip().lower() == "nan" for name in names)  # an empty cell: of no class
        names = [class_name(name.strip()) for name in names if name.strip().lower() not in MISSING]
        if missing or (not names and not multi_label):
            raise InvalidValueError(f"{file}, row {line}: no label ({cell!r} in the column {header[label_column]!r})")
        labels.append(tuple(names))
    _note_separators(file, labels, header[label_column], notes)
    paths = [row[path_column] for _, row in rows]
    _check_paths(file, paths, [line for line, _ in rows], notes)
    splits = None if split_column is None else [row[split_column] for _, row in rows]
    groups = None
    if group is not None:
        column = header.index(group.strip().lower())
        groups = [None if row[column].lower() in MISSING else row[column] for _, row in rows]
    return _Table(file, paths, labels, splits, groups, multi_label, notes)


def _columns(file: Path, header: list[str]) -> tuple[int, int, int | None]:
    """Where the path, the label and the split are."""
    twice = [name for name, times in Counter(header).items() if times > 1]
    if twice:
        raise InvalidValueError(f"{file}: its header has the column {quoted(twice)} more than once")
    has = f"its header has {quoted(header)}"
    found = [name for name in LABEL_COLUMNS if name in header]
    if not found:
        hint = "; columns are separated by commas" if len(header) == 1 and {";", "\t"} & set(header[0]) else ""
        raise InvalidValueError(f"{file} has no column 'label', 'class' or 'labels': {has}{hint}")
    if len(found) > 1:
        raise InvalidValueError(f"{file} has the columns {quoted(found)}: leave one of them")
    label = header.index(found[0])
    path = next((header.index(name) for name in PATH_COLUMNS if name in header), 0)
    splits = [name for name in ("split", "is_valid") if name in header]
    if len(splits) > 1:
        raise InvalidValueError(f"{file} has the columns {quoted(splits)}: leave one of them")
    split = header.index(splits[0]) if splits else None
    if path in (label, split):
        raise InvalidValueError(f"{file} has no column 'path': {has}")
    return path, label, split


def _with_known_splits(file: Path, rows: list, column: int, header: str, notes: list[str]) -> list:
    """The rows with "train" or "val" in `column`; those of "test" are left out, or take the place of val."""
    known = []
    for line, row in rows:
        cell = row[column]
        split = IS_VALID.get(cell.lower().removesuffix(".0")) if header == "is_valid" else split_of(cell)
        if split is None:
            expected = "0 or 1 (True)" if header == "is_valid" else "train or val"
            raise InvalidValueError(f"{file}, row {line}: {header!r} must be {expected}, got {cell!r}")
        known.append((line, [*row[:column], split, *row[column + 1 :]]))
    there = {row[column] for _, row in known}
    if {"train", "test"} == there:
        notes.append(f"{file}: validated on the rows of the split 'test'")
        return [(line, [*row[:column], row[column].replace("test", "val"), *row[column + 1 :]]) for line, row in known]
    known = [(line, row) for line, row in known if row[column] != "test"]
    if len(known) < len(rows):
        notes.append(f"{file}: left out {counted(len(rows) - len(known), 'row')} of the split 'test'")
    if not known:
        raise InvalidValueError(f"{file}: no row has the split 'train' or 'val'")
    return known


def _note_separators(file: Path, labels: list[tuple[str, ...]], column: str, notes: list[str]) -> None:
    """Note names that look like several."""
    separators = "," if column == "labels" else "|;"
    name = next((name for names in labels for name in names if any(one in name for one in separators)), None)
    if name is None:
        return
    several = "| or ; separates several" if column == "labels" else "several belong in a column 'labels'"
    notes.append(f"{file}: {name!r} in the column {column!r} is taken for one name; {several}")


def _check_paths(file: Path, paths: list[str], lines: list[int], notes: list[str]) -> None:
    for path, line in zip(paths, lines, strict=True):
        if not path:
            raise InvalidValueError(f"{file}, row {line}: no path")
        if "\0" in path:
            raise InvalidValueError(f"{file}, row {line}: a path with a NUL character")
    places = list(map(os.path.join, [file.parent] * len(paths), paths))
    missing = [(line, place) for line, place in zip(lines, places, strict=True) if not os.path.isfile(place)]
    if missing:
        line, place = missing[0]
        raise MissingPathError(
            f"{file}: {counted(len(missing), 'file')} of {len(paths):,} missing, the first in row {line}: {place}"
        )
    repeated = len(places) - len(set(places))
    if repeated:
        notes.append(f"{file}: {counted(repeated, 'row')} with a path that is there already")


def _by_number(name: str) -> tuple[bool, int, str]:
    """Sort whole numbers by value, before other names."""
    is_number = name.isascii() and name.isdigit() and len(name) < 19
    return not is_number, int(name) if is_number else 0, name
