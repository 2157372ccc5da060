"""Reads XML from untrusted files: small, not deeply nested, without a document type, so that no entity can grow."""

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from glocal.errors import InvalidValueError
from glocal.wording import one_line

MOST_BYTES = 64 << 20
MOST_DEPTH = 20


class XmlError(InvalidValueError):
    """A text that is not XML, or that has more than annotations need."""


def read(file: Path) -> Element:
    """The root of an XML file; XmlError, which does not name the file, if it is broken, too large or too deep."""
    if file.stat().st_size > MOST_BYTES:
        raise XmlError(f"it has {file.stat().st_size:,} bytes, more than {MOST_BYTES:,}")
    builder, parser, depth = TreeBuilder(), expat.ParserCreate(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MOST_DEPTH:
            raise XmlError(f"nested deeper than {MOST_DEPTH} levels (line {parser.CurrentLineNumber})")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_) -> None:
        raise XmlError(f"a document type is not allowed (line {parser.CurrentLineNumber})")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = refuse
    parser.buffer_text = True
    try:
        parser.Parse(file.read_bytes(), True)
    except XmlError:
        raise
    except (expat.ExpatError, ValueError, LookupError) as error:  # the last for an unknown encoding
        raise XmlError(one_line(error)) from None
    return builder.close()
