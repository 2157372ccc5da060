"""XML from files of strangers."""

import pytest

from glocal.data import safe_xml

BOMB = '<!DOCTYPE a [<!ENTITY b "cccccccccc"><!ENTITY d "&b;&b;&b;&b;">]><a>&d;</a>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><a>&b;</a>'


def written(folder, text):
    file = folder / "a.xml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_elements_and_their_texts(tmp_path):
    root = safe_xml.read(written(tmp_path, '<?xml version="1.0"?><a><!-- no --><b c="d">1 &amp; 2</b><b>é</b></a>'))
    assert [(one.tag, one.attrib, one.text) for one in root] == [("b", {"c": "d"}, "1 & 2"), ("b", {}, "é")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [(BOMB, "document type is not allowed"), (OUTSIDE, "document type is not allowed"),
     ('<!DOCTYPE a SYSTEM "http://a/b.dtd"><a/>', "document type is not allowed"),
     ("<a>" * 21 + "</a>" * 21, "nested deeper than 20 levels"), ("", "no element found"), ("<a><b></a>", "mismatched"),
     ("<a>&b;</a>", "undefined entity"), (b"<a>\xff</a>", "not well-formed"),
     ('<?xml version="1.0" encoding="nothing"?><a/>', "encoding")],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_is_refused(tmp_path, text, reason):
    with pytest.raises(safe_xml.XmlError, match=reason):
        safe_xml.read(written(tmp_path, text))


def test_a_large_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_xml, "MOST_BYTES", 10)
    with pytest.raises(safe_xml.XmlError, match="it has 11 bytes, more than 10"):
        safe_xml.read(written(tmp_path, "<a>bcde</a>"))
