"""A short training of instance segmentation, on the data of detection, whose objects have polygons."""

import pytest

from tasks.detection.conftest import LEARNING, draw

SMALL = ["--task", "instances", "--model", "van_pico", "--img-size", "48", "--batch-size", "4", "--workers", "0"]
SMALL += ["--device", "cpu", "--compile", "never", "--head-args", "{width: 16, hidden: 32}"]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("instances") / "data", 16)


@pytest.fixture(scope="session")
def run(data, tmp_path_factory):
    import torch

    from glocal.cli import main

    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("instances") / "run"
    assert main(["train", str(data), "--output", str(output), "--epochs", "1", *LEARNING, *SMALL]) == 0
    return output
