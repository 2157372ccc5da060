import json

import pytest

from glocal.evaluation.compare import compare
from glocal.tasks import registry
from glocal.tasks.classification.task import Classification
from glocal.tasks.task import Measure

FIRST = {
    "model": "van_b0",
    "data": "photos",
    "split": "val",
    "images": 1200,
    "img_size": [224, 224],
    "top1": 80.0,
    "loss": 0.8,
}


def save(path, content):
    path.write_text(json.dumps(content))
    return str(path)


@pytest.fixture
def files(tmp_path):
    second = {**FIRST, "model": "van_b1", "top1": 82.5, "loss": 0.9, "ece": 3.25}
    return [save(tmp_path / "a.json", FIRST), save(tmp_path / "b.json", second)]


def rows(files):
    return {title: [cell.strip() for cell in cells] for title, cells in compare(files).rows}


def test_differences_and_the_best(files):
    table = rows(files)
    assert table["model"] == ["van_b0", "van_b1"]
    assert table["images"] == ["1,200", "1,200"]
    assert table["top-1"] == ["80.00 %", "82.50 % (+2.50) *"]
    assert table["loss"] == ["0.8000 *", "0.9000 (+0.1000)"]
    assert table["ECE"] == ["–", "3.25 %"]
    assert "mCE" not in table


def test_nothing_is_best_among_equals(files):
    assert rows([files[0], files[0]])["top-1"] == ["80.00 %", "80.00 % (+0.00)"]


def test_any_number_of_files(files):
    assert rows([*files, files[0]])["top-1"] == ["80.00 %", "82.50 % (+2.50) *", "80.00 % (+0.00)"]


def test_each_size_is_a_column(files, tmp_path):
    sizes = save(tmp_path / "s.json", [FIRST, {**FIRST, "img_size": [256, 256], "top1": 81.0}])
    comparison = compare([files[0], sizes])
    assert comparison.columns == [files[0], f"{sizes} at 224×224", f"{sizes} at 256×256"]


def test_corruptions_are_rows(files, tmp_path):
    tables = [{"fog": {"errors": [30.0] * 5, "mean": mean}} for mean in (30.0, 20.0)]
    files = [save(tmp_path / f"{i}.json", {**FIRST, "corruptions": table}) for i, table in enumerate(tables)]
    assert rows(files)["error, fog"] == ["30.00 %", "20.00 % (-10.00) *"]


def test_other_data_is_noted(files, tmp_path):
    other = save(tmp_path / "c.json", {**FIRST, "data": "others"})
    assert compare(files).notes == []
    assert compare([files[0], other]).notes == [
        "not measured on the same data: the differences are not the models' alone"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("[" * 50_000, "not a JSON file"),
        ('{"model": "a", "data": "b", "images": 1, "top1": 1e999}', "not a JSON file"),
        ("\udc80", "not a JSON file"),
        ("[]", "not a result of glocal eval --json"),
        ("3", "not a result"),
        ('{"top1": 80}', "not a result"),
        (json.dumps({**FIRST, "top1": "80"}), "not a result"),
        (json.dumps({**FIRST, "corruptions": {"fog": 3}}), "not a result"),
        (json.dumps([FIRST, 3]), "not a result"),
    ],
)
def test_what_is_no_result(files, tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=f"x.json: {message}"):
        compare([files[0], str(tmp_path / "x.json")])


def test_missing_file(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--compare .*none\.json: No such file"):
        compare([files[0], str(tmp_path / "none.json")])


class OtherWay(Classification):
    """A task whose measure has the key of classification's, and another meaning."""

    name = "other_way"
    measures = (Measure("top1", "wrong", " points", 1, higher_is_better=False),)


def test_a_key_means_what_its_task_says(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_tasks", {**registry._tasks, "other_way": OtherWay()})
    results = [{**FIRST, "task": "other_way", "top1": value} for value in (1, 2)]
    table = rows([save(tmp_path / f"{i}.json", result) for i, result in enumerate(results)])
    assert table["wrong"] == ["1.0 points *", "2.0 points (+1.0)"]
    assert "top-1" not in table
