"""Which epoch's weights are kept."""

from types import SimpleNamespace

import pytest
import torch

from glocal.tasks import find_task
from glocal.tasks.checkpoint import CheckpointInfo, read_info, read_weights
from glocal.training.callbacks import KeepBest

PREPROCESSING = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}


RANK = find_task("classification").rank


@pytest.mark.parametrize(
    ("epochs", "kept"),  # (figure in percent, loss) of each
    [
        ([(50, 1.0), (60, 2.0), (55, 0.5)], 2),
        ([(50, 1.0), (50, 0.9), (50, 0.95)], 2),
        ([(50, 0.9), (50, 0.9)], 1),
        ([(50, 0.9), (50, 1.0), (49, 0.1)], 1),
        ([(50, 0.9), (50, 0.8), (51, 5.0)], 3),
    ],
    ids=str,
)
def test_the_best_epoch_is_kept_and_of_equals_that_of_the_lowest_loss(tmp_path, epochs, kept):
    path = tmp_path / "model.safetensors"
    callback = KeepBest(
        {"": path}, lambda metrics: CheckpointInfo("van_pico", ["a", "b"], PREPROCESSING, metrics), RANK, lambda: None
    )
    for epoch, (top1, loss) in enumerate(epochs):
        weights = {"": {"epoch": torch.tensor(epoch + 1)}}
        module = SimpleNamespace(val_metrics={"top1": top1, "loss": loss}, raw_metrics={}, weights=lambda w=weights: w)
        callback.on_validation_end(SimpleNamespace(current_epoch=epoch, is_global_zero=True), module)
    assert read_weights(path)["epoch"].item() == kept
    top1, loss = epochs[kept - 1]
    assert callback.metrics == read_info(path).metrics == {"top1": top1, "loss": loss, "epoch": kept}


def test_what_was_best_before_a_stop_still_is(tmp_path):
    before = KeepBest({}, None, RANK, lambda: None)
    before.metrics = {"top1": 60.0, "loss": 1.0, "epoch": 3}
    after = KeepBest({"": tmp_path / "model.safetensors"}, None, RANK, lambda: None)
    after.load_state_dict(before.state_dict())
    module = SimpleNamespace(val_metrics={"top1": 59.0, "loss": 0.5})
    after.on_validation_end(SimpleNamespace(current_epoch=3, is_global_zero=True), module)
    assert after.metrics["epoch"] == 3
    assert not list(tmp_path.iterdir())
