"""Trainings of tasks with a head of their own: continued after a kill, and on several devices."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glocal.evaluation.config import EvalConfig
from glocal.evaluation.evaluate import evaluate
from glocal.tasks.checkpoint import read_weights
from run_output import rows
from tasks.detection.conftest import draw as draw_objects
from tasks.segmentation.conftest import draw as draw_masks

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]  # half a minute each

SCRIPT = Path(__file__).parents[1] / "training" / "several_devices.py"
SETTINGS = dict(
    model="van_pico",
    epochs=2,
    img_size=32,
    batch_size=4,
    ema=0.9,
    device="cpu",
    workers=0,
    save_every_minutes=0,
)
HEADS = {
    "segmentation": {"semantic_fpn": {}, "upernet": {}, "mask2former": {}},
    "detection": {"retinanet": {"width": 32, "depth": 1}, "faster_rcnn": {}, "dino": {}, "d_fine": {"size": "n"}},
    "instances": {"mask_rcnn": {}},
}
MEASURES = {"segmentation": ("miou", "macc", "aacc"), "detection": ("box_ap", "box_ap50", "box_ar")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    objects = draw_objects(tmp_path_factory.mktemp("objects") / "data")
    masks = draw_masks(tmp_path_factory.mktemp("masks") / "data")
    return {"segmentation": masks, "detection": objects, "instances": objects}


@pytest.fixture
def settings(folders):
    """The settings of a run by task, head and folder."""

    def of(task, head, output, **more):
        chosen = {"data": str(folders[task]), "task": task, "head": head, "output": str(output)}
        args = {"head_args": HEADS[task][head]} if HEADS[task][head] else {}
        return {**chosen, **args, **SETTINGS, **more}

    return of


def launch(settings, die=-1):
    """A process that is no fork of this one: the library of COCO's measures has threads, which a fork would lack."""
    command = [sys.executable, str(SCRIPT), json.dumps(settings), str(die)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(("task", "head"), [(task, head) for task, heads in HEADS.items() for head in heads])
def test_a_killed_run_goes_on_bit_for_bit(settings, tmp_path, task, head):
    whole, killed = (settings(task, head, tmp_path / name) for name in ("whole", "killed"))
    finished = launch(whole)
    assert finished.returncode == 0, finished.stderr
    assert launch(killed, die=7).returncode != 0
    again = launch(killed)
    assert again.returncode == 0, again.stderr
    assert "going on from" in again.stdout
    ours, theirs = (read_weights(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    ("task", "head"), [("segmentation", "semantic_fpn"), ("detection", "retinanet"), ("detection", "faster_rcnn")]
)
def test_two_devices_measure_what_one_measures(settings, tmp_path, strategy, task, head):
    """The validation part has an odd number of images, of several sizes."""
    few = {"epochs": 1} if task == "segmentation" else {"epochs": 1, "epoch_steps": 20, "lr": 0.002}
    given = settings(task, head, tmp_path / "run", devices=2, strategy=strategy, **few)
    finished = launch(given)
    assert finished.returncode == 0, finished.stderr
    (row,) = rows(tmp_path / "run")
    measured = evaluate(EvalConfig(given["data"], checkpoint=given["output"], device="cpu", workers=0))
    assert measured.images == 5
    for name in MEASURES[task]:
        assert float(row[f"val_{name}"]) == pytest.approx(measured.values[name], abs=1e-3)
