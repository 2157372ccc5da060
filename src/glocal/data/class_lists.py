"""Lists of the classes in masks: their names, values and colours, from files and of known data sets."""

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from glocal.data.masks import distinct_colors
from glocal.data.names import class_name
from glocal.errors import InvalidValueError, MissingPathError
from glocal.wording import one_line, quoted, shown

MOST_BYTES = 4 << 20  # of a file of names
MOST_CLASSES = 1 << 16
MOST_VALUE = (1 << 24) - 1  # of a mask
NAMES = ("name", "class", "label", "category", "class_name")  # columns of a CSV file
CHANNELS = (("r", "g", "b"), ("red", "green", "blue"))
# Files beside masks that say what their classes are, in the order to look for them.
FILES = (
    "classes.csv", "classes.json", "classes.txt", "palette.csv", "palette.json", "class_dict.csv", "class_names.txt",
    "labelmap.txt", "label_colors.txt", "objectInfo150.txt",
)  # fmt: skip
CAMVID = re.compile(r"(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})\s+(\S.*)")  # red green blue name
CVAT = re.compile(r"([^:]+):(?:(\d{1,3}),(\d{1,3}),(\d{1,3}))?:[^:]*:[^:]*")  # name:red,green,blue:parts:actions
# The 19 of 34 classes that are measured: value, name, colour. Source: cityscapesScripts, helpers/labels.py.
CITYSCAPES = (
    (7, "road", (128, 64, 128)), (8, "sidewalk", (244, 35, 232)), (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)), (13, "fence", (190, 153, 153)), (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)), (20, "traffic sign", (220, 220, 0)), (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)), (23, "sky", (70, 130, 180)), (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)), (26, "car", (0, 0, 142)), (27, "truck", (0, 0, 70)), (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)), (32, "motorcycle", (0, 0, 230)), (33, "bicycle", (119, 11, 32)),
)  # fmt: skip
CITYSCAPES_VALUES = range(34)
# Source: PASCAL VOC 2012's development kit; its colours are `distinct_colors`, and its borders this one.
VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOC_BORDER = (224, 224, 192)


