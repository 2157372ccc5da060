"""The learning rate of every step is that of the original libraries' formulas."""

import io
import math

import pytest
import timm
import torch
from rich.console import Console
from timm.optim import create_optimizer_v2
from torch.optim import lr_scheduler

from glocal.training.config import TrainConfig
from glocal.training.lightning_module import TrainingModule
from glocal.training.schedule import Schedule, make_scheduler
from glocal.training.train import train

LR, EPOCHS, STEPS_PER_EPOCH = 2e-4, 8, 5
STEPS = EPOCHS * STEPS_PER_EPOCH


def rates(optimizer, lr=LR, steps=STEPS, **options) -> list[list[float]]:
    """The rates of all groups in every step, and after the last."""
    config = TrainConfig(epochs=EPOCHS, lr=lr, **options)
    scheduler = make_scheduler(optimizer, config, lr, EPOCHS, STEPS_PER_EPOCH)
    found = [[group["lr"] for group in optimizer.param_groups]]
    for step in range(1, steps + 1):
        scheduler.step_update(step)
        found.append([group["lr"] for group in optimizer.param_groups])
    return found


def one_group(lr=LR):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def of_mmcv(step, kind, power=1.0, milestones=(), lowest=0.0, warmup=0, ratio=1.0):
    """The rate as mmcv 1.7 has it in `LrUpdaterHook`: a policy, and a linear warm-up of what it gives."""
    if kind == "poly":
        rate = (LR - lowest) * (1 - step / STEPS) ** power + lowest
    elif kind == "cosine":
        rate = lowest + 0.5 * (LR - lowest) * (math.cos(math.pi * step / STEPS) + 1)
    else:
        rate = max(LR * 0.1 ** len([epoch for epoch in milestones if step // STEPS_PER_EPOCH >= epoch]), lowest)
    if step < warmup:
        k = (1 - step / warmup) * (1 - ratio)
        rate = rate * (1 - k)
    return rate


CASES = {
    "poly to 0 with warm-up": (
        dict(schedule="poly", warmup_steps=7, warmup_ratio=1e-6),
        dict(kind="poly", warmup=7, ratio=1e-6),
    ),
    "poly 0.9 without warm-up": (
        dict(schedule="poly", poly_power=0.9, warmup_steps=0),
        dict(kind="poly", power=0.9),
    ),
    "poly to a lowest rate": (
        dict(schedule="poly", poly_power=0.9, min_lr=1e-5, warmup_epochs=1.5, warmup_lr=2e-5),
        dict(kind="poly", power=0.9, lowest=1e-5, warmup=7.5, ratio=0.1),
    ),
    "poly with the default warm-up": (
        dict(schedule="poly"),
        dict(kind="poly", warmup=4, ratio=0.01),
    ),
    "multistep": (
        dict(schedule="multistep", milestones="3,6.0", warmup_steps=10, warmup_ratio=0.001),
        dict(kind="multistep", milestones=(3, 6), warmup=10, ratio=0.001),
    ),
    "multistep to a lowest rate": (
        dict(schedule="multistep", milestones="1,2,3", min_lr=1e-6, warmup_steps=0),
        dict(kind="multistep", milestones=(1, 2, 3), lowest=1e-6),
    ),
    "TransXNet's": (
        dict(schedule="cosine", min_lr=2e-12, warmup_steps=10, warmup_ratio=0.1),
        dict(kind="cosine", lowest=1e-8 * LR, warmup=10, ratio=0.1),
    ),
    "cosine to the default lowest rate": (
        dict(warmup_steps=10, warmup_ratio=0.5),
        dict(kind="cosine", lowest=LR / 100, warmup=10, ratio=0.5),
    ),
}


@pytest.mark.parametrize(("options", "formula"), CASES.values(), ids=CASES)
def test_every_step(options, formula):
    expected = [of_mmcv(step, **formula) for step in range(STEPS)]
    assert [rate for (rate,) in rates(one_group(), **options)][:-1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_every_step_with_layer_decay(name):
    options, formula = CASES[name]
    model = timm.create_model("van_pico")
    optimizer = create_optimizer_v2(model, opt="adamw", lr=LR, weight_decay=0.05, layer_decay=0.7)
    scales = [group["lr_scale"] for group in optimizer.param_groups]
    assert len(set(scales)) > 4
    for step, found in enumerate(rates(optimizer, **options)[:-1]):
        rate = of_mmcv(step, **formula)
        assert found == pytest.approx([rate * scale for scale in scales], rel=1e-12)


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        (dict(schedule="poly"), lambda one: lr_scheduler.PolynomialLR(one, STEPS)),
        (dict(schedule="poly", poly_power=0.9), lambda one: lr_scheduler.PolynomialLR(one, STEPS, 0.9)),
        (
            dict(schedule="multistep", milestones="2,5"),
            lambda one: lr_scheduler.MultiStepLR(one, [2 * STEPS_PER_EPOCH, 5 * STEPS_PER_EPOCH]),
        ),
        (
            dict(schedule="cosine", min_lr=1e-6, warmup_ratio=1.0),
            lambda one: lr_scheduler.CosineAnnealingLR(one, STEPS, 1e-6),
        ),
    ],
    ids=["poly", "poly0.9", "multistep", "cosine"],
)
def test_without_warmup_as_torchs(options, theirs):
    optimizer = one_group()
    scheduler, expected = theirs(optimizer), []
    for _ in range(STEPS + 1):
        expected += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    found = [rate for (rate,) in rates(one_group(), warmup_steps=0, **options)]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-18)


@pytest.mark.parametrize("warmup", [{"warmup_steps": 10}, {"warmup_epochs": 2}], ids=list)
def test_cosine_alone_rises_to_the_rate_itself(warmup):
    found = [rate for (rate,) in rates(one_group(), warmup_lr=1e-6, **warmup)]
    assert found[:11] == pytest.approx(
        [1e-6 + (LR - 1e-6) * step / 10 for step in range(10)] + [of_mmcv(10, "cosine", lowest=LR / 100)]
    )


@pytest.mark.parametrize(
    ("options", "last"),
    [
        (dict(schedule="poly"), 0.0),
        (dict(schedule="poly", poly_power=0.9, min_lr=1e-6), 1e-6),
        (dict(schedule="multistep", milestones="2,5"), LR / 100),
        (dict(warmup_ratio=0.1, min_lr=1e-6), 1e-6),
    ],
    ids=str,
)
def test_stays_the_lowest_in_the_cooldown(options, last):
    found = [rate for (rate,) in rates(one_group(), steps=STEPS + 10, **options)]
    assert found[STEPS:] == pytest.approx([last] * 11)


def test_a_schedule_alone():
    schedule = Schedule("poly", 100, floor=0.1, power=2.0, warmup=10, ratio=0.5)
    assert [schedule(step) for step in (0, 5, 10, 50, 100, 1000)] == pytest.approx(
        [0.5, 0.75 * (0.9 * 0.95**2 + 0.1), 0.9 * 0.81 + 0.1, 0.9 * 0.25 + 0.1, 0.1, 0.1]
    )


class TestTraining:
    def run(self, data, output, **changes):
        settings = dict(model="test_resnet", img_size=32, batch_size=16, workers=0, device="cpu", lr=LR)
        config = TrainConfig(str(data), output=str(output), **settings, **changes)
        return train(config, Console(file=io.StringIO()))

    def test_the_optimizer_steps_with_the_rates(self, digits_folder, tmp_path, monkeypatch):
        seen, original = [], TrainingModule.optimizer_step

        def step(self, epoch, batch_idx, optimizer, *args, **kwargs):
            seen.append(optimizer.param_groups[0]["lr"])
            original(self, epoch, batch_idx, optimizer, *args, **kwargs)

        monkeypatch.setattr(TrainingModule, "optimizer_step", step)
        options = dict(schedule="poly", warmup_steps=7, warmup_ratio=1e-6)
        self.run(digits_folder, tmp_path, epochs=EPOCHS, epoch_steps=STEPS_PER_EPOCH, **options)
        assert seen == pytest.approx([of_mmcv(step, "poly", warmup=7, ratio=1e-6) for step in range(STEPS)], rel=1e-12)

    def test_quick_lowers_the_rate_at_the_same_part_of_the_training(self):
        config = TrainConfig(epochs=12, schedule="multistep", milestones="8,11", warmup_steps=500).shrunk()
        assert (config.epochs, config.milestones, config.warmup_steps) == (2, "1.33333,1.83333", 8)
        assert TrainConfig(epochs=12).shrunk().milestones is None

    def test_warmup_longer_than_the_training(self, digits_folder, tmp_path):
        with pytest.raises(ValueError, match="--warmup-steps 1500: the training has 8 steps"):
            self.run(digits_folder, tmp_path, epochs=2, warmup_steps=1500)
        assert not (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(schedule="step"), "--schedule must be one of cosine, poly, multistep, got 'step'"),
        (dict(poly_power=0.9), "--poly-power is for --schedule poly, not cosine"),
        (dict(schedule="poly", milestones="8,11"), "--milestones is for --schedule multistep, not poly"),
        (dict(schedule="multistep"), "--schedule multistep needs --milestones, such as 8,11"),
        (dict(schedule="multistep", milestones="8,12", epochs=12), "--milestones 8,12 must be before the end"),
        (dict(schedule="multistep", milestones="8,8"), "rising epochs such as 8,11, got '8,8'"),
        (dict(schedule="multistep", milestones="0,8"), "rising epochs such as 8,11"),
        (dict(schedule="multistep", milestones="8;11"), "rising epochs such as 8,11"),
        (dict(warmup_epochs=1, warmup_steps=1), "--warmup-epochs and --warmup-steps exclude each other"),
        (dict(warmup_lr=1e-6, warmup_ratio=0.1), "--warmup-lr and --warmup-ratio exclude each other"),
        (dict(warmup_ratio=1.5), "--warmup-ratio must be at least 0 and at most 1"),
        (dict(schedule="poly", poly_power=0.0), "--poly-power must be more than 0"),
    ],
    ids=str,
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)
