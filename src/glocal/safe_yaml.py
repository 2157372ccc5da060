"""Reads YAML from untrusted files: small, not deeply nested, no anchors or tags. The library's only YAML reader."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from glocal.errors import InvalidValueError

MAX_BYTES = 1 << 16
MAX_DEPTH = 10
MAX_VALUES = 10_000
MAX_NUMBER = 40  # letters; a longer number stays text

NULL = ("", "~", "null", "Null", "NULL")
TRUE = ("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON")
FALSE = ("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF")
INTEGER = re.compile(r"[-+]?[0-9][0-9_]*")
FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class YamlError(InvalidValueError):
    """A text that is not YAML, or that has more than options need."""


class Scalar(str):
    """A single value as it is written, and whether it is in quotes."""

    quoted: bool

    def __new__(cls, text: str, quoted: bool = False) -> "Scalar":
        scalar = super().__new__(cls, text)
        scalar.quoted = quoted
        return scalar

    def resolve(self) -> str | int | float | bool | None:
        """The value: text if it is in quotes; otherwise None, a bool, a decimal number, or text."""
        text = str(self)
        if self.quoted:
            return text
        if text in NULL:
            return None
        if text in TRUE or text in FALSE:
            return text in TRUE
        if len(text) > MAX_NUMBER:
            return text
        if INTEGER.fullmatch(text):
            return int(text.replace("_", ""))
        if FLOAT.fullmatch(text):
            return float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        return text


def read(text: str, names: tuple[type, ...] = (str,)) -> Any:
    """Dicts, lists and `Scalar`; None for an empty text. YamlError if the text is broken, too large or too deep.

    names: the types that the names of inner dicts may have, before they become texts.
    """
    if len(text) > MAX_BYTES:
        raise YamlError(f"more than {MAX_BYTES:,} letters")
    try:
        documents = _nodes(yaml.parse(text, Loader=LOADER), names)
        content = next(documents, None)
        if next(documents, None) is not None:
            raise YamlError("more than one document")
        return content
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        raise YamlError(f"{error.problem}{place}") from None
    except yaml.YAMLError as error:
        raise YamlError(str(error)) from None


def plain(content: Any) -> Any:
    """The result of `read`, with every scalar resolved."""
    if isinstance(content, dict):
        return {str(name): plain(value) for name, value in content.items()}
    if isinstance(content, list):
        return [plain(value) for value in content]
    return content.resolve() if isinstance(content, Scalar) else content


def load(text: str, names: tuple[type, ...] = (str,)) -> Any:
    """Plain values of a YAML text; arguments and errors as of `read`."""
    return plain(read(text, names))


def _nodes(events: Iterator[yaml.Event], names: tuple[type, ...]) -> Iterator[Any]:
    """The documents that the parser's events describe."""
    count = 0
    for event in events:
        if isinstance(
            event, (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent)
        ):
            continue
        content, count = _node(event, events, count, 0, names)
        yield content


def _node(
    event: yaml.Event, events: Iterator[yaml.Event], count: int, depth: int, types: tuple[type, ...]
) -> tuple[Any, int]:
    """A value with everything inside it, and the number of values so far."""
    place = f"(line {event.start_mark.line + 1})"
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise YamlError(f"anchors and aliases (& and *) are not allowed {place}")
    if event.tag is not None:
        raise YamlError(f"tags such as {event.tag} are not allowed {place}")
    if count >= MAX_VALUES:
        raise YamlError(f"more than {MAX_VALUES:,} values")
    if depth > MAX_DEPTH:
        raise YamlError(f"nested deeper than {MAX_DEPTH} levels {place}")
    count += 1
    if isinstance(event, yaml.ScalarEvent):
        return Scalar(event.value, quoted=bool(event.style)), count
    inside = []
    for part in events:
        if isinstance(part, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            break
        content, count = _node(part, events, count, depth + 1, types)
        inside.append(content)
    if isinstance(event, yaml.SequenceStartEvent):
        return inside, count
    names = inside[::2]
    if not all(isinstance(name, Scalar) and (depth == 0 or isinstance(name.resolve(), types)) for name in names):
        raise YamlError(f"every colon needs a name before it {place}")
    content = dict(zip(names, inside[1::2], strict=True))
    if len(content) < len(names):
        raise YamlError(f"a name occurs twice {place}")
    return content, count