@dataclass(frozen=True)
class ClassList:
    """The classes of masks, in the order of a model's outputs.

    ids: the value of each in masks of one channel; None where it is the place in the list. colors: [red, green, blue]
    of each; None where masks have none. ignored: values that count nowhere; ignored_colors: colours that do.
    from_one: whether the list is known to begin with the value 1, where 0 counts nowhere. official: whether masks with
    a palette hold these values, whatever the colours of the palette.
    """

    names: Sequence[str]
    ids: Sequence[int] | None = None
    colors: Sequence[Sequence[int]] | None = None
    ignored: Sequence[int] = ()
    ignored_colors: Sequence[Sequence[int]] = ()
    from_one: bool = False
    official: bool = False

    def without(self, names: Sequence[str]) -> "ClassList":
        """The same, whose `ids` are given, without some classes: their values and colours count nowhere."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise InvalidValueError(f"ignore: no class is called {quoted(unknown)}")
        kept = [place for place, name in enumerate(self.names) if name not in names]
        dropped = [place for place, name in enumerate(self.names) if name in names]
        colors = self.colors
        return replace(
            self,
            names=[self.names[place] for place in kept],
            ids=[self.ids[place] for place in kept],
            colors=colors and [colors[place] for place in kept],
            ignored=[*self.ignored, *(self.ids[place] for place in dropped)],
            ignored_colors=[*self.ignored_colors, *(colors[place] for place in dropped if colors)],
        )


def cityscapes(train_ids: bool) -> ClassList:
    """The 19 classes. train_ids: whether the masks hold their numbers, 0 to 18, instead of all 34 values."""
    ids, names, colors = zip(*CITYSCAPES, strict=True)
    ignored = [value for value in CITYSCAPES_VALUES if value not in ids]
    known = ClassList(names, None, colors, official=True)
    return known if train_ids else replace(known, ids=ids, ignored=ignored)


def voc() -> ClassList:
    return ClassList(VOC, None, distinct_colors(len(VOC)), [255], [VOC_BORDER], official=True)


def class_list(given: Any, place: Path) -> ClassList:
    """The classes as a user gives them: names, or a file, or a mapping from names to values or colours.

    A file is looked for in `place` and not in the current folder, as a checkpoint may name it, too. Raises ValueError,
    with the place of the mistake.
    """
    if isinstance(given, str):
        file = place / given
        if not file.is_file():
            raise MissingPathError(f"classes: there is no file {given!r} in {place} (of others, give the whole path)")
        return read_class_list(file)
    return _of_json(given, "classes")


def file_beside(place: Path) -> Path | None:
    """The file in a folder that says what the classes are, if there is one."""
    return next((path for path in map(place.joinpath, FILES) if path.is_file()), None)


def read_class_list(file: Path) -> ClassList:
    """Read the classes from a file: .json (names, or names with values or colours), .csv (name, r, g, b, id), or text.

    A text has a name in each line, or is one of CamVid's, CVAT's or ADE20K's. Raises ValueError with file and line.
    """
    if file.stat().st_size > MOST_BYTES:
        raise InvalidValueError(f"{file} is no class list: it has {file.stat().st_size:,} bytes")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start:,})") from None
    if file.suffix.lower() == ".json":
        try:
            content = json.loads(text, object_pairs_hook=partial(_mapping, str(file)))
        except InvalidValueError:
            raise
        except (ValueError, RecursionError) as error:
            raise InvalidValueError(f"{file} is no JSON: {one_line(error)}") from None
        return _of_json(content, str(file))
    if file.suffix.lower() == ".csv":
        return _of_csv(text, file)
    return _of_lines(text, file)


def _mapping(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of JSON, whose keys must differ: of two classes with one key, the first would be gone."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
        raise InvalidValueError(f"{where} has {quoted(twice)} twice")
    return found


def _of_json(given: Any, where: str) -> ClassList:
    """Of names, of {name: value}, {name: [r, g, b]} or {"value": name}, or of a list of {"name", "id", "color"}."""
    if isinstance(given, Mapping) and all(isinstance(name, str) for name in given.values()):
        given = [{"name": name, "id": _number(str(value), where)} for value, name in given.items()]
    if isinstance(given, Mapping):
        given = [
            {"name": name, ("color" if isinstance(value, Sequence) else "id"): value} for name, value in given.items()
        ]
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InvalidValueError(f"{where}: expected a list of classes, got {shown(given)}")
    rows = [row if isinstance(row, Mapping) else {"name": row} for row in given]
    for row in rows:
        unknown = [str(key) for key in row if key not in ("name", "id", "color")]
        if unknown or "name" not in row:
            raise InvalidValueError(f"{where}: expected 'name', 'id' and 'color' of a class, got {shown(dict(row))}")
    return _checked(rows, where)


def _of_csv(text: str, file: Path) -> ClassList:
    try:
        lines = [row for row in csv.reader(text.splitlines(), strict=True) if any(map(str.strip, row))]
    except csv.Error as error:
        raise InvalidValueError(f"{file}: {error}") from None
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    name = next((header.index(column) for column in NAMES if column in header), None)
    if name is None:
        raise InvalidValueError(f"{file} has no column {quoted(list(NAMES))}: its header has {quoted(header)}")
    channels = next((names for names in CHANNELS if set(names) <= set(header)), ())
    rows = []
    for number, row in enumerate(lines[1:], 2):
        if len(row) != len(header):
            raise InvalidValueError(f"{file}, class {number - 1}: {len(row)} cells, where the header has {len(header)}")
        found: dict[str, Any] = {"name": row[name].strip()}
        if channels:
            found["color"] = [_number(row[header.index(channel)], str(file)) for channel in channels]
        if "id" in header:
            found["id"] = _number(row[header.index("id")], str(file))
        rows.append(found)
    return _checked(rows, str(file))


def _of_lines(text: str, file: Path) -> ClassList:
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if lines and lines[0].split("\t")[:2] == ["Idx", "Ratio"]:  # ADE20K's objectInfo150.txt
        names = [line.split("\t")[-1].strip() for line in lines[1:]]
        short = [name.split(",")[0].strip() for name in names]
        names = [long if short.count(name) > 1 else name for name, long in zip(short, names, strict=True)]
        return ClassList(_checked([{"name": name} for name in names], str(file)).names, from_one=True)
    plain = [line for line in lines if not line.startswith("#")]
    if plain and all(found := [CVAT.fullmatch(line) for line in plain]):
        return _checked([_with_color(match[1], match.groups()[1:]) for match in found], str(file))
    if lines and all(found := [CAMVID.fullmatch(line) for line in lines]):
        return _checked([_with_color(match[4], match.groups()[:3]) for match in found], str(file))
    if "" in lines:
        raise InvalidValueError(
            f"{file}, line {lines.index('') + 1}: no name, so that the classes after it would shift"
        )
    return _checked([{"name": line} for line in lines], str(file))


def _with_color(name: str, color: Sequence[str | None]) -> dict:
    return {"name": name.strip(), **({} if color[0] is None else {"color": list(map(int, color))})}


def _number(cell: str, where: str) -> int:
    if not cell.strip().isdecimal() or len(cell) > 9:
        raise InvalidValueError(f"{where}: expected a whole number of at most 9 digits, got {shown(cell)}")
    return int(cell)


def _checked(rows: list[dict], where: str) -> ClassList:
    """The class list of rows with "name" and, all of them or none, "id" and "color"; no two may be equal."""
    if not rows:
        raise InvalidValueError(f"{where} holds no classes")
    if len(rows) > MOST_CLASSES:
        raise InvalidValueError(f"{where} holds {len(rows):,} classes; {MOST_CLASSES:,} at most can be told apart")
    for key in ("id", "color"):
        lacking = [str(row["name"]) for row in rows if key not in row]
        if lacking and len(lacking) < len(rows):
            raise InvalidValueError(f"{where}: no {key} of {quoted(lacking)}, where other classes have one")
    names = []
    for row in rows:
        if not isinstance(row["name"], str) or not row["name"].strip():
            raise InvalidValueError(f"{where}: expected the name of a class, got {shown(row['name'])}")
        names.append(class_name(row["name"].strip()))
        if not _is_whole(row.get("id", 0), MOST_VALUE):
            raise InvalidValueError(f"{where}: the id of {names[-1]!r} must be from 0 to {MOST_VALUE:,}")
        color = row.get("color", [0, 0, 0])
        if not isinstance(color, Sequence) or len(color) != 3 or not all(_is_whole(one, 255) for one in color):
            raise InvalidValueError(f"{where}: the colour of {names[-1]!r} must be three numbers from 0 to 255")
    ids = [row["id"] for row in rows] if "id" in rows[0] else None
    colors = [list(row["color"]) for row in rows] if "color" in rows[0] else None
    for what, values in (("name", names), ("id", ids), ("colour", colors)):
        seen: set = set()
        for place, value in enumerate(values or ()):
            value = tuple(value) if what == "colour" else value
            if value in seen:
                same = f"two classes have the {what} {shown(value)}, one of them {names[place]!r}"
                raise InvalidValueError(f"{where}: {same}")
            seen.add(value)
    return ClassList(names, ids, colors)


def _is_whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
