"""The page writes what the service answers as text: no markup of a class name can act."""

import re
from importlib.resources import files


def test_nothing_is_written_as_markup():
    page = (files("glocal.deploy") / "page.html").read_text(encoding="utf-8")
    assert "textContent" in page
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|srcdoc|new Function", page)
