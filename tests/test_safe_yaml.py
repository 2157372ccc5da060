"""YAML of options, and what of YAML is refused."""

import math

import pytest
import yaml

from glocal.safe_yaml import MAX_BYTES, MAX_DEPTH, MAX_VALUES, YamlError, load

BOMB = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{b}, *{b}]\n" for b, n in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("epochs: 3\nlr: 1e-3\nbalanced: yes", {"epochs": 3, "lr": 0.001, "balanced": True}),
        ("a: [1, 2.5, x, null, ~]", {"a": [1, 2.5, "x", None, None]}),
        ("a: '3'\nb: \"no\"", {"a": "3", "b": "no"}),
        ("a: 010", {"a": 10}),
        ("a: 2020-13-01", {"a": "2020-13-01"}),
        ("a: 1:30", {"a": "1:30"}),
        ("a: .inf", {"a": math.inf}),
        ("a: " + "9" * 400, {"a": "9" * 400}),
        ("a: {b: {c: 1}}", {"a": {"b": {"c": 1}}}),
        ("", None),
    ],
    ids=str,
)
def test_values(text, value):
    assert load(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, r"anchors and aliases .*\(line 1\)"),
        ("&a {b: *a}", "anchors and aliases"),
        ("a: *b", "anchors and aliases"),
        ("a: !!bool x", "tags such as tag:yaml.org,2002:bool are not allowed"),
        ("a: !!python/object/apply:os.system [true]", "tags such as"),
        ("[" * 5000, "nested deeper than 10 levels"),
        ("a: " + "{a: " * 5000, "nested deeper than 10 levels"),
        ("a: 1\nb: 2\na: 3", "a name occurs twice"),
        ("a: {[b]: 1}", "every colon needs a name before it"),
        ("a: {1: 1}", "every colon needs a name before it"),
        ("a: 1\n---\nb: 2", "more than one document"),
        ("[" + "a," * 20_000 + "]", "more than 10,000 values"),
        ("x" * (MAX_BYTES + 1), "more than 65,536 letters"),
        ("a: [1", r"expected ',' or '\]'.*\(line"),
        ("a: \0", "control characters are not allowed"),
    ],
    ids=lambda text: text[:20],
)
def test_refused_at_once(text, message, monkeypatch):
    """No more of the text is parsed than the limits allow."""
    parse, events = yaml.parse, []

    def counted(*args, **kwargs):
        for event in parse(*args, **kwargs):
            events.append(event)
            yield event

    monkeypatch.setattr(yaml, "parse", counted)
    with pytest.raises(YamlError, match=message):
        load(text)
    assert len(events) <= (2 * MAX_DEPTH + 10 if "deeper" in message else MAX_VALUES + MAX_DEPTH)
