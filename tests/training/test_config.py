import subprocess
import sys

import pytest

from glocal.evaluation.config import EvalConfig
from glocal.training.config import TrainConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"seed": -1}, "--seed must be at least 0 and at most 4294967295, got -1"),
        ({"img_size": 0}, "--img-size must be at least 1"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"lr": 0.0}, "--lr must be more than 0, got 0"),
        ({"lr": float("nan")}, "--lr must be more than 0, got nan"),
        ({"lr": float("inf")}, "--lr must be more than 0, got inf"),
        ({"weight_decay": -0.1}, "--weight-decay must be at least 0"),
        ({"epochs": 3, "warmup_epochs": 4.0}, "--warmup-epochs must be at least 0 and at most 3, got 4"),
        ({"label_smoothing": 1.0}, "--label-smoothing must be at least 0 and less than 1"),
        ({"drop_path": 1.0}, "--drop-path must be"),
        ({"val_fraction": 0.0}, "--val-fraction must be more than 0 and less than 1"),
        ({"val_fraction": 1.0}, "--val-fraction must be more than 0 and less than 1"),
        ({"crop_scale": 0.0}, "--crop-scale must be more than 0 and at most 1"),
        ({"hflip": 2.0}, "--hflip must be at least 0 and at most 1"),
        ({"random_erasing": -1.0}, "--random-erasing must be"),
        ({"workers": -1}, "--workers must be at least 0"),
    ],
)
def test_values_out_of_range_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)


def test_split_must_be_known():
    with pytest.raises(ValueError, match="--split must be auto, train, val or all, got 'test'"):
        EvalConfig(split="test")


def test_known_without_torch():
    program = "import sys; sys.argv[0] = 'glocal'; import glocal.training.train; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "False"
