"""`glocal list` and `glocal info`."""

import json

import pytest
from rich.console import Console

from glocal.bench.cost import measure
from glocal.cli import list as list_command
from glocal.cli import main


def test_list_shows_every_model(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in ("transxnet_t.in1k", "transnext_small.in1k_384", "hat_net_large.in1k", "van_b6.in22k_ft_in1k"):
        assert name in shown
    assert "by hand" in shown
    assert "81.6" in shown


def test_list_by_pattern_as_json(tmp_path, capsys):
    assert main(["list", "conv2former_*", "--json", str(tmp_path / "models.json")]) == 0
    entries = json.loads((tmp_path / "models.json").read_text())
    assert {entry["family"] for entry in entries} == {"Conv2Former"}
    tiny = next(entry for entry in entries if entry["name"] == "conv2former_t.in1k")
    assert tiny["params"] == 26_697_204
    assert tiny["weights"] == "by hand"
    assert tiny["source"].startswith("https://pan.baidu.com/s/")


def test_list_shows_whole_names_on_80_columns(monkeypatch, capsys):
    monkeypatch.setattr(list_command, "console", lambda: Console(width=80))
    assert main(["list", "conv2former*"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    for name in ("conv2former_l.in22k_ft_in1k", "conv2former_l.in22k_ft_in1k_384"):
        assert f" {name} " in shown


@pytest.mark.parametrize("args", [["list", "van*"], ["info", "van_b0"]], ids=" ".join)
def test_no_line_ends_in_spaces(args, capsys):
    assert main(args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [line.rstrip() for line in lines]


@pytest.mark.parametrize(
    ("file", "message"), [("no/a.json", "there is no such folder"), ("", "this is a folder, not a file")]
)
def test_list_refuses_a_json_it_cannot_write_before_it_shows_anything(file, message, tmp_path, capsys):
    assert main(["list", "--json", f"{tmp_path}/{file}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: --json {tmp_path}/{file}: {message}\n"


@pytest.mark.parametrize("size", [0, -5, (0, 224)])
def test_cost_at_a_size_that_is_none(size):
    with pytest.raises(ValueError, match="size must be positive, got"):
        measure("van_pico", size)


def test_info_shows_stages(capsys):
    assert main(["info", "transxnet_t", "--size", "256"]) == 0
    shown = capsys.readouterr().out
    for text in ("12,834,808", "arXiv:2310.19380", "48×64×64", "448×8×8", "3×256×256", "81.6 %"):
        assert text in shown


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["info", "transnxt_tiny"], "transnext_tiny"),
        (["info", "transxnet_t.in21k"], "in1k"),
        (["info", "van_b0", "--size", "-5"], "--size must be at least 32, got -5"),
        (["info", "van_b0", "--size", "0"], "--size must be at least 32, got 0"),
        (["info", "van_b0", "--size", "10000000"], "--size must be at most 4096, got 10000000"),
        (["info", "test_vit", "--size", "33"], "test_vit does not take images of 33×33 pixels"),
        (["list", "resnet*"], "no model matches 'resnet*'; `glocal list` shows them all"),
        (["list", "van"], "no model matches 'van'; did you mean 'van*'?"),
        (["list", "former"], "no model matches 'former'; did you mean '*former*'?"),
        (["lst"], "list"),
        (["info"], "name"),
    ],
)
def test_mistakes_get_one_line(args, message, capsys):
    assert main(args) == 2
    shown = capsys.readouterr().err
    assert message in shown.lower()
    assert len(shown.strip().splitlines()) == 1
