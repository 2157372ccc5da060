"""How the learning rate changes from step to step."""

import math
from dataclasses import dataclass

from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer

from glocal.training.config import LoopOptions, milestones_of

GAMMA = 0.1  # of multistep, at every milestone, as in the configs of mmdetection
WARMUP_RATIO = 0.01  # by default


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a factor of the highest, for every step; the schedules of mmcv 1.7.

    kind: cosine, poly or multistep. steps: of the schedule; from then on the rate is the lowest. floor: the lowest
    rate, as a factor. power: of poly. milestones: the steps of multistep. warmup: steps of the warm-up, which
    multiplies the scheduled rate by 1 - (1 - step / warmup)(1 - ratio).
    """

    kind: str
    steps: int
    floor: float = 0.0
    power: float = 1.0
    milestones: tuple[float, ...] = ()
    warmup: float = 0.0
    ratio: float = 1.0

    def __call__(self, step: int) -> float:
        """The factor in the step of this number, from 0 on."""
        warm = 1 - (1 - step / self.warmup) * (1 - self.ratio) if step < self.warmup else 1.0
        return warm * self._scheduled(step)

    def _scheduled(self, step: int) -> float:
        if self.kind == "multistep":
            return max(GAMMA ** sum(step >= milestone for milestone in self.milestones), self.floor)
        done = min(step / self.steps, 1.0)
        left = (1 - done) ** self.power if self.kind == "poly" else (1 + math.cos(math.pi * done)) / 2
        return (1 - self.floor) * left + self.floor


class ScheduledRate(Scheduler):
    """Sets the rate of every group to its own highest rate times the schedule's factor, and times its `lr_scale`.

    The step alone decides the rate, so no state has to be saved.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule):
        super().__init__(optimizer, param_group_field="lr", t_in_epochs=False)
        self.schedule = schedule
        self.step_update(0)

    def _get_lr(self, t: int) -> list[float]:
        factor = self.schedule(t)
        return [value * factor for value in self.base_values]

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        return


def make_scheduler(
    optimizer: Optimizer, config: LoopOptions, lr: float, epochs: int, steps_per_epoch: int
) -> Scheduler:
    """The scheduler that the options say; call its `step_update` after every step with the number of steps done.

    lr: the highest learning rate. epochs: without the cool-down.

    A cosine whose warm-up does not multiply is timm's: the rate rises to `lr` itself.
    """
    steps = epochs * steps_per_epoch
    warmup = min(5, epochs / 10) if config.warmup_epochs is None else config.warmup_epochs
    warmup = warmup * steps_per_epoch if config.warmup_steps is None else config.warmup_steps
    if config.schedule == "cosine" and config.warmup_ratio is None:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched="cosine",
            num_epochs=steps,
            warmup_epochs=warmup,
            warmup_lr=lr / 100 if config.warmup_lr is None else config.warmup_lr,
            min_lr=lr / 100 if config.min_lr is None else config.min_lr,
            step_on_epochs=False,
            updates_per_epoch=1,
        )
        return scheduler
    ratio = WARMUP_RATIO if config.warmup_lr is None else config.warmup_lr / lr
    lowest = 0.01 if config.schedule == "cosine" else 0.0
    schedule = Schedule(
        config.schedule,
        steps,
        floor=lowest if config.min_lr is None else config.min_lr / lr,
        power=1.0 if config.poly_power is None else config.poly_power,
        milestones=tuple(epoch * steps_per_epoch for epoch in milestones_of(config.milestones)),
        warmup=warmup,
        ratio=ratio if config.warmup_ratio is None else config.warmup_ratio,
    )
    return ScheduledRate(optimizer, schedule)
