"""Run folders that version 0.1 wrote: they load, go on, and give what it gave."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from glocal.evaluation.config import EvalConfig
from glocal.evaluation.evaluate import evaluate
from glocal.tasks.checkpoint import read_weights
from glocal.training.config import TrainConfig
from glocal.training.train import train

MADE = Path(__file__).parent.parent / "made_by_0_1"
DATA = {"classification": "digits", "multilabel": str(MADE / "multilabel" / "data" / "labels.csv")}
KINDS = pytest.mark.parametrize("kind", sorted(DATA))


def rows(file):
    """The epochs in a metrics.csv, without the speed."""
    with open(file, newline="") as stream:
        epochs = list(csv.DictReader(stream))
    return [{name: float(value) for name, value in row.items() if "per_second" not in name} for row in epochs]


def rounded(value):
    """The same with three digits of every number."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return {name: rounded(one) for name, one in value.items()} if isinstance(value, dict) else value


@KINDS
def test_a_stopped_run_goes_on(kind, tmp_path):
    """Its weights and figures become those of the run that nothing stopped; other processors round otherwise."""
    output, finished = tmp_path / "run", MADE / kind / "finished"
    shutil.copytree(MADE / kind / "stopped", output)
    options = yaml.safe_load((output / "config.yaml").read_text())
    (output / "config.yaml").write_text(yaml.safe_dump({**options, "data": DATA[kind]}))
    result = train(TrainConfig(output=str(output), resume=True, data=DATA[kind]), Console(file=io.StringIO()))
    assert result.epochs == 3
    expected, found = rows(finished / "metrics.csv"), rows(output / "metrics.csv")
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-3)
    for name in ("model.safetensors", "model.raw.safetensors"):
        weights = read_weights(output / name)
        torch.testing.assert_close(weights, read_weights(finished / name), rtol=1e-3, atol=1e-5)


@KINDS
def test_a_finished_run_is_measured_as_before(kind, tmp_path):
    expected = json.loads((MADE / kind / "eval.json").read_text())
    config = EvalConfig(
        DATA[kind], str(MADE / kind / "finished"), device="cpu", workers=0, json=str(tmp_path / "eval.json")
    )
    evaluate(config)
    found = json.loads((tmp_path / "eval.json").read_text())
    assert found.pop("task") == kind
    assert list(found) == list(expected)
    for name in set(expected) - {"data", "images_per_second"}:
        assert rounded(found[name]) == rounded(expected[name]), name
